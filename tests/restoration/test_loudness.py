"""How loud a restoration is, told without the truth; draws about their centre are as loud as the structure."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.found_errors import CellError, FoundErrors
from cryoaae.restoration.held_out import SHELLS
from cryoaae.restoration.loudness import MOST_SHARE, Loudness, centred

ESTIMATE, COUNT = 40.0, 500.0


def told(slope: float, error: float = 8.0, *, variance: float = 0.0, count: float = COUNT) -> tuple[float, float]:
    """Slope and share of a measured shell with a slope and an error of its own."""
    common = slope * ESTIMATE
    powers = ErrorPower(error + 2 * common - ESTIMATE, common, ESTIMATE, common_variance=variance)
    made = Loudness.of(FoundErrors(({(2, 0): CellError(powers, count)}, {}), ({}, {}), ({}, {})))
    assert np.delete(made.slope, 2, axis=1).min() == np.delete(made.slope, 2, axis=1).max() == 1.0
    return float(made.slope[0, 2]), float(made.share[0, 2])


@pytest.mark.parametrize("slope", [0.8, 0.95, 1.0, 1.1, 1.4])
def test_a_slope_that_is_known_is_used_and_the_spread_about_the_mean_keeps_the_errors_power(slope: float) -> None:
    error = 8.0
    used, share = told(slope, error, count=1e9)
    assert share <= MOST_SHARE + 1e-9 and (1 - used) ** 2 * ESTIMATE == pytest.approx(share * error)
    if (1 - slope) ** 2 * ESTIMATE < MOST_SHARE * error:
        assert used == pytest.approx(slope)
    else:
        assert abs(1 - used) < abs(1 - slope) and share == pytest.approx(MOST_SHARE)


def test_a_slope_that_is_known_badly_is_drawn_to_one() -> None:
    sure, few, noisy = told(0.9), told(0.9, count=3.0), told(0.9, variance=(0.4 * ESTIMATE) ** 2)
    assert sure[0] == pytest.approx(0.9, abs=0.01)
    assert sure[0] < few[0] < 1 and 0.97 < noisy[0] < 1


def test_what_is_gained_is_told_on_blocks_left_out() -> None:
    """The error about the centre is least at the slope of those blocks themselves, and more at any other."""
    common = 0.8 * ESTIMATE
    cell = CellError(ErrorPower(8 + 2 * common - ESTIMATE, common, ESTIMATE), 1e9)
    other = FoundErrors(({(2, 0): cell}, {}), ({}, {}), ({}, {}))
    rows, share = np.ones((3, 3, SHELLS)), np.zeros((3, SHELLS))
    rows[:, 0, 2] = 0.7, 0.8, 1.0
    over = [Loudness(slope, share).gained(other) for slope in rows]
    assert [ratios["measured"] for ratios in over] == pytest.approx([1 - 1.2 / 8, 1 - 1.6 / 8, 1.0])
    assert over[0]["border"] is None


@pytest.mark.parametrize("error", [0.0, -1.0])
def test_where_no_error_was_found_nothing_is_moved(error: float) -> None:
    assert told(0.9, error) == (1.0, 0.0)


def test_regions_have_their_own_slopes_and_the_level_stays() -> None:
    shape = (36, 36, 36)
    made: Any = SimpleNamespace(shape=shape, core_shape=shape, wedge=MissingWedge((-60.0, 60.0)))
    rows = np.array([0.9, 1.0, 1.2])[:, None] * np.ones((3, SHELLS))
    slope, kept = Loudness(rows, np.array([0.0, 0.19, 0.36])[:, None] * np.ones((3, SHELLS))).fields(made)
    depth = made.wedge.solid().depth(made.shape, object_zyx=made.core_shape)
    for where, value, share in ((depth < -2, 0.9, 0.0), ((depth > 0) & (depth < 1), 1.0, 0.19), (depth > 3, 1.2, 0.36)):
        where[0, 0, 0] = False
        torch.testing.assert_close(slope[where], torch.full_like(slope[where], value))
        torch.testing.assert_close(kept[where], torch.full_like(kept[where], math.sqrt(1 - share)))
    assert float(slope[0, 0, 0]) == 1.0 and slope.min() >= 0.9 - 1e-6 and slope.max() <= 1.2 + 1e-6
    volume = torch.randn(made.shape, generator=torch.Generator().manual_seed(9)) + 3
    assert float(centred(torch.zeros_like(volume), (slope, kept), volume).mean()) == pytest.approx(0.0, abs=1e-5)
