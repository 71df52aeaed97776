"""`restore STORE.h5`: subtomograms in, restored subtomograms out, nothing lost on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryoaae.cli import run as command
from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.store import StoreWriter, SubtomogramStore, partial_path
from cryoaae.models.general import GeneralRestorer
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.patches.particle_spectra import particle_spectra
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.particles import plan_restore_store, restore_store
from cryoaae.runs.progress import NullProgress

EACH, BOX = 3, 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, store_maker) -> Path:
    """Three balls and three rods at SNR 1/4."""
    return store_maker(tmp_path_factory.mktemp("given") / "s.h5", EACH, noise=2.0)


@pytest.fixture(scope="module")
def restored(store: Path) -> SubtomogramStore:
    return SubtomogramStore(restore_store(store, store.with_name("restored.h5")).path)


def rewritten(path: Path, store: Path, change, **facts) -> Path:
    """A store with changed voxels, and facts."""
    given = SubtomogramStore(store)
    with StoreWriter(path, replace(given.facts, **facts), given.about, given.source_file(), resume=False) as made:
        for i in range(len(given)):
            made.write(i, change(given.volume(i)).astype(np.float32))
        made.finish()
    return path


def correlation(a: np.ndarray, b: np.ndarray, where: torch.Tensor) -> float:
    x, y = (rfft(torch.from_numpy(v - v.mean()))[where] for v in (a, b))
    return float((x * y.conj()).real.sum() / (x.abs().square().sum() * y.abs().square().sum()).sqrt())


def test_particles_come_back_better_where_they_were_measured(
    store: Path, restored: SubtomogramStore, tmp_path: Path, store_maker
) -> None:
    given, clean = SubtomogramStore(store), SubtomogramStore(store_maker(tmp_path / "clean.h5", EACH, noise=1e-3))
    seen = given.facts.wedges[0].support((BOX,) * 3)
    ways = {
        "input": [given.volume(i) for i in range(len(given))],
        "Gaussian": [gaussian_filter(given.volume(i), 1.0) for i in range(len(given))],
        "restored": [restored.volume(i) for i in range(len(given))],
    }
    means = {
        name: np.mean([correlation(v, clean.volume(i), seen) for i, v in enumerate(some)])
        for name, some in ways.items()
    }
    assert means["restored"] > means["input"] + 0.1
    # The best there is for these shapes, which are themselves Gaussians about as wide.
    assert means["restored"] > means["Gaussian"] - 0.01


def test_nothing_else_changes(store: Path, restored: SubtomogramStore) -> None:
    given = SubtomogramStore(store)
    for name in ("positions_zyx", "rotations", "half_sets", "rows", "wedge_index"):
        assert np.array_equal(getattr(given.facts, name), getattr(restored.facts, name))
    assert given.facts.classes == restored.facts.classes
    assert given.facts.wedges == restored.facts.wedges
    assert given.source_file() == restored.source_file()
    assert restored.about["restored"]["sha256"]
    assert restored.about["provenance"]["paths"] == [str(store.resolve())]
    assert {k: v for k, v in restored.about.items() if k not in ("restored", "provenance")} == {
        k: v for k, v in given.about.items() if k != "provenance"
    }


def test_units_are_those_of_the_store(store: Path, restored: SubtomogramStore, tmp_path: Path) -> None:
    other = rewritten(tmp_path / "other.h5", store, lambda volume: 40 * volume - 300)
    found = SubtomogramStore(restore_store(other, tmp_path / "out.h5").path)
    for i in range(2):
        wanted = 40 * restored.volume(i) - 300
        assert np.allclose(found.volume(i), wanted, atol=2e-3 * wanted.std())


def test_a_quiet_particle_is_not_made_as_loud_as_the_others(store: Path, tmp_path: Path) -> None:
    first = SubtomogramStore(store).volume(0)
    quiet = rewritten(tmp_path / "quiet.h5", store, lambda v: 3 + 0.2 * (v - 3) if np.array_equal(v, first) else v)
    made = SubtomogramStore(restore_store(quiet, tmp_path / "out.h5").path)
    assert made.volume(0).std() < 0.4 * min(made.volume(i).std() for i in range(1, len(made)))


def test_an_interrupted_restoration_goes_on_bit_for_bit(
    store: Path, restored: SubtomogramStore, tmp_path: Path
) -> None:
    class StopAfter(NullProgress):
        left = 2

        def advance(self, amount: float = 1.0, **facts: object) -> None:
            self.left -= 1
            if not self.left:
                self.cancel()

    out = tmp_path / "out.h5"
    with pytest.raises(InterruptedRunError, match="2 of 6 particles"):
        restore_store(store, out, progress=StopAfter())
    assert partial_path(out).exists()
    assert not out.exists()
    made = SubtomogramStore(restore_store(store, out).path)
    assert all(np.array_equal(made.volume(i), restored.volume(i)) for i in range(len(made)))
    assert restore_store(store, out).skipped
    with pytest.raises(InputError, match="other inputs or settings"):
        restore_store(store, out, keep_measured=True)


def test_a_fitted_restorer_sees_structures_as_it_was_fitted(store: Path, tmp_path: Path) -> None:
    """Without a network's residual a fitted restorer is its Wiener filter, which is odd: dark stays dark."""
    spec = RestorerSpec(1, 12.0, {"widths": [4, 8]})
    model = Restorer(spec, particle_spectra_of(store)).eval()
    out = SubtomogramStore(restore_store(store, tmp_path / "out.h5", model=model).path)
    given = SubtomogramStore(store)
    seen = given.facts.wedges[0].support((BOX,) * 3)
    low = seen & (radius((BOX,) * 3) < 0.15)
    assert all(correlation(out.volume(i), given.volume(i), low) > 0.9 for i in range(2))
    with pytest.raises(InputError, match="voxel size 12 angstrom, but the model was fitted at 20"):
        restore_store(store, tmp_path / "far.h5", model=Restorer(replace(spec, voxel_size_angstrom=20.0)))


