"""R-hat, effective sample size and Pareto k where they are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cryoaae.sampling.diagnostics import bulk_ess, diagnose, pareto_smoothed, split_rhat


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def autoregressive(chains: int, draws: int, phi: float, *, seed: int = 0) -> Tensor:
    """Stationary AR(1) chains of unit variance, (chains, draws, 1): n (1 - phi) / (1 + phi) draws count."""
    g = seeded(seed)
    states = [torch.randn(chains, generator=g, dtype=torch.float64)]
    for _ in range(draws - 1):
        kick = torch.randn(chains, generator=g, dtype=torch.float64)
        states.append(phi * states[-1] + math.sqrt(1 - phi**2) * kick)
    return torch.stack(states, dim=1)[..., None]


@pytest.mark.parametrize("phi", [-0.3, 0.0, 0.5, 0.9])
def test_effective_size_of_an_autoregression(phi: float) -> None:
    chains = autoregressive(8, 2000, phi)
    assert float(bulk_ess(chains)) == pytest.approx(16000 * (1 - phi) / (1 + phi), rel=0.2)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_rhat_of_chains_at_different_places(shift: float) -> None:
    """Half the chains shifted: sqrt(1 + B / W), B the variance between chains (on ranks, hence the tolerance)."""
    chains = autoregressive(20, 1000, 0.0)
    chains[:10] += shift
    assert float(split_rhat(chains)) == pytest.approx(math.sqrt(1 + shift**2 / 4), rel=0.08)
    assert diagnose(chains).converged == (shift < 1)


def test_rhat_sees_a_drift_that_all_chains_share_and_unequal_spread() -> None:
    chains = autoregressive(4, 1000, 0.0)
    assert float(split_rhat(chains)) < 1.01
    drifting = chains + torch.linspace(0, 2, 1000, dtype=torch.float64)[:, None]
    assert float(split_rhat(drifting)) > 1.05
    chains[0] *= 4
    assert float(split_rhat(chains)) > 1.05


def test_the_message_names_the_worst_functional() -> None:
    chains = autoregressive(4, 400, 0.0).repeat(1, 1, 3)
    assert diagnose(chains).message.startswith("chains agree")
    chains[:2, :, 1] += 3
    found = diagnose(chains, ["origin", "wedge", "ring"])
    assert not found.converged
    assert found.message.startswith("chains have not converged")
    assert "wedge" in found.message
    assert int(found.rhat.argmax()) == 1
    with pytest.raises(ValueError, match="names"):
        diagnose(chains, ["origin"])
    with pytest.raises(ValueError, match="cannot be compared"):
        diagnose(chains[:1])


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_pareto_k_of_pareto_weights(shape: float) -> None:
    """Weights u^-k have a tail of shape k; their inverses, k < 0, none."""
    u = torch.rand(6, 4000, generator=seeded(1), dtype=torch.float64)
    smoothed, khat = pareto_smoothed(-shape * u.log())
    assert float(khat.mean()) == pytest.approx(shape, abs=0.12)
    torch.testing.assert_close(smoothed.exp().sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert float(pareto_smoothed(shape * u.log())[1].max()) < 0.1


def test_weights_that_nothing_can_be_said_of() -> None:
    one = torch.full((100,), -1e4).index_fill(0, torch.tensor([3]), 0.0)
    khat = pareto_smoothed(torch.stack([torch.zeros(100), one]))[1]
    assert khat[0] == -math.inf, "all alike: no tail"
    assert khat[1] > 0.7, "one takes all: no average"
