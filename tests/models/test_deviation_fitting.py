"""The score by which the sampler of deviations is learned: smallest at the truth's law, of every part of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cryoaae.models.deviation_fitting import (
    FREQ_ENDS,
    FUNCTIONALS,
    DeviationBatch,
    DeviationFitting,
    White,
    constant_draws,
    draws_of,
    likelihood,
    local_errors,
    sizes_of,
    true_levels,
)
from cryoaae.nets.deviation import COLOURED, REGIONS, SHELLS, Deviation, DeviationSpec, Looks, Seen, linear_posterior
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.wedge import MissingWedge

EDGE, BATCH, DRAWS = 24, 6, 6
SPEC = DeviationSpec(features=(2, 2, 2), full=4, coarse=4)


def toy() -> Deviation:
    """A sampler whose spread doubles where the restoration is loud, and varies in size besides."""
    torch.manual_seed(0)
    made = Deviation(SPEC).requires_grad_(False)
    torch.nn.init.constant_(made.heads["uneven"].bias, -0.6)
    torch.nn.init.normal_(made.heads["amplitude"].weight, std=0.22)
    torch.nn.init.normal_(made.last.weight, std=0.02)
    return made


@pytest.fixture(scope="module")
def batch() -> DeviationBatch:
    """Patches whose errors follow the toy's own law."""
    generator = torch.Generator().manual_seed(1)

    def field(channels: int, factor: int = 1) -> torch.Tensor:
        return torch.randn(BATCH, channels, *(EDGE // factor,) * 3, generator=generator)

    features = [field(2, 2**level) for level in range(3)]
    told = torch.zeros(BATCH, CONDITIONS)
    seen = Seen(features, field(1), field(1), told, torch.ones(BATCH), 0.2 * field(1))
    support = MissingWedge((-60.0, 60.0)).support((EDGE,) * 3)
    spectra = Spectra(torch.linspace(3, 1, 8, dtype=torch.float64), torch.ones(8, dtype=torch.float64))
    prior = linear_posterior(spectra, support, (EDGE,) * 3)
    made = DeviationBatch(
        seen, torch.zeros(BATCH, EDGE, EDGE, EDGE), prior.expand(BATCH, -1, -1, -1, -1),
        support.expand(BATCH, -1, -1, -1), torch.ones(BATCH, FUNCTIONALS),
        torch.ones(BATCH, COLOURED, EDGE, EDGE, EDGE), torch.zeros(BATCH, REGIONS, SHELLS),
        White.draw(DRAWS + 1, BATCH, (EDGE,) * 3, SPEC.coarse, generator),
    )  # fmt: skip
    assert prior.shape[0] == COLOURED
    *draws, error = draws_of(toy(), made)
    white = White(*(getattr(made.white, name)[:DRAWS] for name in ("full", "half", "quarter", "uneven")))
    sizes = torch.stack([sizes_of(own, support) for own in error])
    assert len(draws) == DRAWS
    local = torch.stack([local_errors(own, support).float() for own in error])
    level = torch.stack([true_levels(own, support, spectra) for own in error])
    return replace(made, error=error, white=white, sizes=sizes, local=local, level=level)


def louder(made: Deviation, factor: float) -> None:
    made.heads["amplitude"].bias.add_(torch.tensor(factor).log())


def louder_in_the_wedge(made: Deviation, factor: float) -> None:
    made.heads["amplitude"].bias[COLOURED // 2 :].add_(torch.tensor(factor).log())


def elsewhere(made: Deviation, factor: float) -> None:
    made.heads["amplitude"].weight.mul_(0.0 if factor < 1 else 2.0)


WRONG = {"size": louder, "size in the wedge": louder_in_the_wedge, "places": elsewhere}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_the_score_is_smallest_at_the_truths_law(batch: DeviationBatch, name: str, factor: float) -> None:
    made, other = toy(), toy()
    WRONG[name](other, factor)
    right, wrong = (float(DeviationFitting(sampler, EDGE).score(batch)) for sampler in (made, other))
    assert right < wrong - 0.002


def test_its_parts_are_told_apart(batch: DeviationBatch) -> None:
    """Noise alike everywhere, of the right size in each band and region, scores worse than the law, but not by much."""
    model = DeviationFitting(toy(), EDGE)
    noise = constant_draws(batch)
    both = (draws_of(toy(), batch), noise)
    right, alike = (model.functionals.score(draws, batch).sum(dim=-1).mean() for draws in both)
    assert float(right) < float(alike) < 1.25 * float(right)
    k, support = radius((EDGE,) * 3), batch.support[0]
    band = (k > FREQ_ENDS[0] + 0.04) & (k < FREQ_ENDS[1] - 0.03) & ~support
    power = rfft(noise).abs().square()[..., band].mean()
    assert float(power / rfft(batch.error).abs().square()[..., band].mean()) == pytest.approx(1.0, abs=0.5)


def even(looks: Looks) -> Looks:
    """The same with amplitudes of mean square one over the places, channel by channel."""
    return looks._replace(amplitude=looks.amplitude / looks.amplitude.square().mean(dim=(2, 3, 4), keepdim=True).sqrt())


def test_amplitudes_and_colours_are_learned_as_what_they_stand_for(batch: DeviationBatch) -> None:
    """The likelihood is smallest where places are right; the level of the toy's errors is its own, and colours 1."""
    made, others = toy(), [toy(), toy()]
    for other, factor in zip(others, (0.0, 2.0), strict=True):
        elsewhere(other, factor)
    looks = made.looks(batch.seen)
    # Local errors have a mean square of one: so must the amplitudes that are compared.
    noise = torch.randn(batch.local.shape, generator=torch.Generator().manual_seed(2))
    told = replace(batch, local=even(looks).amplitude * noise)
    right, *wrong = (float(likelihood(even(sampler.looks(batch.seen)), told)) for sampler in (made, *others))
    assert right < min(wrong) - 0.01
    size = looks.amplitude.square().mean(dim=(0, 2, 3, 4)).sqrt().log()
    wedge = batch.level[:, 1].mean(dim=0)
    finer = size[COLOURED // 2 + 1 :].mean()  # all bands but the coarsest, which is below these shells
    assert torch.allclose(wedge[2:-1], finer.expand(SHELLS - 3), atol=0.25)
    assert float(batch.local.square().mean()) == pytest.approx(1.0, abs=0.01)


def test_gradients_reach_every_weight(batch: DeviationBatch) -> None:
    model = DeviationFitting(toy().requires_grad_(True), EDGE)
    (phase,) = model.phases()
    sum(phase.losses(batch).values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in phase.parameters)
    silent = [name for name, p in model.named_parameters() if not float(p.grad.abs().max()) > 0]
    assert silent == ["sampler.told.0.weight", "sampler.told.0.bias"]  # behind a layer that starts at zero
