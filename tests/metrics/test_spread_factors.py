"""Factors of the spread: right where they are known, smooth and positive where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from cryoaae.metrics.spread_factors import BEND, MOST, OWN, fit_factors

SHELLS, COLUMNS = 8, 5
SHELL, COLUMN = np.mgrid[:SHELLS, :COLUMNS]
# Over-dispersed in coarse shells, under-dispersed in fine ones and deep in the wedge; smooth, as is believed.
TRUE = np.exp(-1.2 + 0.25 * SHELL + 0.05 * COLUMN)
SPREAD = 5.0 * np.exp(-0.8 * SHELL)
ERROR = TRUE**2 * SPREAD


def stated(factors, spread=SPREAD):
    """Power after the factors."""
    return factors.gain**2 * spread + factors.added


def test_a_wrong_spread_is_brought_to_the_errors_in_every_cell() -> None:
    factors = fit_factors(ERROR, 0.02 * ERROR, SPREAD)
    np.testing.assert_allclose(np.sqrt(stated(factors) / ERROR), 1.0, atol=0.03)
    np.testing.assert_allclose(factors.gain, TRUE, rtol=0.03)
    assert (factors.added == 0).all() and not factors.pooled.any()
    # What a factor turned round would do.
    assert (np.abs(np.sqrt(SPREAD / factors.gain**2 / ERROR) - 1) > 0.25).mean() > 0.6


@pytest.mark.parametrize("relative", [0.05, 0.3])
def test_the_interval_holds_the_true_factor(relative: float) -> None:
    draw, held = np.random.default_rng(0), []
    for _ in range(60):
        found = ERROR * (1 + relative * draw.standard_normal(ERROR.shape))
        factors = fit_factors(found, relative * ERROR, SPREAD)
        held.append((factors.low <= TRUE) & (factors.high >= TRUE))
    assert np.mean(held) >= 0.9
    assert np.mean(held, axis=0).min() > 0.75


def test_smoothness_narrows_what_noise_leaves_open() -> None:
    draw = np.random.default_rng(1)
    found = ERROR * (1 + 0.4 * draw.standard_normal(ERROR.shape))
    factors = fit_factors(found, 0.4 * ERROR, SPREAD)
    alone = np.sqrt(np.maximum(found, 0.05 * ERROR) / SPREAD)
    off, off_alone = (np.sqrt(np.mean(np.log(f / TRUE) ** 2)) for f in (factors.gain, alone))
    assert off < 0.6 * off_alone
    assert np.abs(np.diff(np.log(factors.gain), 2, axis=0)).max() < 3 * BEND


def test_cells_without_an_error_take_their_neighbours_and_say_so() -> None:
    found, doubt, spread = ERROR.copy(), 0.02 * ERROR, SPREAD.copy()
    found[3] = np.nan  # nothing found in a shell
    found[7], doubt[7] = -0.1 * ERROR[7], 2 * ERROR[7]  # noise alone in another
    spread[0, 4] = np.nan  # no coefficients
    factors = fit_factors(found, doubt, spread)
    assert factors.pooled[3].all() and factors.pooled[7].all() and factors.pooled[0, 4]
    assert not factors.pooled[[1, 2, 4, 5, 6]].any()
    np.testing.assert_allclose(factors.gain[3], TRUE[3], rtol=0.1)
    np.testing.assert_allclose(factors.gain[7], TRUE[7], rtol=0.4)
    assert (factors.high / factors.low)[7].min() > 1.5 * (factors.high / factors.low)[5].max()
    assert np.isfinite(factors.gain).all() and (factors.gain > 0).all()


def test_what_cannot_be_scaled_is_added() -> None:
    spread = SPREAD.copy()
    spread[:, 0] = 0.0
    spread[:, 1] = ERROR[:, 1] / (2 * MOST) ** 2  # a factor of twice what is allowed
    factors = fit_factors(ERROR, 0.02 * ERROR, spread)
    np.testing.assert_allclose(np.sqrt(stated(factors, spread) / ERROR), 1.0, atol=0.06)
    assert (factors.added[:, 2:] == 0).all() and (factors.gain <= MOST).all()
    np.testing.assert_allclose(factors.added[:, 0], ERROR[:, 0], rtol=0.12)
    np.testing.assert_allclose(factors.added[:, 1], 0.75 * ERROR[:, 1], rtol=0.15)


def test_units_do_not_matter() -> None:
    one = fit_factors(ERROR, 0.1 * ERROR, SPREAD)
    other = fit_factors(1e-6 * ERROR, 1e-7 * ERROR, 1e-6 * SPREAD)
    np.testing.assert_allclose(one.gain, other.gain, rtol=1e-5)
    np.testing.assert_allclose(one.high, other.high, rtol=1e-4)


def test_a_cell_is_its_own_as_far_as_its_error_is_known() -> None:
    doubt = np.where(COLUMN == 0, 0.9, 1.1) * OWN * ERROR
    np.testing.assert_array_equal(fit_factors(ERROR, doubt, SPREAD).pooled, COLUMN > 0)


def test_nothing_found_is_an_error() -> None:
    with pytest.raises(ValueError, match="no cell"):
        fit_factors(np.full((3, 1), np.nan), np.ones((3, 1)), np.ones((3, 1)))
