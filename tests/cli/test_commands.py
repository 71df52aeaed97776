"""The command line: what is wrong is said in one line, with the right exit code, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryoaae.cli import run
from cryoaae.io.mrc import write_volume


@pytest.fixture
def inputs(tiny: Path, tmp_path: Path) -> dict[str, Path]:
    """Copies that a test may spoil."""
    for name in ("t_EVN.mrc", "t_ODD.mrc", "t.tlt"):
        shutil.copy(tiny / name, tmp_path / name)
    return {"even": tmp_path / "t_EVN.mrc", "odd": tmp_path / "t_ODD.mrc", "tilts": tmp_path / "t.tlt"}


def options(inputs: dict[str, Path]) -> list[str]:
    return ["--even", str(inputs["even"]), "--odd", str(inputs["odd"]), "--tilts", str(inputs["tilts"])]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str, code: int = 2) -> None:
    """The command ends with `code` and one line that holds the words."""
    capsys.readouterr()
    assert run(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if line.startswith("cryoaae:")]) == 1, lines
    for word in words:
        assert re.search(word, lines[-1]), lines[-1]


def patch_bytes(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def resave(path: Path, change) -> None:
    with mrcfile.mmap(path, mode="r+") as file:
        file.data[...] = change(np.array(file.data))


def spoil_shape(even: Path) -> None:
    with mrcfile.new(even, np.random.default_rng(0).normal(size=(40, 48, 46)).astype(np.float32), overwrite=True) as f:
        f.voxel_size = 10.0


def one_nan(data: np.ndarray) -> np.ndarray:
    data[1, 2, 3] = np.nan
    return data


SPOILED = {
    "row 1, empty": (lambda p: p.write_bytes(b""), "0 bytes"),
    "row 3, header only": (lambda p: p.write_bytes(p.read_bytes()[:1024]), "bytes"),
    "row 4, cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "bytes"),
    "row 6, not MRC": (lambda p: p.write_text("<html>" * 900), "MRC"),
    "row 7, random": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)), "MRC"),
    "row 9, complex": (lambda p: patch_bytes(p, 12, np.int32(4).tobytes()), "Fourier"),
    "row 16, huge": (lambda p: patch_bytes(p, 0, np.int32(2**31 - 1).tobytes()), "bytes"),
    "row 21, voxel 0": (lambda p: patch_bytes(p, 40, np.zeros(3, np.float32).tobytes()), "voxel"),
    "row 23, anisotropic": (lambda p: patch_bytes(p, 40, np.array([460, 480, 880], np.float32).tobytes()), "voxel"),
    "row 24, axes 1, 1, 1": (lambda p: patch_bytes(p, 64, np.ones(3, np.int32).tobytes()), "mapc"),
    "row 34, NaN": (lambda p: resave(p, one_nan), "finite"),
    "row 36, constant": (lambda p: resave(p, lambda a: np.full_like(a, 3.0)), "constant"),
    "row 40, shapes": (spoil_shape, "shape"),
    "row 42, voxel sizes": (lambda p: patch_bytes(p, 40, np.array([690, 720, 660], np.float32).tobytes()), "voxel"),
}


@pytest.mark.parametrize("row", SPOILED)
def test_a_bad_half_is_refused_by_fit_and_nothing_is_made(row, inputs, tmp_path, capsys) -> None:
    spoil, word = SPOILED[row]
    spoil(inputs["even"])
    refused(capsys, ["fit", *options(inputs), "-o", str(tmp_path / "run"), "--steps", "1"], "t_EVN|halves", word)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_row_13_big_endian_is_read(inputs, capsys) -> None:
    with mrcfile.open(inputs["even"]) as file:
        data = file.data.copy()
    with mrcfile.new(inputs["even"], overwrite=True) as file:
        file.set_data(data.astype(">f4"))
        file.voxel_size = 10.0
    assert run(["inspect", str(inputs["even"]), "--json"]) == 0


def test_row_25_not_a_volume(tmp_path, capsys) -> None:
    with mrcfile.new(tmp_path / "image.mrc", np.ones((30, 30), np.float32)) as file:
        file.voxel_size = 10.0
    refused(capsys, ["inspect", str(tmp_path / "image.mrc")], "image.mrc", "2")


def test_row_41_same_halves(inputs, tmp_path, capsys) -> None:
    shutil.copy(inputs["even"], inputs["odd"])
    refused(capsys, ["fit", *options(inputs), "-o", str(tmp_path / "run")], "independent")
    same = {**inputs, "odd": inputs["even"]}
    refused(capsys, ["fit", *options(same), "-o", str(tmp_path / "run2")], ".")


@pytest.mark.parametrize("tilts", [("60", "-60"), ("-100", "60"), ("5", "5"), ("nan", "60"), ("-1.05", "1.05")])
def test_row_43_tilt_ranges(tilts, inputs, tmp_path, capsys) -> None:
    arguments = ["--even", str(inputs["even"]), "--odd", str(inputs["odd"]), "--tilt-range", *tilts]
    refused(capsys, ["fit", *arguments, "-o", str(tmp_path / "run")], "tilt")


@pytest.mark.parametrize(("shape", "value", "words"), [((44, 48, 45), 1.0, "shapes"), ((44, 48, 46), 0.3, "nothing")])
def test_row_49_masks(shape, value, words, inputs, tmp_path, capsys) -> None:
    write_volume(tmp_path / "mask.mrc", np.full(shape, value, np.float32), voxel_size_angstrom=10.0)
    given = [*options(inputs), "--mask", str(tmp_path / "mask.mrc")]
    refused(capsys, ["fit", *given, "-o", str(tmp_path / "run")], "mask.mrc", words)
    assert not (tmp_path / "run").exists()


def test_patches_are_taken_from_a_mask(inputs, tiny_settings, tmp_path, capsys) -> None:
    mask = np.zeros((44, 48, 46), np.float32)
    mask[:22] = 1
    write_volume(tmp_path / "mask.mrc", mask, voxel_size_angstrom=1.0)  # what its header says does not count
    given = [*options(inputs), "--steps", "1", *tiny_settings]
    assert run(["fit", *given, "-o", str(tmp_path / "half"), "--mask", str(tmp_path / "mask.mrc")]) == 0
    said = capsys.readouterr()
    assert re.search(r"patches are taken from (4[6-9]|5[0-4]) % of it", said.out + said.err)
    resumed = ["fit", *given, "-o", str(tmp_path / "half"), "--resume"]
    refused(capsys, resumed, "half|inputs")  # of other inputs
    assert run(["fit", *given, "-o", str(tmp_path / "found"), "--mask", "auto"]) == 0
    said = capsys.readouterr()
    assert "% of it" in said.out + said.err
    assert run(["fit", *given, "-o", str(tmp_path / "all"), "--mask", "none"]) == 0
    said = capsys.readouterr()
    assert "% of it" not in said.out + said.err


def test_left_over_name_is_refused_with_the_nearest(inputs, tmp_path, capsys) -> None:
    other = inputs["odd"].rename(tmp_path / "tt_ODD.mrc")
    refused(capsys, ["fit", *options({**inputs, "odd": other}), "-o", str(tmp_path / "run")], "t_EVN|tt_ODD")


def test_unknown_settings_and_values(inputs, tmp_path, capsys) -> None:
    out = [*options(inputs), "-o", str(tmp_path / "run")]
    refused(capsys, ["fit", *out, "--set", "learing_rate=1"], "learing_rate", "learning_rate")
    refused(capsys, ["fit", *out, "--set", "patch_size=-4"], "patch_size")
    refused(capsys, ["fit", *out, "--preset", "quick"], "fast")
    config = tmp_path / "config.yaml"
    config.write_text("seed: 1\nseed: 2\n")
    refused(capsys, ["fit", *out, "--config", str(config)], "twice")
    config.write_text("!!python/object/apply:os.system ['true']\n")
    refused(capsys, ["fit", *out, "--config", str(config)], "YAML")
    refused(capsys, ["fit", *out, "--device", "cuda:99", "--steps", "1"], "cuda:99|GPU")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_dry_run_writes_nothing(inputs, tmp_path, capsys) -> None:
    before = sorted(tmp_path.iterdir())
    assert run(["fit", *options(inputs), "-o", str(tmp_path / "run"), "--dry-run"]) == 0
    assert "t_EVN" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def fitted(tiny, tiny_settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fitted") / "run"
    given = {"even": tiny / "t_EVN.mrc", "odd": tiny / "t_ODD.mrc", "tilts": tiny / "t.tlt"}
    assert run(["fit", *options(given), "-o", str(folder), "--steps", "3", *tiny_settings, "-q"]) == 0
    return folder


def test_rows_53_54_outputs(fitted, inputs, tmp_path, capsys) -> None:
    command = ["restore", *options(inputs), "--model", str(fitted), "-o"]
    before = inputs["even"].read_bytes()
    refused(capsys, [*command, str(inputs["even"]), "--overwrite"], "input")
    link = tmp_path / "link.mrc"
    os.link(inputs["even"], link)
    refused(capsys, [*command, str(link), "--overwrite"], "input")
    assert inputs["even"].read_bytes() == before
    old = tmp_path / "old.mrc"
    old.write_bytes(b"old")
    refused(capsys, [*command, str(old)], "exists", "--overwrite")
    refused(capsys, [*command, str(old / "out.mrc")], "file|folder")
    refused(capsys, [*command, str(tmp_path / "no" / "such" / "out.mrc")], "folder")
    assert old.read_bytes() == b"old"
    refused(capsys, ["fit", *options(inputs), "-o", str(fitted), "--steps", "1"], "--resume|--overwrite")


def test_row_74_voxel_size(fitted, inputs, tmp_path, capsys) -> None:
    out = str(tmp_path / "out.mrc")
    command = ["restore", *options(inputs), "--model", str(fitted), "-o", out, "--voxel-size", "13.3"]
    refused(capsys, command, "voxel size")
    assert not Path(out).exists()
    assert run([*command, "--allow-scale", "-q"]) == 0


def test_row_33_file_changed_while_read(fitted, inputs, tmp_path, capsys, monkeypatch) -> None:
    from cryoaae.restoration import restore as module

    whole = module.restore_volumes

    def then_touched(*args, **keywords):
        result = whole(*args, **keywords)
        inputs["even"].write_bytes(inputs["even"].read_bytes() + b"more")
        return result

    monkeypatch.setattr(module, "restore_volumes", then_touched)
    command = ["restore", *options(inputs), "--model", str(fitted), "-o", str(tmp_path / "out.mrc"), "-q"]
    refused(capsys, command, "changed")
    assert not (tmp_path / "out.mrc").exists()


def test_model_brings_the_tilts_of_its_own_tomogram_only(fitted, inputs, tmp_path, capsys) -> None:
    halves = ["--even", str(inputs["even"]), "--odd", str(inputs["odd"])]
    command = ["restore", *halves, "--model", str(fitted), "-o", str(tmp_path / "out.mrc"), "-q", "--json"]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)[0]["voxels_per_second"] > 0
    resave(inputs["even"], lambda a: a + 1)
    refused(capsys, [*command, "--overwrite"], "--tilts")


def test_units_header_and_sizes_survive(fitted, inputs, tmp_path) -> None:
    """Row 46: an odd, uneven shape comes back as it was; so do mean and contrast."""
    command = ["restore", *options(inputs), "--model", str(fitted), "-o", str(tmp_path / "out.mrc"), "-q"]
    assert run(command) == 0
    with mrcfile.open(tmp_path / "out.mrc") as out, mrcfile.open(inputs["even"]) as even:
        assert out.data.shape == even.data.shape
        assert float(out.voxel_size.x) == pytest.approx(float(even.voxel_size.x))
        assert float(out.data.mean()) == pytest.approx(float(even.data.mean()), abs=0.2)
        assert 0.3 < float(out.data.std() / even.data.std()) < 1.2
        assert any("cryoaae" in str(label) for label in out.header.label)


def test_a_bug_is_exit_70_with_a_log(inputs, capsys, monkeypatch) -> None:
    from cryoaae.restoration import inspection

    def broken(*_args, **_keywords):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(inspection, "inspect", broken)
    assert run(["inspect", str(inputs["even"])]) == 70
    line = capsys.readouterr().err.strip().splitlines()[-1]
    log = Path(line.rsplit(" ", 1)[1])
    assert "ZeroDivisionError" in log.read_text()
    log.unlink()


@pytest.mark.parametrize("code", ["import cryoaae", "from cryoaae.cli import run; run(['--help'])"])
def test_help_and_import_load_no_torch(code: str) -> None:
    check = f"{code}\nimport sys\nassert not {{'torch', 'monai', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


@pytest.mark.parametrize(
    "words",
    [
        "cluster absent.h5 -o out", "cluster here --model absent -o out", "embed absent.h5 --model here -o out",
        "generate absent -o out", "sample here --model absent -o out", "restore here --model absent -o out",
        "evaluate absent.mrc --truth here", "energy absent.mrc --model here --even here --odd here -o out",
        "inspect absent.mrc",
    ],
)  # fmt: skip
def test_a_name_that_nothing_has_is_refused_at_once(words: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    monkeypatch.setitem(sys.modules, "torch", None)  # loading it would fail, with another message
    refused(capsys, words.split(), "absent.*no such file.*check the name")
    assert not Path("out").exists()


def test_restore_loads_nothing_that_it_does_not_use(tiny: Path, tmp_path: Path) -> None:
    """Of what takes seconds to load: the first tile should come within ten."""
    words = [
        "restore", "--even", str(tiny / "t_EVN.mrc"), "--odd", str(tiny / "t_ODD.mrc"), "--tilts", str(tiny / "t.tlt"),
        "-o", str(tmp_path / "out.mrc"), "-q",
    ]  # fmt: skip
    unused = ["monai", "lightning_fabric", "lightning", "sklearn", "scipy.stats", "matplotlib", "pandas", "arviz_stats"]
    check = f"from cryoaae.cli import run\nimport sys\nassert run({words!r}) == 0\n"
    check += f"loaded = set({unused!r}) & set(sys.modules)\nassert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
