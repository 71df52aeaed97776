"""Files as layers, without Qt: what the layers hold, and what is said of files that are not right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from napari_cryoaae.contrast import sampled_limits, sparse_sample
from napari_cryoaae.facts import KEY, Role, StatedWedge
from napari_cryoaae.readers import get_reader


def write(path: Path, data: np.ndarray, voxel: float = 8.0) -> Path:
    with mrcfile.new(path, data, overwrite=True) as file:
        file.voxel_size = voxel
    return path


def ramp(shape: tuple[int, ...] = (6, 7, 8), dtype: str = "f4") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def read(path: Path | str | list[str]) -> list[Any]:
    reader = get_reader(path if isinstance(path, list) else str(path))
    assert reader is not None
    return reader(path if isinstance(path, list) else str(path))


@pytest.mark.parametrize("suffix", [".mrc", ".rec", ".map", ".MRC"])
def test_volumes_are_mapped_with_scale_units_and_axes(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"TS_01_EVN{suffix}", ramp())
    ((data, look, kind),) = read(path)
    assert kind == "image"
    assert isinstance(data, np.memmap)
    assert not data.flags.writeable
    assert np.array_equal(data, ramp())
    assert look["scale"] == pytest.approx((8.0,) * 3)
    assert look["units"] == ("angstrom",) * 3
    assert look["axis_labels"] == ("z", "y", "x")
    facts = look["metadata"][KEY]
    assert (facts.role, facts.tomogram, facts.source) == (Role.EVEN, "TS_01", path)


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
def test_every_type_keeps_its_numbers(tmp_path: Path, dtype: str) -> None:
    data = ramp((3, 4, 5), dtype)
    assert np.array_equal(read(write(tmp_path / "a.mrc", data))[0][0], data)


def test_other_byte_order_and_other_axes_come_out_native_and_zyx(tmp_path: Path) -> None:
    path = tmp_path / "big.mrc"
    with mrcfile.new(path, ramp(), overwrite=True) as file:
        file.voxel_size = 8.0
        file.header.mapc, file.header.maps = 3, 1
    swapped = bytearray(path.read_bytes())
    for start, stop, width in ((0, 208, 4), (216, 224, 4), (1024, len(swapped), 4)):
        for i in range(start, stop, width):
            if not 104 <= i < 108:  # the extended header's type is text
                swapped[i : i + width] = swapped[i : i + width][::-1]
    swapped[212:214] = b"\x11\x11"
    path.write_bytes(bytes(swapped))
    ((data, _, _),) = read(path)
    assert data.dtype.isnative
    assert np.array_equal(data, open_volume(path).data)
    assert np.array_equal(data, ramp().transpose(2, 1, 0))


def test_packed_volume_is_read(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "a.mrc.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "a.mrc", ramp()).read_bytes()))
    ((data, look, _),) = read(path)
    assert np.array_equal(data, ramp())
    assert look["name"] == "a"


def test_missing_voxel_size_is_said_and_voxels_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mrc", ramp(), 0.0)
    with pytest.warns(UserWarning, match="voxel size of 0.*shown in voxels"):
        ((_, look, _),) = read(path)
    assert look["scale"] == (1.0, 1.0, 1.0)
    assert look["units"] == ("pixel",) * 3
    assert look["metadata"][KEY].voxel_size_angstrom is None


def test_contrast_is_robust_and_never_empty(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(40, 50, 60)).astype("f4")
    data[::7, ::7, ::7] = 1e6  # gold beads
    path = write(tmp_path / "a.mrc", data)
    np.memmap(path, "f4", "r+", 1024, data.shape)[20, 3, 3] = np.nan
    low, high = read(path)[0][1]["contrast_limits"]
    assert -3.2 < low < -2.2
    assert 2.2 < high < 3.2
    for constant in (0.0, 5.0, np.nan):
        low, high = sampled_limits(np.full((3, 4, 5), constant, np.float32))
        assert high > low


def test_contrast_reads_little_of_a_large_volume() -> None:
    read_planes: list[Any] = []

    class Watched(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            read_planes.append(key)
            return super().__getitem__(key)

    large = np.broadcast_to(np.float32(1.0), (300, 928, 960)).view(Watched)
    sample = sparse_sample(large)
    assert 100_000 < sample.size < 400_000
    assert len(read_planes) <= 12
    assert sparse_sample(np.zeros((1, 2, 2))).size == 4


@pytest.mark.parametrize("name", ["notes.txt", "folder", "a.tif", "TS.st", "run.json"])
def test_other_files_are_not_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    assert get_reader(str(tmp_path / name)) is None
    assert get_reader([str(tmp_path / "a.mrc"), str(tmp_path / name)]) is None


def test_foreign_run_folder_is_not_ours(tmp_path: Path) -> None:
    for text in ('{"command": "aae"}', "[1]", "{", ""):
        (tmp_path / "run.json").write_text(text)
        assert get_reader(str(tmp_path)) is None


@pytest.mark.parametrize(("content", "problem"), [(b"", "0 bytes"), (b"x" * 2000, "a.mrc"), (None, "cannot be opened")])
def test_broken_volumes_are_refused_by_name(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "a.mrc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read(path)


def test_truncated_volume_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mrc", ramp())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated"):
        read(path)


def test_run_folder_opens_inputs_and_what_was_restored_with_it(restored: Any) -> None:
    layers = read(restored.run)
    facts = [look["metadata"][KEY] for _, look, _ in layers]
    roles = [Role.EVEN, Role.ODD, Role.RESTORED, Role.RESTORED_HALF, Role.RESTORED_HALF]
    assert [f.role for f in facts] == roles
    assert [f.source for f in facts[:3]] == [restored.even, restored.odd, restored.output]
    assert {f.tomogram for f in facts} == {"t"}
    assert {f.wedge for f in facts} == {StatedWedge((-60.0, 60.0), tuple(float(t) for t in range(-60, 61, 3)))}
    assert all(f.run == restored.run for f in facts)
    for (data, _, _), f in zip(layers, facts, strict=True):
        assert np.array_equal(data, open_volume(f.source).data)


def test_restored_file_alone_knows_its_record_and_its_run(restored: Any) -> None:
    facts = [look["metadata"][KEY] for _, look, _ in read([str(restored.output), str(restored.even)])]
    assert facts[0].record == restored.output.with_suffix(".json")
    assert facts[0].run == restored.run
    assert facts[0].wedge is not None
    assert facts[1].record is None
    half = read(restored.output.with_name("t_restored_odd.mrc"))[0][1]["metadata"][KEY]
    assert (half.role, half.record) == (Role.RESTORED_HALF, facts[0].record)


def test_run_folder_that_was_moved_with_its_inputs_finds_them(restored: Any, tmp_path: Path) -> None:
    """At the stated place something else lies, as after a copy to another machine."""
    shutil.copytree(restored.run, tmp_path / "run")
    text = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(text.replace(str(restored.even.parent), "/nowhere"))
    with pytest.raises(InputError, match="neither"), pytest.warns(UserWarning, match="2 of its input files"):
        read(tmp_path / "run")
    for path in (restored.even, restored.odd):
        shutil.copy(path, tmp_path / path.name)
    layers = read(tmp_path / "run")
    assert [look["metadata"][KEY].source for _, look, _ in layers] == [tmp_path / "t_EVN.mrc", tmp_path / "t_ODD.mrc"]


def test_std_by_its_name(tmp_path: Path) -> None:
    assert read(write(tmp_path / "t_std.mrc", ramp()))[0][1]["metadata"][KEY].role is Role.STD
