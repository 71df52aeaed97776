"""Masks by a threshold: what they keep in a picture is what they keep in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.runs.progress import NullProgress
from napari_cryoaae.sources import SlabCut, Source
from napari_cryoaae.thresholds import Quantity, Threshold, ThresholdMask, background_of, first_value, write_mask

SHAPE = (7, 9, 11)
RNG = np.random.default_rng(3)
DENSITY = (100 + 5 * RNG.normal(size=SHAPE)).astype(np.float32)
SPREAD = np.abs(RNG.normal(size=SHAPE)).astype(np.float32)
EXPECTED = {
    (Quantity.DENSITY, True): DENSITY >= 103,
    (Quantity.DENSITY, False): DENSITY <= 103,
    (Quantity.SPREAD, False): SPREAD <= 103,
    (Quantity.CONFIDENCE, True): np.abs(DENSITY - 100) >= 103 * SPREAD,
}


def mask(quantity: Quantity = Quantity.DENSITY, value: float = 103.0, *, above: bool = True) -> ThresholdMask:
    source, spread = Source("restored", ((1.0, DENSITY),)), Source("std", ((1.0, SPREAD),))
    return ThresholdMask(Threshold(quantity, value, above), source, spread, background=100.0)


@pytest.mark.parametrize(("quantity", "above"), EXPECTED)
def test_planes_and_cuts_keep_the_same_voxels(quantity: Quantity, above: bool) -> None:
    whole = np.stack(list(mask(quantity, above=above).planes()))
    assert np.array_equal(whole, EXPECTED[quantity, above])
    assert np.array_equal(mask(quantity, above=above).kept(SlabCut("xz", 4, 1).of), whole[:, 4])


def test_a_slab_is_masked_by_its_mean() -> None:
    kept = mask().kept(SlabCut("xy", 3, 3).of)
    assert np.array_equal(kept, DENSITY[2:5].mean(axis=0) >= 103)


@pytest.mark.parametrize("value", [0.5, 1.0, 2.0])
def test_raising_a_threshold_keeps_less(value: float) -> None:
    for quantity in (Quantity.CONFIDENCE, Quantity.SPREAD):
        fewer, more = (np.stack(list(mask(quantity, v).planes())) for v in (value * 1.2, value))
        assert (fewer <= more).all()
        assert 0 < fewer.sum() < more.sum()


def test_no_spread_means_certain_or_nothing_and_a_missing_one_is_said() -> None:
    flat = ThresholdMask(
        Threshold(Quantity.CONFIDENCE, 2.0),
        Source("d", ((1.0, np.array([[[5.0, 7.0]]], np.float32)),)),
        Source("s", ((1.0, np.zeros((1, 1, 2), np.float32)),)),
        background=5.0,
    )
    assert next(flat.planes()).tolist() == [[False, True]]
    alone = ThresholdMask(Threshold(Quantity.SPREAD, 1.0), Source("d", ((1.0, DENSITY),)))
    with pytest.raises(InputError, match="needs the spread"):
        next(alone.planes())


def test_not_a_number_is_never_kept() -> None:
    broken = DENSITY.copy()
    broken[2, 3, 4] = np.nan
    for above in (True, False):
        kept = ThresholdMask(Threshold(Quantity.DENSITY, 0.0, above), Source("d", ((1.0, broken),)))
        assert not np.stack(list(kept.planes()))[2, 3, 4]


def test_the_first_value_keeps_a_twentieth_and_the_background_is_the_ice() -> None:
    shape = (20, 40, 40)
    density = np.random.default_rng(0).normal(50, 1, shape).astype(np.float32)
    density[5:8, 5:15, 5:15] += 20  # a particle
    source, spread = Source("d", ((1.0, density),)), Source("s", ((1.0, np.abs(density - 50)),))
    assert background_of(source) == pytest.approx(50, abs=0.1)
    for quantity, above, share in (
        (Quantity.DENSITY, True, 0.05),
        (Quantity.DENSITY, False, 0.05),
        (Quantity.SPREAD, False, 0.5),
    ):
        value = first_value(ThresholdMask(Threshold(quantity, 0.0, above), source, spread))
        kept = np.stack(list(ThresholdMask(Threshold(quantity, value, above), source, spread).planes()))
        assert kept.mean() == pytest.approx(share, abs=0.02)


def test_the_file_holds_the_mask_with_the_header_of_its_volume(tmp_path: Path) -> None:
    write_volume(tmp_path / "t.mrc", DENSITY, voxel_size_angstrom=8.0)
    like = open_volume(tmp_path / "t.mrc")
    path = write_mask(
        tmp_path / "mask.mrc", mask(), like=like, voxel_size_angstrom=8.0, progress=NullProgress()
    )
    written = open_volume(path)
    assert written.data.dtype == np.int16
    assert np.array_equal(written.data, (DENSITY >= 103).astype(int))
    assert written.voxel_size_angstrom == pytest.approx(8.0)
    assert any("density >= 103" in str(label) for label in written.header["labels"])


def test_a_mask_that_is_stopped_leaves_no_file(tmp_path: Path) -> None:
    progress = NullProgress()
    progress.cancel()
    with pytest.raises(InterruptedRunError):
        write_mask(tmp_path / "mask.mrc", mask(), like=None, voxel_size_angstrom=8.0, progress=progress)
    assert not list(tmp_path.iterdir())
