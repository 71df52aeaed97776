"""`cluster` by alignment, and by both, from end to end; and the parts that only these use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoaae.cli import run as command
from cryoaae.errors import InterruptedRunError, ResourceError
from cryoaae.io.mrc import open_volume
from cryoaae.io.particle_files import read_particles, write_particles
from cryoaae.io.store import SubtomogramStore
from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import NullProgress
from cryoaae.subtomograms import align_stores
from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.average import average
from cryoaae.subtomograms.band import Band, particles_of_stores
from cryoaae.subtomograms.cluster import cluster
from cryoaae.subtomograms.copies import as_it_is
from cryoaae.subtomograms.generate import generate
from cryoaae.subtomograms.merging import APART
from cryoaae.subtomograms.page import EXPLAINED
from cryoaae.subtomograms.pose_agreement import _gain, _in_band
from cryoaae.subtomograms.reference_model import ReferenceModel, assign_stores
from cryoaae.subtomograms.settings import ClusterSettings
from cryoaae.subtomograms.standard import ParticlePoses, Particles, measure_standard

# Coarse grids and few iterations, for shapes that are easy to tell apart.
QUICK = AlignmentSettings(
    references=4, coarse_step_deg=40, fine_step_deg=30, shift_voxels=1, coarse_iterations=5, fine_iterations=1,
    final_iterations=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def store(store_maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_maker(tmp_path_factory.mktemp("store") / "shapes.h5", 14)


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by alignment, which is the default."""
    return cluster(store, tmp_path_factory.mktemp("runs") / "run", settings=ClusterSettings(alignment=QUICK))


def truth(store: Path) -> torch.Tensor:
    return torch.tensor([int(name == "rod") for name in SubtomogramStore(store).facts.classes])


def test_classes_and_their_number_are_found(store: Path, run: Path) -> None:
    codes, found = np.load(run / "codes.npz"), json.loads((run / "clusters.json").read_text())
    assert adjusted_rand_index(torch.from_numpy(codes["cluster"]), truth(store)) >= 0.8
    assert found["clusters"] == 2
    assert found["merge_shares"][-1] > APART >= max(found["merge_shares"][:-1], default=0)
    assert found["pose_agreement"] >= 0.9
    assert found["explained"] > EXPLAINED
    assert codes["style"].shape == (28, 0)
    assert np.isfinite(codes["features"]).all()


def test_the_list_says_where_the_particles_were_found(store: Path, run: Path) -> None:
    codes, listed = np.load(run / "codes.npz"), read_particles(run / "particles" / "shapes.star")
    assert listed.rotations == pytest.approx(codes["rotation"], abs=1e-4)
    before = SubtomogramStore(store).particles()
    assert listed.points_zyx == pytest.approx(before.points_zyx + 12.0 * codes["shift_zyx"], abs=1e-2)
    assert [int(name) - 1 for name in listed.classes] == codes["cluster"].tolist()
    assert sorted(path.name for path in (run / "classes").iterdir()) == ["average_01.mrc", "average_02.mrc"]


def test_a_run_without_a_model_generates_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(["generate", str(run), "-o", str(tmp_path / "out")]) == 2
    assert "clustered by alignment, which fits no model" in capsys.readouterr().err


def test_other_particles_are_assigned_to_the_references_of_a_run(
    store: Path, run: Path, tmp_path: Path, store_maker
) -> None:
    """Dimmer ones, too; and classes keep their numbers."""
    other = store_maker(tmp_path / "other.h5", 8, seed=5, noise=1.6)
    again = cluster(other, tmp_path / "again", model=run)
    learned = np.load(run / "codes.npz")["cluster"]
    rod = int(np.bincount(learned[truth(store).numpy() == 1]).argmax())
    codes = np.load(again / "codes.npz")
    assert np.mean((codes["cluster"] == rod) == truth(other).bool().numpy()) >= 0.9
    assert json.loads((again / "clusters.json").read_text())["explained"] > EXPLAINED
    assert command(["embed", str(other), "--model", str(again), "-o", str(tmp_path / "codes")]) == 0
    embedded = np.load(tmp_path / "codes" / "codes.npz")
    assert np.array_equal(embedded["rotation"], codes["rotation"])
    assert np.array_equal(embedded["class_probabilities"], codes["class_probabilities"])


