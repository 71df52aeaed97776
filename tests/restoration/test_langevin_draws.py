"""Langevin draws of a tomogram: without a structure energy the Gaussian posterior, with one still an exact walk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from shrinking import VOXEL, Gain
from torch import Tensor

from cryoaae.matching.reference import ReferenceReferee
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import langevin_draws
from cryoaae.restoration.draw_sources import covering
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.langevin_draws import CHAINS, SLOWEST, Langevin, structure_by
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.sampling.langevin import anneal
from cryoaae.volume import Volume

SHAPE = (18, 20, 18)


class Around:
    """Draws around the box: white noise."""

    def __init__(self, tomogram: WorkingTomogram, *_: object, **__: object) -> None: ...

    def deviation(self, number: int) -> Tensor:
        return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))


@pytest.fixture(autouse=True)
def no_general_restorer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langevin_draws, "Learned", Around)
    monkeypatch.setattr(langevin_draws, "BURN_IN", 12)
    monkeypatch.setattr(langevin_draws, "STRETCH", 4)
    monkeypatch.setattr(langevin_draws, "TURNS", 1)


@pytest.fixture(scope="module")
def tomogram() -> WorkingTomogram:
    g, wedge = torch.Generator().manual_seed(0), MissingWedge((-60.0, 60.0))
    signal = 4 * band_limit(torch.randn(SHAPE, generator=g), 0.1, 0.3)
    noisy = [wedge.measured(signal + torch.randn(SHAPE, generator=g)) for _ in "eo"]
    volumes = [Volume(half.numpy(), VOXEL) for half in noisy]
    return WorkingTomogram.of(volumes, wedge, Gain(), options=RestoreOptions())


def sampler(tomogram: WorkingTomogram, **how: object) -> Langevin:
    estimate = tomogram.restore(tomogram.halves)
    return Langevin(tomogram, estimate, seed=0, turns="any", **how)  # type: ignore[arg-type]


def drawn(source: Langevin, count: int) -> Tensor:
    """States of the walk, (count, z, y, x // 2 + 1), as spectra."""
    states = []
    for number in range(1, count + 1):
        source.deviation(number)
        assert source.run is not None
        states.append(rfft(source.run.last[(number - 1) % CHAINS]))
    return torch.stack(states)


def test_without_a_structure_energy_draws_follow_the_gaussian_posterior(tomogram: WorkingTomogram) -> None:
    """Each coefficient on its own: N(m, P), in the wedge N(0, S), whatever restoration the draws began at."""
    source = sampler(tomogram)
    posterior, draws = source.posterior, drawn(source, 8)
    apart = (draws - posterior.centre).abs().square() / posterior.preconditioner
    weight = multiplicity(tomogram.shape)
    k = radius(tomogram.shape)
    for region in (posterior.support, ~posterior.support):
        for low, high in ((SLOWEST, 0.2), (0.2, 0.35), (0.35, 0.5)):
            cell = region & posterior.band & (k >= low) & (k < high)
            count = 8 * float((weight * cell).sum())
            found = float((apart.mean(dim=0) * weight)[cell].sum() / (weight * cell).sum())
            assert abs(found - 1) < 5 * (2 / count) ** 0.5, (low, found)
    wiener = torch.where(posterior.support, posterior.centre, 0.0)
    assert torch.equal(wiener, posterior.centre), "the wedge has no mean"
    facts = source.facts()
    assert facts["acceptance"] == 1.0
    assert facts["steps"] == 8 and facts["chains"] == 4


def test_deviations_are_the_walk_less_the_restoration_and_repeat_by_number(tomogram: WorkingTomogram) -> None:
    source = sampler(tomogram)
    third, again = source.deviation(7), sampler(tomogram).deviation(7)
    assert torch.equal(third, again)
    assert source.run is not None
    apart = source.run.last[2] - tomogram.restore(tomogram.halves)
    fast = irfft(rfft(apart) * (radius(tomogram.shape) >= SLOWEST), tomogram.shape)
    torch.testing.assert_close(third, fast[covering(tomogram.plan.frame)])
    first = source.deviation(1)
    assert torch.equal(first, sampler(tomogram).deviation(1)), "going back walks again from the start"


@pytest.mark.parametrize("temper", ["data", "posterior"])
def test_the_spread_grows_with_temperature(tomogram: WorkingTomogram, temper: str) -> None:
    spreads = []
    for gamma in (0.25, 1.0, 4.0):
        source = sampler(tomogram, gamma=gamma, temper=temper)
        draws = drawn(source, 4)
        power = (draws - source.posterior.centre).abs().square().mean(dim=0)
        spreads.append([float(power[where & source.posterior.band].mean())
                        for where in (source.posterior.support, ~source.posterior.support)])  # fmt: skip
    (cold, cool), (one, mild), (hot, warm) = spreads
    assert cold < 0.8 * one < 0.64 * hot
    # Of the likelihood alone temperature says nothing in the wedge (SCIENCE E12b); of all it does.
    if temper == "posterior":
        assert cool < 0.3 * mild < 0.09 * warm
    else:
        assert cool == pytest.approx(mild, rel=0.1) and warm == pytest.approx(mild, rel=0.1)


def test_a_structure_energy_is_followed_and_each_chain_has_its_own_turns(tomogram: WorkingTomogram) -> None:
    torch.manual_seed(1)
    judge = ReferenceReferee.made(8, widths=(4,))
    source = sampler(tomogram)
    plain = drawn(source, 4)
    energy = structure_by(
        judge, tomogram, patch=8, block=14, chains=CHAINS, generator=torch.Generator().manual_seed(2)
    )
    low = torch.tensor([s.start for s in covering(tomogram.plan.frame)])
    for draw in energy.draws:
        places = draw.centre_zyx - low
        assert bool(((places >= 4 + 4) & (places <= torch.tensor(SHAPE) - 4 - 4)).all()), "patches lie in the tomogram"
    assert not torch.equal(energy.draws[0].noise, energy.draws[1].noise)
    walking = sampler(tomogram)
    walking.posterior = replace(walking.posterior, further=energy)
    followed = drawn(walking, 8)[4:]
    before, after = (energy(irfft(states, tomogram.shape)).mean() for states in (plain, followed))
    assert float(after) < float(before) - 1.0
    facts = walking.facts()
    assert facts["structure_energy"] and 0.3 < facts["acceptance"] < 0.85
    assert "R-hat" in facts["message"]
    assert len(facts["cells"]) > 8


def test_annealing_ends_at_one_local_mode(tomogram: WorkingTomogram) -> None:
    """Of the Gaussian posterior: at its mean, whatever the start."""
    posterior = sampler(tomogram).posterior
    start = 3 * torch.randn(2, *tomogram.shape, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    cold = anneal(posterior, start, [1.0, 1e-2, 1e-4], steps=6, generator=generator, scheme="exact")
    mode = irfft(posterior.centre, tomogram.shape)
    assert float((cold - mode).square().mean()) < 1e-3 * float(posterior.preconditioner.mean())
