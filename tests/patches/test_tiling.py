"""Tiling is exact: cores cover once, continuations are smooth, and the grid leaves no trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoaae.patches.tiling import (
    GOOD_OVERHEAD,
    PaddedAxis,
    TileGrid,
    extend_plane,
    read_reflected,
    reflect_indices,
)
from cryoaae.volume import Volume

few = settings(max_examples=30, deadline=None)


@st.composite
def grids(draw):
    multiple, halo = draw(st.sampled_from([1, 2, 4])), draw(st.integers(0, 7))
    shape = tuple(multiple * draw(st.integers(1, 9)) for _ in range(3))
    core = tuple(multiple * draw(st.integers(1, 5)) for _ in range(3))
    return TileGrid(shape, halo, multiple), core, multiple * draw(st.integers(0, 4))


@few
@given(grids())
def test_cores_cover_every_voxel_once_and_identity_is_exact(case):
    grid, core, shift = case
    source = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    assert len({tile.read_shape for tile in grid.tiles(core, shift=shift)}) == 1
    target, count = np.zeros_like(source), np.zeros(grid.shape, int)
    for tile in grid.tiles(core, shift=shift):
        read = source[tile.read_slices]
        assert read.shape == tile.read_shape
        assert all(
            n % grid.multiple == 0 and a % grid.multiple == 0
            for n, (a, _) in zip(read.shape, tile.read, strict=True)
        )
        target[tile.core_slices] += read[tile.inner_slices]
        count[tile.core_slices] += 1
        for (a, b), (r, s), n in zip(tile.core, tile.read, grid.shape, strict=True):
            assert r <= max(0, a - grid.halo) and s >= min(n, b + grid.halo)
    assert np.all(count == 1)
    assert np.array_equal(target, source)


@few
@given(grids())
def test_splitting_a_tile_keeps_its_core(case):
    grid, core, shift = case
    for tile in grid.tiles(core, shift=shift)[:5]:
        parts = grid.split(tile)
        assert sum(part.core_voxels for part in parts) == tile.core_voxels
        assert len(parts) == 2 or max(b - a for a, b in tile.core) < 2 * grid.multiple
        assert all(part.core_voxels > 0 for part in parts)


@pytest.mark.parametrize("shift", [0, 4, 8])
def test_tiled_convolution_equals_the_whole(shift):
    """A network with a receptive field of 3 gives the same on tiles as on the whole volume."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(1, 1, 7, 7, 7, generator=generator)
    x = torch.randn(24, 32, 16, generator=generator)

    def network(v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv3d(v[None, None], kernel, padding=3)[0, 0]

    def tiled(halo: int) -> torch.Tensor:
        out = torch.zeros_like(x)
        for tile in (grid := TileGrid((24, 32, 16), halo, 4)).tiles((8, 8, 16), shift=shift):
            assert grid.halo == halo
            out[tile.core_slices] = network(x[tile.read_slices])[tile.inner_slices]
        return out

    assert torch.allclose(tiled(3), network(x), atol=1e-3)
    assert not torch.allclose(tiled(0), network(x), atol=1)  # seams do show when the halo is too small


@few
@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(0, 12))
def test_padded_axis_continues_smoothly_and_crops_back(size, working_bin, multiple, pad):
    axis = PaddedAxis.plan(size, working_bin=working_bin, multiple=multiple, pad=pad)
    assert axis.before % working_bin == 0 and axis.padded % working_bin == 0
    assert (axis.padded // working_bin) % multiple == 0
    assert axis.padded - axis.before - size >= pad * working_bin
    x = np.cos(np.arange(size, dtype=np.float32))
    out = axis.extend(x, 0)
    assert len(out) == axis.padded
    assert np.array_equal(out[axis.before : axis.before + size], x)
    # Around the circle no step is larger than those of the volume and the cross-fade allow.
    step = np.abs(np.diff(np.append(out, out[0]))).max()
    fade = np.pi / 2 / (axis.padded - size + 1) * 2 if axis.padded > size else 2.0
    assert step <= 1.0 + fade + 1e-5


def test_continuation_is_the_reflection_near_the_faces():
    axis = PaddedAxis.plan(50, working_bin=1, multiple=1, pad=12)
    x = np.random.default_rng(0).normal(size=50).astype(np.float32)
    out = axis.extend(x, 0)
    assert np.allclose(out[axis.before - 1], x[1], atol=0.05)
    assert np.allclose(out[axis.before + 50], x[48], atol=0.05)


def test_plane_continuation_works_on_both_axes():
    axes = [PaddedAxis.plan(n, working_bin=2, multiple=2, pad=3) for n in (5, 9, 6)]
    plane = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    out = extend_plane(plane, axes)
    assert out.shape == (axes[1].padded, axes[2].padded)
    y, x = axes[1].before, axes[2].before
    assert np.array_equal(out[y : y + 9, x : x + 6], plane)


@few
@given(st.integers(1, 9), st.integers(-40, 40))
def test_reflection_reaches_any_distance(size, position):
    """Same as numpy's reflection, also for axes much shorter than the pad."""
    expected = (
        np.pad(np.arange(size), 40, mode="reflect" if size > 1 else "edge")[position + 40]
        if position < size + 40
        else 0
    )
    assert reflect_indices(np.array([position]), size)[0] == expected


@few
@given(
    st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.tuples(st.integers(-9, 5), st.integers(1, 9))] * 3)
)
def test_read_reflected_is_numpy_reflection(shape, intervals):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    padded = data.astype(np.float64)
    for axis in range(3):
        width = [(0, 0)] * 3
        width[axis] = (20, 20)
        padded = np.pad(padded, width, mode="reflect" if shape[axis] > 1 else "edge")
    spans = [(a, a + n) for a, n in intervals]
    expected = padded[tuple(slice(a + 20, b + 20) for a, b in spans)]
    assert np.array_equal(read_reflected(Volume(data, 10.0), spans), expected)


