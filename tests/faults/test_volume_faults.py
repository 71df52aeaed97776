"""Rows of the fault table that a volume file can show, each with its message and exit code."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoaae.errors import InputError
from cryoaae.io.mrc import assert_unchanged, create_volume, open_volume, peek_header, write_volume

SHAPE = (16, 20, 24)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    path = tmp_path_factory.mktemp("good") / "good.mrc"
    write_volume(path, data, voxel_size_angstrom=10.0)
    return path.read_bytes()


def patched(raw, **fields):
    offsets = {
        "nx": 0,
        "ny": 4,
        "nz": 8,
        "mode": 12,
        "mx": 28,
        "cell": 40,
        "mapc": 64,
        "ispg": 88,
        "nsymbt": 92,
    }
    out = bytearray(raw)
    for name, value in fields.items():
        values = value if isinstance(value, tuple) else (value,)
        code = "f" if name == "cell" else "i"
        struct.pack_into(f"<{len(values)}{code}", out, offsets[name], *values)
    return bytes(out)


def with_voxels(raw, voxels):
    return raw[:1024] + np.asarray(voxels, "<f4").tobytes()


def spoiled(raw, count):
    voxels = np.frombuffer(raw[1024:], "<f4").copy()
    voxels[24 * 20 * 3 + 5 : 24 * 20 * 3 + 5 + count] = np.nan
    return with_voxels(raw, voxels)


REFUSED = {
    "row 1 empty": (lambda g: b"", "0 bytes"),
    "row 2 short": (lambda g: g[:500], "shorter than an MRC header"),
    "row 3 no data": (lambda g: g[:1024], "ask for 31744 bytes, the file has 1024"),
    "row 4 cut in the middle": (lambda g: g[:20000], "the file has 20000"),
    "row 4 cut by a byte": (lambda g: g[:-1], "the file has 31743"),
    "row 5 much after the data": (lambda g: g + bytes(5000), "--lenient"),
    "row 6 text": (lambda g: b"this is a text, not a map\n" * 400, "not an MRC file"),
    "row 6 png": (lambda g: b"\x89PNG\r\n\x1a\n" + b"\xf1" * 4000, "looks like PNG"),
    "row 7 random": (lambda g: np.random.default_rng(1).bytes(31744), "not an MRC file"),
    "row 8 mode -1": (lambda g: patched(g, mode=-1), "mode is -1"),
    "row 8 mode 101": (lambda g: patched(g, mode=101), "newstack -mode"),
    "row 9 complex": (lambda g: patched(g, mode=4), "give a real-space map"),
    "row 10 mode lies": (lambda g: patched(g, mode=1), "check the mode"),
    "row 16 huge": (lambda g: patched(g, nx=(2**31 - 1,) * 3), "truncated"),
    "row 16 4000": (lambda g: patched(g, nx=(4000, 4000, 4000)), "256000001024 bytes"),
    "row 18 negative": (lambda g: patched(g, ny=-20), "ny is -20"),
    "row 19 zero": (lambda g: patched(g, nz=0), "nz is 0"),
    "row 20 extended": (lambda g: patched(g, nsymbt=-4), "nsymbt"),
    "row 21 voxel 0": (lambda g: patched(g, cell=(0.0, 0.0, 0.0)), "--voxel-size"),
    "row 22 voxel NaN": (lambda g: patched(g, cell=(float("nan"),) * 3), "--voxel-size"),
    "row 22 grid 0": (lambda g: patched(g, mx=(0, 0, 0)), "--voxel-size"),
    "row 22 negative": (lambda g: patched(g, cell=(-240.0, 200.0, 160.0)), "--voxel-size"),
    "row 23 anisotropic": (lambda g: patched(g, cell=(240.0, 200.0, 320.0)), "resample first"),
    "row 24 axes 1,1,1": (lambda g: patched(g, mapc=(1, 1, 1)), "mapc, mapr, maps"),
    "row 25 image": (lambda g: patched(g, nx=(24 * 20, 16, 1)), "2-D image"),
    "row 25 stack of volumes": (lambda g: patched(g, ispg=401), "4-D"),
    "row 27 cut gz": (lambda g: gzip.compress(g)[:-900], "cannot be read"),
    "row 27 gz checksum": (
        lambda g: gzip.compress(g)[:-8] + bytes(4) + gzip.compress(g)[-4:],
        "cannot be read",
    ),
    "row 27 cut bz2": (lambda g: bz2.compress(g)[:-900], "cannot be read"),
    "row 28 bomb": (lambda g: gzip.compress(g + bytes(8 << 20)), "decompresses to over"),
    "row 29 xz": (lambda g: b"\xfd7zXZ\0" + bytes(2000), "xz"),
    "row 34 one NaN": (lambda g: spoiled(g, 1), r"first at \(z, y, x\) = \(3, 0, 5\)"),
    "row 35 many NaN": (lambda g: spoiled(g, 200), "too many to fill"),
    "row 36 constant": (lambda g: with_voxels(g, np.zeros(SHAPE)), "constant volume"),
    "row 37 offset": (lambda g: with_voxels(g, np.full(SHAPE, 1000.1)), "constant volume"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused_with_file_and_remedy(row, good, tmp_path):
    make, message = REFUSED[row]
    path = tmp_path / "tomogram.mrc"
    path.write_bytes(make(good))
    with pytest.raises(InputError, match=message) as caught:
        open_volume(path)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def big_endian(raw):
    words = np.frombuffer(raw[:1024], "<u4").byteswap().tobytes()
    header = bytearray(words)
    for span in (slice(96, 108), slice(112, 196), slice(208, 212), slice(224, 1024)):
        header[span] = raw[span]
    header[212:216] = b"\x11\x11\0\0"
    return bytes(header) + np.frombuffer(raw[1024:], "<f4").astype(">f4").tobytes()


WARNED = {
    "row 5 a little after the data": (lambda g: g + bytes(100), "100 bytes after"),
    "row 14 stamp wrong": (lambda g: g[:212] + b"\x11\x11\0\0" + g[216:], "machst is wrong"),
    "row 14 stamp zero": (lambda g: g[:212] + bytes(4) + g[216:], "machst is wrong"),
    "row 15 no MAP": (lambda g: g[:208] + bytes(4) + g[212:], "MAP is missing"),
    "row 25 image stack flag": (lambda g: patched(g, ispg=0), "taken as a volume"),
    "row 26 gz": (gzip.compress, "memory mapped"),
    "row 26 bz2": (bz2.compress, "memory mapped"),
}


@pytest.mark.parametrize("row", WARNED)
def test_read_with_a_warning(row, good, tmp_path, caplog):
    make, message = WARNED[row]
    path = tmp_path / "tomogram.mrc"
    path.write_bytes(make(good))
    with caplog.at_level(logging.WARNING, "cryoaae"):
        volume = open_volume(path)
    assert message in caplog.text
    assert np.array_equal(volume.numpy().ravel(), np.frombuffer(good[1024:], "<f4"))


def test_row_13_big_endian_reads_as_native(good, tmp_path, caplog):
    path = tmp_path / "big.mrc"
    path.write_bytes(big_endian(good))
    volume = open_volume(path)
    assert volume.numpy().dtype == np.dtype("=f4")
    assert np.array_equal(volume.numpy().ravel(), np.frombuffer(good[1024:], "<f4"))
    assert volume.voxel_size_angstrom == pytest.approx(10)
    assert not caplog.records


def test_row_24_permuted_axes_are_reordered_and_kept_when_written(good, tmp_path, caplog):
    """Columns along z, rows along y, sections along x: stored (x, y, z)."""
    path, copy = tmp_path / "permuted.mrc", tmp_path / "copy.mrc"
    path.write_bytes(patched(good, mapc=(3, 2, 1), mx=(16, 20, 24), cell=(160.0, 200.0, 240.0)))
    volume = open_volume(path)
    stored = np.frombuffer(good[1024:], "<f4").reshape(SHAPE)
    assert volume.shape == SHAPE[::-1]
    assert np.array_equal(volume.numpy(), stored.transpose(2, 1, 0))
    assert "axes reordered" in caplog.text
    write_volume(copy, volume.numpy(), like=volume)
    assert np.array_equal(open_volume(copy).numpy(), volume.numpy())
    assert copy.read_bytes()[64:76] == path.read_bytes()[64:76]
    assert copy.read_bytes()[1024:] == path.read_bytes()[1024:]


def test_row_21_stated_voxel_size_is_taken_and_must_make_sense(good, tmp_path):
    path = tmp_path / "zero.mrc"
    path.write_bytes(patched(good, cell=(0.0, 0.0, 0.0)))
    assert open_volume(path, voxel_size_angstrom=7.5).voxel_size_angstrom == 7.5
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--voxel-size"):
            open_volume(path, voxel_size_angstrom=wrong)


def test_row_34_filling_leaves_the_file_and_other_voxels_alone(good, tmp_path):
    path = tmp_path / "nan.mrc"
    path.write_bytes(spoiled(good, 3))
    filled = open_volume(path, fill_nonfinite=True).numpy()
    raw = np.frombuffer(path.read_bytes()[1024:], "<f4").reshape(SHAPE)
    bad = ~np.isfinite(raw)
    assert bad.sum() == 3  # still so on disk
    assert np.array_equal(filled[~bad], raw[~bad])
    assert np.allclose(filled[bad], np.median(raw[~bad]))


def test_row_33_file_that_grows_or_changes_is_refused(good, tmp_path):
    path = tmp_path / "growing.mrc"
    path.write_bytes(good)
    volume = open_volume(path)
    assert_unchanged(volume)
    with path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(InputError, match="changed while it was read"):
        assert_unchanged(volume)


def test_row_30_folder_link_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.mrc")
    (tmp_path / "link.mrc").symlink_to(tmp_path / "nowhere.mrc")
    for path, message in (
        (tmp_path, "folder"),
        (tmp_path / "pipe.mrc", "regular"),
        (tmp_path / "link.mrc", "No such"),
    ):
        with pytest.raises(InputError, match=message):
            open_volume(path)


def test_peek_sees_that_the_data_are_missing(good, tmp_path):
    path = tmp_path / "head.mrc"
    path.write_bytes(good)
    assert peek_header(path).shape_zyx == SHAPE
    path.write_bytes(good[:1024])
    with pytest.raises(InputError, match="truncated"):
        peek_header(path)


WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 6, 12, 16, 20, 24, 40, 101, 401, -1, 1024, 2**31 - 1, -(2**31)]),
    st.integers(-(2**31), 2**31 - 1),
)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, 160.0, 200.0, 240.0, 1e-40])


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(st.integers(0, 255), st.one_of(WORDS, FLOATS), max_size=6),
    grid=st.permutations((16, 20, 24)),
    stamp=st.sampled_from([b"\x44\x44\0\0", b"\x11\x11\0\0", bytes(4)]),
)
def test_any_header_gives_a_sound_volume_or_an_input_error(changes, grid, stamp, good, tmp_path):
    raw = bytearray(good)
    struct.pack_into("<3i", raw, 0, *grid)
    raw[212:216] = stamp
    for word, value in changes.items():
        struct.pack_into("<f" if isinstance(value, float) else "<i", raw, 4 * word, value)
    path = tmp_path / "fuzzed.mrc"
    path.write_bytes(bytes(raw))
    try:
        volume = open_volume(path)
    except InputError:
        return
    assert volume.numpy().dtype == np.float32
    assert volume.numpy().ndim == 3
    assert np.isfinite(volume.numpy()).all()
    assert 0 < volume.voxel_size_angstrom < np.inf
    assert all(map(np.isfinite, volume.origin_angstrom_xyz))


WRITER = """
import sys
import numpy as np
from cryoaae.io.mrc import write_volume
print("go", flush=True)
n = 1
while True:
    data = np.full((24, 64, 64), n, np.float32)
    data[0, 0, 0] = 0
    write_volume(sys.argv[1], data, voxel_size_angstrom=10.0, overwrite=True)
    n += 1
"""


def test_kill_while_writing_leaves_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "out.mrc"
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"go\n"
        time.sleep(rng.uniform(0.03, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if path.exists():
            values = np.unique(open_volume(path).numpy())
            assert len(values) == 2  # one write's constant and its zero voxel: never a mixture
            counts.append(int(values[1]))
    assert len(counts) >= 10
    assert max(counts) > 1  # replaced while it stood


def test_exception_while_writing_keeps_the_old_file_and_no_part(good, tmp_path):
    path = tmp_path / "out.mrc"
    path.write_bytes(good)
    with (
        pytest.raises(KeyboardInterrupt),
        create_volume(path, SHAPE, voxel_size_angstrom=10.0, overwrite=True) as out,
    ):
        out[:] = 1
        raise KeyboardInterrupt
    assert path.read_bytes() == good
    assert os.listdir(tmp_path) == ["out.mrc"]
