"""Laws that a divergence keeps, each a check of anything that is made as one.

They stand here, not in a test, so that `test_contract_catches` can hand them broken ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.nets.stacked import initialise
from cryoaae.priors.gaussian import Gaussian

# Not one, so that a forgotten scale shows.
STD = 2.0
PRIOR = Gaussian(2, std=STD)
Seeds = int | Sequence[int]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Contract:
    """Checks of one divergence.

    Parameters
    ----------
    make : callable
        (prior, stack=...) -> module.
    codes : callable
        Points to `Codes`, for divergences that want more than points.
    """

    make: Callable[..., nn.Module]
    codes: Callable[[Tensor], Codes] = Codes

    def module(self, seeds: Seeds = 0, prior: Gaussian = PRIOR, dtype: torch.dtype = torch.float64) -> nn.Module:
        draws = Draws.seeded(seeds, dtype=torch.float64)
        module = self.make(prior, stack=draws.stack).double()
        initialise(module, draws)
        return module.to(dtype)

    def value(self, x: Tensor, y: Tensor, seeds: Seeds = 0, prior: Gaussian = PRIOR) -> Tensor:
        module = self.module(seeds, prior, x.dtype)
        return module(self.codes(x), self.codes(y), Draws.seeded(seeds, dtype=torch.float64))

    def gradient(self, x: Tensor, y: Tensor, seeds: Seeds = 0) -> Tensor:
        x = x.clone().requires_grad_()
        value = self.value(x, y, seeds)
        assert value.requires_grad, "nothing for the encoder to descend"
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return gradient

    def check_unbiased(self) -> None:
        """Zero on average between two small clouds of one law."""
        pairs = 300
        x, y = STD * normal(pairs, 12, 2, seed=1), STD * normal(pairs, 9, 2, seed=2)
        values = self.value(x, y, range(pairs))
        assert values.std() > 0
        assert values.mean().abs() < 3 * values.std() / pairs**0.5

    def check_equal_laws_are_not_apart(self) -> None:
        """Zero for equal clouds; between clouds of one law, sampling error that goes as 1 / n."""
        x, y = STD * normal(10, 160, 2, seed=1), STD * normal(10, 160, 2, seed=2)
        members = range(10)
        assert self.value(x, x, members).abs().max() < 1e-9 * STD**2
        few, many = self.value(x[:, :32], y[:, :32], members).mean(), self.value(x, y, members).mean()
        assert 0 < many < 0.4 * few

    def check_grows_under_shift(self) -> None:
        x, y = STD * normal(100, 2, seed=1), STD * normal(100, 2, seed=2)
        step = STD * torch.tensor([0.6, -0.8], dtype=torch.float64)
        values = torch.stack([self.value(x + k * step, y) for k in (0.0, 0.5, 1.0, 2.0, 4.0)])
        assert (values[1:] > 0).all()
        assert (values.diff() > 0).all()

    def check_grows_with_spread(self) -> None:
        x, y = STD * normal(100, 2, seed=1), STD * normal(100, 2, seed=2)
        for factors in ((1.0, 1.5, 2.0, 4.0), (1.0, 0.6, 0.3, 0.0)):
            values = torch.stack([self.value(k * x, y) for k in factors])
            assert (values[1:] > 0).all()
            assert (values.diff() > 0).all()

    def check_sees_more_than_moments(self) -> None:
        """A ring has the mean and the covariance of a normal cloud; its law is another."""
        pairs = 8
        x, y = STD * normal(pairs, 200, 2, seed=1), STD * normal(pairs, 200, 2, seed=2)
        ring = nn.functional.normalize(x, dim=-1) * STD * 2**0.5
        same, other = self.value(x, y, range(pairs)), self.value(ring, y, range(pairs))
        assert other.min() > same.max()

    def check_gradient(self, tolerance: float = 1e-6) -> None:
        """Along random directions, against central differences."""
        x, y = STD * normal(9, 2, seed=1) + 1, STD * normal(7, 2, seed=2)
        gradient, step = self.gradient(x, y), 1e-5
        ways = normal(6, 9, 2, seed=3)
        with torch.no_grad():
            measured = torch.stack([self.value(x + step * w, y) - self.value(x - step * w, y) for w in ways]) / step / 2
        difference = (ways * gradient).sum(dim=(1, 2)) - measured
        assert torch.linalg.vector_norm(difference) < tolerance * torch.linalg.vector_norm(measured)

    def check_order_is_nothing(self) -> None:
        x, y = STD * normal(8, 2, seed=1), STD * normal(8, 2, seed=2) + 1
        order, other = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4]), torch.tensor([5, 4, 0, 1, 7, 2, 3, 6])
        torch.testing.assert_close(self.value(x[order], y[other]), self.value(x, y), rtol=1e-10, atol=0)
        torch.testing.assert_close(self.gradient(x[order], y[other]), self.gradient(x, y)[order], rtol=1e-9, atol=1e-12)

    def check_members_are_strangers(self) -> None:
        """A stack of three, one far out, equals the three alone: value, gradient and the critic's loss."""
        spread = torch.tensor([0.3, 2.0, 40.0], dtype=torch.float64)[:, None, None]
        x, y, seeds = spread * normal(3, 9, 2, seed=1), STD * normal(3, 7, 2, seed=2), [5, 6, 7]
        together, slopes = self.value(x, y, seeds), self.gradient(x, y, seeds)
        criticised = self.module(seeds).critic_loss(self.codes(x), self.codes(y), Draws.seeded(seeds, dtype=x.dtype))
        assert together.shape == (3,)
        for i, seed in enumerate(seeds):
            torch.testing.assert_close(together[i], self.value(x[i], y[i], seed), rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(slopes[i], self.gradient(x[i], y[i], seed), rtol=1e-9, atol=1e-10)
            alone = self.module(seed).critic_loss(self.codes(x[i]), self.codes(y[i]), Draws.seeded(seed, dtype=x.dtype))
            torch.testing.assert_close(None if criticised is None else criticised[i], alone, rtol=1e-10, atol=1e-10)

    def check_points_are_weights(self) -> None:
        """A cloud in which every point stands twice, or three times, is the same law."""
        x, y = STD * normal(9, 2, seed=1), STD * normal(7, 2, seed=2) + 1
        many_x, many_y = x.repeat_interleave(3, dim=0), y.repeat_interleave(2, dim=0)
        torch.testing.assert_close(self.value(many_x, many_y), self.value(x, y), rtol=1e-9, atol=0)

    def check_units(self, power: int) -> None:
        """Codes and prior in other units: the value goes as length^power."""
        x, y, unit = STD * normal(9, 2, seed=1), STD * normal(7, 2, seed=2) + 1, 10.0
        there = self.value(unit * x, unit * y, prior=Gaussian(2, std=unit * STD))
        torch.testing.assert_close(there, unit**power * self.value(x, y), rtol=1e-9, atol=0)

    def check_single_precision(self) -> None:
        """Far from zero, where differences of squares lose their digits."""
        x, y = STD * normal(9, 2, seed=1) + 300, STD * normal(7, 2, seed=2) + 301
        torch.testing.assert_close(self.value(x.float(), y.float()).double(), self.value(x, y), rtol=1e-3, atol=1e-5)

    def check_clouds_are_refused(self, least: int) -> None:
        """Of `least` points it has a finite value; of fewer, of other codes or another stack it has none."""
        x = STD * normal(5, 2)
        assert self.value(x[:least], x[:least] + 1).isfinite().all()
        wrong = [(x[: least - 1], x), (x, x[: least - 1]), (x, x[:, :1]), (normal(5, 3), normal(5, 3))]
        for a, b in [*wrong, (x[None].repeat(2, 1, 1), x), (x[0], x[1])]:
            with pytest.raises(ValueError):  # noqa: PT011 - several messages
                self.value(a, b)
                raise AssertionError(f"{tuple(a.shape)} and {tuple(b.shape)} were accepted")

    def check_phases_are_apart(self) -> None:
        """The critic's loss moves only the critic, the encoder's only the codes."""
        module, draws = self.module(), Draws.seeded(0, dtype=torch.float64)
        x, y = normal(6, 2).requires_grad_(), normal(5, 2)
        parameters = list(module.parameters())
        module(self.codes(x), self.codes(y), draws).backward()
        assert x.grad is not None
        assert all(p.requires_grad and p.grad is None for p in parameters), "the encoder's loss moves the critic"
        criticised = module.critic_loss(self.codes(x), self.codes(y), draws)
        assert (criticised is None) == (not parameters), "parameters and a loss for them come together"
        if criticised is not None:
            before = x.grad.clone()
            criticised.backward()
            assert torch.equal(x.grad, before), "the critic's loss moves the codes"
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


@pytest.fixture(scope="session")
def contract() -> type[Contract]:
    return Contract
