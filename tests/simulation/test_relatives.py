"""Relatives of a known structure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from cryoaae.simulation.relatives import relative_of

SEEDS = range(24)


@pytest.fixture(scope="module")
def model() -> np.ndarray:
    """Three unequal domains in a row, bent: unlike its mirror image, larger one way than another."""
    density = np.zeros((28, 24, 30), np.float32)
    for (z, y, x), size in (((12, 11, 8), 3), ((13, 12, 14), 4), ((17, 10, 20), 2)):
        density[z - size : z + size, y - size : y + size, x - size : x + size] = 1
    return np.asarray(gaussian_filter(density, 1.0), np.float32)


@pytest.fixture(scope="module")
def relatives(model: np.ndarray) -> list[np.ndarray]:
    return [relative_of(model, np.random.default_rng(seed)) for seed in SEEDS]


def spread(density: np.ndarray) -> np.ndarray:
    """Root mean square extents along the principal axes, in voxels, largest first."""
    places = np.argwhere(density > 0.05 * density.max())
    return np.sqrt(np.sort(np.linalg.eigvalsh(np.cov(places.T)))[::-1])


def test_none_is_cut_off_by_its_box(relatives: list[np.ndarray]) -> None:
    for density in relatives:
        inner = density[1:-1, 1:-1, 1:-1].sum()
        assert density.sum() - inner < 0.01 * density.sum()
        assert density.min() >= 0 and np.isfinite(density).all()


def test_they_are_unlike_their_model_and_each_other(model: np.ndarray, relatives: list[np.ndarray]) -> None:
    extents = np.array([spread(density) for density in relatives])
    own = spread(model)
    assert extents[:, 0].max() > 1.3 * own[0] and extents[:, 0].min() < own[0]
    shapes = extents[:, 2] / extents[:, 0]
    assert shapes.std() > 0.1 * shapes.mean()
    assert len({density.tobytes() for density in relatives}) == len(relatives)


def test_they_keep_the_densities_of_their_model(model: np.ndarray, relatives: list[np.ndarray]) -> None:
    """Bulk is as bright as in the model, within what the contrast field does; nothing is in crumbs."""
    bulk = model[model > 0.3 * model.max()].mean()
    for density in relatives:
        assert 0.4 < density[density > 0.3 * density.max()].mean() / bulk < 2.5
        parts, count = label(density > 0.2 * density.max())
        largest = np.sort(np.bincount(parts.ravel())[1:])[::-1]
        assert largest[:4].sum() > 0.9 * largest.sum(), count


def test_a_seed_gives_the_same(model: np.ndarray, relatives: list[np.ndarray]) -> None:
    assert np.array_equal(relative_of(model, np.random.default_rng(SEEDS[3])), relatives[3])


def test_nothing_stays_nothing() -> None:
    assert not relative_of(np.full((8, 8, 8), -1, np.float32), np.random.default_rng(0)).any()
