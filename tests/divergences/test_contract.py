"""Every registered divergence keeps the laws of its kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch import Tensor

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.divergence import Codes


def with_laws(x: Tensor) -> Codes:
    return Codes(x, mean=x, log_std=0.2 * x.sin() - 0.5)


# What each can keep. A discriminator that was not trained, and a divergence per sample, compare no clouds.
CLOUDS = ["grows_under_shift", "grows_with_spread", "sees_more_than_moments"]
PLUG_IN = ["equal_laws_are_not_apart", "points_are_weights"]
LAWS: dict[str, tuple[list[str], int]] = {
    "adversarial": (["points_are_weights"], 0),
    "kl": (["points_are_weights"], 0),
    "mmd": (["unbiased", *CLOUDS], 0),
    "sinkhorn": ([*PLUG_IN, *CLOUDS], 2),
    "sliced": ([*PLUG_IN, *CLOUDS], 2),
}
LEAST = {"mmd": 2}
# The adversary's laws hold whatever its settings; noise is a matter of the order of points.
SMALL = {"hidden": (8, 8)}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "adversarial": [SMALL, {**SMALL, "loss": "minimax", "spectral": True, "r1": 0.3, "activation": "softplus"}],
}
CASES = [(name, keywords) for name in DIVERGENCES for keywords in SETTINGS.get(name, [{}])]
each = pytest.mark.parametrize(("name", "keywords"), CASES)
# KL compares no clouds, and its codes bring a law with units of their own: test_kl.
each_of_clouds = pytest.mark.parametrize(("name", "keywords"), [case for case in CASES if case[0] != "kl"])


def make(contract: Callable[..., Any], name: str, keywords: dict[str, Any]) -> Any:
    return contract(partial(DIVERGENCES.make, name, **keywords), codes=with_laws if name == "kl" else Codes)


def test_every_divergence_says_which_laws_it_keeps() -> None:
    assert sorted(LAWS) == DIVERGENCES.names()


@pytest.mark.parametrize(("name", "law"), [(name, law) for name, (laws, _) in LAWS.items() for law in laws])
def test_law_of_clouds(contract: Callable[..., Any], name: str, law: str) -> None:
    getattr(make(contract, name, SETTINGS.get(name, [{}])[0]), f"check_{law}")()


@each
@pytest.mark.parametrize("law", ["order_is_nothing", "members_are_strangers", "phases_are_apart", "single_precision"])
def test_law_of_all(contract: Callable[..., Any], name: str, keywords: dict[str, Any], law: str) -> None:
    getattr(make(contract, name, keywords), f"check_{law}")()


@each
def test_gradient(contract: Callable[..., Any], name: str, keywords: dict[str, Any]) -> None:
    if name == "sinkhorn":
        # Its gradient is exact only at convergence.
        make(contract, name, {"gamma": 2.0, "scaling": 0.97}).check_gradient(tolerance=1e-3)
    else:
        make(contract, name, keywords).check_gradient()


@each_of_clouds
def test_units(contract: Callable[..., Any], name: str, keywords: dict[str, Any]) -> None:
    make(contract, name, keywords).check_units(power=LAWS[name][1])


@each_of_clouds
def test_clouds_are_refused(contract: Callable[..., Any], name: str, keywords: dict[str, Any]) -> None:
    make(contract, name, keywords).check_clouds_are_refused(least=LEAST.get(name, 1))


def test_members_with_noise_are_strangers(contract: Callable[..., Any]) -> None:
    noisy = {**SMALL, "input_noise": 0.3, "dropout": 0.2, "r1": 1.0}
    make(contract, "adversarial", noisy).check_members_are_strangers()
