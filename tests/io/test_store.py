"""The store: what goes in comes out, and neither a crash nor bit-rot shows as data (rows 55, 60, 65, 72)."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from cryoaae.errors import InputError
from cryoaae.io.store import (
    PROVENANCE,
    ParticleFacts,
    StoreWriter,
    SubtomogramStore,
    checksum,
    partial_path,
    wedge_table,
)
from cryoaae.physics.wedge import MissingWedge

STAR = b"data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n" + b"1 2 3\n" * 40 + b"\n"
WEDGES = [MissingWedge((-40.0, 60.0)), MissingWedge.from_tilts([-50, -3, 3.5, 48], tilt_axis_deg=2.5, flipped=True)]


def facts(count: int) -> ParticleFacts:
    rng = np.random.default_rng(1)
    distinct, index = wedge_table([WEDGES[i % 2] for i in range(count)])
    return ParticleFacts(
        tuple(f"TS_{i % 3}" for i in range(count)), tuple("ä b"[: i % 4] for i in range(count)),
        rng.normal(size=(count, 3)), rng.normal(size=(count, 3, 3)), np.arange(count) % 3, np.arange(count)[::-1],
        distinct, index,
    )  # fmt: skip


def about(box: int) -> dict[str, object]:
    return {"box": box, "voxel_size_angstrom": 12.0, "coordinates": "auto", PROVENANCE: {"paths": []}}


def volume(index: int, box: int) -> np.ndarray:
    return np.random.default_rng(index).normal(size=(box,) * 3).astype(np.float32)


def writer(path: Path, count: int = 20, box: int = 8, *, resume: bool = False) -> StoreWriter:
    return StoreWriter(path, facts(count), about(box), ("p.star", STAR), resume=resume)


def make(path: Path, count: int = 20, box: int = 8) -> Path:
    with writer(path, count, box) as store:
        for i in store.missing():
            store.write(i, volume(i, box))
        store.finish()
    return path


def test_what_goes_in_comes_out(tmp_path):
    store, wanted = SubtomogramStore(make(tmp_path / "s.h5")), facts(20)
    assert (len(store), store.box, store.voxel_size_angstrom) == (20, 8, 12.0)
    for i in (0, 7, 19, -1):
        found, k = store[i], i % 20
        assert np.array_equal(found.volume, volume(k, 8))
        assert found.wedge == WEDGES[k % 2]
        assert np.array_equal(found.rotation, wanted.rotations[k])
        assert np.array_equal(found.position_zyx, wanted.positions_zyx[k])
        assert (found.tomogram, found.class_name) == (wanted.tomograms[k], wanted.classes[k])
        assert (found.half_set, found.row) == (wanted.half_sets[k], wanted.rows[k])
    assert len(list(store)) == 20
    with pytest.raises(IndexError):
        store[20]
    assert len(store.particles()) == 40
    assert not partial_path(tmp_path / "s.h5").exists()


def test_workers_open_files_of_their_own(tmp_path):
    store = SubtomogramStore(make(tmp_path / "s.h5"))
    assert np.array_equal(store.volume(3), volume(3, 8))
    assert np.array_equal(pickle.loads(pickle.dumps(store)).volume(4), volume(4, 8))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sums = pool.map(store.volume, range(6))
    assert all(np.array_equal(v, volume(i, 8)) for i, v in enumerate(sums))


def test_an_interrupted_store_is_not_read_and_goes_on_where_it_was(tmp_path):
    path = tmp_path / "s.h5"
    with writer(path) as store:
        for i in range(9):
            store.write(i, volume(i, 8))
    assert not path.exists()
    with pytest.raises(InputError, match="--resume"):
        SubtomogramStore(partial_path(path))
    with writer(path, resume=True) as store:
        assert store.missing() == list(range(9, 20))
        for i in store.missing():
            store.write(i, volume(i, 8))
        store.finish()
    assert all(np.array_equal(SubtomogramStore(path).volume(i), volume(i, 8)) for i in range(20))


def test_a_half_written_particle_is_written_again(tmp_path):
    path = tmp_path / "s.h5"
    with writer(path) as store:
        for i in range(9):
            store.write(i, volume(i, 8))
    with h5py.File(partial_path(path), "r+") as file:  # what a crash between two pages leaves
        file["subtomograms"][4, 5:] = 0
    with writer(path, resume=True) as store:
        assert store.missing() == [4, *range(9, 20)]


@pytest.mark.parametrize("change", [{"box": 10}, {"voxel_size_angstrom": 11.0}, {"border": "pad"}])
def test_another_extraction_is_not_gone_on_with(change, tmp_path):
    with writer(tmp_path / "s.h5"):
        pass
    other = about(8) | change
    with pytest.raises(InputError, match=f"other inputs or settings \\({next(iter(change))}\\)"):
        StoreWriter(tmp_path / "s.h5", facts(20), other, ("p.star", STAR), resume=True)
    StoreWriter(
        tmp_path / "s.h5", facts(20), about(8) | {PROVENANCE: "elsewhere"}, ("p.star", STAR), resume=True
    ).__exit__(None, None, None)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_store import volume, writer
from pathlib import Path
with writer(Path(sys.argv[2]), 400, 16, resume=True) as store:
    missing = store.missing()
    print("go", len(missing), flush=True)
    for i in missing:
        store.write(i, volume(i, 16))
    store.finish()
print("done", flush=True)
"""


