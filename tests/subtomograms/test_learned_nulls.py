"""Learned clusterings that search no pose: what they are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cryoaae.io.store import SubtomogramStore
from cryoaae.subtomograms.learned_nulls import (
    CUBE,
    _turned,
    autoencoder_features,
    cube_turned,
    invariant_network_clusters,
    matched,
)
from cryoaae.subtomograms.standard import Particles, measure_standard


@pytest.mark.parametrize("box", [8, 9])
def test_a_cube_has_24_rotations_about_the_centre_voxel(box: int) -> None:
    """Three marks about voxel n // 2 keep their handedness and distances, and no two rotations agree."""
    marks, centre = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]]), box // 2
    volume = torch.zeros(1, box, box, box)
    for number, mark in enumerate(marks, start=1):
        volume[0, *(centre + mark).tolist()] = number
    seen = []
    for order, signs in CUBE:
        turned = _turned(volume, order, signs)[0]
        found = [(turned == number).nonzero()[0] - centre for number in range(1, 5)]
        assert found[0].tolist() == [0, 0, 0]
        axes = torch.stack(found[1:]).double() / torch.tensor([[1.0], [2.0], [3.0]])
        assert torch.allclose(axes @ axes.T, torch.eye(3).double())
        assert torch.linalg.det(axes) == pytest.approx(1.0)
        seen.append(tuple(axes.flatten().tolist()))
    assert len(set(seen)) == 24


def test_turned_volumes_are_those_of_the_batch() -> None:
    volumes = torch.randn(5, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    turned = cube_turned(volumes, torch.Generator().manual_seed(1))
    assert torch.allclose(turned.flatten(1).sort().values, volumes.flatten(1).sort().values)


def test_clusters_keep_the_numbers_they_had() -> None:
    before = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    assert matched((before + 1) % 3, before, 3).tolist() == before.tolist()
    assert matched(torch.tensor([2, 2, 0, 0, 1, 1, 0]), before, 3).tolist() == [0, 0, 1, 1, 2, 2, 1]


def test_a_seed_says_all(store_maker, tmp_path: Path) -> None:
    stores = [SubtomogramStore(store_maker(tmp_path / "s.h5", 6))]
    particles = Particles(stores, measure_standard(stores, 16))
    first, again, other = (autoencoder_features(particles, seed, epochs=1) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    one, two = (invariant_network_clusters(particles, 2, 3, rounds=1, epochs=1) for _ in range(2))
    assert torch.equal(one, two)
