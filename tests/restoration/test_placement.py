"""Draws whose spread is brought to its places, as far as two halves confirm them."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cryoaae.nets.error_size import smoothed
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.found_errors import chessboard
from cryoaae.restoration.placement import BELIEVED, Confirmed, LocalError, evened, uneven
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

SHAPE = (24, 28, 32)
EDGE, NOISE = 48, 0.25
WEDGE = MissingWedge((-60.0, 60.0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the draws --------------------------------------------------------------------------------------


def inside() -> Tensor:
    where = torch.zeros(SHAPE, dtype=torch.bool)
    where[3:-3, 3:-3, 5:-5] = True
    return where


def draws(count: int) -> list[Tensor]:
    """Deviations that vary most at the bottom, where nothing is expected."""
    generator = seeded(0)
    profile = torch.linspace(3.0, 0.3, SHAPE[0])[:, None, None]
    return [profile * smoothed(torch.randn(SHAPE, generator=generator), 0.8) for _ in range(count)]


def ramp() -> Tensor:
    size = torch.linspace(0.5, 2.0, SHAPE[2]).expand(SHAPE)
    return size / size[inside()].square().mean().sqrt()


@pytest.mark.parametrize("share", [1.0, 0.4, 0.0])
def test_the_local_spread_is_what_was_foretold_as_far_as_it_is_confirmed(share: float) -> None:
    made, power = draws(60), uneven(ramp(), share)
    field = evened(made, inside()) * power.sqrt()
    spread = smoothed(torch.stack([field * d for d in made]).square().mean(dim=0), 2.0).sqrt()
    ratio = (spread / power.sqrt())[8:-8, 8:-8, 9:-9]
    assert ratio.std() < 0.1 * ratio.mean()
    assert power.min() > 0 and float(power[inside()].mean()) == pytest.approx(1.0, abs=1e-5)


def test_the_bootstraps_own_places_are_gone() -> None:
    made = draws(30)
    profile = torch.stack([evened(made, inside()) * d for d in made]).square().mean(dim=(0, 2, 3)).sqrt()
    assert float(profile[6:-6].max() / profile[6:-6].min()) < 1.3


def test_draws_that_do_not_vary_stay() -> None:
    assert torch.equal(evened([torch.zeros(SHAPE)], inside()), torch.ones(SHAPE))


# -- what the halves confirm ------------------------------------------------------------------------


class Nothing(nn.Module):
    multiple, halo = 4, 2
    spec = SimpleNamespace(working_bin=1, noise_share=0.0)

    def forward(self, y: Tensor) -> Tensor:
        return y


@functools.cache
def halves() -> tuple[WorkingTomogram, Tensor]:
    """A tomogram and what its halves have in common."""
    truth = 3 * smoothed(torch.randn(EDGE, EDGE, EDGE, generator=seeded(0)), 1.0)
    noisy = [truth + NOISE * torch.randn(truth.shape, generator=seeded(1 + half)) for half in range(2)]
    volumes = [Volume(WEDGE.measured(half).numpy(), 10.0) for half in noisy]
    tomogram = WorkingTomogram.of(volumes, WEDGE, Nothing(), options=RestoreOptions())
    return tomogram, tomogram.bring(Volume(WEDGE.measured(truth).numpy(), 10.0))


def grown(along: int) -> Tensor:
    """Errors that grow along an axis, mean square one over what counts."""
    tomogram, _ = halves()
    n = tomogram.shape[along]
    size = torch.linspace(0.2, 1.8, n).reshape([n if a == along else 1 for a in range(3)]).expand(tomogram.shape)
    return size / size[tomogram.counted].square().mean().sqrt()


@functools.cache
def estimates() -> list[Tensor]:
    """Restored halves that are off by independent errors, which grow along x."""
    truth = halves()[1]
    return [
        truth + 1.0 * grown(2) * smoothed(torch.randn(truth.shape, generator=seeded(5 + half)), 0.8)
        for half in range(2)
    ]


@functools.cache
def local() -> LocalError:
    return LocalError(halves()[0], estimates())


def test_the_local_error_is_the_error_that_noise_hides() -> None:
    """Its mean over a part of the tomogram is that of the squared error there, though noise is louder."""
    tomogram, truth = halves()
    where, half = tomogram.counted, tomogram.shape[2] // 2
    true = (local().filtered(estimates()[0] + estimates()[1]) / 2 - local().filtered(truth)).square()
    noise = (local().filtered(tomogram.halves[0] - tomogram.halves[1])).square() / 2
    assert float(noise[where].mean()) > float(true[where].mean())
    found = []
    for side in (slice(None, half), slice(half, None)):
        part = torch.zeros_like(where)
        part[..., side] = where[..., side]
        found.append(float(local().values[part].mean()))
        assert found[-1] == pytest.approx(float(true[part].mean()), rel=0.3)
    assert found[1] > 2 * found[0]


def test_right_places_are_confirmed_and_wrong_ones_are_not() -> None:
    tomogram, _ = halves()
    right, wrong = (local().confirms(grown(axis), tomogram.counted) for axis in (2, 1))
    assert abs(right.share - 1) < 3 * right.deviation < 0.6
    assert abs(wrong.share) < 3 * wrong.deviation < 0.8
    assert right.applied > 0.8 and wrong.applied < 0.35
    # A map that is twice as uneven as the errors is confirmed by half.
    size = (1 + 2 * (grown(2).square() - 1)).clamp(min=0.02).sqrt()
    assert local().confirms(size, tomogram.counted).share == pytest.approx(0.5, abs=0.2)


def test_an_even_map_cannot_be_confirmed_and_is_taken_as_it_is() -> None:
    tomogram, _ = halves()
    found = local().confirms(torch.ones(tomogram.shape), tomogram.counted)
    assert math.isnan(found.share) and found.applied == BELIEVED


def test_what_is_applied_lies_between_what_was_found_and_what_was_believed() -> None:
    sure, unsure = Confirmed(0.3, 0.01), Confirmed(0.3, 5.0)
    assert sure.applied == pytest.approx(0.3, abs=0.01) and unsure.applied > 0.95
    assert Confirmed(-2.0, 0.1).applied == 0.0 and Confirmed(3.0, 0.1).applied == 1.0


def test_groups_find_stated_places_that_are_right_and_those_that_are_even() -> None:
    tomogram, _ = halves()
    part = chessboard(tomogram)[1]
    rows = local().groups(grown(2).square().double(), part)
    assert [row["stated"] for row in rows] == sorted(row["stated"] for row in rows)
    for row in rows:
        low, high = row["interval"]
        assert low - 0.1 < row["stated"] < high + 0.1
    assert rows[2]["found"] > 2 * rows[0]["found"]
