"""Restoring with the restorer that comes along: no fit, any contrast, any axis, or a few minutes of adapting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cryoaae
from cryoaae.cli import run as cryoaae_command
from cryoaae.config import load_fit_config
from cryoaae.errors import InputError
from cryoaae.models.general import GeneralRestorer
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import adapt as adapting
from cryoaae.restoration.general import contrast_of, seen_by, settled
from cryoaae.volume import Volume, mean_volume

WEDGE = MissingWedge((-60.0, 60.0))


@pytest.fixture(scope="module")
def general() -> GeneralRestorer:
    return GeneralRestorer.bundled()


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, list[np.ndarray]]:
    """Truth and two halves, 20 angstrom voxels, (40, 48, 48)."""
    generator, shape = torch.Generator().manual_seed(5), (40, 48, 48)
    field = band_limit(torch.randn(shape, generator=generator), 0.10, 0.14)
    truth = (field / field.std() - 1.2).clamp(min=0) * 6
    noisy = [WEDGE.measured(truth + 4 * torch.randn(shape, generator=generator)).numpy() for _ in range(2)]
    return truth.numpy(), noisy


def correlation(volume: np.ndarray, truth: np.ndarray, mask: torch.Tensor) -> float:
    a, b = (rfft(torch.from_numpy(v - v.mean()))[mask] for v in (volume, truth))
    return float((a * b.conj()).real.sum() / (a.abs().square().sum() * b.abs().square().sum()).sqrt())


def test_it_fills_the_wedge_without_a_fit(
    general: GeneralRestorer, blobs: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    truth, halves = blobs
    band = (radius(truth.shape) > 0.02) & (radius(truth.shape) < 0.15)
    deep, seen = (WEDGE.depth(truth.shape) > 2) & band, WEDGE.support(truth.shape, margin=1.0)
    restored = cryoaae.restore_array(*halves, general, WEDGE, voxel_size_angstrom=20.0, symmetries=True)
    mean = np.mean(halves, axis=0)
    # Of the input nothing but rounding is there, which may correlate with anything.
    there, true = (rfft(torch.from_numpy(volume))[deep].abs().max() for volume in (mean, truth))
    assert there < 1e-4 * true
    assert correlation(restored, truth, deep) > 0.35
    assert correlation(restored, truth, seen) > correlation(mean, truth, seen)


def test_dark_structures_come_back_dark(
    general: GeneralRestorer, blobs: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    _, halves = blobs
    keywords = {"voxel_size_angstrom": 20.0}
    bright = cryoaae.restore_array(*halves, general, WEDGE, **keywords)  # type: ignore[arg-type]
    dark = cryoaae.restore_array(*(7 - half for half in halves), general, WEDGE, **keywords)  # type: ignore[arg-type]
    assert np.allclose(7 - dark, bright, atol=1e-3 * bright.std())
    volumes = [Volume(half, 20.0) for half in halves]
    assert contrast_of(volumes, 1) == 1 == -contrast_of([Volume(-v.data, 20.0) for v in volumes], 1)


def test_what_is_said_of_the_contrast_overrules_the_data(
    general: GeneralRestorer, blobs: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    _, halves = blobs
    dark, bright = (
        cryoaae.restore_array(*given, general, WEDGE, voxel_size_angstrom=20.0, density=said)  # type: ignore[call-overload]
        for given, said in ((halves, "dark"), ([-half for half in halves], "bright"))
    )
    assert np.allclose(dark, -bright, atol=1e-3 * bright.std())
    found = cryoaae.restore_array(*halves, general, WEDGE, voxel_size_angstrom=20.0)
    assert np.abs(found - dark).max() > 0.1 * found.std()
    with pytest.raises(InputError, match="grey"):
        cryoaae.restore_array(*halves, general, WEDGE, voxel_size_angstrom=20.0, density="grey")


def test_what_was_fitted_by_one_contrast_is_not_restored_by_the_other(
    general: GeneralRestorer, blobs: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    volumes = [Volume(half, 20.0) for half in blobs[1]]
    fitted = settled(general, volumes, WEDGE, of_mean=False)
    dark, bright = ([replace(volume, contrast=sign) for volume in volumes] for sign in (-1, 1))
    assert settled(fitted, bright, WEDGE, of_mean=False) is fitted
    with pytest.raises(InputError, match="taken to be bright"):
        settled(fitted, dark, WEDGE)
    assert settled(general, dark, WEDGE).spec.contrast == -1


def test_a_part_keeps_what_was_said_of_the_whole() -> None:
    whole = Volume(np.zeros((8, 8, 8), np.float32), 20.0, source=Path("t.mrc"), contrast=-1)
    part = whole.cut(slice(2, 4), slice(0, 8), slice(3, 8))
    assert (part.shape, part.contrast, part.source) == ((2, 8, 5), -1, whole.source)
    assert mean_volume([whole, whole]).contrast == -1


def test_a_tomogram_with_its_axis_along_x(
    general: GeneralRestorer, blobs: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    _, halves = blobs
    upright = cryoaae.restore_array(*halves, general, WEDGE, voxel_size_angstrom=20.0)
    turned = [np.ascontiguousarray(np.rot90(half, 1, (1, 2))) for half in halves]
    lying = cryoaae.restore_array(*turned, general, replace(WEDGE, tilt_axis_deg=90.0), voxel_size_angstrom=20.0)
    # Spectra are measured over other random blocks: alike, not the same.
    back = np.rot90(lying, -1, (1, 2))
    assert np.corrcoef(back.ravel(), upright.ravel())[0, 1] > 0.995


def test_without_tilts_it_says_what_it_needs(
    general: GeneralRestorer, blobs: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    with pytest.raises(InputError, match="tilt"):
        cryoaae.restore_array(*blobs[1], general, None, voxel_size_angstrom=20.0)


def test_it_takes_the_mean_of_the_halves_or_each(
    general: GeneralRestorer, blobs: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    volumes = [Volume(half, 20.0) for half in blobs[1]]
    whole, each = (settled(general, volumes, WEDGE, of_mean=flag) for flag in (True, False))
    (mean,) = seen_by(whole, volumes)
    assert np.allclose(mean.numpy(), np.mean(blobs[1], axis=0)) and seen_by(each, volumes) == volumes
    assert float(whole.condition[3:].sum()) > float(each.condition[3:].sum())
    # One that was fitted stays as it is, but for what it sees.
    assert settled(each, volumes, WEDGE, of_mean=False) is each
    again = settled(each, volumes, WEDGE)
    assert again.spec.of_mean and torch.equal(again.network.last.weight, each.network.last.weight)


def test_the_lazy_mean_reads_as_an_array_does() -> None:
    parts = [np.random.default_rng(i).normal(size=(4, 5, 6)).astype(np.float32) for i in range(2)]
    mean, plain = mean_volume([Volume(part, 10.0) for part in parts]), np.mean(parts, axis=0)
    for key in (0, slice(1, 3), (slice(0, 2), slice(1, 4), 5), ...):
        assert np.allclose(np.asarray(mean.data[key]), plain[key], atol=1e-6)  # type: ignore[index]
    assert mean.shape == plain.shape and mean.digest() == Volume(mean.numpy(), 10.0).digest()
    assert np.allclose(mean.block(slice(1, 3), slice(0, 5), slice(2, 4)), plain[1:3, :, 2:4], atol=1e-6)


# -- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; its exit code and all that it said."""

    def said(*words: object) -> tuple[int, str]:
        code = cryoaae_command([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out + err

    return said


def inputs_of(tiny: Path) -> list[object]:
    return ["--even", tiny / "t_EVN.mrc", "--odd", tiny / "t_ODD.mrc", "--tilts", tiny / "t.tlt", "--threads", 1]


def test_the_command_needs_no_model_and_says_so(
    tiny: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    words = ["restore", *inputs_of(tiny), "-o", tmp_path / "r.mrc"]
    code, said = run(*words, "--dry-run")
    assert code == 0 and "general restorer" in said and not list(tmp_path.iterdir())
    code, said = run(*words, "--dry-run", "--density", "dark")
    assert code == 0 and "taken to be dark" in said
    code, said = run(*words)
    assert code == 0 and "general restorer (no fit); structures taken to be bright" in said
    restored = cryoaae.open_volume(tmp_path / "r.mrc").numpy()
    given = np.mean([cryoaae.open_volume(tiny / f"t_{half}.mrc").numpy() for half in ("EVN", "ODD")], axis=0)
    # In the units of the input.
    assert restored.mean() == pytest.approx(given.mean(), abs=0.5)
    assert np.polyfit(restored.ravel(), given.ravel(), 1)[0] == pytest.approx(1.0, abs=0.25)
    code, said = run(*words, "--density", "auto")
    assert code == 0 and "made before" in said
    code, said = run(*words, "--density", "dark")
    assert code == 2 and "--overwrite" in said  # what stands there was made by the other contrast
    code, said = run("restore", *inputs_of(tiny)[:4], "-o", tmp_path / "s.mrc")
    assert code == 2 and "--tilts" in said and not (tmp_path / "s.mrc").exists()


def test_what_lies_outside_of_training_is_said(
    tiny: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    wide = [*inputs_of(tiny)[:4], "--tilt-range", -30, 30, "--voxel-size", 50]
    code, said = run("restore", *wide, "-o", tmp_path / "r.mrc", "--dry-run")
    assert code == 0 and "trained on 40 to 70" in said and "angstrom (trained on" in said


def test_adapting_writes_a_run_and_uses_it(
    tiny: Path,
    tiny_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., tuple[int, str]],
) -> None:
    overrides = [s for s in tiny_settings if s != "--set" and not s.startswith(("start", "widths"))]
    small = load_fit_config(overrides=[*overrides, "presence=false"], steps=2)
    monkeypatch.setattr(adapting, "FitSettings", lambda **_: small)
    words = ["restore", *inputs_of(tiny), "-o", tmp_path / "r.mrc", "--adapt", 0.1]
    code, said = run(*words, "--dry-run")
    assert code == 0 and str(tmp_path / "r_adapted") in said and not list(tmp_path.iterdir())
    code, said = run(*words)
    assert code == 0, said
    fitted = cryoaae.Restorer.load(tmp_path / "r_adapted")
    assert fitted.condition.abs().sum() > 0 and fitted.spec.tomograms[0]["name"] == "t"
    bundled = GeneralRestorer.bundled().network.state_dict()
    moved = max(float((w - bundled[k]).abs().max()) for k, w in fitted.network.state_dict().items())
    assert 0 < moved < 0.1  # it started there
    code, said = run(*words, "--model", tmp_path / "r_adapted")
    assert code == 2 and "--adapt" in said


def test_a_fit_may_start_from_it(
    tiny: Path, tiny_settings: list[str], tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    kept = [s for s in tiny_settings if s != "--set" and not s.startswith("widths")]
    words = ["fit", *inputs_of(tiny), "-o", tmp_path / "run", "--steps", 1, "--init", "general"]
    code, said = run(*words, *(w for s in kept for w in ("--set", s)), "--set", "presence=false")
    assert code == 0, said
    assert cryoaae.Restorer.load(tmp_path / "run").network.conditions > 0
    code, said = run(*words, *(w for s in kept for w in ("--set", s)), "--set", "presence=false", "--resume")
    assert code == 0, said
    assert cryoaae.Restorer.load(tmp_path / "run").spec.contrast == 1
    words[words.index(tmp_path / "run")] = tmp_path / "dark"
    code, said = run(*words, *(w for s in kept for w in ("--set", s)), "--set", "presence=false", "--density", "dark")
    assert code == 0 and cryoaae.Restorer.load(tmp_path / "dark").spec.contrast == -1


@pytest.mark.parametrize("command", ["validate", "sample"])
def test_what_asks_how_far_to_trust_takes_it_too(
    command: str, tiny: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    code, said = run(command, *inputs_of(tiny), "-o", tmp_path / command, "--dry-run")
    assert code == 0, said
    code, said = run(command, *inputs_of(tiny)[:4], "-o", tmp_path / command, "--dry-run")
    assert code == 2 and "--tilts" in said and not list(tmp_path.iterdir())
