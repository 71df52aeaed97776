"""Each check of the contract fails on a part that is broken in the way it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cryoaae.divergences.adversarial import Adversarial
from cryoaae.divergences.clouds import two_clouds
from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.mmd import MMD, SCALES
from cryoaae.divergences.sinkhorn import Sinkhorn
from cryoaae.divergences.sliced import Sliced
from cryoaae.draws import Draws
from cryoaae.priors.gaussian import Gaussian

Value = Callable[[Tensor, Tensor, Draws], Tensor]


class Formula(nn.Module):
    """A divergence that is one line."""

    def __init__(self, value: Value) -> None:
        super().__init__()
        self.value = value

    def forward(self, q: Codes, p: Codes, draws: Draws) -> Tensor:
        return self.value(*two_clouds(q, p, 2), draws)

    def critic_loss(self, q: Codes, p: Codes, draws: Draws) -> None:
        return None


def formula(value: Value) -> Callable[..., nn.Module]:
    return lambda prior, stack=(): Formula(value)


def changed(part: type[nn.Module], change: Callable[[Tensor, Tensor, Draws, Callable[..., Tensor]], Tensor]) -> Any:
    """`part` with its forward put through `change(x, y, draws, forward)`."""

    def make(prior: Gaussian, stack: tuple[int, ...] = ()) -> nn.Module:
        module = part(prior, stack=stack)

        def forward(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
            return module(Codes(x), Codes(y), draws)

        return Formula(lambda x, y, draws: change(x, y, draws, forward))

    return make


def own_sinkhorn(**keywords: Any) -> Callable[..., nn.Module]:
    from geomloss import SamplesLoss

    return formula(lambda x, y, _: SamplesLoss("sinkhorn", p=2, blur=0.5, backend="tensorized", **keywords)(x, y))


def multiquadratic(squared: Tensor) -> Tensor:
    return sum((16 * s / (16 * s + squared) for s in SCALES), start=torch.zeros(())).mean(dim=(-2, -1))


def plug_in_mmd(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    """With every point as a pair with itself."""
    pairs = ((x, x), (y, y), (x, y))
    within_x, within_y, between = (multiquadratic(torch.cdist(a, b).square()) for a, b in pairs)
    return within_x + within_y - 2 * between


def rough_mmd(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    """With distances as |a|^2 + |b|^2 - 2 a.b, wherever the clouds are."""

    def squared(a: Tensor, b: Tensor) -> Tensor:
        return a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.mT

    pairs = ((x, x), (y, y), (x, y))
    within_x, within_y, between = (multiquadratic(squared(a, b)) for a, b in pairs)
    return within_x + within_y - 2 * between


def first_counts_twice(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    return means_apart(torch.cat([x[:1], x]), y, draws)


def cut_to_seven(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    return paired(x[:7].sort(dim=0).values, y[:7].sort(dim=0).values, draws)


def paired(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    return (x - y).square().sum(dim=-1).mean(dim=-1)


def means_apart(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    return (x.mean(dim=-2) - y.mean(dim=-2)).square().sum(dim=-1)


def moments_apart(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    return means_apart(x, y, draws) + (x.mT.cov() - y.mT.cov()).square().sum()


def moments_apart_stacked(x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    return torch.stack([moments_apart(a, b, draws) for a, b in zip(x, y, strict=True)])


class LeakyCritic(Adversarial):
    def critic_loss(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        return nn.functional.softplus(self.log_ratio(q.samples)).mean(dim=-1)


class LeakyEncoder(Adversarial):
    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        return nn.functional.softplus(-self.log_ratio(q.samples)).mean(dim=-1)


class SharedNoise(Adversarial):
    """Every member sees the noise of the first."""

    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        noise = draws.normal(*q.samples.shape[-2:])
        noisy = q.samples + (noise[:1] if draws.stack else noise)
        return super().forward(replace(q, samples=noisy), p, draws)


class AnyUnits(MMD):
    def __init__(self, prior: Gaussian, *, stack: tuple[int, ...] = ()) -> None:
        super().__init__(prior)
        self.base = 4.0


def small(part: type[Adversarial]) -> Callable[..., nn.Module]:
    return lambda prior, stack=(): part(prior, stack=stack, hidden=(8,))


BROKEN: list[tuple[str, str, Any]] = [
    ("unbiased", "biased MMD", formula(plug_in_mmd)),
    ("unbiased", "nothing at all", formula(lambda x, y, _: 0 * x.sum(dim=(-2, -1)))),
    ("equal_laws_are_not_apart", "Sinkhorn that is not debiased", own_sinkhorn(debias=False)),
    ("equal_laws_are_not_apart", "an offset", changed(Sliced, lambda x, y, d, f: f(x, y, d) + 0.01)),
    ("equal_laws_are_not_apart", "mistaken sign", changed(Sliced, lambda x, y, d, f: -f(x, y, d))),
    ("grows_under_shift", "mistaken sign", changed(MMD, lambda x, y, d, f: -f(x, y, d))),
    ("grows_under_shift", "centred clouds", changed(Sinkhorn, lambda x, y, d, f: f(x - x.mean(-2, True), y, d))),
    ("grows_with_spread", "means only", formula(means_apart)),
    ("sees_more_than_moments", "moments only", formula(moments_apart_stacked)),
    ("gradient", "detached", changed(MMD, lambda x, y, d, f: f(x.detach(), y, d) + 0 * x.sum())),
    ("gradient", "nothing to descend", changed(MMD, lambda x, y, d, f: f(x.detach(), y, d))),
    ("gradient", "half of it", changed(MMD, lambda x, y, d, f: f((x + x.detach()) / 2, y, d))),
    ("gradient", "one percent too long", changed(Sliced, lambda x, y, d, f: f(1.01 * x - 0.01 * x.detach(), y, d))),
    ("order_is_nothing", "points in pairs", formula(paired)),
    ("order_is_nothing", "the first point counts twice", formula(first_counts_twice)),
    ("members_are_strangers", "mean over members", changed(MMD, lambda x, y, d, f: f(x, y, d).mean() + 0 * f(x, y, d))),
    ("members_are_strangers", "standardised over members", changed(Sliced, lambda x, y, d, f: f(x / x.std(), y, d))),
    ("members_are_strangers", "diameter of the stack", own_sinkhorn(debias=True)),
    ("members_are_strangers", "noise of the first member", small(SharedNoise)),
    ("points_are_weights", "sum over points", changed(Sliced, lambda x, y, d, f: f(x, y, d) * x.shape[-2])),
    ("points_are_weights", "sizes cut to the smaller", formula(cut_to_seven)),
    ("single_precision", "squares far from zero", formula(rough_mmd)),
    ("phases_are_apart", "critic moves codes", small(LeakyCritic)),
    ("phases_are_apart", "encoder moves critic", small(LeakyEncoder)),
]  # fmt: skip


@pytest.mark.parametrize(("law", "part"), [pytest.param(law, part, id=f"{law}-{what}") for law, what, part in BROKEN])
def test_a_broken_part_is_caught(contract: Callable[..., Any], law: str, part: Any) -> None:
    with pytest.raises(AssertionError):
        getattr(contract(part), f"check_{law}")()


def test_a_forgotten_unit_is_caught(contract: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        contract(AnyUnits).check_units(power=0)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda x, y, _: (x.var(dim=-2) - y.var(dim=-2)).square().sum(dim=-1), id="not a number"),
        pytest.param(lambda x, y, _: x.sum(dim=(-2, -1)) - y.sum(dim=(-2, -1)), id="a number of an empty cloud"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_a_number_of_too_few_points_is_caught(contract: Callable[..., Any], value: Value) -> None:
    class Careless(Formula):
        def forward(self, q: Codes, p: Codes, draws: Draws) -> Tensor:
            return self.value(q.samples, p.samples, draws)

    with pytest.raises(AssertionError):
        contract(lambda prior, stack=(): Careless(value)).check_clouds_are_refused(least=1)


def test_every_check_is_shown_to_catch(contract: Callable[..., Any]) -> None:
    checks = {name.removeprefix("check_") for name in dir(contract) if name.startswith("check_")}
    assert checks == {law for law, _, _ in BROKEN} | {"units", "clouds_are_refused"}
