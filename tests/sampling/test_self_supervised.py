"""The learned objective alone: the exact sampler is its fixed point, and a fit goes there without the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryoaae.sampling.linear_sampler import LinearSampler, half_map_powers
from cryoaae.sampling.oracle import Oracle
from cryoaae.sampling.self_supervised import Halves, SamplerFit, SamplerFitting, other_noise


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def halves_of(oracle: Oracle) -> Halves:
    def halves(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        truth = oracle.model.truths(count, generator=generator)
        return oracle.model.measure(truth, generator=generator), oracle.model.measure(truth, generator=generator)

    return halves


def fitting_of(oracle: Oracle, settings: SamplerFit) -> SamplerFitting:
    return SamplerFitting(
        oracle.basis, oracle.model.measured, halves_of(oracle), settings, generator=seeded(0)
    )


def excess(oracle: Oracle, sampler: LinearSampler) -> float:
    model, apart = oracle.model, sampler.gain - oracle.model.gain
    return float(torch.trace(apart @ model.data_covariance @ apart.mT) / model.posterior_covariance.trace())


def made_exact(oracle: Oracle, sampler: LinearSampler) -> None:
    """Put the oracle's own posterior into a sampler."""
    model, scale = oracle.model, sampler.scale
    rows = torch.nonzero(model.measured).flatten()
    unwhitened = torch.zeros_like(sampler.whitening)
    unwhitened[rows[:, None], rows] = torch.linalg.inv(sampler.whitening[rows][:, rows])
    with torch.no_grad():
        sampler.mean_weight.copy_(model.gain / scale[:, None] @ unwhitened)
        sampler.spread_weight.copy_(torch.linalg.cholesky(model.posterior_covariance) / scale[:, None])


def test_half_maps_tell_the_powers_without_the_truth(cube: Oracle) -> None:
    model = cube.model
    even, odd = halves_of(cube)(20000, seeded(1))
    signal, noise = half_map_powers(even, odd, cube.basis, model.measured)
    torch.testing.assert_close(noise, model.noise_power, rtol=0.03, atol=0.0)
    # Isotropy carries the power into the wedge; on a cube shells hold coefficients that turns do not relate.
    torch.testing.assert_close(signal, cube.stationary_power, rtol=0.1, atol=0.0)


