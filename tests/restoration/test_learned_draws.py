"""Draws by the learned sampler on a tomogram: one field of noise, no seams, the tomogram's own frame, seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from shrinking import VOXEL, Gain
from torch import Tensor

from cryoaae.models.general import GeneralRestorer, GeneralSpec
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.nets.deviation import Deviation, DeviationSpec
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.patches.spectra import Spectra, interpolate
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import learned_draws
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.learned_draws import Learned
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

SHAPE = (20, 36, 28)
WIDTHS = (2, 3, 4)


@pytest.fixture(scope="module")
def sampler() -> Deviation:
    """One with weights as after training: none of them zero."""
    torch.manual_seed(3)
    made = Deviation(DeviationSpec(features=WIDTHS, full=4, coarse=6))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return made.requires_grad_(False)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A general restorer with few channels looks."""
    torch.manual_seed(4)
    spec = GeneralSpec({"widths": list(WIDTHS), "conditions": CONDITIONS}, (10.0, 30.0), (40.0, 70.0))
    general = GeneralRestorer(spec).eval().requires_grad_(False)
    torch.nn.init.normal_(general.network.last.weight, std=0.1)
    monkeypatch.setattr(learned_draws.GeneralRestorer, "bundled", lambda: general)


def halves(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    structure = (band_limit(torch.randn(SHAPE, generator=generator), 0.1, 0.15) - 0.1).clamp(min=0) * 5
    wedge = MissingWedge((-60.0, 60.0))
    return [wedge.measured(structure + 0.5 * torch.randn(SHAPE, generator=generator)) for _ in range(2)]


def tomogram(parts: list[Tensor], wedge: MissingWedge | None = None) -> WorkingTomogram:
    volumes = [Volume(part.contiguous().numpy(), VOXEL) for part in parts]
    return WorkingTomogram.of(
        volumes, wedge or MissingWedge((-60.0, 60.0)), Gain(), options=RestoreOptions(device="cpu")
    )


def source(made: WorkingTomogram, sampler: Deviation, **keywords: object) -> Learned:
    estimate = made.restore(made.halves)
    return Learned(made, estimate, **{"seed": 0, "turns": "any", "sampler": sampler, **keywords})  # type: ignore[arg-type]


def test_draws_do_not_depend_on_tiles(sampler: Deviation) -> None:
    """Neither the mean of draws nor their spread shows a seam: every draw is the same but for rounding."""
    made = tomogram(halves())
    whole = source(made, sampler, tile=(64, 64, 64)).deviation(1)
    tiled = source(made, sampler, tile=(24, 32, 32)).deviation(1)
    assert tuple(whole.shape) == SHAPE
    assert float((whole - tiled).abs().max()) < 5e-3 * float(whole.std())


def test_a_draw_is_a_function_of_seed_and_number(sampler: Deviation) -> None:
    made = tomogram(halves())
    one, again, other = (source(made, sampler, seed=seed) for seed in (0, 0, 1))
    second = one.deviation(2)
    assert torch.equal(one.deviation(1), again.deviation(1)), "whatever was drawn before"
    assert torch.equal(again.deviation(2), second)
    assert abs(float(torch.corrcoef(torch.stack([second, other.deviation(2)]).flatten(1))[0, 1])) < 0.2
    assert abs(float(torch.corrcoef(torch.stack([second, one.deviation(1)]).flatten(1))[0, 1])) < 0.2


def test_the_mean_of_draws_goes_to_zero(sampler: Deviation) -> None:
    made = source(tomogram(halves()), sampler)
    draws = torch.stack([made.deviation(n) for n in range(1, 25)])
    spread = float(draws.std())
    assert float(draws.mean(dim=0).std()) == pytest.approx(spread / 24**0.5, rel=0.15)


def test_units_contrast_and_the_way_a_tomogram_lies_do_not_matter(sampler: Deviation) -> None:
    """Turned by a quarter about the beam, with the tilt axis along x, draws have the same law: the wedge turns too."""
    parts = halves()
    straight = source(tomogram(parts), sampler)
    dark = source(tomogram([-3 * part for part in parts]), sampler)
    turned = [torch.rot90(part, -1, (-2, -1)) for part in parts]
    lying = source(tomogram(turned, MissingWedge((-60.0, 60.0), tilt_axis_deg=90.0)), sampler)
    one, other = straight.deviation(1), torch.rot90(lying.deviation(1), 1, (-2, -1))
    torch.testing.assert_close(dark.deviation(1), one, rtol=1e-2, atol=1e-2 * float(one.std()))
    assert one.shape == other.shape
    support = MissingWedge((-60.0, 60.0)).support(SHAPE)
    shares = [float(rfft(d).abs().square()[~support].sum() / rfft(d).abs().square().sum()) for d in (one, other)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_a_single_volume_is_sampled_too(sampler: Deviation) -> None:
    deviation = source(tomogram(halves()[:1]), sampler).deviation(1)
    assert tuple(deviation.shape) == SHAPE and float(deviation.std()) > 0


def test_where_there_is_no_signal_there_is_little_to_be_uncertain_of(sampler: Deviation) -> None:
    """Of noise alone the halves share nothing, and draws say so."""
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(SHAPE, generator=generator) for _ in range(2)]
    silent, loud = (source(tomogram(parts), sampler).deviation(1) for parts in (noise, halves()))
    assert float(silent.std()) < 0.75 * float(loud.std())


def test_where_the_data_are_sure_a_draw_is_what_the_filter_leaves_and_in_the_wedge_it_stays(sampler: Deviation) -> None:
    flat = torch.ones(16, dtype=torch.float64)
    sure = Restorer(RestorerSpec(1, VOXEL, {"widths": [2, 4]}), Spectra(1e4 * flat, flat), halves=2).eval()
    made = replace(tomogram(halves()), model=sure)
    yielding, firm = (source(replace(made, yielding=own), sampler) for own in (True, False))
    spectra, whole = yielding.faced.spectra, yielding.faced
    k = radius(SHAPE)
    depth = MissingWedge((-60.0, 60.0)).depth(SHAPE)
    measured, wedge = (((depth < -3) & (k < 0.35)), (depth > 3) & (k < 0.35))
    left = interpolate(spectra.signal * (1 - spectra.fsc), k / spectra.freq_max)[measured].mean()
    draws = [(rfft(yielding.deviation(n)), rfft(firm.deviation(n))) for n in range(1, 9)]
    power, before = (torch.stack([pair[i][measured].abs().square().mean() for pair in draws]).mean() for i in (0, 1))
    assert float(power / left) == pytest.approx(1, abs=0.15)
    assert abs(float(before / left) - 1) > 0.3
    assert whole.shape != SHAPE, "faces are cut off, so that coefficients mix a little"
    for y, f in draws:
        assert float((y - f)[wedge].abs().square().mean() / f[wedge].abs().square().mean()) < 0.05
