"""Parts are found by name; a wrong name or keyword is answered with the nearest."""

from __future__ import annotations

import pytest

from cryoaae.divergences import DIVERGENCES
from cryoaae.errors import InputError
from cryoaae.priors import PRIORS
from cryoaae.registry import Registry


def test_every_module_of_a_folder_is_found() -> None:
    assert list(PRIORS) == ["categorical", "gaussian", "mixture", "product", "swiss_roll", "uniform"]
    assert list(DIVERGENCES) == ["adversarial", "kl", "mmd", "sinkhorn", "sliced"]


def test_wrong_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'sinkhorn'"):
        DIVERGENCES["sinkhron"]
    with pytest.raises(InputError, match="did you mean 'std'"):
        PRIORS.make("gaussian", sdt=1)
    with pytest.raises(InputError, match="known: .*gaussian"):
        PRIORS["xyzzy"]


def test_a_name_is_given_once() -> None:
    parts: Registry = Registry("part", "cryoaae.priors")
    parts.register("a")(int)
    with pytest.raises(ValueError, match="two parts are named 'a'"):
        parts.register("a")(float)