def test_the_start_is_the_wiener_sampler(cube: Oracle) -> None:
    fitting = fitting_of(cube, SamplerFit())
    signal, noise = half_map_powers(*halves_of(cube)(4096, seeded(0)), cube.basis, cube.model.measured)
    share = signal / (signal + noise) * cube.model.measured
    torch.testing.assert_close(fitting.sampler.gain, torch.diag(share), atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(fitting.sampler.covariance.diagonal(), signal * (1 - share))
    y = torch.randn(3, cube.basis.size, generator=seeded(2), dtype=torch.float64)
    drawn = fitting.sampler.draws(y, 4000, generator=seeded(3)).detach()
    spread = fitting.sampler.covariance.diagonal().sqrt().expand(3, -1)
    torch.testing.assert_close(drawn.std(dim=0), spread, rtol=0.08, atol=0.0)


@pytest.mark.parametrize("term", ["data", "em"])
def test_the_exact_posterior_is_a_fixed_point_of_each_term(cube: Oracle, term: str) -> None:
    """There the gradient is zero on average; at another spread or gain it is not."""
    fitting = fitting_of(cube, SamplerFit(batch=128))
    made_exact(cube, fitting.teacher)

    def pull(spread: float, gain: float) -> tuple[float, float]:
        made_exact(cube, fitting.sampler)
        with torch.no_grad():
            fitting.sampler.spread_weight *= spread
            fitting.sampler.mean_weight *= gain
        weights = [fitting.sampler.spread_weight, fitting.sampler.mean_weight]
        along: list[list[float]] = [[], []]
        for _ in range(24):
            even, odd = fitting.halves(128, fitting.generator)
            score = fitting.data_score(even, odd) if term == "data" else fitting.em_score(even, odd)
            for values, weight, slope in zip(along, weights, torch.autograd.grad(score, weights), strict=True):
                values.append(float((weight.detach() * slope).sum()))
        z = [torch.tensor(values) for values in along]
        return tuple(float(v.mean() / (v.std() / len(v) ** 0.5)) for v in z)  # type: ignore[return-value]

    assert max(abs(z) for z in pull(1.0, 1.0)) < 4
    assert pull(1.3, 1.0)[0] > 4, "too wide: descending makes it narrower"
    assert pull(0.7, 1.0)[0] < -4
    assert pull(1.0, 0.6)[1] < -4, "shrunk too much: descending makes it louder"


def test_a_fit_fills_the_wedge_without_the_truth(cube: Oracle) -> None:
    settings = SamplerFit(steps=240, batch=96, rate=0.25, rate_steps=200.0, memory=8.0, start_places=2048)
    fitting = fitting_of(cube, settings)
    missing, exact = ~cube.model.measured, cube.model.posterior_covariance.diagonal()

    def std_in_wedge(sampler: LinearSampler) -> float:
        return float((sampler.covariance.diagonal()[missing].mean() / exact[missing].mean()).sqrt())

    before = excess(cube, fitting.sampler), std_in_wedge(fitting.sampler)
    assert float(fitting.sampler.gain[missing].abs().max()) == 0.0, "the start is blind in the wedge"
    after = fitting.run()
    assert before[0] > 0.3
    assert excess(cube, after) < 0.05
    assert before[1] > 1.12
    assert 0.95 < std_in_wedge(after) < 1 + 0.7 * (before[1] - 1)


def test_energy_score_alone_learns_what_is_measured_and_leaves_the_wedge(cube: Oracle) -> None:
    settings = SamplerFit(steps=150, batch=96, em_weight=0.0, data_weight=1.0, start_places=2048)
    fitting = fitting_of(cube, settings)
    model, measured = cube.model, cube.model.measured

    def measured_excess(sampler: LinearSampler) -> float:
        apart = (sampler.gain - model.gain)[measured]
        return float(torch.trace(apart @ model.data_covariance @ apart.mT))

    before = measured_excess(fitting.sampler)
    after = fitting.run()
    assert measured_excess(after) < 0.6 * before
    # Of the wedge it learns next to nothing, where the posterior mean has a lot to say.
    wedge = after.gain[~measured].square().sum() / model.gain[~measured].square().sum()
    assert float(wedge) < 0.05


def test_steps_are_repeatable_and_noise_is_that_of_a_half(cube: Oracle) -> None:
    ends = [fitting_of(cube, SamplerFit(steps=5, batch=32)).run().gain for _ in range(2)]
    assert torch.equal(*ends)
    fitting = fitting_of(cube, replace(SamplerFit(), batch=4))
    even, odd = halves_of(cube)(20000, seeded(6))
    noise = other_noise(even, odd, 1, fitting.generator)
    model = cube.model
    torch.testing.assert_close(noise.var(dim=0), model.noise_power * model.measured, rtol=0.06, atol=1e-12)
    with_own = (noise * (even - odd)).mean(dim=0) / model.noise_power
    assert float(with_own.abs().max()) < 0.06, "of other places"


def test_noise_of_the_gain_is_no_reason_to_be_wider(cube: Oracle) -> None:
    """About a mean that is known better the exact spread is left as it is; about the sampler's own it would grow."""
    fitting = fitting_of(cube, SamplerFit())
    sampler, model = fitting.sampler.double(), cube.model
    made_exact(cube, sampler)
    truth = model.truths(4000, generator=seeded(7))
    y = model.measure(truth, generator=seeded(8))
    centre = model.mean(y)
    with torch.no_grad():
        noise = torch.randn(sampler.mean_weight.shape, generator=seeded(9), dtype=truth.dtype)
        sampler.mean_weight += 0.05 * noise

    def pull(**keywords: Tensor) -> tuple[float, float]:
        """Along a wider spread, and along the gain's own noise: above 0 it is descended."""
        weights = [sampler.spread_weight, sampler.mean_weight]
        slopes = torch.autograd.grad(sampler.log_score(y, truth, **keywords).mean(), weights)
        return float((weights[0].detach() * slopes[0]).sum()) / len(noise), float((noise * slopes[1]).sum())

    about_own, about_centre = pull(), pull(centre=centre)
    assert about_own[0] < -0.05, "descending makes it wider"
    assert abs(about_centre[0]) < 0.02
    assert about_centre[1] == pytest.approx(about_own[1]) and about_own[1] > 0, "the gain is mended all the same"
