"""Extraction against objects placed by arithmetic of the tests' own: conventions, borders, interruptions, stacks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import torch

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import write_volume
from cryoaae.io.particle_files import read_particles
from cryoaae.io.store import SubtomogramStore, partial_path
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import NullProgress
from cryoaae.subtomograms.extract import PickOptions, extract

SHAPE, VOXEL, BOX, SIGMA = (44, 60, 72), 10.0, 20, 1.6
# The object: blobs (x, y, z in voxels from its centre, height) without any symmetry.
BLOBS = np.array([[0, 0, 0, 1.0], [5, 0, 0, 1.2], [0, 4, 0, 0.8], [0, 0, 3, 1.5], [-3, -2, 2, 0.6]])
# Particles: centre (x, y, z) in voxels and RELION's rot, tilt, psi.
PLACES = np.array([[20.3, 30.6, 20.2], [48.0, 24.0, 22.0], [50.75, 44.4, 25.1]])
ANGLES = np.array([[30.0, 60.0, 75.0], [0.0, 0.0, 0.0], [-110.0, 130.0, 20.0]])
RANGE = (-60.0, 60.0)


def onto_particle(rot: float, tilt: float, psi: float) -> np.ndarray:
    """Reference to tomogram on (x, y, z): the inverse of turning by rot about z, tilt about y, psi about z."""

    def about(axis: int, angle: float) -> np.ndarray:
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]] if axis == 2 else [[c, 0, s], [0, 1, 0], [-s, 0, c]])

    return (about(2, rot) @ about(1, tilt) @ about(2, psi)).T


def drawn(shape: tuple[int, int, int], centre_xyz: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The object, turned and put at a place, in a volume (z, y, x)."""
    z, y, x = np.indices(shape)
    out = np.zeros(shape)
    for blob in BLOBS:
        bx, by, bz = centre_xyz + turn @ blob[:3]
        out += blob[3] * np.exp(-((x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2) / 2 / SIGMA**2)
    return out


def in_box(index: int, box: int = BOX) -> np.ndarray:
    """What a box around a particle must hold."""
    return drawn((box,) * 3, np.full(3, box // 2), onto_particle(*ANGLES[index]))


@pytest.fixture(scope="module")
def tomogram(tmp_path_factory) -> Path:
    data = 5.0 + sum(drawn(SHAPE, place, onto_particle(*a)) for place, a in zip(PLACES, ANGLES, strict=True))
    path = tmp_path_factory.mktemp("tomogram") / "TS_01.mrc"
    write_volume(path, data.astype(np.float32), voxel_size_angstrom=VOXEL)
    return path


def loop(name: str, labels: list[str], rows: list[list[object]]) -> str:
    lines = [f"data_{name}", "", "loop_", *(f"_{label} #{i + 1}" for i, label in enumerate(labels))]
    return "\n".join([*lines, *("\t".join(map(str, row)) for row in rows)]) + "\n\n\n"


POSE = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
COORDINATES = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
CENTRED = ["rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst"]
OPTICS = loop("optics", ["rlnOpticsGroup", "rlnImagePixelSize", "rlnTomoTiltSeriesPixelSize"], [[1, VOXEL, 2.0]])


def star(convention: str) -> str:
    """The particles as one convention writes them."""
    middle = np.array(SHAPE[::-1]) / 2
    rows = [[*place, *angles] for place, angles in zip(PLACES, ANGLES, strict=True)]
    if convention == "relion 5":
        rows = [[*((place - middle) * VOXEL), *a, "TS_01", 1] for place, a in zip(PLACES, ANGLES, strict=True)]
        return OPTICS + loop("particles", [*CENTRED, *POSE, "rlnTomoName", "rlnOpticsGroup"], rows)
    if convention == "relion 4":
        shift = np.array([12.0, -7.0, 3.0])
        rows = [[*((p * VOXEL + shift) / 2.0), *a, "TS_01", 1, *shift] for p, a in zip(PLACES, ANGLES, strict=True)]
        origin = ["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"]
        return OPTICS + loop("particles", [*COORDINATES, *POSE, "rlnTomoName", "rlnOpticsGroup", *origin], rows)
    if convention == "warp":
        rows = [[*row, "TS_01.tomostar", 1] for row in rows]
        return OPTICS + loop("particles", [*COORDINATES, *POSE, "rlnTomoName", "rlnOpticsGroup"], rows)
    return loop("", [*COORDINATES, *POSE, "rlnTomoName"], [[*row, "TS_01"] for row in rows])


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.fixture
def particles(tmp_path) -> Path:
    path = tmp_path / "p.star"
    path.write_text(star("relion 3"))
    return path


@pytest.mark.parametrize("convention", ["relion 3", "relion 4", "relion 5", "warp"])
def test_every_convention_cuts_the_same_object_in_its_pose(convention, tomogram, tmp_path):
    path = tmp_path / "p.star"
    path.write_text(star(convention))
    extract(tomogram, tmp_path / "s.h5", particles=path, box=BOX, tilt_range=RANGE)
    store = SubtomogramStore(tmp_path / "s.h5")
    assert len(store) == 3
    for i, found in enumerate(store):
        assert np.abs(found.volume - 5.0 - in_box(i)).max() < 2e-3  # of 2: the centre is exact, and so are the values
        assert found.rotation == pytest.approx(onto_particle(*ANGLES[i])[::-1, ::-1])
        assert found.position_zyx == pytest.approx(PLACES[i][::-1], abs=1e-6)
        assert similarity(found.volume, in_box((i + 1) % 3)) < 0.85  # other poses do not look alike
    assert store[0].wedge == MissingWedge(RANGE)


def test_noise_keeps_its_spectrum_whatever_the_fraction_of_a_voxel(tmp_path):
    noise = np.random.default_rng(0).normal(size=(60, 60, 60)).astype(np.float32)
    write_volume(tmp_path / "n.mrc", noise, voxel_size_angstrom=VOXEL)
    (tmp_path / "p.csv").write_text("x,y,z\n30,30,30\n30.5,29.5,30.5\n")
    extract(tmp_path / "n.mrc", tmp_path / "s.h5", particles=tmp_path / "p.csv", box=24, tilt_range=RANGE)
    store = SubtomogramStore(tmp_path / "s.h5")
    assert np.array_equal(store.volume(0), noise[18:42, 18:42, 18:42])
    high = np.sqrt(sum(k**2 for k in np.meshgrid(*[np.fft.fftfreq(24)] * 3, indexing="ij")))
    ring = (high > 0.3) & (high < 0.45)
    whole, half = (float((np.abs(np.fft.fftn(store.volume(i))) ** 2)[ring].mean()) for i in (0, 1))
    assert half == pytest.approx(whole, rel=0.05)


def test_dark_particles_become_bright(tomogram, particles, tmp_path):
    for density in ("bright", "dark"):
        extract(tomogram, tmp_path / f"{density}.h5", particles=particles, box=BOX, tilt_range=RANGE, density=density)
    bright, dark = (SubtomogramStore(tmp_path / f"{d}.h5") for d in ("bright", "dark"))
    assert np.array_equal(bright.volume(0), -dark.volume(0))


# -- borders and counts ---------------------------------------------------------------------------


@pytest.fixture
def crowded(tmp_path) -> Path:
    """Good, at the border, outside, twice, of another tomogram."""
    rows = [[30, 30, 20], [30, 30, 4], [300, 30, 20], [30, 30, 20], [20, 20, 20], [32, 28, 21]]
    named = [[*row, "other" if i == 4 else "TS_01"] for i, row in enumerate(rows)]
    path = tmp_path / "crowded.star"
    path.write_text(loop("", [*COORDINATES, "rlnTomoName"], named))
    return path


def test_what_is_left_out_is_counted(tomogram, crowded, tmp_path):
    result = extract(tomogram, tmp_path / "s.h5", particles=crowded, box=BOX, tilt_range=RANGE)
    assert result.counts == {"of tomograms not given": 1, "outside": 1, "twice": 1, "at the border": 1}
    assert SubtomogramStore(tmp_path / "s.h5").facts.rows.tolist() == [0, 5]


def test_padded_boxes_hold_the_mean_outside(tomogram, crowded, tmp_path):
    extract(tomogram, tmp_path / "s.h5", particles=crowded, box=BOX, tilt_range=RANGE, border="pad")
    store = SubtomogramStore(tmp_path / "s.h5")
    assert store.facts.rows.tolist() == [0, 1, 5]
    data = mrcfile.read(tomogram)
    padded = store.volume(1)  # z from -6 to 13
    assert padded[:6] == pytest.approx(float(data.mean()), abs=1e-5)
    assert np.array_equal(padded[6:], data[:14, 20:40, 20:40])


def test_borders_can_be_refused(tomogram, crowded, tmp_path):
    with pytest.raises(InputError, match="1 boxes of 20 voxels reach out of TS_01"):
        extract(tomogram, tmp_path / "s.h5", particles=crowded, box=BOX, tilt_range=RANGE, border="refuse")


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box": 4}, "--box: '4' cannot be used"),
        ({"border": "cut"}, "--border: 'cut'"),
        ({"density": "grey"}, "--density"),
        ({"tilt_range": None}, "tilt angles are not known"),
        ({"particles": None}, "give a particle list, or --pick"),
        ({"box": 80}, "no particle is left \\(3 at the border\\)"),
        ({"pick": PickOptions(100.0)}, "one of them is needed"),
        ({"pick": PickOptions(100.0), "particles": None, "coordinates": 2.0}, "--coordinates: is of --particles"),
        ({"coordinates": 90.0}, "lie outside its 72 x 60 x 44 voxels"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(changes, said, tomogram, particles, tmp_path):
    arguments = {"particles": particles, "box": BOX, "tilt_range": RANGE} | changes
    with pytest.raises(InputError, match=said):
        extract(tomogram, tmp_path / "s.h5", **arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.star"]


def test_tomograms_of_other_names_and_voxels_are_refused(tomogram, particles, tmp_path):
    other = tmp_path / "TS_02.mrc"
    write_volume(other, mrcfile.read(tomogram), voxel_size_angstrom=11.0)
    with pytest.raises(InputError, match=r"\(TS_01\) are none of the given \(TS_02\)"):
        extract(other, tmp_path / "s.h5", particles=particles, box=BOX, tilt_range=RANGE)
    both = tmp_path / "both.star"
    both.write_text(particles.read_text().replace("TS_01", "TS_02", 1))
    with pytest.raises(InputError, match="has voxels of 11 A, TS_01 of 10 A"):
        extract([tomogram, other], tmp_path / "s.h5", particles=both, box=BOX, tilt_range=RANGE)


# -- interruptions --------------------------------------------------------------------------------


class StopAfter(NullProgress):
    """Stops the work after so many particles."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def advance(self, amount: float = 1.0, **facts: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.cancel()


def test_resumed_it_is_the_same_as_never_stopped(tomogram, particles, tmp_path):
    how = {"particles": particles, "box": BOX, "tilt_range": RANGE}
    with pytest.raises(InterruptedRunError, match="stopped after 2 of 3 particles; go on with --resume"):
        extract(tomogram, tmp_path / "s.h5", progress=StopAfter(2), **how)
    with pytest.raises(InputError, match="--resume goes on"):
        extract(tomogram, tmp_path / "s.h5", **how)
    with pytest.raises(InputError, match="other inputs or settings \\(box"):
        extract(tomogram, tmp_path / "s.h5", resume=True, **(how | {"box": 16}))
    extract(tomogram, tmp_path / "s.h5", resume=True, **how)
    extract(tomogram, tmp_path / "whole.h5", **how)
    resumed, whole = SubtomogramStore(tmp_path / "s.h5"), SubtomogramStore(tmp_path / "whole.h5")
    assert all(np.array_equal(resumed.volume(i), whole.volume(i)) for i in range(3))
    assert not partial_path(tmp_path / "s.h5").exists()
    assert extract(tomogram, tmp_path / "s.h5", resume=True, **how).skipped
    with pytest.raises(InputError, match="--overwrite"):
        extract(tomogram, tmp_path / "s.h5", **how)
    with pytest.raises(InputError, match="made from other inputs or settings"):
        extract(tomogram, tmp_path / "s.h5", resume=True, **(how | {"border": "pad"}))
    assert not extract(tomogram, tmp_path / "s.h5", overwrite=True, **(how | {"border": "pad"})).skipped


def test_a_dry_run_counts_and_writes_nothing(tomogram, particles, tmp_path):
    result = extract(tomogram, tmp_path / "s.h5", particles=particles, box=BOX, tilt_range=RANGE, dry_run=True)
    assert (result.particles, result.kind) == (3, "tomograms")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.star"]


# -- other sources --------------------------------------------------------------------------------


def test_subtomogram_files(tmp_path):
    """Boxes of 28 voxels, particles off their centre by the origin, cut to 20."""
    shift = np.array([1.5, -2.25, 1.0])  # (x, y, z) voxels
    rows = []
    for i in range(3):
        box = drawn((28,) * 3, 14 + shift, onto_particle(*ANGLES[i]))
        write_volume(tmp_path / f"{i}.mrc", box.astype(np.float32), voxel_size_angstrom=VOXEL)
        rows.append([*PLACES[i], *ANGLES[i], "TS_01", 1, f"{i}.mrc", *(-shift * VOXEL)])
    labels = [*COORDINATES, *POSE, "rlnTomoName", "rlnOpticsGroup", "rlnImageName"]
    labels += ["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"]
    path = tmp_path / "p.star"
    optics = loop("optics", ["rlnOpticsGroup", "rlnImagePixelSize"], [[1, VOXEL]])
    path.write_text(optics + loop("particles", labels, rows))
    result = extract([], tmp_path / "s.h5", particles=path, box=BOX, tilt_range=RANGE)
    store = SubtomogramStore(tmp_path / "s.h5")
    assert result.kind == "subtomogram files"
    assert all(np.abs(store.volume(i) - in_box(i)).max() < 0.02 for i in range(3))
    (tmp_path / "1.mrc").unlink()
    with pytest.raises(InputError, match="1.mrc: no such file"):
        extract([], tmp_path / "t.h5", particles=path, box=BOX, tilt_range=RANGE)


TILTS = [-60.0 + 4 * i for i in range(31)]


def projection_xyz(tilt: float) -> np.ndarray:
    """Rows image x, image y, beam: an in-plane turn of 85 degrees after a tilt about y, as RELION writes them."""
    t, r = np.radians(-tilt), np.radians(85.0)
    about_y = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_z @ about_y


def tilt_image(turn: np.ndarray, tilt: float, box: int) -> np.ndarray:
    """Line integrals of the turned object in closed form, (y, x)."""
    y, x = np.indices((box, box)) - box // 2
    out = np.zeros((box, box))
    for blob in BLOBS:
        u, v, _ = projection_xyz(tilt) @ turn @ blob[:3]
        out += blob[3] * np.sqrt(2 * np.pi) * SIGMA * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 2 / SIGMA**2)
    return out


def stacks(folder: Path, style: str) -> tuple[Path, Path]:
    """Particle and tomogram STAR files, and stacks without any CTF to speak of (amplitude contrast 1, no defocus)."""
    seen = [0, *range(2, len(TILTS))]
    rows = []
    for i in range(3):
        images = np.array([tilt_image(onto_particle(*ANGLES[i]), tilt, 24) for tilt in TILTS], dtype=np.float32)
        images[1] = 99.0  # not visible
        with mrcfile.new(folder / f"{i}.mrcs", images[seen] if style == "relion 5" else images) as file:
            file.voxel_size = VOXEL
        flags = "[" + ",".join(str(int(k in seen)) for k in range(len(TILTS))) + "]"
        rows.append([*PLACES[i], *ANGLES[i], "TS_01.tomostar", 1, f"{i}.mrcs", flags])
    labels = [*COORDINATES, *POSE, "rlnTomoName", "rlnOpticsGroup", "rlnImageName", "rlnTomoVisibleFrames"]
    optics = loop("optics", ["rlnOpticsGroup", "rlnImagePixelSize", "rlnImageDimensionality"], [[1, VOXEL, 2]])
    (folder / "p.star").write_text(optics + loop("particles", labels, rows))
    head = ["rlnTomoName", "rlnTomoTiltSeriesPixelSize", "rlnVoltage", "rlnSphericalAberration"]
    head += ["rlnAmplitudeContrast", "rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"]
    text = loop("global", head, [["TS_01.tomostar", VOXEL, 300, 0.0, 1.0, *(2 * p for p in (36, 30, 22))]])
    if style == "relion 5":
        columns = ["rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot", "rlnDefocusU"]
        tilts = [[0.0, -tilt, 85.0, 0.0] for tilt in TILTS]
    else:
        columns = ["rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ", "rlnDefocusU"]
        tilts = [["[" + ",".join(f"{v:.8f}" for v in [*row, 0]) + "]" for row in projection_xyz(t)] for t in TILTS]
        tilts = [[*row, 0.0] for row in tilts]
    (folder / "tomograms.star").write_text(text + loop("TS_01.tomostar", columns, tilts))
    return folder / "p.star", folder / "tomograms.star"


@pytest.mark.parametrize("style", ["warptools", "relion 5"])
def test_stacks_of_tilt_images(style, tmp_path):
    """Projections in closed form come back as the object behind its wedge, in its pose, from either kind of STAR."""
    path, tomograms = stacks(tmp_path, style)
    result = extract(tomograms, tmp_path / "s.h5", particles=path, box=BOX)
    store = SubtomogramStore(tmp_path / "s.h5")
    assert (result.kind, len(store)) == ("stacks of tilt images", 3)
    for i, found in enumerate(store):
        wedge = found.wedge
        assert wedge.tilts_deg == pytest.approx([TILTS[0], *TILTS[2:]], abs=1e-3)
        assert wedge.tilt_axis_deg == pytest.approx(0.0, abs=1e-3)
        assert found.position_zyx == pytest.approx(PLACES[i][::-1])
        seen = wedge.solid().measured(torch.from_numpy(in_box(i).astype(np.float32))).numpy()
        assert similarity(found.volume, seen) > 0.95
        mirrored = torch.from_numpy(in_box(i)[::-1].astype(np.float32))
        assert similarity(found.volume, wedge.solid().measured(mirrored).numpy()) < 0.9  # the other hand


def test_stacks_need_their_tilt_series(tmp_path):
    path, tomograms = stacks(tmp_path, "warptools")
    with pytest.raises(InputError, match="its images are 2-D stacks; give the tomogram STAR"):
        extract([], tmp_path / "s.h5", particles=path, box=BOX)
    text = tomograms.read_text()
    tomograms.write_text(text.replace("data_TS_01.tomostar", "data_TS_09.tomostar"))
    with pytest.raises(InputError, match="states no projections of TS_01"):
        extract(tomograms, tmp_path / "s.h5", particles=path, box=BOX)
    tomograms.write_text(text.replace("TS_01.tomostar", "TS_09.tomostar"))
    with pytest.raises(InputError, match="tilt series of TS_01 not given"):
        extract(tomograms, tmp_path / "s.h5", particles=path, box=BOX)
    cut = text.rstrip().rsplit("\n", 1)[0] + "\n"
    tomograms.write_text(cut)
    with pytest.raises(InputError, match="has 31 entries for 30 tilts"):
        extract(tomograms, tmp_path / "s.h5", particles=path, box=BOX)
    tomograms.write_text(text.replace("0.99619470", "1.99619470"))
    with pytest.raises(InputError, match="are no rotations"):
        extract(tomograms, tmp_path / "s.h5", particles=path, box=BOX)


def test_the_list_it_came_from_travels_along(tomogram, particles, tmp_path):
    extract(tomogram, tmp_path / "s.h5", particles=particles, box=BOX, tilt_range=RANGE)
    expected = read_particles(particles)
    particles.unlink()
    store = SubtomogramStore(tmp_path / "s.h5")
    assert store.particles().table.equals(expected.table)
    assert json.dumps(store.about)  # plain data


@pytest.mark.data
def test_real_stacks_give_the_published_subtomograms(tmp_path):
    """Forty 70S ribosomes of EMPIAR-10499: correlation with an independent reconstruction at least 0.95, each."""
    root = Path(os.environ["CRYOAAE_DATA"]) / "subtomograms_70S"
    extract([], tmp_path / "s.h5", particles=next(root.glob("*_optimisation_set.star")), box=32)
    store = SubtomogramStore(tmp_path / "s.h5")
    with h5py.File(root / "subtomos_70S_12A_box32.h5") as file:
        wanted = file["subtomo_tomoframe"][:]
        tilts = {name: file[f"tilt_deg/{name}"][:] for name in file["tilt_deg"]}
    assert min(similarity(store.volume(i), wanted[i]) for i in range(40)) >= 0.95
    for found in store:
        ends = found.wedge.tilt_range_deg
        assert ends == pytest.approx((tilts[found.tomogram].min(), tilts[found.tomogram].max()), abs=1.0)


def test_picks_are_extracted_and_written(tmp_path):
    data = np.zeros((40, 48, 56), dtype=np.float32)
    z, y, x = np.indices(data.shape)
    for cz, cy, cx in ((14, 16, 18), (24, 30, 38)):
        data += ((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= 16).astype(np.float32)
    data += np.random.default_rng(0).normal(size=data.shape).astype(np.float32) * 0.2
    write_volume(tmp_path / "restored.mrc", data, voxel_size_angstrom=VOXEL)
    pick = PickOptions(90.0, count=2)
    result = extract(tmp_path / "restored.mrc", tmp_path / "s.h5", pick=pick, box=16, tilt_range=RANGE)
    assert result.picks == tmp_path / "s_picks.star"
    found = SubtomogramStore(tmp_path / "s.h5").facts.positions_zyx
    assert np.abs(found[np.argsort(found[:, 0])] - [[14, 16, 18], [24, 30, 38]]).max() <= 1
    assert len(read_particles(result.picks)) == 2
