"""The simulated data set: what its files say about each other."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.physics.fourier import radius, rfft, taper
from cryoaae.simulation.dataset import load_species, simulate
from cryoaae.simulation.reconstruction import back_project
from cryoaae.simulation.tilt_series import detector_width, draw_noise, tilt_angles_deg

SHAPE = (32, 40, 48)
NAMES = ("even", "odd", "full", "noiseless", "truth", "truth_structure", "truth_background")


def read(folder: Path) -> dict[str, np.ndarray]:
    return {name: open_volume(folder / f"{name}.mrc").numpy() for name in NAMES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("sim") / "a", shape_zyx=SHAPE, snr=0.5, seed=3, gold_beads=0)


def test_parts_add_up_and_halves_average_to_full(folder: Path) -> None:
    v = read(folder)
    assert all(a.shape == SHAPE for a in v.values())
    assert np.allclose(v["truth_structure"] + v["truth_background"], v["truth"], atol=1e-6)
    assert np.allclose((v["even"] + v["odd"]) / 2, v["full"], atol=1e-5)
    assert v["truth_structure"].max() > 0.7  # protein is bright
    correlation = np.corrcoef(v["noiseless"].ravel(), v["truth"].ravel())[0, 1]
    assert correlation > 0.6
    assert open_volume(folder / "even.mrc").voxel_size_angstrom == pytest.approx(10.0)


def shells(volume: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(volume) * taper(volume.shape)
    power = rfft(tensor).abs().square().numpy()
    index = (radius(volume.shape).numpy() * 16).astype(int)
    return np.array([power[index == s].mean() for s in range(1, 8)])


def test_noise_is_independent_and_has_the_injected_spectrum(folder: Path) -> None:
    v, meta = read(folder), json.loads((folder / "meta.json").read_text())
    even, odd = v["even"] - v["noiseless"], v["odd"] - v["noiseless"]
    assert abs(np.corrcoef(even.ravel(), odd.ravel())[0, 1]) < 0.02
    rng = np.random.default_rng(99)
    tilts = tilt_angles_deg((-60, 60), 3.0)
    size = (detector_width(SHAPE), SHAPE[1])
    injected = [
        shells(back_project([draw_noise(rng, size, meta["noise_std"]) for _ in tilts], tilts, SHAPE).numpy())
        for _ in range(4)
    ]
    ratio = shells((even - odd) / np.sqrt(2)) / np.mean(injected, axis=0)
    assert np.abs(ratio[1:] - 1).max() < 0.06, ratio
    assert ratio[0] == pytest.approx(1, abs=0.15)  # few coefficients


def test_halves_have_the_snr_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["signal_std"] ** 2 / meta["noise_std"] ** 2 == pytest.approx(0.5, rel=0.05)
    # And the noise in the files is what the record says: SNR four times higher, noise power a quarter.
    quiet = read(simulate(tmp_path / "q", shape_zyx=SHAPE, snr=2.0, seed=3, gold_beads=0))
    loud = read(folder)
    assert np.allclose(quiet["truth"], loud["truth"])
    power = [float(np.var(v["even"] - v["noiseless"])) for v in (quiet, loud)]
    assert power[0] / power[1] == pytest.approx(0.25, rel=0.01)


def test_same_seed_same_files_and_another_seed_another_specimen(folder: Path, tmp_path: Path) -> None:
    again = simulate(tmp_path / "b", shape_zyx=SHAPE, snr=0.5, seed=3, gold_beads=0)
    other = simulate(tmp_path / "c", shape_zyx=SHAPE, snr=0.5, seed=4, gold_beads=0)
    first, second, third = read(folder), read(again), read(other)
    for name in NAMES:
        assert np.array_equal(first[name], second[name]), name
    assert (folder / "particles.star").read_text() == (again / "particles.star").read_text()
    assert abs(np.corrcoef(first["truth"].ravel(), third["truth"].ravel())[0, 1]) < 0.3


def test_particle_list_and_tilts_agree_with_the_volumes(folder: Path) -> None:
    lines = (folder / "particles.star").read_text().splitlines()
    rows = [line.split() for line in lines if "assembly" in line]
    meta = json.loads((folder / "meta.json").read_text())
    assert len(rows) == meta["particles"] > 5
    assert {r[6] for r in rows} <= set(meta["classes"])
    for x, y, z in ([float(c) for c in r[:3]] for r in rows):
        assert 0 <= x < SHAPE[2]
        assert 0 <= y < SHAPE[1]
        assert 0 <= z < SHAPE[0]
    tilts = [float(t) for t in (folder / "tilts.tlt").read_text().split()]
    assert tilts == list(tilt_angles_deg((-60, 60), 3.0))


def test_maps_are_read_also_gzipped_and_counted(tmp_path: Path) -> None:
    ball = np.zeros((12, 12, 12), np.float32)
    ball[3:8, 4:8, 4:9] = 200.0
    write_volume(tmp_path / "ball.mrc", ball, like=None, voxel_size_angstrom=10.0)
    (tmp_path / "zip.mrc.gz").write_bytes(gzip.compress((tmp_path / "ball.mrc").read_bytes()))
    species = load_species([tmp_path / "ball.mrc", tmp_path / "zip.mrc.gz"], [], 10.0)
    assert [s.name for s in species] == ["ball", "zip"]
    assert np.allclose(species[0].density, species[1].density)
    out = simulate(
        tmp_path / "o",
        maps=[tmp_path / "ball.mrc"],
        shape_zyx=(32, 32, 32),
        count=5,
        membranes=0,
        filaments=0,
    )
    meta = json.loads((out / "meta.json").read_text())
    assert meta["particles"] == 5
    assert meta["classes"] == ["ball"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tilt_range_deg", (60.0, -60.0)),
        ("tilt_step_deg", 0.0),
        ("tilt_step_deg", 500.0),
        ("snr", 0.0),
        ("snr", float("nan")),
        ("voxel_size_angstrom", -1.0),
        ("shape_zyx", (4, 64, 64)),
        ("defocus_um", -2.0),
        ("count", -1),
    ],
)
def test_options_that_make_no_tomogram_are_refused(tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(InputError):
        simulate(tmp_path / "x", **{option: value})  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_unusable_particle_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pdb"):
        simulate(tmp_path / "x", atoms=[tmp_path / "gone.pdb"])
    with pytest.raises(InputError, match=r"gone\.mrc"):
        simulate(tmp_path / "x", maps=[tmp_path / "gone.mrc"])


class Cancelling:
    """Progress that asks to stop after a few steps."""

    def __init__(self) -> None:
        self.steps = 0.0

    def start(self, task: str, total: float | None, unit: str) -> None: ...

    def advance(self, amount: float = 1, **facts: object) -> None:
        self.steps += amount

    def finish(self) -> None: ...

    def cancelled(self) -> bool:
        return self.steps > 5


def test_cancelling_leaves_no_half_written_data_set(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        simulate(tmp_path / "x", shape_zyx=(32, 32, 32), count=1, progress=Cancelling())
    assert not (tmp_path / "x" / "meta.json").exists()
