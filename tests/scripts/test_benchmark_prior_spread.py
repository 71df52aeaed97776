"""The spread over runs: known variances come back, by region, and an interval that widens with a run's own scatter."""

from __future__ import annotations

import math
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cryoaae.metrics.fsc import region_masks
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.wedge import MissingWedge

page = import_module("benchmark_prior_spread")
SHAPE, WEDGE = (24,) * 3, MissingWedge((-60.0, 60.0))


def noise(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def runs(scale: float, *, first: int, in_wedge: float = 1.0, count: int = 4) -> dict[str, list[list[float]]]:
    """A mean of unit power, and runs that scatter about it; in the wedge by another factor."""
    missing = region_masks(SHAPE, WEDGE)["missing"]
    volumes = []
    for number in range(count):
        own = rfft(scale * noise(first + number))
        volumes.append(noise(0) + irfft(torch.where(missing, in_wedge * own, own), SHAPE))
    found: dict[str, list[list[float]]] = page.products(volumes, SimpleNamespace(wedge=WEDGE))
    return found


def test_known_scatter_comes_back_in_each_region() -> None:
    found = runs(0.2, first=10, in_wedge=2.0)
    assert math.sqrt(page.spread(found["seen"])) == pytest.approx(0.2, rel=0.05)
    assert math.sqrt(page.spread(found["missing"])) == pytest.approx(0.4, rel=0.1)


def test_a_ratio_is_that_of_the_scatters_and_the_same_scatter_is_within_its_interval() -> None:
    one, twice, again = runs(0.1, first=10), runs(0.2, first=20), runs(0.1, first=30)
    found, low, high = page.ratio(one["seen"], twice["seen"])
    assert low < 2 < high
    assert found == pytest.approx(2, rel=0.1)
    found, low, high = page.ratio(one["seen"], again["seen"])
    assert 0.85 < found < 1.18
    steady = high - low
    wild = [[value * (1 + 0.3 * (i == j == 0)) for j, value in enumerate(row)] for i, row in enumerate(one["seen"])]
    _, low, high = page.ratio(wild, twice["seen"])
    assert high - low > 2 * steady
