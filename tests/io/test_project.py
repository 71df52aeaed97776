"""Which files belong together, and what may not be taken for halves of one tomogram (rows 40-44)."""

from __future__ import annotations

import os

import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.io.atomic import check_output
from cryoaae.io.mrc import write_volume
from cryoaae.io.project import open_tomogram, pairs_table, resolve_inputs, split_inputs
from cryoaae.io.tilts import check_tilt_range, read_tilts

RANGE = (-60.0, 60.0)


def put(path, seed=0, shape=(8, 8, 8), voxel=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    write_volume(path, data, voxel_size_angstrom=voxel)
    return path


def halves(even, odd, **more):
    return resolve_inputs(even=even, odd=odd, tilt_range=RANGE, **more)


LAYOUTS = {
    "tokens": ("TS_{}_EVN.mrc", "TS_{}_ODD.mrc"),
    "half numbers": ("TS_{}_half1.mrc", "TS_{}_half2.mrc"),
    "warp folders": ("even/TS_{}_10.00Apx.mrc", "odd/TS_{}_10.00Apx.mrc"),
    "token first": ("even_TS_{}.rec", "odd_TS_{}.rec"),
    "folder a tomogram": ("TS_{}/even.mrc", "TS_{}/odd.mrc"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_by_name_whatever_the_order(layout, tmp_path):
    even, odd = LAYOUTS[layout]
    evens = [put(tmp_path / even.format(n)) for n in ("01", "2", "10")]
    odds = [put(tmp_path / odd.format(n)) for n in ("2", "10", "01")]
    items = halves(evens, odds)
    assert [(i.name, i.even, i.odd) for i in items] == [
        ("TS_01", evens[0], odds[2]),
        ("TS_2", evens[1], odds[0]),
        ("TS_10", evens[2], odds[1]),
    ]
    assert "TS_10" in pairs_table(items)


def test_globs_and_folders(tmp_path):
    for n in "12":
        put(tmp_path / f"even/T{n}.mrc")
        put(tmp_path / f"odd/T{n}.mrc")
    by_folder = halves(tmp_path / "even", tmp_path / "odd")
    assert by_folder == halves(str(tmp_path / "even" / "*.mrc"), str(tmp_path / "odd" / "*.mrc"))
    assert [i.name for i in by_folder] == ["T1", "T2"]


def test_left_over_is_refused_with_its_nearest(tmp_path):
    evens = [put(tmp_path / f"TS_{n}_EVN.mrc") for n in ("01", "02")]
    odds = [put(tmp_path / f"TS_{n}_ODD.mrc") for n in ("01", "03")]
    with pytest.raises(InputError, match="TS_02.*nearest odd is"):
        halves(evens, odds)
    with pytest.raises(InputError, match="swap"):
        halves(odds[:1], evens[:1])


def test_row_41_same_file_by_link_and_same_data(tmp_path):
    even, odd = put(tmp_path / "a_even.mrc"), tmp_path / "a_odd.mrc"
    odd.symlink_to(even)
    with pytest.raises(InputError, match="not independent"):
        halves(even, odd)
    odd.unlink()
    put(odd)  # another file, the same content
    with pytest.raises(InputError, match="not independent"):
        open_tomogram(halves(even, odd)[0])


@pytest.mark.parametrize(
    ("other", "message"),
    [({"shape": (8, 8, 10)}, "8 x 8 x 8 and 8 x 8 x 10"), ({"voxel": 10.5}, "10 and 10.5 angstrom")],
)
def test_rows_40_and_42(other, message, tmp_path):
    item = halves(put(tmp_path / "a_even.mrc"), put(tmp_path / "a_odd.mrc", seed=1, **other))[0]
    with pytest.raises(InputError, match=message):
        open_tomogram(item)


def test_sound_halves_open(tmp_path):
    item = halves(put(tmp_path / "a_even.mrc"), put(tmp_path / "a_odd.mrc", seed=1))[0]
    tomogram = open_tomogram(item)
    assert tomogram.single is None
    assert not np.array_equal(tomogram.even.numpy(), tomogram.odd.numpy())


def test_tilts_go_to_their_tomogram(tmp_path):
    maps = [put(tmp_path / f"TS_{n}.mrc") for n in ("01", "02")]
    for n, last in (("02", 40), ("01", 50)):
        (tmp_path / f"TS_{n}.tlt").write_text(f"-60\n0\n{last}\n")
    items = resolve_inputs(maps, tilts=tmp_path, tilt_axis="x", flip_tilts=True)
    assert [i.wedge.tilt_range_deg for i in items] == [(-60, 50), (-60, 40)]
    assert items[0].wedge.tilts_deg == (-60, 0, 50)
    assert items[0].wedge.tilt_axis_deg == 90
    assert items[0].wedge.flipped
    (tmp_path / "TS_02.tlt").unlink()
    with pytest.raises(InputError, match="no tilt file has the name 'TS_02'"):
        resolve_inputs(maps, tilts=tmp_path)


def test_tomograms_star(tmp_path):
    even, odd = put(tmp_path / "rec/x1.mrc"), put(tmp_path / "rec/x2.mrc", seed=1)
    star = tmp_path / "job" / "tomograms.star"
    star.parent.mkdir()
    columns = ("Name", "ReconstructedTomogramHalf1", "ReconstructedTomogramHalf2")
    lines = "\n".join(f"_rlnTomo{name} #{i + 1}" for i, name in enumerate(columns))
    star.write_text(f"data_global\n\nloop_\n{lines}\nTS_1 rec/x1.mrc rec/x2.mrc\n\n")
    (item,) = resolve_inputs(star, tilt_range=RANGE)
    assert (item.name, item.even, item.odd) == ("TS_1", even, odd)


def test_a_folder_of_halves_is_not_taken_for_single_volumes(tmp_path):
    put(tmp_path / "TS_1_EVN.mrc")
    put(tmp_path / "TS_1_ODD.mrc")
    with pytest.raises(InputError, match="--even and --odd"):
        resolve_inputs(tmp_path, tilt_range=RANGE)


@pytest.mark.parametrize(
    ("lo", "hi", "message"),
    [
        (60, -60, "reversed"), (-100, 60, "beyond 90"), (30, 30, "no width"),
        (float("nan"), 60, "not finite"),
        (-1.05, 1.05, "radians"),
    ],
)  # fmt: skip
def test_row_43_tilt_range(lo, hi, message):
    with pytest.raises(InputError, match=message):
        check_tilt_range(lo, hi)


def test_row_43_full_range_warns(caplog):
    check_tilt_range(-90, 90)
    assert "no wedge missing" in caplog.text


def test_row_44_tolerant_tilt_file(tmp_path, caplog):
    path = tmp_path / "a.rawtlt"
    path.write_bytes(b"\xef\xbb\xbf-60.0\r\n\r\n 0.0 \r\n3,\r\n3\r\n# end\r\n60\r\n")
    assert read_tilts(path) == (-60.0, 0.0, 3.0, 60.0)
    assert "more than once" in caplog.text
    for text, message in (
        ("1 2\n3 4\n", "2 columns"),
        ("", "0 tilt"),
        ("a\n", "line 1"),
        ("nan\n1\n", "finite"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_tilts(path)
    path.write_text("-60\n0\n60\n")
    with pytest.raises(InputError, match="3 angles for 41"):
        read_tilts(path, expected=41)


def test_rows_53_and_54_outputs(tmp_path):
    source = put(tmp_path / "in.mrc")
    os.link(source, tmp_path / "hard.mrc")
    (tmp_path / "soft.mrc").symlink_to(source)
    (tmp_path / "old.mrc").write_bytes(b"old")
    for name in ("in.mrc", "hard.mrc", "soft.mrc"):
        with pytest.raises(InputError, match="is also an input"):
            check_output(tmp_path / name, [source], overwrite=True)
    for name, message in (
        ("old.mrc", "--overwrite"), ("none/x.mrc", "does not exist"), ("old.mrc/x.mrc", "is a file"),
        ("", "is a folder"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            check_output(tmp_path / name, [source])
    with pytest.raises(InputError, match="cannot be written"):
        check_output("/proc/x.mrc")
    check_output(tmp_path / "old.mrc", [source], overwrite=True)
    check_output(tmp_path / "new.mrc", [source])
    assert (tmp_path / "old.mrc").read_bytes() == b"old"
    assert not (tmp_path / "new.mrc").exists()


def test_resolved_inputs_pass_and_mixtures_are_refused(tmp_path):
    items = resolve_inputs(put(tmp_path / "a.mrc"), tilt_range=RANGE)
    assert split_inputs(items[0]) == ([], items)
    assert split_inputs("a.mrc") == (["a.mrc"], [])
    with pytest.raises(InputError, match="together"):
        split_inputs([*items, "b.mrc"])
