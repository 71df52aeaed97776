"""Particle lists: every dialect to the same places, unknown columns kept, and what is refused (rows 47, 48)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.io.euler import rotation_from_relion
from cryoaae.io.particle_files import read_particles, write_particles
from cryoaae.io.particles import tomogram_name, voxel_points_zyx
from cryoaae.io.star import read_star

# One particle at (x, y, z) = (400, 300, 200) A in a tomogram of 80 x 60 x 40 voxels of 10 A.
SHAPE, VOXEL, PLACE_ZYX = (40, 60, 80), 10.0, (20.0, 30.0, 40.0)


def loop(name: str, columns: dict[str, list[object]]) -> str:
    lines = [f"data_{name}", "", "loop_", *(f"_{label} #{i + 1}" for i, label in enumerate(columns))]
    lines += ["\t".join(str(v) for v in row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(lines) + "\n\n\n"


def optics(**more: object) -> str:
    base = {"rlnOpticsGroup": [1], "rlnVoltage": ["300.000000"], "rlnImagePixelSize": ["10.000000"]}
    return loop("optics", base | {label: [value] for label, value in more.items()})


TOMO = {"rlnTomoName": ["TS_01"], "rlnOpticsGroup": [1]}
DIALECTS = {
    "relion 5": optics(rlnTomoTiltSeriesPixelSize=2.5) + loop("particles", TOMO | {
        "rlnCenteredCoordinateXAngst": [0], "rlnCenteredCoordinateYAngst": [0], "rlnCenteredCoordinateZAngst": [0]}),
    "relion 4": optics(rlnTomoTiltSeriesPixelSize=2.5) + loop("particles", TOMO | {
        "rlnCoordinateX": [160], "rlnCoordinateY": [120], "rlnCoordinateZ": [80]}),
    "relion 4, shifted": optics(rlnTomoTiltSeriesPixelSize=2.5) + loop("particles", TOMO | {
        "rlnCoordinateX": [160], "rlnCoordinateY": [120], "rlnCoordinateZ": [84], "rlnOriginXAngst": [0],
        "rlnOriginYAngst": [0], "rlnOriginZAngst": [10]}),
    # A_sub of tilt 90 (Ry, as RELION writes it) takes the box's x to the tomogram's z.
    "relion 4, shifted in a turned box": optics(rlnTomoTiltSeriesPixelSize=2.5) + loop("particles", TOMO | {
        "rlnCoordinateX": [160], "rlnCoordinateY": [120], "rlnCoordinateZ": [84], "rlnOriginXAngst": [10],
        "rlnOriginYAngst": [0], "rlnOriginZAngst": [0], "rlnTomoSubtomogramRot": [0], "rlnTomoSubtomogramTilt": [90],
        "rlnTomoSubtomogramPsi": [0]}),
    "warptools": optics(rlnTomoTiltSeriesPixelSize=2.5) + loop("particles", {
        "rlnTomoName": ["TS_01.tomostar"], "rlnOpticsGroup": [1],
        "rlnCoordinateX": [40], "rlnCoordinateY": [30], "rlnCoordinateZ": [20]}),
    "relion 3, optics": optics() + loop("particles", {
        "rlnMicrographName": ["tomograms/TS_01.mrc"], "rlnOpticsGroup": [1],
        "rlnCoordinateX": [40], "rlnCoordinateY": [30], "rlnCoordinateZ": [20]}),
    "relion 3, magnification and origin in pixels": loop("", {
        "rlnMicrographName": ["TS_01_10.00Apx.mrc"], "rlnMagnification": [10000], "rlnDetectorPixelSize": [10],
        "rlnCoordinateX": [40], "rlnCoordinateY": [32], "rlnCoordinateZ": [20],
        "rlnOriginX": [0], "rlnOriginY": [2], "rlnOriginZ": [0]}),
    "relion 3, voxels": loop("", {
        "rlnTomoName": ["TS_01"], "rlnCoordinateX": [40], "rlnCoordinateY": [30], "rlnCoordinateZ": [20]}),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_says_the_same_place(dialect, tmp_path):
    star = tmp_path / "p.star"
    star.write_text(DIALECTS[dialect])
    particles = read_particles(star)
    found = voxel_points_zyx(particles, np.array([0]), SHAPE, VOXEL, "TS_01")
    assert found[0] == pytest.approx(PLACE_ZYX)
    assert particles.tomograms == ("TS_01",)
    assert particles.turned_boxes == ("turned" in dialect)


def test_poses_are_composed_as_box_times_particle(tmp_path):
    star = tmp_path / "p.star"
    angles = {"rlnAngleRot": [10], "rlnAngleTilt": [20], "rlnAnglePsi": [30]}
    box = {"rlnTomoSubtomogramRot": [40], "rlnTomoSubtomogramTilt": [50], "rlnTomoSubtomogramPsi": [60]}
    star.write_text(DIALECTS["relion 4"].split("data_particles")[0] + loop("particles", TOMO | angles | box | {
        "rlnCoordinateX": [1], "rlnCoordinateY": [1], "rlnCoordinateZ": [1]}))  # fmt: skip
    inner, outer = rotation_from_relion(np.array([[10.0, 20, 30], [40, 50, 60]]))
    assert read_particles(star).rotations[0] == pytest.approx(outer @ inner)


def test_dynamo_tables(tmp_path):
    row = [0.0] * 35
    row[3:6], row[6:9], row[19], row[21], row[23:26] = (1, -2, 0.5), (-47.273, 1.1777, -132.3), 7, 3, (39, 32, 19.5)
    (tmp_path / "p.tbl").write_text(" ".join(map(str, row)) + "\n")
    particles = read_particles(tmp_path / "p.tbl")
    assert particles.points_zyx[0] == pytest.approx(PLACE_ZYX)
    assert particles.rotations == pytest.approx(rotation_from_relion(np.array([[137.7, 1.1777, 42.727]])), abs=1e-5)
    assert (particles.tomograms, particles.classes) == (("7",), ("3",))


@pytest.mark.parametrize(
    ("header", "row"), [("class,z,y,x", "a,20,30,40"), ("x_angstrom,y_angstrom,z_angstrom,class", "400,300,200,a")]
)
def test_csv(header, row, tmp_path):
    (tmp_path / "p.csv").write_text(f"{header}\n{row}\n")
    particles = read_particles(tmp_path / "p.csv")
    assert voxel_points_zyx(particles, np.array([0]), SHAPE, VOXEL, "t")[0] == pytest.approx(PLACE_ZYX)
    assert particles.classes == ("a",)


def test_stated_coordinates_overrule_the_file(tmp_path):
    (tmp_path / "p.csv").write_text("x,y,z\n160,120,80\n")
    star = tmp_path / "p.star"
    star.write_text(loop("", {"rlnCoordinateX": [160], "rlnCoordinateY": [120], "rlnCoordinateZ": [80]}))
    for path in (tmp_path / "p.csv", star):
        particles = read_particles(path, coordinates=2.5)
        assert voxel_points_zyx(particles, np.array([0]), SHAPE, VOXEL, "t")[0] == pytest.approx(PLACE_ZYX)
        assert read_particles(path, coordinates="angstrom").points_zyx[0] == pytest.approx((80, 120, 160))


# -- written back ---------------------------------------------------------------------------------

RICH = "\n# version 50001\n\n" + loop("general", {"rlnTomoSubTomosAre2DStacks": [1]}) + optics(
    rlnTomoTiltSeriesPixelSize="2.500"
) + loop("particles", {
    "rlnTomoName": ["TS_01", "TS_02", "TS_02"], "rlnOpticsGroup": [1, 1, 1],
    "rlnCenteredCoordinateXAngst": ["1.250000", "-7.5", "1e2"], "rlnCenteredCoordinateYAngst": [1, 2, 3],
    "rlnCenteredCoordinateZAngst": [4, 5, 6], "someUnknownColumn": ["0.700", "-0", "nan"],
    "rlnTomoVisibleFrames": ["[1,0,1]", "[1,1,1]", "[0,1,1]"], "anotherName": ['"with space"', "plain", "None"],
})  # fmt: skip


def cells(path: Path) -> dict[str, list[list[str]]]:
    """What a STAR file says, read by nothing of ours: block -> rows of words, labels included."""
    blocks: dict[str, list[list[str]]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("data_"):
            current = blocks.setdefault(line, [])
        elif line.strip() and not line.startswith("#"):
            current.append(line.replace("with space", "with_space").split())
    return blocks


def test_what_is_not_touched_stays_the_same_word_for_word(tmp_path):
    (tmp_path / "in.star").write_text(RICH)
    write_particles(tmp_path / "out.star", read_particles(tmp_path / "in.star"))
    assert cells(tmp_path / "out.star") == cells(tmp_path / "in.star")
    assert "# version 50001" in (tmp_path / "out.star").read_text()


def test_a_class_column_for_a_subset(tmp_path):
    (tmp_path / "in.star").write_text(RICH)
    particles = read_particles(tmp_path / "in.star")
    write_particles(tmp_path / "out.star", particles, rows=[2, 0], columns={"rlnClassNumber": [5, 1]})
    before, after = cells(tmp_path / "in.star"), cells(tmp_path / "out.star")
    rows = before["data_particles"][-3:]
    assert after["data_particles"][-2:] == [[*rows[2], "5"], [*rows[0], "1"]]
    assert after["data_optics"] == before["data_optics"]
    again = read_particles(tmp_path / "out.star")
    assert again.classes == ("5", "1")
    assert again.tomograms == ("TS_02", "TS_01")
    with pytest.raises(InputError, match="2 values of rlnClassNumber for 3 particles"):
        write_particles(tmp_path / "no.star", particles, columns={"rlnClassNumber": [1, 2]})
    with pytest.raises(InputError, match="--overwrite"):
        write_particles(tmp_path / "out.star", particles)


@pytest.mark.parametrize("name", ["p.csv", "p.tbl"])
def test_lists_of_other_kinds_become_star_files(name, tmp_path):
    row = [0.0] * 35
    row[6:9], row[19], row[21], row[23:26] = (10, 20, 30), 7, 3, (40, 30, 20)
    (tmp_path / "p.tbl").write_text(" ".join(map(str, row)) + "\n")
    head = "tomogram,class,x_angstrom,y_angstrom,z_angstrom,rot,tilt,psi"
    (tmp_path / "p.csv").write_text(f"{head}\nTS_01,7,400,300,200,10,20,30\n")
    particles = read_particles(tmp_path / name)
    write_particles(tmp_path / "out.star", particles)
    again = read_particles(tmp_path / "out.star")
    for field in ("points_zyx", "rotations"):
        assert getattr(again, field) == pytest.approx(getattr(particles, field), abs=1e-3)
    assert (again.tomograms, again.classes, again.units) == (particles.tomograms, particles.classes, particles.units)


# -- refused --------------------------------------------------------------------------------------

GOOD = DIALECTS["relion 4"]
REFUSED = {
    "missing file": (None, "no such file"),
    "empty file": ("", "0 bytes"),
    "text": ("hello, world\n" * 9, "not a STAR file"),
    "binary": ("\x00\x01\xff" * 99, "not a STAR file|not a text file"),
    "no coordinates": (loop("particles", {"rlnTomoName": ["a"]}), "neither rlnCenteredCoordinateXAngst nor"),
    "no particles": (loop("particles", {"rlnCoordinateX": [], "rlnCoordinateY": [], "rlnCoordinateZ": []}), "no parti"),
    "word for a number": (GOOD.replace("120", "abc"), "row 1: rlnCoordinateY is 'abc', not a finite number"),
    "not a number": (GOOD.replace("120", "nan"), "row 1: rlnCoordinateY is"),
    "optics group missing": (GOOD.replace("TS_01\t1", "TS_01\t2"), "optics group 2 is not in data_optics"),
    "ragged": (GOOD.replace("160\t120\t80", "160\t120\t80\n1 2 3 4 5 6 7 8"), "not a readable STAR file"),
    "shift without pixel size": (loop("", {
        "rlnCoordinateX": [1], "rlnCoordinateY": [1], "rlnCoordinateZ": [1], "rlnOriginXAngst": [3]}),
        "origin shifts but no pixel size"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_star_files_are_refused_in_one_line(case, tmp_path):
    text, said = REFUSED[case]
    star = tmp_path / "p.star"
    if text is not None:
        star.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=said) as caught:
        read_particles(star)
    assert "\n" not in str(caught.value)
    assert str(star) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.tbl", "1 2 3\n", "3 columns"),
        ("p.tbl", " ".join(["1"] * 25 + ["x"]), "26 is 'x'"),
        ("p.csv", "a,b\n1,2\n", "name them x, y, z"),
        ("p.csv", "x,y,z\n", "lists no particles"),
        ("p.csv", "", "lists no particles"),
        ("p.em", "1", "suffix .em is not read"),
    ],
)
def test_bad_tables_are_refused(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_particles(tmp_path / name)


@pytest.mark.parametrize("coordinates", ["pixels", -1.0, 0.0, float("nan")])
def test_bad_units_are_refused(coordinates, tmp_path):
    with pytest.raises(InputError, match="--coordinates"):
        read_particles(tmp_path / "p.star", coordinates=coordinates)


def spread(tmp_path: Path, columns: tuple[str, ...], scale: float, offset: float = 0.0) -> Path:
    """Particles all over the tomogram of `SHAPE`, written in other units, order or from another origin."""
    points = np.random.default_rng(0).uniform(0.05, 0.95, (200, 3)) * np.array(SHAPE)
    rows = [",".join(f"{v:.2f}" for v in (point - offset * np.array(SHAPE)) * scale) for point in points]
    (tmp_path / "p.csv").write_text("\n".join([",".join(columns), *rows]))
    return tmp_path / "p.csv"


@pytest.mark.parametrize(
    ("columns", "scale", "offset", "hint"),
    [
        (("z", "y", "x"), VOXEL, 0.0, "they would fit as angstrom"),
        (("z_angstrom", "y_angstrom", "x_angstrom"), VOXEL, -30.0, "check the list, --coordinates and the tomogram"),
        (("z", "y", "x"), 1.0, 0.5, "they would fit as counted from the middle"),
    ],
)
def test_coordinates_that_cannot_fit_are_refused_with_the_reading_that_does(columns, scale, offset, hint, tmp_path):
    particles = read_particles(spread(tmp_path, columns, scale, offset))
    with pytest.raises(InputError, match=hint):
        voxel_points_zyx(particles, np.arange(200), SHAPE, VOXEL, "TS_01")


def test_swapped_axes_are_named(tmp_path):
    particles = read_particles(spread(tmp_path, ("x", "y", "z"), 1.0))  # written z, y, x
    with pytest.raises(InputError, match="outside its 80 x 60 x 40 voxels.*z, y, x instead of x, y, z"):
        voxel_points_zyx(particles, np.flatnonzero(particles.points_zyx[:, 0] > 40), SHAPE, VOXEL, "TS_01")


def test_names_of_tomograms_are_bare():
    names = ["TS_01.tomostar", "tomograms/TS_01.mrc", "TS_01", "rec/TS_01_10.00Apx.mrc"]
    assert {tomogram_name(name) for name in names} == {"TS_01"}


@pytest.mark.data
def test_public_particle_lists():
    """Row counts and places as the files themselves say, in four dialects."""
    root = Path(os.environ["CRYOAAE_DATA"])
    warp = root / "subtomograms_70S"
    found = read_particles(next(warp.glob("*_optimisation_set.star")))
    assert (len(found), found.units, found.frames_2d, found.premultiplied) == (40, "angstrom", True, True)
    assert found.points_zyx[0] == pytest.approx(np.array([28.146, 564.065, 494.521]) * 12.0)
    voxel_points_zyx(found, found.rows_of("Unt_083"), (194, 833, 611), 12.0, "Unt_083")
    chlamy = read_particles(root / "coordinates" / "chlamy" / "ps2.star")
    assert (len(chlamy), chlamy.units, chlamy.tomograms[0]) == (3111, "voxel", "tomo_0024")
    dynamo = read_particles(root / "coordinates" / "susan_empiar10064" / "picked_b8.tbl")
    assert (len(dynamo), set(dynamo.tomograms)) == (4427, {"1", "2", "3", "4"})
    phantom = read_particles(root / "phantoms" / "A" / "particles.csv")
    voxel_points_zyx(phantom, np.arange(len(phantom)), (128, 128, 128), 10.0, "A")


@pytest.mark.data
def test_a_real_star_comes_back_word_for_word(tmp_path):
    source = next((Path(os.environ["CRYOAAE_DATA"]) / "subtomograms_70S").glob("*angpix-12.star"))
    write_particles(tmp_path / "out.star", read_particles(source))
    assert cells(tmp_path / "out.star") == cells(source)
    assert read_star(tmp_path / "out.star").blocks.keys() == {"general", "optics", "particles"}