def test_killed_again_and_again_it_comes_out_whole(tmp_path):
    """SIGKILL at random moments: every restart finds a file that opens, and never loses ground for good."""
    path, rng, left = tmp_path / "s.h5", np.random.default_rng(0), [400]
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(path)]
    for _ in range(6):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            word, _, count = child.stdout.readline().strip().partition(" ")
            assert word == "go", "an interrupted store could not be opened"
            left.append(int(count))
            time.sleep(float(rng.uniform(0.005, 0.08)))
            child.send_signal(signal.SIGKILL)
        if path.exists():
            break
    assert left == sorted(left, reverse=True)
    subprocess.run(arguments, check=True, capture_output=True)
    store = SubtomogramStore(path)
    assert all(np.array_equal(store.volume(i), volume(i, 16)) for i in range(400))


def test_every_flipped_byte_of_a_particle_is_noticed(tmp_path):
    path = make(tmp_path / "s.h5", 6)
    raw = path.read_bytes()
    start = raw.index(volume(2, 8).tobytes())
    for offset in (0, 1, 777, 8**3 * 4 - 1):
        spoilt = bytearray(raw)
        spoilt[start + offset] ^= 0x10
        path.write_bytes(spoilt)
        store = SubtomogramStore(path)
        with pytest.raises(InputError, match="particle 2 is damaged"):
            store[2]
        assert np.array_equal(store.volume(3), volume(3, 8))


def test_flipped_bytes_of_a_table_are_noticed(tmp_path):
    path = make(tmp_path / "s.h5", 6)
    raw = path.read_bytes()
    spoilt = bytearray(raw)
    spoilt[raw.index(facts(6).rotations.tobytes()) + 5] ^= 0x01
    path.write_bytes(spoilt)
    with pytest.raises(InputError, match="tables are damaged"):
        SubtomogramStore(path)


def test_files_that_are_no_stores_are_refused(tmp_path):
    path = tmp_path / "s.h5"
    for content, said in ((b"", "not an HDF5 file"), (b"text" * 99, "not an HDF5 file"), (None, "no such file")):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            SubtomogramStore(path)
    whole = make(tmp_path / "whole.h5").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut off"):
        SubtomogramStore(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=[1])
    with pytest.raises(InputError, match="no store of subtomograms"):
        SubtomogramStore(path)
    with h5py.File(tmp_path / "whole.h5", "r+") as file:
        file.attrs["version"] = 99
    with pytest.raises(InputError, match="upgrade cryoaae"):
        SubtomogramStore(tmp_path / "whole.h5")


HOLDING = """
import sys
sys.path.insert(0, sys.argv[1])
from test_store import writer
from pathlib import Path
with writer(Path(sys.argv[2])) as store:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("resume", [False, True])
def test_two_writers_do_not_mix(resume, tmp_path):
    path = tmp_path / "s.h5"
    arguments = [sys.executable, "-c", HOLDING, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process"):
            writer(path, resume=resume)
        child.communicate("")


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """2,000 particles of 32 voxels are 262 MB; writing and reading them takes a small part of it."""
    count, box = 2000, 32
    process = psutil.Process(os.getpid())
    one = volume(0, box)
    before = process.memory_info().rss
    with StoreWriter(tmp_path / "s.h5", facts(count), about(box), ("p.star", STAR), resume=False) as store:
        for i in range(count):
            store.write(i, one)
        store.finish()
    read = SubtomogramStore(tmp_path / "s.h5")
    assert {checksum(read.volume(i)) for i in range(count)} == {checksum(one)}
    assert process.memory_info().rss - before < 60e6


def test_facts_of_some_particles_are_theirs() -> None:
    whole, rows = facts(12), np.array([7, 2, 2])
    some = whole.only(rows)
    assert len(some) == 3
    assert some.tomograms == tuple(whole.tomograms[i] for i in rows)
    assert np.array_equal(some.rotations, whole.rotations[rows])
    assert [some.wedges[i] for i in some.wedge_index] == [whole.wedges[i] for i in whole.wedge_index[rows]]
