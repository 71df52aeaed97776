"""Hidden tilts and null tests: what is scored was measured, was hidden, and is scored without favour."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryoaae.metrics.error_power import ErrorPower
from cryoaae.physics.fourier import multiplicity, radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import rotation_about
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import held_out
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.held_out import (
    CELLS_A_SHELL,
    DISTANCE_STEP,
    GUARD,
    SHELL_EDGES,
    Turned,
    _Turner,
    cells,
    half_noise,
    hidden_range,
    hidden_sectors,
    pooled,
    remaining_ranges,
    score,
    sector_table,
    strip_powers,
)
from cryoaae.restoration.null_tests import noise_only, null_test, phase_randomised, regions
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

SHAPE = (32, 32, 36)


class Linear(nn.Module):
    """A restorer that multiplies by a number: it fills nothing."""

    multiple, halo = 4, 2

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain, self.spec = gain, SimpleNamespace(working_bin=1, noise_share=0.0)

    def forward(self, y: Tensor) -> Tensor:
        return self.gain * y

    restore = forward


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def structure() -> Tensor:
    truth = band_limit(torch.randn(SHAPE, generator=seeded(0)), 0.2, 0.3)
    return truth / truth.std()


@functools.cache
def tomogram(wedge: MissingWedge, *, noise: float = 0.5, gain: float = 1.0, single: bool = False) -> WorkingTomogram:
    generator, truth = seeded(1), structure()
    halves = [wedge.measured(truth + noise * torch.randn(SHAPE, generator=generator)) for _ in range(2 - single)]
    volumes = [Volume(half.numpy(), 10.0) for half in halves]
    return WorkingTomogram.of(volumes, wedge, Linear(gain), options=RestoreOptions())


def inside(made: WorkingTomogram) -> Tensor:
    where = torch.zeros(made.shape, dtype=torch.bool)
    where[made.inside] = True
    return where


def nowhere(made: WorkingTomogram) -> Tensor:
    return torch.zeros(made.shape, dtype=torch.bool)


WEDGES = [
    MissingWedge((-60.0, 60.0)),
    MissingWedge((-40.0, 60.0)),
    MissingWedge((-40.0, 60.0), flipped=True),
    MissingWedge((-50.0, 60.0), tilt_axis_deg=90.0),
]


@pytest.mark.parametrize("wedge", WEDGES)
@pytest.mark.parametrize("angle", [30.0, -30.0, 45.0, -45.0, 80.0])
def test_what_is_scored_was_measured_and_lies_in_the_wedge_when_turned(wedge: MissingWedge, angle: float) -> None:
    made = tomogram(wedge)
    rotation = rotation_about(wedge.tilt_axis_zyx, math.radians(angle))
    scored = sector_table(made, rotation, angle) >= 0
    assert scored.any()
    own = wedge.rotated(rotation).support(made.shape, object_zyx=made.core_shape)
    laboratory = wedge.support(made.shape, object_zyx=made.core_shape)
    assert own[scored].all()
    assert not laboratory[scored].any()


@pytest.mark.parametrize("wedge", WEDGES)
@pytest.mark.parametrize("angle", [20.0, -20.0, 45.0, -45.0, 90.0])
def test_the_remaining_ranges_are_what_both_frames_measured(wedge: MissingWedge, angle: float) -> None:
    # Planes of every tilt, asked of the masks themselves.
    rotation = rotation_about(wedge.tilt_axis_zyx, math.radians(angle))
    box = (96, 96, 96)
    parts = [part.depth(box) for part in remaining_ranges(wedge, angle)]
    nearest = torch.stack(parts).min(dim=0).values
    own, laboratory = wedge.rotated(rotation).depth(box), wedge.depth(box)
    # On the Nyquist planes a coefficient stands for two directions.
    inner = radius(box) < 0.45
    both = inner & (own < -1) & (laboratory < -1)
    neither = inner & ((own > 1) | (laboratory > 1))
    assert (nearest[both] < 0).all()
    assert (nearest[neither] > 0).all()


def test_what_a_turn_brings_out_of_the_wedge_is_empty_and_what_it_brings_in_is_not() -> None:
    # The sign of the turn: power lies where the turned wedge says it was measured.
    for wedge in WEDGES:
        made = tomogram(wedge, noise=0.1)
        rotation = rotation_about(wedge.tilt_axis_zyx, math.radians(35.0))
        power = rfft(_Turner(made, rotation)(made.halves[0])).abs().square()
        depth = wedge.rotated(rotation).depth(made.shape, object_zyx=made.core_shape)
        band = cells(made.shape, torch.zeros(depth.shape), torch.ones(depth.shape, dtype=torch.bool)) >= 0
        missing, measured = power[band & (depth > 4)].mean(), power[band & (depth < -4)].mean()
        assert missing < 0.12 * measured


def test_a_turned_volume_keeps_its_power_inside_the_band() -> None:
    made = tomogram(WEDGES[0])
    rotation = rotation_about((0.0, 1.0, 0.0), math.radians(33.0))
    turner = _Turner(made, rotation)
    where = turner.inside()
    turned = turner(made.halves[0])
    assert float(turned[where].std()) == pytest.approx(float(made.halves[0][made.inside].std()), rel=0.05)


@pytest.mark.parametrize("angle", [33.0, -70.0])
def test_a_mask_turns_as_a_volume_does(angle: float) -> None:
    made = tomogram(WEDGES[0])
    blob = nowhere(made)
    z, y, x = (s.start for s in made.core)
    blob[z + 12 : z + 20, y + 4 : y + 28, x + 16 : x + 32] = True
    turn, back = (_Turner(made, rotation_about((0.0, 1.0, 0.0), math.radians(a))) for a in (angle, -angle))
    smooth = turn(blob.float()) > 0.5
    assert (turn.mask(blob) & smooth).sum() > 0.9 * (turn.mask(blob) | smooth).sum()
    assert (back.mask(blob) & smooth).sum() < 0.8 * (back.mask(blob) | smooth).sum()
    assert (turn.mask(~nowhere(made)) | ~turn.inside()).all()  # what is scored comes from inside


def test_a_restorer_that_fills_nothing_recovers_nothing_of_what_was_hidden() -> None:
    made = tomogram(WEDGES[0], gain=2.0)
    estimates = made.restore_each(made.halves)
    found = list(hidden_sectors(made, [30.0], estimates, kept_out=nowhere(made), generator=seeded(0)))
    assert [turned.angle_deg for turned in found] == [30.0, -30.0]
    assert [turned.hidden_deg for turned in found] == [(30.0, 60.0), (-60.0, -30.0)]
    for turned in found:
        assert set(turned.places) == {"fitted"}
        for powers in (*turned.strict.values(), *turned.lenient.values(), *turned.places.values()):
            assert powers.freedom > 0 and powers.signal_variance > 0
        for powers in (total(turned.strict), total(turned.lenient), turned.places["fitted"]):
            assert powers.signal > 0  # there was something to recover
            assert abs(powers.common) < 1e-3 * powers.signal
            assert powers.estimate < 1e-3 * powers.signal


def total(powers: dict[Any, ErrorPower]) -> ErrorPower:
    return functools.reduce(ErrorPower.__add__, powers.values())


def test_nothing_can_be_hidden_by_a_turn_too_small_for_the_guard() -> None:
    made = tomogram(WEDGES[0])
    for turned in hidden_sectors(made, [2.0], made.halves, kept_out=nowhere(made), generator=seeded(0)):
        assert turned.strict == turned.lenient == turned.places == {}


def test_places_divide_what_was_hidden_between_kept_out_boxes_and_the_rest() -> None:
    made = tomogram(WEDGES[1])
    boxes = nowhere(made)
    boxes[made.core][8:20, 6:24, 10:30] = True
    some, every = (
        next(hidden_sectors(made, [30.0], made.halves, kept_out=kept, generator=seeded(0))).places
        for kept in (boxes, ~nowhere(made))
    )
    assert set(some) == {"kept_out", "fitted"} and set(every) == {"kept_out"}
    for name in ("signal", "common", "estimate"):
        parts, whole = (sum(getattr(p, name) for p in places.values()) for places in (some, every))
        assert parts == pytest.approx(whole, rel=1e-4)
    assert 0.1 < some["kept_out"].freedom / some["fitted"].freedom < 1


def test_a_single_volume_has_strict_scores_alone() -> None:
    made = tomogram(WEDGES[0], single=True, gain=2.0)
    for turned in hidden_sectors(made, [30.0], made.halves, kept_out=nowhere(made), generator=seeded(0)):
        assert turned.lenient == {} and total(turned.strict).signal > 0
        assert abs(total(turned.strict).common) < 1e-3 * total(turned.strict).signal


# -- turns together -------------------------------------------------------------------------------


def powers(value: float, variance: float) -> ErrorPower:
    return ErrorPower(value, value / 2, value, variance, variance, variance / 2)


def turned(angle_deg: float, variance: float, **kinds: Any) -> Turned:
    cells_ = {(0, 0): powers(1.0, variance), (0, 1): powers(2.0, variance), (3, 0): powers(4.0, 0.1)}
    return Turned(angle_deg, hidden_deg=hidden_range(WEDGES[0], angle_deg), **(kinds or {"strict": cells_}))


def test_noise_is_shared_by_turns_one_way_and_not_by_turns_the_other() -> None:
    up, further, down = turned(15.0, 1.0), turned(30.0, 9.0), turned(-15.0, 1.0)
    apart = pooled([up, down], "strict", lambda cell: cell)[0, 0]
    shared = pooled([up, further], "strict", lambda cell: cell)[0, 0]
    assert apart.signal == shared.signal == 2
    assert apart.signal_variance == pytest.approx(1 + 1)
    assert shared.signal_variance == pytest.approx((1 + 3) ** 2)
    both = pooled([up, further, down], "strict", lambda cell: cell)[0, 0]
    assert both.signal_variance == pytest.approx((1 + 3) ** 2 + 1)


def test_turns_both_ways_that_meet_share_noise_too() -> None:
    for angle, expected in ((59.0, 1 + 1), (61.0, (1 + 1) ** 2), (90.0, (1 + 1) ** 2)):
        made = [turned(angle, 1.0), turned(-angle, 1.0)]
        assert pooled(made, "strict", lambda cell: cell)[0, 0].signal_variance == pytest.approx(expected)


def test_cells_of_a_turn_are_added_by_group_and_those_of_one_turn_are_kept() -> None:
    places = {"places": {"kept_out": powers(3.0, 1.0)}}
    made = [turned(15.0, 1.0), turned(-15.0, 1.0), Turned(30.0), turned(-30.0, 1.0, **places)]
    by_shell = pooled(made, "strict", lambda cell: cell[0])
    assert {shell: p.signal for shell, p in by_shell.items()} == {0: 6.0, 3: 8.0}
    assert by_shell[0].signal_variance == pytest.approx(4)
    assert pooled(made, "strict", lambda _: "whole")["whole"].signal == 14
    assert pooled(made, "places", lambda place: place) == places["places"]
    assert pooled([], "strict", lambda cell: cell) == pooled(made, "lenient", lambda cell: cell) == {}


@pytest.mark.parametrize("wedge", WEDGES)
@pytest.mark.parametrize("angle", [20.0, -20.0, 60.0, -60.0, 90.0])
def test_the_hidden_range_is_what_the_masks_hide(wedge: MissingWedge, angle: float) -> None:
    box, (low, high) = (96, 96, 96), hidden_range(wedge, angle)
    rotation = rotation_about(wedge.tilt_axis_zyx, math.radians(angle))
    # In the frame of the data: measured, and in the laboratory's wedge once turned.
    laboratory = wedge.rotated(rotation.T).depth(box)
    inner = radius(box) < 0.45
    hidden = inner & (wedge.depth(box) < -1) & (laboratory > 1)
    within = replace(wedge, tilt_range_deg=(low, high)).depth(box)
    assert hidden.any() and (within[hidden] < 0).all()
    assert not (hidden & inner)[within > 1].any()
    assert hidden[inner & (within < -1) & (wedge.depth(box) < -1)].all()


# -- tilts that fitting was not shown ---------------------------------------------------------------

SHOWN = [
    (WEDGES[0], (-60.0, 35.0)), (WEDGES[1], (-40.0, 35.0)), (WEDGES[2], (-40.0, 35.0)), (WEDGES[3], (-25.0, 60.0)),
]  # fmt: skip


@pytest.mark.parametrize(("wedge", "shown_deg"), SHOWN)
def test_of_a_strip_is_scored_what_was_measured_and_lies_beyond_what_was_shown(
    wedge: MissingWedge, shown_deg: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tables = tomogram(wedge), []
    monkeypatch.setattr(held_out, "score", lambda h, e, table, w: tables.append(table) or score(h, e, table, w))
    found = strip_powers(made, wedge.narrowed(shown_deg), inside(made))
    shown, box, core = wedge.narrowed(shown_deg), made.shape, made.core_shape
    scored = tables[0] >= 0
    assert found and float((scored * multiplicity(box)).sum()) > 200
    assert wedge.support(box, object_zyx=core)[scored].all()
    depth = shown.depth(box, object_zyx=core)[scored]
    assert float(depth.min()) >= GUARD
    # In each cell the stated distance is that to what was shown.
    distance = shown.depth(box, object_zyx=(1, 1, 1))
    for shell, column in found:
        cell = tables[0] == shell * CELLS_A_SHELL + column
        assert (distance[cell] / DISTANCE_STEP).floor().unique().tolist() == [column]
        k = radius(box)[cell]
        assert SHELL_EDGES[shell] <= float(k.min()) and float(k.max()) < SHELL_EDGES[shell + 1]


@pytest.mark.parametrize(("wedge", "shown_deg"), SHOWN)
def test_a_restorer_that_fills_nothing_recovers_nothing_of_a_strip(
    wedge: MissingWedge, shown_deg: tuple[float, float]
) -> None:
    made = tomogram(wedge, gain=2.0)
    found = total(strip_powers(made, wedge.narrowed(shown_deg), inside(made)))
    assert found.signal > 0 and found.freedom > 4
    assert abs(found.common) < 1e-4 * found.signal and found.estimate < 1e-4 * found.signal
    assert abs(found.recovered) < 1e-3
    # Had the strip not been taken away, it would have been copied.
    table = torch.where(wedge.narrowed(shown_deg).depth(made.shape, object_zyx=made.core_shape) >= GUARD, 300, -1)
    copied = score(made.halves, {"copy": made.restore_each(made.halves)}, table, inside(made))["copy"]
    assert total(copied).common > 0.5 * total(copied).signal


def test_an_oracle_recovers_all_of_a_strip_and_noise_none() -> None:
    wedge = WEDGES[0]
    made = tomogram(wedge, noise=0.05)
    truth = made.bring(Volume(wedge.measured(structure()).numpy(), 10.0))
    noise = torch.randn(made.shape, generator=seeded(5))

    def strip(estimate: Tensor) -> ErrorPower:
        oracle = replace(made, model=made.model)
        object.__setattr__(oracle, "restore_each", lambda halves, hidden: [estimate for _ in halves])
        return total(strip_powers(oracle, wedge.narrowed((-60.0, 35.0)), inside(made)))

    found = strip(truth)
    assert found.freedom > 4
    assert found.recovered == pytest.approx(1, abs=0.05) and found.slope == pytest.approx(1, abs=0.05)
    for name in ("recovered", "slope"):
        low, high = found.interval(name, generator=seeded(0))
        assert low < 1 < high + 0.01 and high - low < 0.2
    assert strip(0.5 * truth).recovered == pytest.approx(0.75, abs=0.05)
    assert strip(noise).recovered < 0.1 and abs(strip(noise).correlation) < 0.2


def test_the_noise_is_that_of_a_half() -> None:
    quiet, loud = (tomogram(WEDGES[0], noise=n) for n in (0.25, 0.5))
    ratio = half_noise(loud, generator=seeded(0))[4:10] / half_noise(quiet, generator=seeded(0))[4:10]
    # Each is divided by its own scale.
    scale = (quiet.normalisation.scale / loud.normalisation.scale) ** 2
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4 * scale), rtol=0.02, atol=0)


def test_cells_follow_shell_and_distance() -> None:
    distance = torch.full((32, 32, 17), 0.5 * DISTANCE_STEP)
    table = cells((32, 32, 32), distance, torch.ones_like(distance, dtype=torch.bool))
    k = 6 / 32
    shell = int(np.searchsorted(SHELL_EDGES, k, side="right")) - 1
    assert int(table[0, 0, 6]) == int(table[6, 0, 0]) == shell * CELLS_A_SHELL
    assert int(table[0, 0, 0]) == -1
    further = cells((32, 32, 32), distance + 3 * DISTANCE_STEP, torch.ones_like(distance, dtype=torch.bool))
    assert int(further[0, 0, 6]) == shell * CELLS_A_SHELL + 3


# -- null tests -----------------------------------------------------------------------------------


def test_noise_alone_is_two_halves_with_nothing_in_common() -> None:
    made = tomogram(WEDGES[0])
    one, other = noise_only(made)
    between = float((one * other).mean() / (one.std() * other.std()))
    assert abs(between) < 0.02
    structure = (made.halves[0] + made.halves[1]) / 2
    assert abs(float((one * structure).mean() / (one.std() * structure.std()))) < 0.05
    expected = float((made.halves[0] - made.halves[1]).std()) / math.sqrt(2)
    assert float(one.std()) == pytest.approx(expected, rel=1e-4)


def test_a_randomised_texture_keeps_spectrum_and_noise_but_no_phases() -> None:
    made = tomogram(WEDGES[0])
    halves = phase_randomised(made, generator=torch.Generator().manual_seed(1))
    mean, texture = sum(made.halves) / 2, sum(halves) / 2
    real, random = rfft(mean), rfft(texture)
    inner = (slice(None), slice(None), slice(1, -1))  # the other planes hold each coefficient twice
    torch.testing.assert_close(random.abs()[inner], real.abs()[inner], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(halves[0] - halves[1], made.halves[0] - made.halves[1], rtol=0, atol=1e-5)
    assert abs(float((mean * texture).mean() / mean.var())) < 0.05


def test_a_linear_restorer_gives_each_null_its_own_power() -> None:
    made = tomogram(WEDGES[0], gain=3.0)
    restored = made.restore(made.halves)
    texture = null_test(made, phase_randomised(made, generator=torch.Generator().manual_seed(2)), restored)
    assert texture.whole["measured"] == pytest.approx(1.0, abs=0.03)
    noise = null_test(made, noise_only(made), restored)
    measured = regions(made)["measured"]
    seen = cells(made.shape, torch.zeros(measured.shape), measured) >= 0
    power = [float(rfft(sum(halves) / 2).abs().square()[seen].sum()) for halves in (noise_only(made), made.halves)]
    assert noise.whole["measured"] == pytest.approx(power[0] / power[1], rel=0.05)
    assert noise.whole["measured"] < 0.6 * texture.whole["measured"]
