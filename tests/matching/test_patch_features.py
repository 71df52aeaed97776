"""Every feature map keeps the contract: it hears what a patch holds, not where, and what a wedge took."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cryoaae.matching.patch_features import PATCH_FEATURES
from cryoaae.matching.patch_features.pooling import loudness_and_sparseness
from cryoaae.matching.structure import settled
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge

PATCH = 16
each = pytest.mark.parametrize("name", list(PATCH_FEATURES))


def made(name: str, patch: int = PATCH) -> nn.Module:
    return PATCH_FEATURES.make(name, patch)


def noise(count: int = 24, seed: int = 0, patch: int = PATCH) -> Tensor:
    return settled(torch.randn(count, 1, patch, patch, patch, generator=torch.Generator().manual_seed(seed)))


def apart(one: Tensor, other: Tensor) -> float:
    """Largest distance of two means over the features, in standard deviations of a patch."""
    return float(((one.mean(dim=0) - other.mean(dim=0)) / one.std(dim=0)).abs().max())


@each
@pytest.mark.parametrize("patch", [8, 16, 24])
def test_its_length_is_what_it_says_and_nothing_is_learned(name: str, patch: int) -> None:
    features = made(name, patch)
    found = features(noise(3, patch=patch))
    assert found.shape == (3, features.dim)
    assert bool(torch.isfinite(found).all())
    assert not list(features.parameters())
    assert not features.state_dict(), "a definition, not a state"
    assert torch.equal(found, made(name, patch)(noise(3, patch=patch)))


@each
def test_units_are_those_of_the_patch_and_silence_has_a_gradient(name: str) -> None:
    features, patches = made(name), noise(3)
    assert torch.allclose(features(3 * patches), 3 * features(patches), rtol=1e-3)
    silent = torch.zeros(1, 1, PATCH, PATCH, PATCH, requires_grad=True)
    (slope,) = torch.autograd.grad(features(silent).sum(), silent)
    assert bool(torch.isfinite(slope).all())


@each
@pytest.mark.parametrize("axes", [(), (-2, -1), (-3, -1), (-3, -2), (0, 2)])
def test_half_turns_permute_the_features(name: str, axes: tuple[int, ...]) -> None:
    features, patches = made(name), noise(2)
    flipped = patches.flip([axis + 2 if axis >= 0 else axis for axis in axes]) if axes else patches
    order = features.turned(axes)
    assert torch.allclose(features(flipped), features(patches)[:, order], rtol=1e-4, atol=1e-6)
    assert sorted(order.tolist()) == list(range(features.dim))


@each
def test_it_is_differentiable(name: str) -> None:
    features, patch = made(name).double(), noise(1).double().requires_grad_()
    along = noise(1, seed=1).double()
    (slope,) = torch.autograd.grad(features(patch).square().sum(), patch)
    ends = [float(features(patch.detach() + step * along).square().sum()) for step in (-1e-5, 1e-5)]
    assert float((slope * along).sum()) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-3)  # moduli have kinks


@each
def test_it_hears_a_wedge_but_not_where_something_lies(name: str) -> None:
    features, dense = made(name), noise()
    wedged = settled(MissingWedge((-60.0, 60.0)).measured(dense))
    assert apart(features(dense), features(wedged)) > 1
    place = torch.zeros(24, 1, PATCH, PATCH, PATCH)
    place[:, :, 6:10, 6:10, 6:10] = noise(24, seed=3, patch=4)
    place = band_limit(place, 0.2, 0.3)
    moved = place.roll((1, -1, 1), dims=(-3, -2, -1))
    assert float((features(moved) - features(place)).norm() / features(place).norm()) < 0.1


def test_few_loud_places_are_told_from_many_quiet_ones() -> None:
    dense = noise(4)
    rms, modulus = loudness_and_sparseness(dense).chunk(2, dim=1)
    assert torch.allclose(modulus / rms, torch.tensor(math.sqrt(2 / math.pi)), rtol=0.03)
    sparse = dense * (noise(4, seed=1) > 1.5)
    rms, modulus = loudness_and_sparseness(sparse).chunk(2, dim=1)
    assert float((modulus / rms).max()) < 0.4
