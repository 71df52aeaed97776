"""A layer saved as MRC says of itself what its source said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from napari_cryoaae.facts import KEY, LayerFacts, Role
from napari_cryoaae.readers import get_reader
from napari_cryoaae.writers import write_volume_layer


def source(path: Path) -> Path:
    with mrcfile.new(path, np.random.default_rng(0).normal(size=(5, 6, 7)).astype("f4")) as file:
        file.voxel_size = 7.5
        file.header.origin = (11.0, 12.0, 13.0)
        file.header.nxstart = -4
        file.add_label("from the microscope")
    return path


def opened(path: Path) -> tuple[Any, dict[str, Any]]:
    reader: Any = get_reader(str(path))
    data, look, _ = reader(str(path))[0]
    return data, look


def test_header_of_the_source_is_kept(tmp_path: Path) -> None:
    data, look = opened(source(tmp_path / "a.mrc"))
    computed = np.asarray(data) * 2
    assert write_volume_layer(str(tmp_path / "b.mrc"), computed, look) == [str(tmp_path / "b.mrc")]
    before, after = open_volume(tmp_path / "a.mrc"), open_volume(tmp_path / "b.mrc")
    assert np.array_equal(after.data, computed)
    assert after.voxel_size_angstrom == pytest.approx(7.5)
    assert after.origin_angstrom_xyz == before.origin_angstrom_xyz
    assert "from the microscope" in after.header["labels"]
    with mrcfile.open(tmp_path / "b.mrc") as file:
        assert int(file.header.nxstart) == -4
        assert mrcfile.validate(tmp_path / "b.mrc")
        assert "saved from napari" in str(file.header.label[int(file.header.nlabl) - 1])


@pytest.mark.parametrize(
    ("dtype", "stored"), [("f2", "float16"), ("f8", "float32"), ("u1", "int16"), ("i2", "int16"), ("?", "int16")]
)
def test_every_type_is_stored_without_loss(tmp_path: Path, dtype: str, stored: str) -> None:
    data = (np.arange(60).reshape(3, 4, 5) % 2 * 100).astype(dtype)
    look = {"scale": (2.0,) * 3, "units": ("nanometer",) * 3}
    write_volume_layer(str(tmp_path / "b.mrc"), data, look)
    after = open_volume(tmp_path / "b.mrc")
    assert after.data.dtype.name == stored
    assert np.array_equal(after.data, data.astype(stored))
    assert after.voxel_size_angstrom == pytest.approx(20.0)


def test_its_own_source_is_never_overwritten(tmp_path: Path) -> None:
    path = source(tmp_path / "a.mrc")
    before = path.read_bytes()
    data, look = opened(path)
    (tmp_path / "link.mrc").symlink_to(path)
    for target in (path, tmp_path / "link.mrc"):
        with pytest.raises(InputError, match="read from"):
            write_volume_layer(str(target), np.asarray(data) * 2, look)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("shape", "look", "problem"),
    [
        ((4, 5), {}, "not a single grey-valued volume"),
        ((2, 3, 4, 5), {}, "not a single grey-valued volume"),
        ((4, 5, 3), {"rgb": True}, "not a single grey-valued volume"),
        ((3, 4, 5), {"scale": (1, 1, 1), "units": ("pixel",) * 3}, "no cubic voxel size"),
        ((3, 4, 5), {"scale": (1, 1, 2), "units": ("angstrom",) * 3}, "no cubic voxel size"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, shape: tuple[int, ...], look: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        write_volume_layer(str(tmp_path / "b.mrc"), np.ones(shape), look)
    assert not list(tmp_path.iterdir())


def test_layer_without_a_voxel_size_takes_its_sources(tmp_path: Path) -> None:
    """A derived layer that lost its units still has its file's voxel size."""
    path = source(tmp_path / "a.mrc")
    look = {"scale": (1, 1, 1), "units": ("pixel",) * 3, "metadata": {KEY: LayerFacts(Role.FILLED, "a", path, 7.5)}}
    write_volume_layer(str(tmp_path / "b.mrc"), np.ones((5, 6, 7)) * np.arange(7), look)
    assert open_volume(tmp_path / "b.mrc").voxel_size_angstrom == pytest.approx(7.5)