def test_mirrored_particles_are_known_for_it(store_writer, tmp_path: Path) -> None:
    """A three-legged shape of no symmetry has a hand: of mirrored particles the same poses are found in the mirror."""
    box, rng = 16, np.random.default_rng(2)
    grid = np.stack(np.indices((box,) * 3), axis=-1) - box // 2
    spots = np.array([[0, 0, 4.5], [0, 3.5, -2], [3.0, -2, -1], [-4.5, 0, 0.0]])
    wedge, turns = MissingWedge((-60.0, 60.0)), Rotation.random(12, rng=rng).as_matrix()

    def particle(turn: np.ndarray) -> np.ndarray:
        density = sum(np.exp(-((grid - turn @ spot) ** 2).sum(axis=-1) / 3) for spot in spots)
        noisy = density / density.std() + 0.5 * rng.normal(size=density.shape)
        return wedge.measured(torch.from_numpy(noisy).float()).numpy()

    volumes = [particle(turn) for turn in turns]
    flipped = [np.roll(volume[::-1], 1, axis=0) for volume in volumes]
    facts = {"classes": ["a"] * 12, "turns": turns, "wedges": [wedge] * 12}
    own, mirror = (store_writer(tmp_path / f"{name}.h5", found, **facts) for name, found in
                   (("own", volumes), ("mirror", flipped)))  # fmt: skip
    settings = ClusterSettings(alignment=replace(QUICK, references=2))
    run = cluster(own, tmp_path / "run", settings=settings)
    model = ReferenceModel.load(run)
    first, second = (assign_stores([SubtomogramStore(path)], model, progress=NullProgress()) for path in (own, mirror))
    assert (first.mirrored, second.mirrored) == (False, True)
    assert second.alignment.explained == pytest.approx(first.alignment.explained, rel=0.15)
    assert torch.allclose(model.mirrored().mirrored().grid, model.grid)


