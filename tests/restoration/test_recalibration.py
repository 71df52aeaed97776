"""Recalibration on a linear-Gaussian tomogram, whose errors are known in closed form.

    x: stationary, isotropic, power S(k);   y = T (x + n), n white, power N;   f(y) = g y

The mean of two restored halves misses (1 - g)^2 S + g^2 N / 2 where data were measured, and all of S in the wedge.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.metrics.spread_factors import MOST
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.rotation import rotation_about
from cryoaae.physics.wedge import HALF_SLAB, MissingWedge
from cryoaae.restoration import recalibration, reliability
from cryoaae.restoration.edge import KNOTS, edge_table
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.found_errors import (
    FoundErrors,
    chessboard,
    coefficients,
    find_errors,
    joined,
    measured_table,
)
from cryoaae.restoration.held_out import GUARD, MEASURED_DEPTH, SHELLS, border_table, scored_cells, sector_table
from cryoaae.restoration.loudness import REGIONS, Loudness, centred
from cryoaae.restoration.recalibration import (
    fit_recalibration,
    power_by_cell,
    powers_of_draws,
    recalibrated,
)
from cryoaae.restoration.reliability import DrawnSpread, Sampled, check_recalibration
from cryoaae.restoration.stated_spread import check_stated_spread
from cryoaae.restoration.wedge_forecast import wedge_table
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

SHAPE = (44, 44, 44)
WEDGE = MissingWedge((-60.0, 60.0))
GAIN, NOISE, DRAWS = 0.8, 0.3, 8


class Shrink(nn.Module):
    """A restorer that multiplies: it fills nothing."""

    multiple, halo = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.spec = GAIN, SimpleNamespace(working_bin=1, noise_share=0.0)

    def forward(self, y: Tensor) -> Tensor:
        return self.gain * y

    restore = forward


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def power_of(freq: Tensor) -> Tensor:
    """S(k): falls by a factor of some fifty over the band."""
    return 4 * torch.exp(-10 * freq)


def field(shape: tuple[int, int, int], seed: int, power: Tensor) -> Tensor:
    white = rfft(torch.randn(shape, generator=seeded(seed)))
    return irfft(white * power.sqrt(), shape)


@functools.cache
def tomogram() -> WorkingTomogram:
    truth = field(SHAPE, 0, power_of(radius(SHAPE)))
    halves = [
        WEDGE.measured(truth + math.sqrt(NOISE) * torch.randn(SHAPE, generator=seeded(1 + half))) for half in range(2)
    ]
    volumes = [Volume(half.numpy(), 10.0) for half in halves]
    return WorkingTomogram.of(volumes, WEDGE, Shrink(), options=RestoreOptions())


def scale() -> float:
    return tomogram().normalisation.scale


@functools.cache
def estimates() -> list[Tensor]:
    return tomogram().restore_each(tomogram().halves)


@functools.cache
def found() -> FoundErrors:
    made = tomogram()
    return find_errors(made, estimates(), chessboard(made), turns_deg=(30.0, 45.0), generator=seeded(3))


def true_error() -> tuple[Tensor, Tensor]:
    """Power of the error where measured and in the wedge, per coefficient, (z, y, x // 2 + 1)."""
    structure = power_of(radius(tomogram().shape))
    return ((1 - GAIN) ** 2 * structure + GAIN**2 * NOISE / 2) / scale() ** 2, structure / scale() ** 2


def off(freq: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the sampler is wrong: too wide in coarse shells, too narrow in fine ones, half in the wedge."""
    return torch.exp(1.4 - 5 * freq), torch.exp(-0.3 - 1.5 * freq)


@functools.cache
def deviations(wrong: bool = True) -> list[Tensor]:
    """Draws of a sampler that is wrong by known factors."""
    made = tomogram()
    measured, wedge = true_error()
    if wrong:
        seen, missing = off(radius(made.shape))
        measured, wedge = measured * seen**2, wedge * missing**2
    power = torch.where(made.wedge.solid().depth(made.shape, object_zyx=made.core_shape) < 0.5, measured, wedge)
    return [field(made.shape, 10 + k, power) for k in range(DRAWS)]


@functools.cache
def powers() -> list[recalibration.Powers]:
    made = tomogram()
    restored = torch.stack(estimates()).mean(dim=0)
    return powers_of_draws(made, restored, deviations(), [made.counted, *chessboard(made)])


@functools.cache
def fitted() -> recalibration.Recalibration:
    return fit_recalibration(tomogram(), found(), powers()[0])


def ratios(draws: list[Tensor]) -> dict[str, np.ndarray]:
    """Spread over the error in closed form, root mean squares, by cell."""
    made, out = tomogram(), {}
    tables = {"measured": measured_table(made), "edge": edge_table(made), "wedge": wedge_table(made)}
    depth = made.wedge.solid().depth(made.shape, object_zyx=made.core_shape)
    power = torch.where(depth < HALF_SLAB, *true_error())
    for name, table in tables.items():
        (spread,) = power_by_cell(table, draws, [made.counted])
        true = {key: float(power[table == key[0] * 100 + key[1]].double().mean()) for key in spread}
        out[name] = np.array([math.sqrt(spread[key] / true[key]) for key in sorted(spread)])
    return out


# -- errors found ---------------------------------------------------------------------------------


def test_the_two_parts_divide_what_counts_and_are_alike() -> None:
    one, other = chessboard(tomogram())
    assert not (one & other).any() and torch.equal(one | other, tomogram().counted)
    assert 0.4 < float(one.sum() / tomogram().counted.sum()) < 0.6
    table = measured_table(tomogram())
    shares = [coefficients(table, where) for where in (one, other, tomogram().counted)]
    for key, whole in shares[2].items():
        assert shares[0][key] + shares[1][key] == pytest.approx(whole)


def test_errors_found_are_those_in_closed_form() -> None:
    measured, wedge = true_error()
    table, cells = measured_table(tomogram()), found().all_measured()
    assert len(cells) == SHELLS
    for (shell, _), cell in cells.items():
        true = float(measured[table == shell * 100].double().mean())
        assert abs(cell.error - true) < 4 * math.sqrt(cell.error_variance) + 0.1 * true
    # Hidden tilts are not filled, so all of the structure is missing.
    k, hidden = radius(tomogram().shape), found().all_hidden()
    assert len(hidden) > 10
    for (shell, _), cell in hidden.items():
        ring = (k >= 0.02 + 0.05 * shell) & (k < 0.07 + 0.05 * shell)
        true, doubt = float(wedge[ring].double().mean()), math.sqrt(cell.error_variance)
        # The structure is one draw of its law: so many coefficients scatter by so much.
        scatter = 4 * true * math.sqrt(2 / cell.coefficients)
        assert abs(cell.error - true) < 4 * doubt + scatter + 0.2 * true
    fine = [cell for (shell, _), cell in hidden.items() if shell >= 4]
    whole = sum(cell.error * cell.coefficients for cell in fine)
    stated = sum(cell.signal * cell.coefficients for cell in fine)
    assert whole == pytest.approx(stated, rel=0.02)


def test_errors_are_kept_as_plain_data() -> None:
    again = FoundErrors.from_facts(json.loads(json.dumps(found().facts())))
    assert again == found()
    assert joined(*found().measured) == again.all_measured()


# -- the spread -----------------------------------------------------------------------------------


def test_a_wrong_spread_becomes_that_of_the_errors_and_a_flipped_factor_does_not() -> None:
    before = ratios(deviations())
    assert before["measured"].max() > 2.5 and before["measured"].min() < 0.8 and before["wedge"].max() < 0.75
    made, fields = tomogram(), fitted().fields(tomogram())
    after = ratios([recalibrated(d, fields, seeded(0)) for d in deviations()])
    # The few coefficients of the coarsest shells scatter: the structure itself is one draw of its law.
    assert np.abs(after["measured"] - 1)[2:].max() < 0.1 and np.abs(after["measured"] - 1).max() < 0.3
    assert np.abs(after["wedge"] - 1).max() < 0.35 and np.abs(after["wedge"] - 1).mean() < 0.15
    assert np.abs(before["edge"] - 1)[2:].max() > 0.25
    assert np.abs(after["edge"] - 1)[2:].max() < 0.15 and np.abs(after["edge"] - 1).max() < 0.35
    flipped = ratios([recalibrated(d, (1 / fields[0], fields[1]), seeded(0)) for d in deviations()])
    assert np.abs(flipped["measured"] - 1).max() > 1 and np.abs(flipped["wedge"] - 1).min() > 0.35
    assert torch.equal(made.counted, tomogram().counted)


def test_a_right_spread_is_left_as_it_is() -> None:
    made = tomogram()
    restored = torch.stack(estimates()).mean(dim=0)
    (own,) = powers_of_draws(made, restored, deviations(wrong=False), [made.counted])
    factors = fit_recalibration(made, found(), own)
    inner = slice(2, SHELLS)
    np.testing.assert_allclose(factors.measured.gain[inner, 0], 1.0, atol=0.1)
    reached = ~factors.extrapolated & ~factors.wedge.pooled
    assert reached.sum() > 8
    np.testing.assert_allclose(factors.wedge.gain[reached], 1.0, atol=0.3)


def test_fields_are_the_factors_of_their_regions_and_go_over_evenly() -> None:
    made = tomogram()
    gain, _ = fitted().fields(made)
    wedge = made.wedge.solid()
    depth = wedge.depth(made.shape, object_zyx=made.core_shape)
    middle = (radius(made.shape) - 0.245).abs() < 0.003  # the middle of the fifth shell
    seen = gain[middle & (depth < MEASURED_DEPTH)]
    np.testing.assert_allclose(seen, fitted().measured.gain[4, 0], rtol=0.05)
    missing = gain[middle & (depth > GUARD)]
    assert fitted().wedge.gain[4].min() * 0.95 < float(missing.min())
    edge = gain[middle & (depth > KNOTS[1]) & (depth < KNOTS[2])]
    np.testing.assert_allclose(edge, fitted().edge.gain[4, 0], rtol=0.05)
    between = gain[middle & (depth > KNOTS[0] + 0.2) & (depth < KNOTS[1] - 0.2)]
    assert float(seen.max()) < float(between.min()) and float(between.max()) < float(edge.min())
    assert float(edge.max()) < float(missing.min())


def test_means_and_modes_stay_what_they_were() -> None:
    """Without added error all is linear in the draws."""
    fields = fitted().fields(tomogram())
    assert not (fields[1] > 0).any()
    one, other = deviations()[:2]
    a, b, both = (recalibrated(d, fields, seeded(0)) for d in (one, other, 2 * one - other))
    torch.testing.assert_close(both, 2 * a - b, rtol=1e-4, atol=1e-4)


def test_two_recalibrations_are_one() -> None:
    made, first = tomogram(), fitted()
    sized = [recalibrated(d, first.fields(made), seeded(k)) for k, d in enumerate(deviations())]
    restored = torch.stack(estimates()).mean(dim=0)
    (own,) = powers_of_draws(made, restored, sized, [made.counted])
    both = fit_recalibration(made, found(), own).following(first)
    for name in ("measured", "edge", "wedge"):
        ratio = getattr(both, name).gain / getattr(first, name).gain
        assert ratio.min() > 0.8 and ratio.max() < 1.25  # what is right already stays


def test_where_there_is_no_spread_error_of_the_missing_variance_is_added_and_told() -> None:
    made = tomogram()
    seen = made.wedge.solid().depth(made.shape, object_zyx=made.core_shape) < 0.5
    none = [irfft(rfft(d) * seen, made.shape) for d in deviations()]
    restored = torch.stack(estimates()).mean(dim=0)
    (own,) = powers_of_draws(made, restored, none, [made.counted])
    factors = fit_recalibration(made, found(), own)
    fields = factors.fields(made)
    after = ratios([recalibrated(d, fields, seeded(k)) for k, d in enumerate(none)])
    assert np.abs(after["wedge"] - 1).max() < 0.4 and np.abs(after["wedge"] - 1).mean() < 0.2
    shares = factors.shares(made, own)
    assert shares["added"] > 0.9 and shares["added_measured"] < 0.02
    told = factors.facts(made)
    assert all(cell["added_power"] > 0 for cell in told["wedge"] if cell["shell"] > 1)
    assert (factors.wedge.gain <= MOST).all()


def test_beyond_what_hidden_tilts_reached_it_is_extrapolated_and_less_sure() -> None:
    made = tomogram()
    near = {key: cell for key, cell in found().all_hidden().items() if key[1] <= 1 and key[0] >= 3}
    less = replace(found(), hidden=(near, {}))
    factors = fit_recalibration(made, less, powers()[0])
    wedge = sorted(powers()[0].spread_wedge)
    beyond = [key for key in wedge if factors.extrapolated[key]]
    assert {key for key in wedge if key[1] > 1 or key[0] < 3} == set(beyond)
    share = factors.shares(made, powers()[0])["extrapolated"]
    assert share is not None and 0.2 < share < 1
    assert fitted().shares(made, powers()[0])["extrapolated"] < share


def test_without_hidden_tilts_all_the_structure_is_in_doubt() -> None:
    factors = fit_recalibration(tomogram(), replace(found(), hidden=({}, {}), border=({}, {})), powers()[0])
    assert factors.extrapolated.all() and factors.edge.pooled.all()
    assert (factors.edge.gain[:, 0] > np.minimum(factors.measured.gain[:, 0], factors.wedge.gain[:, 0])).all()
    assert (factors.edge.gain[:, 0] < np.maximum(factors.measured.gain[:, 0], factors.wedge.gain[:, 0])).all()
    made, fields = tomogram(), factors.fields(tomogram())
    draws = [recalibrated(d, fields, seeded(0)) for d in deviations()]
    (spread,) = power_by_cell(wedge_table(made), draws, [made.counted])
    whole = power_of(radius(made.shape)) / scale() ** 2
    for (shell, _), power in spread.items():
        ring = (radius(made.shape) >= 0.02 + 0.05 * shell) & (radius(made.shape) < 0.07 + 0.05 * shell)
        assert power > 0.6 * float(whole[ring].mean())


# -- the centre -----------------------------------------------------------------------------------


def test_slopes_are_those_in_closed_form() -> None:
    """Of a shrunk noisy mean S / (.8 (S + N / 2)); a restorer that fills nothing has no loudness in the wedge."""
    made = Loudness.of(found())
    for (shell, _), band in scored_cells(measured_table(tomogram()), tomogram().shape):
        structure = float(power_of(radius(tomogram().shape))[band].double().mean())
        slope = structure / (GAIN * (structure + NOISE / 2))
        if shell >= 2:
            assert made.slope[0, shell] == pytest.approx(slope, abs=0.06)
    np.testing.assert_allclose(made.slope[2], 1.0, atol=0.05)
    facts = json.loads(json.dumps(made.facts(10.0)))
    assert set(REGIONS) < set(facts) and len(facts["per_angstrom"]) == SHELLS + 1


def test_draws_about_their_centre_are_as_loud_as_the_structure() -> None:
    """And their spread about the restoration keeps its power."""
    made, estimate = tomogram(), torch.stack(estimates()).mean(dim=0)
    error, table = true_error()[0], measured_table(tomogram())
    fields = Loudness.of(found()).fields(made)
    deviations = [field(made.shape, 50 + k, error) for k in range(6)]
    written = [centred(deviation, fields, estimate) for deviation in deviations]

    def powers_of(volumes: list[Tensor]) -> np.ndarray:
        (found,) = power_by_cell(table, volumes, [made.counted])
        return np.array([found[shell, 0] for shell in shells])

    shells = range(2, SHELLS)  # of fewer coefficients slopes are known badly
    law = power_of(radius(made.shape)) / scale() ** 2
    structure = np.array([float(law[table == 100 * shell].double().mean()) for shell in shells])
    np.testing.assert_allclose(powers_of(written), powers_of(deviations), rtol=0.2)
    before, after = (powers_of([estimate + d for d in given]) / structure for given in (deviations, written))
    assert before.max() > 2.0, "about the restoration itself fine shells are too loud"
    np.testing.assert_allclose(after, 1.0, atol=0.25)
    assert after.mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("angle_deg", [15.0, -45.0])
def test_the_border_of_hidden_tilts_lies_beside_what_is_scored(angle_deg: float) -> None:
    made = tomogram()
    rotation = rotation_about(made.wedge.tilt_axis_zyx, math.radians(angle_deg))
    border, scored = border_table(made, rotation, angle_deg) >= 0, sector_table(made, rotation, angle_deg) >= 0
    assert border.any() and scored.any() and not (border & scored).any()
    before = made.wedge.solid().rotated(rotation).depth(made.shape, object_zyx=made.core_shape)
    assert float(before[border].max()) < MEASURED_DEPTH, "measured for sure before it was hidden"
    assert len(found().all_border()) >= SHELLS - 1


# -- the check ------------------------------------------------------------------------------------


def sampled_as_drawn() -> Sampled:
    spread = DrawnSpread(deviations())
    return Sampled(tomogram(), estimates(), spread, spread, chessboard(tomogram()))


def checked() -> dict[str, Any]:
    sampled = sampled_as_drawn()
    said = check_recalibration(sampled, found(), powers()[1:], powers()[1:], generator=seeded(4))
    assert said is not None
    return said


def test_the_check_finds_the_wrong_spread_and_the_mended_one() -> None:
    said = checked()
    before, after = ([row[when] for row in said["measured"]] for when in ("before", "after"))
    assert max(before) > 2.5 and min(before) < 0.8
    np.testing.assert_allclose(after[2:], 1.0, atol=0.15)
    # Of the coarsest shells half a tomogram holds so few coefficients that the error may as well be nothing.
    assert all(row["interval"][0] <= row["after"] <= row["interval"][1] for row in said["measured"][2:])
    assert said["whole"]["hidden"]["before"] < 0.75
    assert said["whole"]["hidden"]["after"] == pytest.approx(1.0, abs=0.15)
    # Gaussian errors are covered as stated, where they can be seen at all.
    covered = said["coverage"]
    assert covered is not None
    for level, share in covered["coverage_after"].items():
        assert share == pytest.approx(float(level) / 100, abs=0.04)
    assert said["measured"][1]["coverage_before"]["90"] > 0.95  # the spread was too large there


def test_the_check_sees_factors_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(*given: Any, **keywords: Any) -> recalibration.Recalibration:
        made = fit_recalibration(*given, **keywords)
        return replace(made, measured=replace(made.measured, gain=1 / made.measured.gain))

    monkeypatch.setattr(reliability, "fit_recalibration", flipped)
    said = checked()
    assert said["measured"][1]["after"] > 4 and said["measured"][-1]["after"] < 0.7
    assert said["whole"]["hidden"]["after"] == pytest.approx(1.0, abs=0.15)


def test_a_part_without_anything_measured_cannot_be_checked() -> None:
    sampled = sampled_as_drawn()
    for parts in (found().measured[0], {}), ({}, found().measured[1]):
        nothing = replace(found(), measured=parts)
        assert check_recalibration(sampled, nothing, powers()[1:], powers()[1:], generator=seeded(4)) is None


def test_a_check_is_not_passed_by_parts_that_differ() -> None:
    """Half the error in the part that is checked: what was fitted elsewhere is too wide there."""

    def halved(cells: Any) -> Any:
        return {
            key: replace(cell, powers=ErrorPower(0.5 * cell.powers.error, 0.0, 0.0, freedom=cell.powers.freedom))
            for key, cell in cells.items()
        }

    sampled = sampled_as_drawn()
    usual = checked()
    differing = replace(found(), measured=(found().measured[0], halved(found().measured[1])))
    said = check_recalibration(sampled, differing, powers()[1:], powers()[1:], generator=seeded(4))
    assert said is not None
    for row, before in zip(said["measured"], usual["measured"], strict=True):
        assert row["after"] == pytest.approx(math.sqrt(2) * before["after"])


# -- the spread without draws -----------------------------------------------------------------------


def test_a_spread_stated_without_draws_is_that_of_the_errors_and_holds_on_blocks_left_out() -> None:
    made = tomogram()
    told = check_stated_spread(made, estimates(), found(), chessboard(made), generator=seeded(6))
    assert told is not None
    measured, _ = true_error()
    structure, table = power_of(radius(made.shape)) / scale() ** 2, measured_table(made)
    for cell in told["measured"][2:]:
        band = table == cell["shell"] * 100
        share = math.sqrt(float(measured[band].mean() / structure[band].mean()))
        assert cell["gain"] == pytest.approx(share, rel=0.2)
    reached = [cell for cell in told["wedge"] if not cell["extrapolated"] and not cell["pooled"]]
    assert len(reached) > 8
    for cell in reached:  # nothing is filled in: all of the structure is missing
        assert cell["gain"] ** 2 + cell["added_power"] / structure.max() == pytest.approx(1.0, abs=0.5)
    check = told["check"]
    for region in ("measured", "hidden"):
        assert check["whole"][region]["after"] == pytest.approx(1.0, abs=0.15)
    for level, share in check["coverage"]["coverage_after"].items():
        assert share == pytest.approx(float(level) / 100, abs=0.04)
    assert len(check["hidden_cells"]) > len(check["hidden"])
    groups = told["places"]["check"]["groups"]
    assert [group["stated"] for group in groups] == sorted(group["stated"] for group in groups)


def test_nothing_is_stated_where_a_part_holds_nothing() -> None:
    nothing = replace(found(), measured=(found().measured[0], {}))
    parts = chessboard(tomogram())
    assert check_stated_spread(tomogram(), estimates(), nothing, parts, generator=seeded(6)) is None
