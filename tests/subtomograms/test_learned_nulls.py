"""Learned clusterings that search no pose: what they are made of."""

from __future__ import annotations

from pathlib import Path

import torch

from cryoaae.io.store import SubtomogramStore
from cryoaae.subtomograms.learned_nulls import (
    autoencoder_features,
    cube_turned,
    invariant_network_clusters,
    matched,
)
from cryoaae.subtomograms.standard import Particles, measure_standard


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