def test_chosen_core_fits_the_budget_and_is_not_needlessly_small():
    grid = TileGrid((256, 512, 512), 8, 4)
    core = grid.choose_core(1e6)
    assert grid.read_voxels(core) <= 1e6
    assert all(c % 8 == 0 for c in core)
    assert grid.read_voxels(core) / math.prod(core) < 2
    # With room to spare it stops growing once halos are cheap: memory is not taken for nothing.
    assert grid.read_voxels(grid.choose_core(1e12)) < 1e7
    assert TileGrid((48, 48, 48), 20, 4).choose_core(1e9) == (48, 48, 48)


@pytest.mark.parametrize("budget", [1e4, 3e5, 2e6, 1e7])
def test_no_other_tile_of_the_budget_reads_less_in_all(budget):
    grid = TileGrid((64, 160, 168), 12, 4)

    def read(core: tuple[int, ...]) -> int:
        return sum(math.prod(tile.read_shape) for tile in grid.tiles(core))

    sizes = range(8, 169, 8)
    cores = [(z, y, x) for z in sizes if z <= 64 for y in sizes for x in sizes if grid.read_voxels((z, y, x)) <= budget]
    chosen = grid.choose_core(budget)
    if not cores:
        assert chosen == (8, 8, 8)  # nothing fits: the smallest
        return
    few = sorted(cores, key=lambda core: math.prod(-(-n // c) for n, c in zip(grid.shape, core, strict=True)) *
                 grid.read_voxels(core))[:5]  # fmt: skip
    assert grid.read_voxels(chosen) <= budget
    assert read(chosen) <= max(min(map(read, few)), GOOD_OVERHEAD * math.prod(grid.shape))


@pytest.mark.parametrize(("core", "shift"), [((6, 8, 8), 0), ((8, 8, 8), 2), ((0, 8, 8), 0)])
def test_misaligned_tiles_are_refused(core, shift):
    with pytest.raises(ValueError, match="multiples of 4"):
        TileGrid((16, 16, 16), 3, 4).tiles(core, shift=shift)


def test_misaligned_shape_is_refused():
    with pytest.raises(ValueError, match="not a multiple"):
        TileGrid((16, 16, 18), 3, 4)
