"""The noise-matched score of a sampler on halves: smallest at the posterior's spread, where that has a closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryoaae.models.deviation_fitting import FREQ_ENDS, White
from cryoaae.models.half_deviations import HalfBatch, HalfDeviations, band_sizes, score_by_band
from cryoaae.nets.deviation import COLOURED, REGIONS, Deviation, DeviationSpec, Seen, bands
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.rotation import rotation_about
from cryoaae.physics.wedge import MissingWedge

EDGE, BATCH, DRAWS, NOISE = 24, 4, 4, 0.6
SHAPE = (EDGE,) * 3
SPEC = DeviationSpec(features=(2, 2, 2), full=4, coarse=4)


def sampler(measured: float = 1.0, hidden: float = 1.0) -> Deviation:
    """The Gaussian posterior, with other standard deviations where the input was measured, and where it was not."""
    torch.manual_seed(0)
    made = Deviation(SPEC).requires_grad_(False)
    torch.nn.init.constant_(made.heads["uneven"].bias, -20.0)
    bias = made.heads["amplitude"].bias
    bias[: COLOURED // REGIONS], bias[COLOURED // REGIONS :] = torch.tensor([measured, hidden]).log()
    return made


def problem(*, same_half: bool = False, drawn: bool = False) -> HalfBatch:
    """Isotropic Gaussian structures, two halves, and what a Wiener filter leaves of one that lacks more tilts.

    Where the structure was drawn all of it is known, without noise.

    With S, N the powers of structure and noise, the error of m = S / (S + N) y has the power S N / (S + N) where y was
    measured, and S elsewhere.
    """
    generator = torch.Generator().manual_seed(3)

    def white(*channels: int) -> Tensor:
        return torch.randn(*channels, *SHAPE, generator=generator)

    k = radius(SHAPE)
    structure = 3.0 * torch.exp(-((k / 0.25) ** 2))
    wedge = MissingWedge((-60.0, 60.0))
    given = wedge.support(SHAPE)
    seen = wedge.rotated(rotation_about((0.0, 1.0, 0.0), 0.9)).support(SHAPE)
    truth = irfft(rfft(white(BATCH)) * structure.sqrt(), SHAPE)
    one, other = (irfft(rfft(truth + NOISE**0.5 * white(BATCH)), SHAPE) for _ in range(2))
    gain = given * structure / (structure + NOISE)
    restored = irfft(rfft(one) * gain, SHAPE)
    target = (truth if drawn else irfft(rfft(one if same_half else other) * seen, SHAPE)) - restored
    posterior = (structure * NOISE / (structure + NOISE)).sqrt()
    parts = (torch.where(given, posterior, 0.0), torch.where(given, 0.0, structure.sqrt()))
    prior = torch.cat([bands(k) * part for part in parts]).float()
    heard = torch.ones_like(seen) if drawn else seen
    regions = torch.stack([heard & given, heard & ~given])
    everywhere = torch.ones(SHAPE, dtype=torch.bool)
    sizes = torch.stack([band_sizes(own, regions, everywhere) for own in target])
    nothing = torch.zeros(BATCH, 1, *SHAPE)
    features = [torch.zeros(BATCH, 2, *(EDGE // 2**level,) * 3) for level in range(3)]
    return HalfBatch(
        Seen(features, nothing, nothing, torch.zeros(BATCH, CONDITIONS), torch.ones(BATCH), nothing), target,
        (not drawn) * NOISE**0.5 * white(DRAWS, BATCH), prior.expand(BATCH, -1, -1, -1, -1),
        regions.expand(BATCH, -1, -1, -1, -1), sizes, everywhere.expand(BATCH, -1, -1, -1),
        White.draw(DRAWS, BATCH, SHAPE, SPEC.coarse, generator),
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch() -> HalfBatch:
    return problem()


def score(batch: HalfBatch, **factors: float) -> float:
    return float(HalfDeviations(sampler(**factors)).score(batch))


@pytest.mark.parametrize("region", ["measured", "hidden"])
@pytest.mark.parametrize("factor", [0.6, 1.5])
@pytest.mark.parametrize("drawn", [False, True])
def test_the_score_is_smallest_at_the_posteriors_spread(
    batch: HalfBatch, region: str, factor: float, drawn: bool
) -> None:
    """In both regions by themselves; of halves nobody told it the spread, nor the truth, nor the noise's size."""
    here = problem(drawn=True) if drawn else batch
    assert score(here) < score(here, **{region: factor}) - 0.001


def test_against_the_half_that_was_restored_it_wants_no_spread(batch: HalfBatch) -> None:
    """What is left of a half is smaller than its noise: draws of the right size look too wide, and no draws best."""
    same = problem(same_half=True)
    right, none = score(same), score(same, measured=1e-3)
    assert none < right - 0.01
    assert score(batch) < score(batch, measured=1e-3) - 0.002, "of the other half it is the other way round"


def test_without_fresh_noise_it_wants_draws_as_noisy_as_the_data(batch: HalfBatch) -> None:
    silent = replace(batch, noise=torch.zeros_like(batch.noise))
    assert score(silent, measured=1.6) < score(silent) - 0.01


def test_what_the_target_did_not_measure_says_nothing(batch: HalfBatch) -> None:
    """Draws may be as wide as they like where neither half says anything: the score hardly hears them."""
    generator = torch.Generator().manual_seed(4)
    heard = batch.regions.any(dim=1)
    drawn = rfft(torch.randn(DRAWS, BATCH, *SHAPE, generator=generator))
    plain = score_by_band(irfft(drawn * heard, SHAPE), batch)
    wide = score_by_band(irfft(drawn * torch.where(heard, 1.0, 3.0), SHAPE), batch)
    loud = score_by_band(irfft(drawn * torch.where(heard, 3.0, 1.0), SHAPE), batch)
    assert plain.shape == (BATCH, REGIONS, len(FREQ_ENDS))
    torch.testing.assert_close(wide, plain, rtol=1e-4, atol=1e-5)
    assert float((loud - plain).abs().mean()) > 0.05
