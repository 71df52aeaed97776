"""Invariants against rotations and shifts of densities known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cryoaae.metrics.rotation_invariants import invariant_spectra, radial_profiles, real_harmonics
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.shift import fourier_shift
from cryoaae.physics.wedge import MissingWedge

BOX = 24
FIRST = torch.tensor([[0.0, 0, 0, 1.0], [4, 0, 0, 1.2], [0, 5, 1, 0.7], [-3, 1, -4, 1.0]])
SECOND = torch.tensor([[0.0, 0, 5, 1.0], [0, 0, -5, 1.2], [0, 1, 2, 0.7], [1, 0, -2, 1.0]])
ALL = torch.ones(1, BOX, BOX, BOX // 2 + 1, dtype=torch.bool)


def drawn(blobs: Tensor, rotation: Tensor | None = None) -> Tensor:
    """Gaussians at rotated places, (z, y, x)."""
    line = torch.arange(BOX).double() - BOX // 2
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
    out = torch.zeros(BOX, BOX, BOX, dtype=torch.float64)
    for *point, height in blobs.tolist():
        place = torch.tensor(point, dtype=torch.float64)
        place = place if rotation is None else rotation.double() @ place
        out += height * torch.exp(-(grid - place).square().sum(dim=-1) / 2 / 1.3**2)
    return out


def spectra(volumes: Tensor, support: Tensor = ALL, **options: object) -> Tensor:
    return invariant_spectra(volumes, support, torch.zeros(len(volumes), dtype=torch.long), **options)


def apart(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def test_turned_volumes_have_the_same_spectra_and_others_have_not() -> None:
    turns = random_rotations(4, generator=torch.Generator().manual_seed(2))
    found = spectra(torch.stack([drawn(FIRST), *(drawn(FIRST, turn) for turn in turns), drawn(SECOND)]))
    assert max(apart(one, found[0]) for one in found[1:5]) < 0.05
    assert apart(found[5], found[0]) > 0.1
    # Every degree for itself tells the two apart, whatever their poses.
    for degree in range(found.shape[2]):
        turned = max(apart(one[:, degree], found[0, :, degree]) for one in found[1:5])
        assert turned < apart(found[5, :, degree], found[0, :, degree])


def test_moved_volumes_have_the_same_spectra() -> None:
    volume = drawn(FIRST)
    moved = fourier_shift(volume, torch.tensor([1.3, -0.4, 2.0]))
    found = spectra(torch.stack([volume, moved]))
    assert apart(found[1], found[0]) < 1e-9


def test_what_the_wedge_hides_does_not_matter() -> None:
    wedge = MissingWedge((-60.0, 60.0))
    support = wedge.support((BOX,) * 3)[None]
    volume = drawn(FIRST)
    other = wedge.merge(volume, torch.randn(volume.shape, generator=torch.Generator().manual_seed(0)).double())
    found = spectra(torch.stack([volume, other]), support)
    assert apart(found[1], found[0]) < 1e-9


def test_noise_is_subtracted() -> None:
    noise = torch.randn(60, BOX, BOX, BOX, generator=torch.Generator().manual_seed(1)).double()
    law = torch.ones(BOX, BOX, BOX // 2 + 1).double()
    plain, without = (spectra(noise, noise_power=law if given else None)[..., 0].mean(dim=0) for given in (False, True))
    assert plain == pytest.approx(torch.ones(6).double(), abs=0.1)
    assert without == pytest.approx(torch.zeros(6).double(), abs=0.1)


def test_harmonics_are_orthonormal_over_the_sphere() -> None:
    # A Fibonacci lattice: equal areas.
    n = 20_000
    i = torch.arange(n).double() + 0.5
    z, turn = 1 - 2 * i / n, math.pi * (1 + math.sqrt(5)) * i
    r = torch.sqrt(1 - z**2)
    directions = torch.stack([z, r * torch.sin(turn), r * torch.cos(turn)], dim=1)
    basis = torch.cat([real_harmonics(degree, directions) for degree in (0, 1, 2, 4)], dim=1)
    gram = basis.T @ basis * (4 * math.pi / n)
    assert torch.allclose(gram, torch.eye(len(gram)).double(), atol=1e-3)


def test_odd_degrees_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        spectra(drawn(FIRST)[None], degrees=(0, 1))


def test_a_radial_profile_is_the_mean_over_each_sphere_and_turns_leave_it() -> None:
    line = torch.arange(BOX).double() - BOX // 2
    r = torch.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)
    found = radial_profiles((2.0 - 0.1 * r.round())[None])[0]
    assert found == pytest.approx(2 - 0.1 * torch.arange(BOX // 2).double())
    turn = random_rotations(1, generator=torch.Generator().manual_seed(3))[0]
    profiles = radial_profiles(torch.stack([drawn(FIRST), drawn(FIRST, turn)]))
    assert apart(profiles[1], profiles[0]) < 0.03
