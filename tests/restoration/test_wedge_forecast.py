"""From hidden tilts to the wedge: a planted law is found again, and what lies beyond it is said to."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.physics.fourier import multiplicity
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.held_out import (
    CELLS_A_SHELL,
    DISTANCE_STEP,
    FEWEST,
    GUARD,
    SHELL_EDGES,
    Powers,
    shell_of,
)
from cryoaae.restoration.wedge_forecast import (
    SHELLS,
    TRUSTED_CORRELATION,
    Law,
    fit_law,
    forecast,
    trusted_frequency,
    wedge_table,
)
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

MIDDLES = [(a + b) / 2 for a, b in itertools.pairwise(SHELL_EDGES)]
NAN = math.nan
# Correlation at the mean distance, and the power of structure and of the estimate by distance bin.
PLANTED: dict[int, tuple[float, dict[int, tuple[float, float]]]] = {
    0: (0.8, {0: (5.0, 7.0), 1: (2.0, 2.0)}),
    2: (0.6, {0: (3.0, 1.0), 1: (2.0, 4.0), 3: (0.5, 0.1)}),
    5: (0.45, {1: (1.0, 1.0), 2: (4.0, 0.3), 3: (0.2, 0.2), 4: (0.1, 2.0)}),
}


def middle(distance_bin: int) -> float:
    return (distance_bin + 0.5) * DISTANCE_STEP


def powers(rho: float, signal: float, estimate: float) -> ErrorPower:
    """Powers with this correlation."""
    return ErrorPower(signal, rho * math.sqrt(abs(signal * estimate)), estimate)


def planted(fall: float | dict[int, float]) -> tuple[Powers, dict[int, float]]:
    """Cells of a law with this fall (one for all shells, or by shell), and the mean distance of each shell."""
    found: Powers = {}
    means: dict[int, float] = {}
    for shell, (rho, cells) in PLANTED.items():
        beta = fall[shell] if isinstance(fall, dict) else fall
        norms = {d: math.sqrt(s * m) for d, (s, m) in cells.items()}
        means[shell] = sum(n * middle(d) for d, n in norms.items()) / sum(norms.values())
        for d, (s, m) in cells.items():
            found[shell, d] = powers(rho - beta * (middle(d) - means[shell]), s, m)
    return found, means


# -- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fall", [0.0, 0.9, 2.5])
def test_a_planted_law_is_found_again(fall: float) -> None:
    found, means = planted(fall)
    law = fit_law(found)
    assert law.fall == pytest.approx(fall, abs=1e-9)
    for shell in range(SHELLS):
        if shell not in PLANTED:
            assert all(math.isnan(float(v[shell])) for v in (law.correlation, law.distance, law.reach))
            continue
        assert float(law.correlation[shell]) == pytest.approx(PLANTED[shell][0])
        assert float(law.distance[shell]) == pytest.approx(means[shell])
        assert float(law.reach[shell]) == pytest.approx((max(PLANTED[shell][1]) + 1) * DISTANCE_STEP)
    for (shell, d), cell in found.items():
        assert law.at(shell, middle(d)) == (pytest.approx(cell.correlation), False)


def test_a_law_does_not_depend_on_the_order_of_cells() -> None:
    found, _ = planted(1.0)
    law, other = fit_law(found), fit_law(dict(reversed(found.items())))
    assert law.fall == other.fall
    for name in ("correlation", "distance", "reach"):
        torch.testing.assert_close(getattr(law, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)


def test_a_correlation_that_rises_with_distance_is_not_believed() -> None:
    found, _ = planted(-1.5)
    law = fit_law(found)
    assert law.fall == 0
    for shell, (rho, _) in PLANTED.items():
        assert float(law.correlation[shell]) == pytest.approx(rho)
        assert law.at(shell, middle(0))[0] == law.at(shell, middle(7))[0] == pytest.approx(rho)


def test_one_fall_is_shared_by_shells_that_weigh_by_power_and_spread() -> None:
    falls = {0: 0.4, 2: 3.0, 5: 1.0}
    found, means = planted(falls)
    norms = {(k, d): math.sqrt(s * m) for k, (_, cells) in PLANTED.items() for d, (s, m) in cells.items()}
    spreads = {k: sum(n * (middle(d) - means[k]) ** 2 for (s, d), n in norms.items() if s == k) for k in falls}
    expected = sum(spreads[k] * falls[k] for k in falls) / sum(spreads.values())
    assert fit_law(found).fall == pytest.approx(expected)
    # A shell that rises lowers the shared fall, it is not left out.
    assert fit_law(planted({**falls, 5: -1.0})[0]).fall < expected


def test_a_common_factor_on_the_powers_changes_nothing() -> None:
    found, _ = planted(1.2)
    scaled = {key: ErrorPower(9 * p.signal, 6 * p.common, 4 * p.estimate) for key, p in found.items()}
    law, other = fit_law(found), fit_law(scaled)
    assert law.fall == pytest.approx(other.fall)
    torch.testing.assert_close(law.correlation, other.correlation, equal_nan=True)


def test_a_shell_of_one_distance_takes_its_fall_from_the_others() -> None:
    alone = {(3, 2): powers(0.5, 1.0, 2.0)}
    assert fit_law(alone).fall == 0
    law = fit_law({**planted(1.5)[0], **alone})
    assert law.fall == pytest.approx(1.5)
    value, beyond = law.at(3, middle(3))
    assert value == pytest.approx(0.5 - 1.5 * DISTANCE_STEP) and beyond
    # Nearer to measured data than was tested it is taken to be no better.
    assert law.at(3, middle(1)) == (pytest.approx(0.5), False)


@pytest.mark.parametrize(("signal", "estimate"), [(-1.0, 2.0), (0.0, 2.0), (1.0, 0.0)])
def test_cells_without_common_power_or_without_an_estimate_are_no_evidence(signal: float, estimate: float) -> None:
    found, _ = planted(0.8)
    empty = powers(0.9, signal, estimate)
    law, more = fit_law(found), fit_law({**found, (2, 6): empty, (7, 0): empty})
    assert more.fall == pytest.approx(law.fall)
    for name in ("correlation", "distance", "reach"):
        torch.testing.assert_close(getattr(more, name), getattr(law, name), equal_nan=True)


# -- reading it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("shell", "nearest"), [(0, 0), (2, 2), (3, 2), (4, 5), (6, 5), (7, 5)])
def test_an_untested_shell_is_read_at_the_nearest_tested_one_and_says_so(shell: int, nearest: int) -> None:
    law = fit_law(planted(1.1)[0])
    for distance in (0.01, 0.05, 0.07):
        value, beyond = law.at(shell, distance)
        assert value == law.at(nearest, distance)[0]
        assert beyond == (shell != nearest)


def test_distances_beyond_those_tested_are_read_on_the_line_and_say_so() -> None:
    law = fit_law(planted(1.1)[0])
    for shell, (_, cells) in PLANTED.items():
        reach = (max(cells) + 1) * DISTANCE_STEP
        assert not law.at(shell, reach - 1e-6)[1]
        assert law.at(shell, reach + 1e-6)[1]
        near, far = (law.at(shell, reach + step)[0] for step in (0.01, 0.06))
        assert near - far == pytest.approx(1.1 * 0.05)


def test_what_is_read_is_a_correlation_that_falls_with_distance_from_one_to_zero() -> None:
    nan = [NAN] * (SHELLS - 1)
    law = Law(*(torch.tensor([v, *nan]) for v in (0.5, 0.1)), 10.0, *(torch.tensor([v, *nan]) for v in (0.0, 0.2)))
    values = [law.at(0, d)[0] for d in (0.0, 0.04, 0.06, 0.1, 0.14, 0.16, 0.4)]
    assert values == pytest.approx([1, 1, 0.9, 0.5, 0.1, 0, 0], abs=1e-6)
    negative = fit_law({(0, 0): powers(-0.3, 1.0, 1.0)})
    assert float(negative.correlation[0]) == pytest.approx(-0.3)
    assert negative.at(0, middle(0)) == (0.0, False)


def test_where_nothing_was_tested_nothing_is_expected() -> None:
    law = fit_law({})
    assert law.fall == 0
    assert {law.at(shell, d) for shell in range(SHELLS) for d in (0.0, 0.3)} == {(0.0, True)}


# -- the wedge ------------------------------------------------------------------------------------


WEDGE = MissingWedge((-60, 60))


class Identity(nn.Module):
    """A restorer that gives back what it is given."""

    multiple, halo = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.spec = SimpleNamespace(working_bin=1, noise_share=0.0)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y

    restore = forward


@functools.cache
def noisy() -> WorkingTomogram:
    shape, generator = (40, 40, 40), torch.Generator().manual_seed(3)
    truth, *noise = torch.randn(3, *shape, generator=generator)
    halves = [Volume(WEDGE.measured(truth + n).numpy(), 10.0) for n in noise]
    return WorkingTomogram.of(halves, WEDGE, Identity(), options=RestoreOptions())


def law_of(correlations: Sequence[float]) -> Law:
    """A law without a fall, tested everywhere."""
    flat = torch.full((SHELLS,), 0.1, dtype=torch.float64)
    return Law(torch.tensor(correlations, dtype=torch.float64), flat, 0.0, flat * 0, flat + 1)


def test_the_wedge_is_read_as_far_from_measured_data_as_was_hidden_and_up_to_a_whole_shell() -> None:
    tomogram = noisy()
    depth = WEDGE.depth(tomogram.shape, object_zyx=tomogram.core_shape)
    shells = shell_of(tomogram.shape)
    for highest, used in ((SHELL_EDGES[-1], SHELLS), (SHELL_EDGES[4], 4), (SHELL_EDGES[4] + 0.02, 4)):
        table = wedge_table(tomogram, highest=highest)
        inside = (shells >= 0) & (shells < used) & (depth >= GUARD)
        assert torch.equal(table >= 0, inside) and inside.any()
        assert torch.equal((table // CELLS_A_SHELL)[inside], shells[inside])


def test_the_mean_is_that_of_the_shells_whatever_power_the_restoration_has_in_them() -> None:
    tomogram, law = noisy(), law_of([0.1 * (k + 1) for k in range(SHELLS)])
    white = torch.randn(tomogram.shape, generator=torch.Generator().manual_seed(4))
    coarse = band_limit(white, 0.05, 0.1) * 9 + white
    read = [forecast(tomogram, restored, law) for restored in (white, coarse)]
    known = read[0].shells.isfinite()
    torch.testing.assert_close(read[0].shells[known], law.correlation[known], rtol=0, atol=2e-3)
    torch.testing.assert_close(read[0].shells, read[1].shells, rtol=0, atol=4e-3, equal_nan=True)
    assert [r.mean for r in read] == pytest.approx([float(law.correlation[known].mean())] * 2, abs=2e-3)
    lower = forecast(tomogram, white, law, highest=SHELL_EDGES[5])
    torch.testing.assert_close(lower.shells[:5], read[0].shells[:5], equal_nan=True)
    assert not lower.shells[5:].isfinite().any() and lower.mean < read[0].mean


def test_shells_of_a_few_coefficients_say_nothing() -> None:
    tomogram = noisy()
    weight = multiplicity(tomogram.shape).expand(wedge_table(tomogram).shape)
    table, read = wedge_table(tomogram), forecast(tomogram, tomogram.halves[0], law_of([0.5] * SHELLS))
    for shell in range(SHELLS):
        count = float(weight[(table >= 0) & (table // CELLS_A_SHELL == shell)].sum())
        assert bool(read.shells[shell].isfinite()) == (count >= FEWEST)
    assert not read.shells[0].isfinite()


# -- where it may be trusted ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1], (MIDDLES[3] + MIDDLES[4]) / 2),
        ([0.9, 0.8, 0.6, 0.2, 0.9, 0.9, 0.9, 0.9], MIDDLES[2] + 0.05 / 4),  # what comes back does not count
        ([0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], MIDDLES[1]),
        ([0.5] * 8, MIDDLES[-1]),
        ([0.9] * 8, MIDDLES[-1]),
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, -0.7], MIDDLES[6] + 0.05 / 4),
        ([0.49] + [0.9] * 7, None),
        ([0.9, NAN, 0.1] + [0.0] * 5, MIDDLES[1]),
        ([NAN, NAN, 0.7, 0.3, 0.1, 0.0, 0.0, 0.0], (MIDDLES[2] + MIDDLES[3]) / 2),
        ([NAN, 0.4, 0.7, 0.3, 0.1, 0.0, 0.0, 0.0], None),
        ([0.9, 0.8, 0.7, NAN, NAN, NAN, NAN, NAN], MIDDLES[2]),
        ([NAN] * 8, None),
    ],
)
def test_a_curve_is_trusted_up_to_where_it_first_falls_below_one_half(
    curve: list[float], expected: float | None
) -> None:
    found = trusted_frequency(curve)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_the_trusted_frequency_is_that_of_the_interpolated_curve_and_never_falls_with_a_better_one() -> None:
    fine = np.linspace(MIDDLES[0], MIDDLES[-1], 20001)
    for seed in range(30):
        curve = np.random.default_rng(seed).uniform(0.2, 1.0, SHELLS)
        curve[0] = 0.8
        found = trusted_frequency(curve.tolist())
        below = np.interp(fine, MIDDLES, curve) < TRUSTED_CORRELATION
        assert found == pytest.approx(fine[below.argmax()] if below.any() else fine[-1], abs=3e-5)
        better = trusted_frequency((curve + 0.1).tolist())
        assert found is not None and better is not None and better >= found


def test_a_curve_that_has_not_a_value_for_each_shell_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        trusted_frequency([0.9] * (SHELLS - 1))
