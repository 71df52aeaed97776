"""Where patches are taken from: by a mask, or where two halves have something in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.patches.pairs import draw_recipe
from cryoaae.patches.places import CELL, EMPTY_SHARE, Places
from cryoaae.patches.source import TomogramSource, choose_held_out
from cryoaae.physics.rotation import OVERSAMPLING
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

SHAPE = (64, 48, 56)
SLAB = slice(24, 40)  # working voxels in z


def slab_density(noise: float, *, halves: int = 2, seed: int = 0) -> torch.Tensor:
    """Structure in a slab, noise everywhere, on the source grid."""
    generator = torch.Generator().manual_seed(seed)
    fine = tuple(n * OVERSAMPLING for n in SHAPE)
    structure = torch.zeros(fine)
    z = slice(SLAB.start * OVERSAMPLING, SLAB.stop * OVERSAMPLING)
    structure[z] = torch.randn(structure[z].shape, generator=generator)
    return torch.stack([structure + noise * torch.randn(fine, generator=generator) for _ in range(halves)])


def source_of(places: Places | None, shape: tuple[int, int, int] = SHAPE) -> TomogramSource:
    density = torch.zeros(2, *(n * OVERSAMPLING for n in shape))
    return TomogramSource("t", density, MissingWedge(), shape, torch.zeros(0, 2, 3), torch.ones(8), places=places)


def test_shares_of_a_mask_are_what_it_covers_of_each_cell() -> None:
    rng = np.random.default_rng(0)
    working_bin, shape = 2, (20, 26, 32)
    mask = (rng.random(tuple(2 * n for n in shape)) < 0.4).astype(np.float32)
    places = Places.of_mask(Volume(mask, 10.0), working_bin, shape)
    assert places.shares.shape == (3, 4, 4)
    edge = CELL * working_bin
    for index in np.ndindex(3, 4, 4):
        cell = mask[tuple(slice(i * edge, (i + 1) * edge) for i in index)]
        assert float(places.shares[index]) == pytest.approx(cell.mean(), abs=1e-6)


@pytest.mark.parametrize("halves", [2, 1])
def test_structure_is_found_though_noise_is_louder(halves: int) -> None:
    shares = Places.of_structure(slab_density(2.0, halves=halves), SHAPE).shares
    full = shares.mean(dim=(1, 2))
    slab = range(SLAB.start // CELL, SLAB.stop // CELL)
    assert all(float(full[z]) == 1 for z in slab)
    # Beside it is near enough; further off there is nothing.
    far = [z for z in range(len(full)) if z < slab.start - 1 or z > slab.stop]
    assert len(far) == 4 and all(float(full[z]) == pytest.approx(EMPTY_SHARE) for z in far)


def test_a_full_tomogram_is_taken_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    structure = torch.randn(tuple(n * OVERSAMPLING for n in SHAPE), generator=generator)
    noisy = torch.stack([structure + torch.randn(structure.shape, generator=generator) for _ in range(2)])
    places = Places.of_structure(noisy, SHAPE)
    assert places.shares.min() == 1 and places.volume == pytest.approx(np.prod(SHAPE))


def test_places_are_drawn_by_their_shares_and_inside() -> None:
    shares = torch.zeros(6, 8, 7)
    shares[2:4], shares[0, 0, 0] = 1.0, 0.5
    places, generator = Places(shares, (45, 64, 56)), torch.Generator().manual_seed(0)
    drawn = torch.stack([places.draw(generator) for _ in range(3000)])
    cells = (drawn / CELL).long()
    assert bool((shares[cells[:, 0], cells[:, 1], cells[:, 2]] > 0).all())
    found = float((cells == 0).all(dim=1).double().mean())
    assert found == pytest.approx(0.5 / float(shares.sum()), abs=0.01)
    assert bool((drawn[:, 0] <= 44).all())
    z = drawn[(cells[:, 0] == 3), 0]
    assert 24 <= float(z.min()) < 25 and 31 < float(z.max()) < 32


def test_blocks_come_from_the_places_and_tomograms_by_what_counts_of_them() -> None:
    shares = torch.zeros(8, 6, 7)
    shares[2] = 1.0
    small = Places(shares, SHAPE)
    generator = torch.Generator().manual_seed(0)
    recipes = [draw_recipe([source_of(small), source_of(None)], generator=generator) for _ in range(1500)]
    first = [recipe for recipe in recipes if recipe.tomogram == 0]
    assert all(16 <= recipe.centre_zyx[0] < 24 for recipe in first)
    assert len(first) / len(recipes) == pytest.approx(1 / 9, abs=0.03)


def test_boxes_kept_out_of_fitting_lie_where_it_takes_its_patches() -> None:
    shape = (96, 96, 96)
    shares = torch.zeros(12, 12, 12)
    shares[4:8] = 1.0
    places = Places(shares, shape)
    boxes = choose_held_out(shape, 0.2, generator=torch.Generator().manual_seed(0), places=places)
    assert len(boxes) and all(places.share(box) >= 0.5 for box in boxes)
    everywhere = choose_held_out(shape, 0.2, generator=torch.Generator().manual_seed(0))
    assert 0 < len(boxes) < len(everywhere)
    # Where none lies well inside there is one all the same.
    thin = Places(torch.zeros(12, 12, 12).index_fill(0, torch.tensor([0]), 1.0), shape)
    assert len(choose_held_out(shape, 0.1, generator=torch.Generator().manual_seed(0), places=thin)) == 1
