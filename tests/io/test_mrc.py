"""A written map is true to its source: every header fact a viewer or the next program reads."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryoaae.errors import CryoaaeError, InputError
from cryoaae.io.mrc import create_volume, open_volume, write_volume
from cryoaae.io.mrc_values import measure
from cryoaae.physics.wedge import MissingWedge

SHAPE = (6, 8, 10)


def source(path, labels=2):
    """A map as another program would write it, with everything set."""
    with mrcfile.new(path) as out:
        out.set_data(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
        out.voxel_size = 7.84
        out.header.origin.x, out.header.origin.y, out.header.origin.z = 1.5, -20.25, 300.0
        out.nstart = (3, -4, 5)
        out.set_extended_header(np.frombuffer(b"symmetry".ljust(160), "V160"))
        out.header.exttyp = b"SERI"
        for i in range(1, labels):
            out.add_label(f"step {i}")
    return path


def test_golden_header_round_trip(tmp_path):
    volume = open_volume(source(tmp_path / "in.mrc"))
    write_volume(tmp_path / "out.mrc", volume.numpy() * 2, like=volume, label="model 0123abcd")
    with mrcfile.open(tmp_path / "in.mrc") as a, mrcfile.open(tmp_path / "out.mrc") as b:
        for name in (
            "mx",
            "my",
            "mz",
            "cella",
            "cellb",
            "origin",
            "nxstart",
            "nystart",
            "nzstart",
            "mapc",
            "mapr",
        ):
            assert a.header[name] == b.header[name], name
        assert (b.header.maps, b.header.ispg, b.header.exttyp) == (3, 1, b"SERI")
        assert a.extended_header.tobytes() == b.extended_header.tobytes()
        kept, written = a.get_labels(), b.get_labels()
        assert written[: len(kept)] == kept
        assert written[-1].startswith("cryoaae ")
        assert written[-1].endswith("model 0123abcd")
        assert np.array_equal(b.data, a.data * 2)
        assert b.header.dmean == pytest.approx(float(b.data.mean()), rel=1e-4)
    assert mrcfile.validate(tmp_path / "out.mrc", print_file=io.StringIO())


def test_label_list_stays_within_ten(tmp_path):
    volume = open_volume(source(tmp_path / "in.mrc", labels=10))
    write_volume(tmp_path / "out.mrc", volume.numpy(), like=volume)
    labels = open_volume(tmp_path / "out.mrc").header["labels"]
    assert len(labels) == 10
    assert labels[-1].startswith("cryoaae")
    assert labels[-2] == volume.header["labels"][-1]


def test_stated_voxel_size_is_written(tmp_path):
    volume = open_volume(source(tmp_path / "in.mrc"), voxel_size_angstrom=7.87)
    write_volume(tmp_path / "out.mrc", volume.numpy(), like=volume)
    assert open_volume(tmp_path / "out.mrc").voxel_size_angstrom == pytest.approx(7.87, rel=1e-6)


def test_another_shape_keeps_voxel_size_and_origin(tmp_path):
    volume = open_volume(source(tmp_path / "in.mrc"))
    write_volume(tmp_path / "out.mrc", volume.numpy()[1:, 2:, 3:], like=volume)
    cropped = open_volume(tmp_path / "out.mrc")
    assert cropped.shape == (5, 6, 7)
    assert cropped.voxel_size_angstrom == pytest.approx(7.84, rel=1e-6)
    assert cropped.origin_angstrom_xyz == volume.origin_angstrom_xyz


def test_float16_holds_what_fits_and_refuses_what_does_not(tmp_path):
    data = np.linspace(-1, 1, 480, dtype=np.float32).reshape(SHAPE)
    write_volume(tmp_path / "a.mrc", data, voxel_size_angstrom=10.0, dtype="float16")
    assert np.array_equal(open_volume(tmp_path / "a.mrc").numpy(), data.astype(np.float16).astype(np.float32))
    with pytest.raises(InputError, match="65504"):
        write_volume(tmp_path / "b.mrc", data * 1e6, voxel_size_angstrom=10.0, dtype="float16")
    assert not (tmp_path / "b.mrc").exists()


def test_nonfinite_result_is_never_written(tmp_path):
    with pytest.raises(CryoaaeError, match="nothing was written"):
        write_volume(tmp_path / "a.mrc", np.full(SHAPE, np.nan, np.float32), voxel_size_angstrom=10.0)
    assert os.listdir(tmp_path) == []


def test_existing_file_is_kept_without_overwrite(tmp_path):
    path = source(tmp_path / "in.mrc")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists"), create_volume(path, SHAPE, voxel_size_angstrom=1.0):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["with space.mrc", "ümläut.mrc", "-dash.mrc", "new\nline.mrc", "x" * 251 + ".mrc"]
)
def test_row_31_odd_names(name, tmp_path):
    volume = open_volume(source(tmp_path / "in.mrc"))
    write_volume(tmp_path / name, volume.numpy(), like=volume)
    assert np.array_equal(open_volume(tmp_path / name).numpy(), volume.numpy())


@pytest.mark.parametrize(("flags", "value"), [(1, -56.0), (0, 200.0)])
def test_row_11_bytes_follow_the_imod_flag(flags, value, tmp_path):
    path = tmp_path / "bytes.mrc"
    raw = np.zeros(SHAPE, np.uint8)
    raw[0, 0, 0] = 200
    with mrcfile.new(path) as out:
        out.set_data(raw.view(np.int8))
        out.voxel_size = 10.0
    content = bytearray(path.read_bytes())
    struct.pack_into("<2i", content, 152, 1146047817, flags)
    path.write_bytes(content)
    assert open_volume(path).numpy()[0, 0, 0] == value


def test_bytes_below_zero_are_signed_and_need_no_warning(tmp_path, caplog):
    with mrcfile.new(tmp_path / "bytes.mrc") as out:
        out.set_data(np.full(SHAPE, -56, np.int8) + np.arange(SHAPE[-1], dtype=np.int8))
        out.voxel_size = 10.0
    assert open_volume(tmp_path / "bytes.mrc").numpy()[0, 0, 0] == -56.0
    assert not caplog.messages


def test_statistics_stand_large_offsets_and_many_slabs(monkeypatch):
    monkeypatch.setattr("cryoaae.io.mrc_values.SLAB_VOXELS", 100)
    data = 1e4 + np.random.default_rng(0).normal(size=(20, 9, 11)) * 1e-3
    found = measure(data)
    assert found.mean == pytest.approx(data.mean(), rel=1e-12)
    assert found.std == pytest.approx(data.std(), rel=1e-7)
    assert (found.minimum, found.maximum) == (data.min(), data.max())


def test_row_45_asymmetric_range_on_an_even_box_stays_hermitian():
    """The full mask equals its own reflection, so measured parts are real and measuring twice is once."""
    wedge = MissingWedge((-40.0, 60.0))
    volume = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = wedge.measured(volume)
    assert torch.allclose(wedge.measured(once), once, atol=1e-9)
    half = wedge.support((32, 32, 32))
    edge = half[:, :, [0, -1]]
    mirrored = torch.roll(edge.flip(0, 1), (1, 1), (0, 1))
    assert torch.equal(edge, mirrored)


REAL = [
    ("tomogram_microtubule/13pf_MT.mrc", None, (36, 206, 94), 10.52),
    ("maps_10A/3gl1.mrc.gz", None, (48, 48, 48), 10.0),
    ("phantoms/A/even.mrc", None, (128, 128, 128), 10.0),
    ("shrec21_crops/triplet_degraded.mrc", 10.0, (96, 96, 96), 10.0),
    ("et_crops_with_masks/rec3D.rec", None, (78, 64, 32), 23.2),
]


@pytest.mark.data
@pytest.mark.parametrize(("name", "stated", "shape", "voxel"), REAL)
def test_files_of_other_programs(name, stated, shape, voxel, tmp_path):
    folder = os.environ.get("CRYOAAE_DATA")
    if not folder:
        pytest.skip("CRYOAAE_DATA is not set")
    path = Path(folder) / name
    if stated:
        with pytest.raises(InputError, match="--voxel-size"):
            open_volume(path)
    volume = open_volume(path, voxel_size_angstrom=stated)
    assert volume.shape == shape
    assert volume.voxel_size_angstrom == pytest.approx(voxel, rel=1e-4)
    write_volume(tmp_path / "copy.mrc", volume.numpy(), like=volume)
    copy = open_volume(tmp_path / "copy.mrc")
    assert np.array_equal(copy.numpy(), volume.numpy())
    assert copy.voxel_size_angstrom == pytest.approx(volume.voxel_size_angstrom, rel=1e-6)