def particle_spectra_of(store: Path):
    given = SubtomogramStore(store)
    support = given.facts.wedges[0].support((BOX,) * 3)
    support[0, 0, 0] = False
    volumes = (torch.from_numpy(given.volume(i)) for i in range(len(given)))
    return particle_spectra(((rfft(v - v.mean()) * support, support, 0) for v in volumes), BOX)


def test_noise_and_signal_of_particles_are_told_apart_by_where_they_lie() -> None:
    support = MissingWedge((-60.0, 60.0)).support((24,) * 3)
    grid = torch.arange(24) - 12.0
    r = torch.sqrt(grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2)
    ball, generator = torch.exp(-(r**2) / 8), torch.Generator().manual_seed(0)
    noise = [1.5 * torch.randn(24, 24, 24, generator=generator) for _ in range(40)]
    found = particle_spectra(((rfft(5 * ball + n) * support, support, 0) for n in noise), 24)
    assert found is not None
    # In the lowest shells some of the ball is outside of the sphere.
    assert torch.allclose(found.noise[3:], torch.tensor(2.25, dtype=torch.float64), rtol=0.1)
    assert float(found.noise[1]) < 1.3 * 2.25
    assert float(found.signal[1]) > 20 * float(found.signal[6:].max())
    assert particle_spectra([(rfft(torch.zeros(24, 24, 24)), support, 0)], 24) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "out.mrc"], "restored subtomograms go into a store"),
        (["-o", "out.h5", "--tilt-range", "-60", "60"], "--tilt-range: is for tomograms, not for a store"),
        (["-o", "out.h5", "--halves"], "--halves: is for tomograms"),
        (["-o", "out.h5", "--dtype", "float16"], "--dtype: is for tomograms"),
        (["-o", "out.h5", "another.mrc"], "a store is restored by itself"),
        (["-o", "nowhere/out.h5"], "nowhere"),
        (["-o", "s.h5"], "s.h5"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    words: list[str], said: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("s.h5").write_bytes(store.read_bytes())
    assert command(["restore", "s.h5", *words, "-q"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]


def test_noise_beyond_training_is_said(store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    loud = rewritten(tmp_path / "loud.h5", store, lambda volume: volume + 40 * rng.standard_normal(volume.shape))
    said = " ".join(plan_restore_store(loud, tmp_path / "out.h5"))
    assert "times as loud as the signal (trained up to 4.0)" in said
    assert "loud as the signal" not in " ".join(plan_restore_store(store, tmp_path / "out.h5"))


def test_turned_particles_are_refused(store: Path, tmp_path: Path) -> None:
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    wedges = (SubtomogramStore(store).facts.wedges[0].rotated(turn),)
    turned = rewritten(tmp_path / "turned.h5", store, lambda v: v, wedges=wedges)
    with pytest.raises(InputError, match="turned after they were measured"):
        restore_store(turned, tmp_path / "out.h5", model=GeneralRestorer.bundled())


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command(["restore", str(store), "-o", str(tmp_path / "out.h5"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "6 particles of 16^3 voxels" in said
    assert "general restorer (no fit)" in said
    assert not list(tmp_path.iterdir())