def test_contrast_of_other_particles_is_found(store: Path, run: Path) -> None:
    stores, model = [SubtomogramStore(store)], ReferenceModel.load(run)
    model_of = {"progress": NullProgress(), "model": model}
    contrast = assign_stores(stores, **model_of).mixture.particles.contrast
    assert contrast[:, 1:].mean() == pytest.approx(1, abs=0.1)  # the very particles that the references are made of
    dimmer = replace(model, grid=2 * model.grid, power=4 * model.power)
    assert assign_stores(stores, **{**model_of, "model": dimmer}).mixture.particles.contrast == pytest.approx(
        contrast.numpy() / 2, rel=0.02
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--clusters", "3"], "is for fitting, and --model has its classes"),
        (["--by", "both"], "is for fitting, and --model is fitted"),
        (["--by", "autoencoder"], "clustered by alignment, which fits no model"),
    ],
)
def test_what_references_cannot_do_is_refused(
    words: list[str], said: str, store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command(["cluster", str(store), "-o", str(tmp_path / "out"), "--model", str(run), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_particles_of_another_size_are_not_assigned(
    run: Path, tmp_path: Path, store_maker, capsys: pytest.CaptureFixture
) -> None:
    larger = str(store_maker(tmp_path / "larger.h5", 2, box=24))
    for words in (["cluster", larger], ["embed", larger]):
        assert command([*words, "-o", str(tmp_path / "out"), "--model", str(run)]) == 2
        assert "the model was fitted on 192 A" in capsys.readouterr().err


def test_an_interrupted_alignment_goes_on_bit_for_bit(store: Path, run: Path, tmp_path: Path) -> None:
    class StopAfter(NullProgress):
        left = 3

        def advance(self, amount: float = 1.0, **facts: object) -> None:
            self.left -= 1
            if not self.left:
                self.cancel()

    settings = ClusterSettings(alignment=QUICK)
    with pytest.raises(InterruptedRunError):
        cluster(store, tmp_path / "parts", settings=settings, progress=StopAfter())
    parts = cluster(store, tmp_path / "parts", settings=settings, resume=True)
    first, second = np.load(run / "codes.npz"), np.load(parts / "codes.npz")
    assert all(np.array_equal(first[name], second[name]) for name in first.files)
    assert (run / "clusters.json").read_text() == (parts / "clusters.json").read_text()


def test_labelled_particles_are_of_their_label_and_others_follow(store: Path, tmp_path: Path) -> None:
    true, listed = truth(store), SubtomogramStore(store).particles()
    known = {i: "7" if true[i] else "4" for i in range(6)}
    wrong = next(i for i in range(8, 28) if true[i])
    known[wrong] = "4"  # a rod that is said to be a ball
    write_particles(tmp_path / "l.star", listed, columns={"rlnClassNumber": [known.get(i, "0") for i in range(28)]})
    run = cluster(store, tmp_path / "run", labels=tmp_path / "l.star", settings=ClusterSettings(alignment=QUICK))
    names = json.loads((run / "clusters.json").read_text())["names"]
    assert sorted(names) == ["4", "7"]
    found = [names[k] for k in np.load(run / "codes.npz")["cluster"]]
    assert {i: found[i] for i in known} == known
    others = [i for i in range(28) if i not in known]
    assert np.mean([(found[i] == "7") == bool(true[i]) for i in others]) >= 0.9
    assert ReferenceModel.load(run).names == tuple(names)


def test_both_fits_a_model_of_the_classes_found(store: Path, tmp_path: Path, tiny: dict) -> None:
    quick = {"steps": 20, "batch_size": 8, "labelled_batch_size": 8, "evaluations": 1, "alignment": QUICK}
    settings = ClusterSettings(**{**tiny, **quick})
    run = cluster(store, tmp_path / "run", by="both", clusters=2, settings=settings)
    codes = np.load(run / "codes.npz")
    assert adjusted_rand_index(torch.from_numpy(codes["cluster"]), truth(store)) >= 0.8
    assert np.mean(codes["class_probabilities"].argmax(axis=1) == codes["cluster"]) >= 0.8
    assert {"rotation", "style", "error"} <= set(codes.files)
    assert command(["generate", str(run), "-o", str(tmp_path / "made"), "--class", "2", "--count", "1"]) == 0
    assert (tmp_path / "made" / "volumes" / "class_02_001.mrc").is_file()
    # A class that is asked for comes, after however few steps: the decoder begins at its average.
    averages = [open_volume(run / "classes" / f"average_{k:02d}.mrc").numpy() for k in (1, 2)]
    for k, name in enumerate(("1", "2")):
        for volume in map(open_volume, generate(run, tmp_path / f"of_{name}", class_name=name, count=3)):
            alike = [np.corrcoef(volume.numpy().ravel(), average.ravel())[0, 1] for average in averages]
            assert alike[k] > 0.9
            assert alike[k] > alike[1 - k] + 0.1


def test_more_memory_than_there_is_is_refused_before_reading(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoaae.runs.resources.available_memory_bytes", lambda: 10**8)
    with pytest.raises(ResourceError, match="of memory"):
        cluster(store, tmp_path / "run", settings=ClusterSettings(alignment=QUICK))


def test_poses_found_in_noise_are_not_believed(tmp_path: Path, store_writer) -> None:
    rng, wedge = np.random.default_rng(0), MissingWedge((-60.0, 60.0))
    volumes = [rng.normal(size=(16,) * 3) for _ in range(12)]
    turns = np.stack([np.eye(3)] * 12)
    noise = store_writer(tmp_path / "n.h5", volumes, classes=["a"] * 12, turns=turns, wedges=[wedge] * 12)
    run = cluster(noise, tmp_path / "run", settings=ClusterSettings(alignment=QUICK))
    assert json.loads((run / "clusters.json").read_text())["explained"] < EXPLAINED
    assert "found in noise: do not trust them" in (run / "report.html").read_text()


# -- parts ----------------------------------------------------------------------------------------------


def test_twice_the_particles_take_twice_the_time(store: Path) -> None:
    stores = [SubtomogramStore(store)]
    one, two = (align_stores._effort(stores * times, QUICK) for times in (4, 8))
    assert two.coarse / one.coarse == pytest.approx(2, rel=0.2)
    assert one.memory_bytes < two.memory_bytes < 2 * one.memory_bytes


def test_a_finer_box_has_the_coefficients_of_the_coarser_one() -> None:
    band = Band.up_to(16, 0.25)
    made = torch.randn(len(band), generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    for box in (24, 25):
        finer = Band(box, band.points_zyx)
        # Density is kept, so numbers grow with the root of the voxels.
        volume = finer.volumes(made * (box / 16) ** 1.5)
        assert torch.allclose(band.coefficients(volume), made, atol=1e-4)


def test_a_particle_in_the_band_is_the_same_from_either_side(store: Path) -> None:
    stores = [SubtomogramStore(store)]
    banded = particles_of_stores(stores, 0.25)
    particles = Particles(stores, measure_standard(stores, 16))
    coloured = 1 / particles.standard.whitening()
    for i in (0, 5):
        own = _in_band(banded.band, as_it_is(particles, i), coloured)
        gain = _gain(own, banded.coefficients[i])
        left = (own * gain - banded.coefficients[i]).abs().square().sum() / banded.coefficients[i].abs().square().sum()
        assert gain > 0
        assert float(left) < 1e-3


def test_found_poses_bring_moved_particles_together(store_writer, tmp_path: Path) -> None:
    from cryoaae.physics.shift import fourier_shift

    box, count, rng = 16, 8, np.random.default_rng(3)
    grid = np.stack(np.indices((box,) * 3), axis=-1)
    blobs = np.array([[0, 0, 0], [0, 0, 3.0], [0, 2.5, 0], [-3.5, 0, 1]])
    turns, shifts = Rotation.random(count, rng=rng).as_matrix(), rng.uniform(-1.5, 1.5, (count, 3))

    def drawn(turn: np.ndarray, shift: np.ndarray) -> torch.Tensor:
        centres = blobs @ turn.T + box // 2
        return fourier_shift(
            torch.from_numpy(sum(np.exp(-((grid - p) ** 2).sum(axis=-1) / 3) for p in centres)), torch.from_numpy(shift)
        )

    volumes = [drawn(r, d).numpy() + 0.02 * rng.normal(size=(box,) * 3) for r, d in zip(turns, shifts, strict=True)]
    wedges = [MissingWedge((-89.0, 89.0))] * count
    path = store_writer(
        tmp_path / "s.h5", volumes, classes=["a"] * count, turns=np.stack([np.eye(3)] * count), wedges=wedges
    )
    stores = [SubtomogramStore(path)]
    standard = measure_standard(stores, box)
    poses = ParticlePoses(torch.from_numpy(turns).float(), torch.from_numpy(shifts).float())
    found, lying = (average(Particles(stores, standard, p), range(count)) for p in (poses, None))
    true = drawn(np.eye(3), np.zeros(3)).numpy()

    def agreement(volume: np.ndarray) -> float:
        return float(np.corrcoef(volume.ravel(), true.ravel())[0, 1])

    assert agreement(found.volume) > 0.97
    assert agreement(lying.volume) < 0.9
