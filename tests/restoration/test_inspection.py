from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.io.mrc import write_volume
from cryoaae.metrics.tilt_geometry import TiltGeometry
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.inspection import central_block, compare_with_stated, describe_volume, inspect
from cryoaae.volume import Volume

SEEN = TiltGeometry(0.0, (-56.5, 67.0), (-67.0, 56.5), 0.0, [], [])


def data(*parts: str) -> Path:
    root = os.environ.get("CRYOAAE_DATA")
    path = Path(root, *parts) if root else None
    if path is None or not path.exists():
        pytest.skip(f"CRYOAAE_DATA with {'/'.join(parts)} is not set")
    return path


def wedged(low: float, high: float) -> np.ndarray:
    noise = torch.randn(64, 72, 60, generator=torch.Generator().manual_seed(0))
    return MissingWedge((low, high)).measured(noise).numpy()[8:-8, 8:-8, 8:-8].copy()


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (MissingWedge((-57, 66)), None),
        (MissingWedge((-66, 57), flipped=True), None),
        (MissingWedge((-66, 57)), "use --flip-tilts"),
        (MissingWedge((-57, 66), flipped=True), "drop --flip-tilts"),
        (MissingWedge((-66, 57), tilt_axis_deg=180.0), None),
        (MissingWedge((-57, 66), tilt_axis_deg=178.0), "use --flip-tilts"),
        (MissingWedge((-40, 40)), "--tilt-range"),
        (MissingWedge((-57, 66), tilt_axis_deg=90.0), "--tilt-axis"),
        (MissingWedge.from_tilts(range(-57, 67, 3)), None),
    ],
)
def test_statements_are_compared_with_the_spectrum(stated, said):
    warnings = compare_with_stated(SEEN, stated)
    assert (warnings == []) if said is None else (len(warnings) == 1 and said in warnings[0])


def test_symmetric_ranges_never_ask_for_a_flip():
    seen = TiltGeometry(0.0, (-60.5, 61.2), (-61.2, 60.5), 0.0, [], [])
    assert compare_with_stated(seen, MissingWedge((-60, 60))) == []
    assert compare_with_stated(seen, MissingWedge((-60, 60), flipped=True)) == []


def test_a_volume_file_is_described_and_drawn(tmp_path: Path):
    path = tmp_path / "tomo.mrc"
    values = wedged(-40, 62) * 3 + 7
    write_volume(path, values, like=None, voxel_size_angstrom=13.2)
    result = inspect(path, stated=MissingWedge((-62, 40)), output=tmp_path / "out")
    assert result["shape_zyx"] == [48, 56, 44]
    assert result["voxel_size_angstrom"] == pytest.approx(13.2)
    assert result["statistics"]["mean"] == pytest.approx(float(values.mean()), abs=1e-4)
    assert result["statistics"]["std"] == pytest.approx(float(values.std()), rel=1e-4)
    assert result["tilt_geometry"]["tilt_axis"] == "y"
    assert result["tilt_geometry"]["tilt_range_deg"] == pytest.approx((-40, 62), abs=3)
    assert "--flip-tilts" in result["warnings"][0]
    assert any("(kx, kz) = (cos t, -sin t)" in line for line in result["sentences"])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"tomo_inspect.png", "tomo_inspect.json"}


def test_statistics_of_offset_data_do_not_cancel_and_non_finite_values_are_counted():
    values = np.random.default_rng(0).normal(size=(30, 40, 40)) + 1e5
    found = describe_volume(Volume(values.astype(np.float32), 1.0))[0]["statistics"]
    assert found["std"] == pytest.approx(1.0, abs=0.02)
    values[0, 0, :3] = np.nan
    described, geometry, _ = describe_volume(Volume(values.astype(np.float32), 1.0))
    assert described["statistics"]["non_finite"] == 3
    assert geometry is None
    assert "not finite" in described["warnings"][0]


def test_constant_and_thin_volumes_get_a_warning_not_a_guess():
    for array, word in ((np.zeros((30, 30, 30)), "constant"), (wedged(-60, 60)[:4], "too small")):
        described, geometry, _ = describe_volume(Volume(array.astype(np.float32), 1.0), MissingWedge())
        assert geometry is None
        assert any(word in line for line in described["warnings"])


def test_central_block_reads_the_middle():
    array = np.arange(10 * 4 * 7, dtype=np.float32).reshape(10, 4, 7)
    assert np.array_equal(central_block(Volume(array, 1.0), 4), array[3:7, :, 1:5])


def test_tilts_are_summed_up(tmp_path: Path):
    path = tmp_path / "a.tlt"
    path.write_text("\n".join(str(t) for t in [*range(-60, 1, 3), *range(12, 61, 3)]))
    result = inspect(path)
    assert "38 tilts from -60 to 60 degrees" in result["sentences"][0]
    assert "12" in result["warnings"][0]


def test_runs_are_described_and_a_cut_record_is_an_input_error(tmp_path: Path):
    (tmp_path / "run.json").write_text('{"command": "fit", "state": "running"}')
    result = inspect(tmp_path)
    assert result["kind"] == "run"
    assert "state: running" in result["sentences"]
    assert "not finished" in result["warnings"][0]
    (tmp_path / "run.json").write_text('{"command": "fi')
    with pytest.raises(InputError, match=r"run\.json"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("name", "problem"), [("nothing.mrc", "no such"), ("a.docx", "no known kind"), (".", "run")]
)
def test_other_things_are_refused(tmp_path: Path, name, problem):
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(InputError, match=problem):
        inspect(tmp_path / name)


@pytest.mark.data
def test_real_microtubule_geometry_within_three_degrees():
    result = inspect(data("tomogram_microtubule", "13pf_MT.mrc"))
    geometry = result["tilt_geometry"]
    assert geometry["tilt_axis"] == "y"
    assert geometry["plane_range_deg"] == pytest.approx((-67, 56.5), abs=3)
    assert geometry["tilt_range_deg"] == pytest.approx((-56.5, 67), abs=3)


@pytest.mark.data
@pytest.mark.parametrize(("phantom", "low", "high"), [("A", -60, 60), ("C", -54, 60)])
@pytest.mark.parametrize("transposed", [False, True])
def test_phantom_geometry_within_three_degrees(phantom, low, high, transposed):
    from cryoaae.io.mrc import open_volume

    volume = open_volume(data("phantoms", phantom, "even.mrc"))
    array = volume.numpy()
    if transposed:  # a mirror: the axis becomes x and the tilts change sign
        array, low, high = array.transpose(0, 2, 1).copy(), -high, -low
    described, _, _ = describe_volume(Volume(array, 10.0))
    geometry = described["tilt_geometry"]
    assert geometry["tilt_axis"] == ("x" if transposed else "y")
    assert geometry["tilt_range_deg"] == pytest.approx((low, high), abs=3)
