"""The general restorer: what it is told, which way it looks, and its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.models.general import BUNDLED, GeneralRestorer, GeneralSpec, load_any, quarter_turns
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.nets.unet import UNet
from cryoaae.patches.imaging import CONDITIONS, conditions, conditions_of_mean
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.wedge import MissingWedge

SPECTRA = Spectra(torch.linspace(4, 0.1, 16, dtype=torch.float64), torch.ones(16, dtype=torch.float64))


@pytest.fixture
def general() -> GeneralRestorer:
    torch.manual_seed(0)
    made = GeneralRestorer(GeneralSpec({"widths": [4, 8], "conditions": CONDITIONS}, (14.0, 30.0), (40.0, 70.0)))
    for parameter in made.network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def restorer_of(general: GeneralRestorer, wedge: MissingWedge, **changes: object) -> Restorer:
    keywords = {"fine": SPECTRA, "working_bin": 2, "voxel_size_angstrom": 10.0, "halves": 1} | changes
    return general.restorer(SPECTRA, wedge, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("axis", [0.0, 90.0, 180.0, 270.0, 88.0])
def test_quarter_turns_show_the_wedge_that_the_network_is_told(axis: float, flipped: bool) -> None:
    wedge = MissingWedge((-40.0, 65.0), tilt_axis_deg=axis, flipped=flipped)
    turns, seen = quarter_turns(wedge)
    volume = wedge.measured(torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0)))
    turned = torch.rot90(volume, turns, (-2, -1))
    assert abs((seen.tilt_axis_deg + 180) % 360 - 180) < 45
    lost = seen.complement(turned).square().sum() / volume.square().sum()
    mirrored = replace(seen, tilt_range_deg=(-seen.tilt_range_deg[1], -seen.tilt_range_deg[0]))
    assert float(lost) < 0.02 < float(mirrored.complement(turned).square().sum() / volume.square().sum())


def test_a_tomogram_on_its_side_is_restored_on_its_side(general: GeneralRestorer) -> None:
    y = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    upright = restorer_of(general, MissingWedge((-50.0, 60.0)))
    lying = restorer_of(general, MissingWedge((-50.0, 60.0), tilt_axis_deg=90.0))
    back = torch.rot90(lying(torch.rot90(y, 1, (-2, -1))), -1, (-2, -1))
    assert torch.allclose(back, upright(y), atol=1e-5)


def test_dark_structures_are_bright_ones_turned_over(general: GeneralRestorer) -> None:
    y = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    bright, dark = (restorer_of(general, MissingWedge(), contrast=sign) for sign in (1, -1))
    assert torch.allclose(dark(-y), -bright(y), atol=1e-5)
    assert not torch.allclose(bright(-y), -bright(y), atol=1e-2)


def test_the_network_hears_the_noise_of_what_it_restores(general: GeneralRestorer) -> None:
    """The mean of two halves has half their noise: log10 2 more of signal over noise, and W = S / (S + N / 2)."""
    each = restorer_of(general, MissingWedge(), halves=2, of_mean=False)
    mean = restorer_of(general, MissingWedge(), halves=2, of_mean=True)
    assert torch.allclose(mean.condition[3:] - each.condition[3:], torch.full((8,), 0.30103), atol=0.02)
    assert torch.allclose(mean.wiener, each.wiener_mean, atol=1e-6)
    assert mean.spec.of_mean and not each.spec.of_mean
    y = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    assert not torch.allclose(mean(y), each(y), atol=1e-3)


def test_one_fitted_on_halves_restores_their_mean_as_the_general_one_does(general: GeneralRestorer) -> None:
    each = restorer_of(general, MissingWedge(), halves=2, of_mean=False)
    mean = restorer_of(general, MissingWedge(), halves=2, of_mean=True)
    made = each.of_the_mean()
    assert made.spec.of_mean and not each.spec.of_mean and made.of_the_mean() is made
    y = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    # but for how curves are read between their shells
    with torch.no_grad():
        off, half_off = (float((model(y) - mean(y)).norm() / mean(y).norm()) for model in (made, each))
    assert off < 0.02 < half_off
    plain = Restorer(RestorerSpec(1, 10.0), SPECTRA, halves=2)
    assert plain.of_the_mean() is plain  # not told of the noise


def test_the_mean_of_halves_at_a_limit_stays_there() -> None:
    half = torch.tensor([0.1, 0.2, 0.3, -2.0, 2.0, 1.9, 0.0, 0.0, 0.0, 0.0, -1.9])
    mean = conditions_of_mean(half)
    assert torch.equal(mean[:3], half[:3])
    assert mean[3:].tolist() == pytest.approx([-2.0, 2.0, 2.0, *[0.30103] * 4, -1.59897])


def test_gains_start_at_one_and_keep_the_network_homogeneous() -> None:
    torch.manual_seed(0)
    plain = UNet(widths=(4, 8))
    torch.manual_seed(0)
    told = UNet(widths=(4, 8), conditions=5)
    told.load_state_dict(plain.state_dict(), strict=False)
    for net in (plain, told):
        torch.nn.init.normal_(net.last.weight, generator=torch.Generator().manual_seed(1))
    x, c = torch.randn(2, 2, 8, 8, 8), torch.randn(2, 5)
    assert torch.allclose(told(x, c), plain(x), atol=1e-6)
    assert told.gains is not None
    torch.nn.init.normal_(told.gains.second.weight)
    assert torch.allclose(told(3 * x, c), 3 * told(x, c), rtol=1e-4, atol=1e-3)
    assert not torch.allclose(told(x, c), told(x, c.flip(0)), atol=1e-3)


def test_conditions_are_of_order_one_and_clipped() -> None:
    loud = Spectra(SPECTRA.signal * 1e9, SPECTRA.noise)
    told = conditions(loud, MissingWedge((-70.0, 40.0), flipped=True), 20.0)
    assert told.shape == (CONDITIONS,) and torch.allclose(told[3:], torch.full((8,), 2.0))
    assert told[:3].tolist() == pytest.approx([-1.5, 1.5, 0.0])


@pytest.mark.parametrize(
    ("wedge", "voxel", "word"),
    [
        (MissingWedge((-60, 60)), 20.0, None),
        (MissingWedge((-60, 60)), 40.0, "40.0 angstrom"),
        (MissingWedge((-30, 60)), 20.0, "30 and 60 degrees"),
        (MissingWedge((-60, 60), tilt_axis_deg=85.0), 20.0, None),
        (MissingWedge((-60, 60), tilt_axis_deg=30.0), 20.0, "axis at 30"),
    ],
)
def test_what_lies_outside_of_training_is_said(
    general: GeneralRestorer, wedge: MissingWedge, voxel: float, word: str | None
) -> None:
    found = general.outside(wedge, voxel)
    assert (found == []) if word is None else (len(found) == 1 and word in found[0])


def test_files(general: GeneralRestorer, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    general.save(path)
    again = load_any(path)
    assert isinstance(again, GeneralRestorer)
    assert all(torch.equal(a, b) for a, b in zip(general.parameters(), again.parameters(), strict=True))
    Restorer(RestorerSpec(1, 10.0, {"widths": [4, 8]}), SPECTRA).save(tmp_path / "r.safetensors")
    assert isinstance(load_any(tmp_path / "r.safetensors"), Restorer)
    with pytest.raises(InputError, match="general restorer"):
        GeneralRestorer.load(tmp_path / "r.safetensors")
    with pytest.raises(InputError, match="not there|no such"):
        load_any(tmp_path / "nothing")


def test_a_fitted_one_that_started_from_it_keeps_what_it_was_told(general: GeneralRestorer, tmp_path: Path) -> None:
    made = restorer_of(general, MissingWedge((-50.0, 60.0), tilt_axis_deg=90.0), contrast=-1)
    made.save(tmp_path / "r.safetensors")
    again = Restorer.load(tmp_path / "r.safetensors")
    y = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    assert torch.equal(again(y), made(y)) and torch.equal(again.condition, made.condition)


def test_the_one_that_comes_along_is_small_and_says_what_it_saw() -> None:
    bundled = load_any(None)
    assert isinstance(bundled, GeneralRestorer)
    assert {"steps", "minutes", "machine", "scenes", "settings"} <= bundled.spec.training.keys()
    import cryoaae

    assert (Path(cryoaae.__file__).parent / "weights" / BUNDLED).stat().st_size < 16e6
