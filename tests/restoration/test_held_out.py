"""Hidden tilts and null tests: what is scored was measured, was hidden, and is scored without favour."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import rotation_about
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.held_out import (
    CELLS_A_SHELL,
    DISTANCE_STEP,
    SHELL_EDGES,
    _Turner,
    cells,
    half_noise,
    hidden_sectors,
    remaining_ranges,
    sector_table,
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


@functools.cache
def tomogram(wedge: MissingWedge, *, noise: float = 0.5, gain: float = 1.0, seed: int = 0) -> WorkingTomogram:
    generator = torch.Generator().manual_seed(seed)
    structure = band_limit(torch.randn(SHAPE, generator=generator), 0.2, 0.3)
    halves = [
        wedge.measured(structure / structure.std() + noise * torch.randn(SHAPE, generator=generator))
        for _ in range(2)
    ]
    volumes = [Volume(half.numpy(), 10.0) for half in halves]
    return WorkingTomogram.of(volumes, wedge, Linear(gain), options=RestoreOptions())


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


def test_a_restorer_that_fills_nothing_recovers_nothing_of_what_was_hidden() -> None:
    made = tomogram(WEDGES[0], gain=2.0)
    estimates = made.restore_each(made.halves)
    found = list(hidden_sectors(made, [30.0], estimates, generator=torch.Generator().manual_seed(0)))
    assert [turned.angle_deg for turned in found] == [30.0, -30.0]
    for turned in found:
        for cells_of in (turned.strict, turned.lenient):
            signal, common, estimate = (
                sum(float(getattr(powers, name).sum()) for powers in cells_of.values())
                for name in ("signal", "common", "estimate")
            )
            assert signal > 0  # there was something to recover
            assert abs(common) < 1e-3 * signal
            assert estimate < 1e-3 * signal


def test_nothing_can_be_hidden_by_a_turn_too_small_for_the_guard() -> None:
    made = tomogram(WEDGES[0])
    for turned in hidden_sectors(made, [2.0], made.halves, generator=torch.Generator().manual_seed(0)):
        assert turned.strict == turned.lenient == {}


def test_the_noise_is_that_of_a_half() -> None:
    quiet, loud = (tomogram(WEDGES[0], noise=n) for n in (0.25, 0.5))
    ratio = half_noise(loud)[4:10] / half_noise(quiet)[4:10]
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
