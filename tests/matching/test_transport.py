"""Matching by transport: what is remembered, what has a gradient, and that a smear lies above the floor."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from cryoaae.divergences.witnesses import WITNESSES
from cryoaae.matching.memory import Memory, Whitening
from cryoaae.matching.structure import settled
from cryoaae.matching.transport import Transport
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge

PATCH = 16
LABORATORY = MissingWedge((-60.0, 60.0))


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, PATCH, PATCH, PATCH, generator=torch.Generator().manual_seed(seed))


@functools.cache
def patches(count: int, seed: int, half_angle_deg: float = 90.0) -> Tensor:
    """Density that reached every patch through a wedge of its own and then that of the laboratory, with noise."""
    density = band_limit(noise(count, seed), 0.1, 0.2)
    own = MissingWedge((-half_angle_deg, half_angle_deg))
    turns = random_rotations(count, generator=torch.Generator().manual_seed(seed + 1))
    if half_angle_deg < 90.0:
        smeared = torch.stack([own.rotated(turn).measured(x[0])[None] for x, turn in zip(density, turns, strict=True)])
        density = smeared * (density.std() / smeared.std())
    return settled(LABORATORY.measured(density + 0.1 * noise(count, seed + 2)))


def transport(divergence: str = "sinkhorn", bank: int = 256) -> Transport:
    turns = LABORATORY.half_turns()
    return Transport(PATCH, features="wavelets", divergence=divergence, bank=bank, turns=turns)


@pytest.mark.parametrize("divergence", list(WITNESSES))
def test_one_law_is_at_the_floor_and_a_smear_above_it_the_more_the_wider(divergence: str) -> None:
    """Three widths of the wedge that x_hat lacks, of one power."""
    divergences, floors = {}, []
    for half_angle in (90.0, 35.0, 25.0):
        matched = transport(divergence)
        matched.learn_real(patches(64, 0))
        again = matched.features(patches(64, 10, half_angle))
        matched.remember(again, patches(64, 20))
        divergences[half_angle] = matched.figures()["divergence"]
        floors.append(matched.figures()["floor"])
    assert divergences[90.0] < 1.7 * max(floors), "one law"
    assert divergences[35.0] > 1.8 * divergences[90.0]
    assert divergences[25.0] > 1.15 * divergences[35.0]


def test_the_energy_pulls_fresh_patches_towards_the_real_ones() -> None:
    matched = transport("sliced")
    matched.learn_real(patches(64, 0))
    matched.remember(matched.features(patches(64, 10) * 0.7), patches(8, 20))
    fresh = (patches(8, 30) * 0.7).requires_grad_()
    before = matched.energy(matched.features(fresh))
    (slope,) = torch.autograd.grad(before, fresh)
    after = matched.energy(matched.features(fresh.detach() - 0.05 * fresh.detach().norm() * slope / slope.norm()))
    assert float(after) < float(before.detach())
    assert float((slope * fresh.detach()).sum()) < 0, "louder"
    assert all(not parameter.requires_grad for parameter in matched.parameters())


def test_the_energy_of_a_patch_is_the_same_in_every_half_turn() -> None:
    matched = transport()
    matched.learn_real(patches(64, 0))
    matched.remember(matched.features(patches(64, 10)), patches(8, 20))
    some = patches(4, 30)
    for axes in LABORATORY.half_turns()[1:]:
        assert torch.allclose(matched.energies(some.flip(axes)), matched.energies(some), atol=1e-4)


def test_a_step_that_the_loop_skips_leaves_no_trace() -> None:
    matched = transport()
    matched.learn_real(patches(64, 0))
    before = {name: value.clone() for name, value in matched.state_dict().items()}
    matched.remember(torch.full((8, matched.map.dim), float("nan")), patches(2, 20))
    assert all(torch.equal(value, before[name]) for name, value in matched.state_dict().items())
    assert not matched.ready


def test_a_memory_keeps_the_latest() -> None:
    memory = Memory(1, 5)
    for start in (0, 3, 6):
        memory.add(torch.arange(start, start + 3.0)[:, None])
    assert len(memory) == 5
    assert sorted(memory.cloud[:, 0].tolist()) == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert len(Memory(1, 5)) == 0


def test_whitened_features_have_no_units_and_no_direction_that_is_louder_than_one() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 3, generator=generator) @ torch.tensor([[5.0, 0, 0], [4.0, 3.0, 0], [0, 0, 1e-3]]) + 7
    frame = Whitening(3)
    frame.measure(points)
    covariance = torch.cov(frame(points).T)
    assert torch.allclose(covariance, torch.diag(covariance.diag()), atol=2e-3)
    assert 0.3 < float(covariance.diag().min()) <= float(covariance.diag().max()) < 1
    other = Whitening(3)
    other.measure(points * 1000)
    assert torch.allclose(other(points * 1000), frame(points), atol=1e-3)
