"""A U-Net as sampler: what it is by construction, and that a fit by halves alone goes towards a known posterior."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cryoaae.models.network_fitting import NetworkFit, NetworkFitting
from cryoaae.models.network_sampler import HalfStatistics, NetworkSampler
from cryoaae.sampling.agreement import agreement
from cryoaae.sampling.oracle import Oracle

SMALL = NetworkFit(steps=60, batch=8, many=1024)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitting_of(oracle: Oracle, settings: NetworkFit = SMALL, seed: int = 0) -> NetworkFitting:
    return NetworkFitting(oracle.basis, oracle.model.measured, oracle.model.halves(), settings, generator=seeded(seed))


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.build((8, 8, 8))


@pytest.fixture
def sampler(oracle: Oracle) -> NetworkSampler:
    return fitting_of(oracle).sampler


def test_halves_tell_how_loud_the_structure_is_from_place_to_place(oracle: Oracle) -> None:
    """Of volumes without a wedge: ring by ring the root mean square of the law."""
    model, basis = oracle.model, oracle.basis
    everywhere = torch.ones_like(model.measured)
    truth = model.truths(4000, generator=seeded(1))
    even, odd = (truth + 0.3 * torch.randn(truth.shape, generator=seeded(s), dtype=truth.dtype) for s in (2, 3))
    size = HalfStatistics.of(even, odd, basis, everywhere).size
    units = basis.volume(torch.eye(basis.size, dtype=torch.float64)).flatten(1)
    power = ((units.mT @ model.covariance) * units.mT).sum(dim=1).reshape(basis.shape)
    axes = torch.meshgrid(*[torch.arange(8.0) - 4] * 3, indexing="ij")
    ring = torch.linalg.vector_norm(torch.stack(axes), dim=0).round()
    exact = torch.stack([power[ring == r].mean() / power.mean() for r in range(8)]).sqrt()
    torch.testing.assert_close(size.exp(), exact[ring.long()], rtol=0.03, atol=0.0)
    assert exact[0] > 2 * exact[7]


def test_what_was_measured_without_noise_is_kept(oracle: Oracle, sampler: NetworkSampler) -> None:
    y = oracle.model.halves()(2, seeded(4))[0]
    with torch.no_grad():
        torch.nn.init.normal_(sampler.unet.last.weight)
        far = (sampler.mean(y) - y)[:, oracle.model.measured].abs().max()
        sampler.noise.fill_(1e-8)
        near = (sampler.mean(y) - y)[:, oracle.model.measured].abs().max()
    assert near < 1e-4 < 0.1 < far


def test_deviations_have_no_mean_and_the_widths_they_are_told(oracle: Oracle, sampler: NetworkSampler) -> None:
    y = oracle.model.halves()(2, seeded(5))[0]
    with torch.no_grad():
        seen = sampler.seen(y)
        drawn = sampler.deviations(seen, 400, generator=seeded(6))
        torch.testing.assert_close(drawn.mean(dim=0) / drawn.std(dim=0), torch.zeros_like(y), atol=0.25, rtol=0.0)
        sampler.spread[3] = 2.0
        wider = sampler.deviations(seen, 400, generator=seeded(6))
    chosen = sampler.cell == 3
    torch.testing.assert_close(wider[..., chosen], 2 * drawn[..., chosen])
    torch.testing.assert_close(wider[..., ~chosen], drawn[..., ~chosen])
    regions = [set(sampler.cell[part].tolist()) for part in (oracle.model.measured, ~oracle.model.measured)]
    assert not regions[0] & regions[1]


def test_what_deviations_are_scored_by_teaches_the_restorer_nothing(oracle: Oracle, sampler: NetworkSampler) -> None:
    """The mean is the mean head's, unharmed."""
    y = oracle.model.halves()(2, seeded(7))[0]
    sampler.deviations(sampler.seen(y), 2, generator=seeded(8)).square().sum().backward()
    assert all(weight.grad is None for weight in sampler.unet.parameters()) and sampler.open.grad is None
    assert any(weight.grad is not None for weight in sampler.deviation.parameters())


def test_widths_are_those_of_the_error_and_nobody_knows_the_truth(oracle: Oracle) -> None:
    """Nothing is learned here: a Wiener filter's error, found from the halves."""
    fitting = fitting_of(oracle, NetworkFit(batch=128))
    model = oracle.model
    fitting.settle()
    with torch.no_grad():
        truth = model.truths(2000, generator=seeded(9))
        y = model.measure(truth, generator=seeded(10)).float()
        seen = fitting.sampler.seen(y)
        mean = fitting.sampler.restored(seen)
        drawn = fitting.sampler.deviations(seen, 4, generator=seeded(11))
    error = (truth - mean).square().mean(dim=0)
    found = agreement((mean + drawn).transpose(0, 1).double(), mean.double(), error, fitting.sampler.cell)
    assert found.worst_std < 0.05


def test_steps_are_repeatable_and_another_seed_is_another_fit(oracle: Oracle) -> None:
    ends = []
    for seed in (0, 0, 1):
        made = fitting_of(oracle, seed=seed).run(3)
        ends.append(torch.cat([values.flatten().double() for values in made.state_dict().values()]))
    assert torch.equal(ends[0], ends[1]) and not torch.allclose(ends[0], ends[2])


@pytest.mark.slow
def test_a_fit_by_halves_alone_goes_to_the_posterior_in_mean_and_spread(oracle: Oracle) -> None:
    model = oracle.model
    truth = model.truths(64, generator=seeded(12))
    y = model.measure(truth, generator=seeded(13))
    exact, variance = model.mean(y), model.posterior_covariance.diagonal()

    def judged(sampler: NetworkSampler) -> tuple[float, Tensor]:
        with torch.no_grad():
            drawn = sampler.draws(y.float(), 32, generator=seeded(14)).transpose(0, 1).double()
        found = agreement(drawn, exact, variance, (~model.measured).long())
        return found.excess, found.std_ratio

    fitting = fitting_of(oracle, NetworkFit(steps=200))
    before, _ = judged(fitting.teacher)
    after, widths = judged(fitting.run())
    assert before > 0.4
    assert after < 0.12
    assert (widths - 1).abs().max() < 0.08
