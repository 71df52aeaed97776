"""What other people script: options that mean the same everywhere, JSON on standard output, exit codes."""

from __future__ import annotations

import errno
import json
import logging
import re
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from cryoaae.cli import run
from cryoaae.cli.app import app
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.models.restorer import Restorer, RestorerSpec

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
EVERYWHERE = {"--json", "--debug"}
OF_WORK = EVERYWHERE | {"-q", "-v", "--threads"}
OF_OUTPUT = OF_WORK | {"-o", "--overwrite", "--dry-run"}
WANTED = {
    "simulate": OF_OUTPUT | {"--seed", "--tilt-range"},
    "fit": OF_OUTPUT | {
        "--seed", "--device", "--even", "--odd", "--tilts", "--resume", "--init", "--set", "--precision", "--density",
    },
    "restore": OF_OUTPUT | {"--device", "--even", "--odd", "--tilts", "--halves", "--keep-measured", "--model"}
    | {"--uncertainty", "--draws", "--seed", "--precision", "--density"},
    "sample": OF_OUTPUT | {"--device", "--even", "--odd", "--tilts", "--model", "--draws", "--seed"}
    | {"--sampler", "--modes", "--keep-draws", "--turns", "--gamma", "--temper", "--region", "--at", "--structure"},
    "validate": OF_OUTPUT
    | {"--seed", "--device", "--even", "--odd", "--tilts", "--model", "--hold-out-deg", "--density"},
    "evaluate": OF_WORK | {"-o", "--even", "--odd", "--tilts", "--truth", "--baselines"},
    "energy": OF_OUTPUT | {"--seed", "--device", "--even", "--odd", "--tilts", "--model", "--turns", "--step"},
    "extract": OF_OUTPUT | {"--particles", "--box", "--pick", "--border", "--density", "--resume", "--tilts"},
    "cluster": OF_OUTPUT
    | {"--seed", "--device", "--clusters", "--labels", "--model", "--steps", "--minutes", "--resume", "--set"},
    "embed": OF_OUTPUT | {"--device", "--model"},
    "generate": OF_OUTPUT | {"--device", "--class", "--count", "--traverse", "--seed"},
    "inspect": OF_WORK | {"-o", "--tilts", "--tilt-range", "--tilt-axis", "--flip-tilts"},
    "aae": OF_OUTPUT | {"--seed", "--device", "--data", "--labels", "--latent", "--divergence", "--epochs", "--resume"},
    "doctor": EVERYWHERE,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_stated_ones_and_explained(name: str) -> None:
    params = COMMANDS[name].params
    assert WANTED[name] <= {text for param in params for text in param.opts}
    assert all(getattr(param, "help", "") for param in params), [p.name for p in params if not p.help]


def test_what_sample_shares_with_restore_has_its_defaults() -> None:
    """Its mean is the output of `restore` as it is given, so no shared option may differ unasked."""
    restore, sample = ({p.name: p.default for p in COMMANDS[name].params} for name in ("restore", "sample"))
    shared = restore.keys() & sample.keys() - {"draws"}  # of restore: none without --uncertainty
    assert {"symmetries", "seed", "lenient", "allow_scale", "tilt_axis"} <= shared
    assert {name: sample[name] for name in shared} == {name: restore[name] for name in shared}


@pytest.fixture
def halves(tiny: Path) -> list[str]:
    return ["--even", str(tiny / "t_EVN.mrc"), "--odd", str(tiny / "t_ODD.mrc"), "--tilt-range", "-60", "60"]


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> str:
    capsys.readouterr()
    assert run(arguments) == code
    return capsys.readouterr().err


def test_required_wedge_decides_the_exit_code(halves, tiny, tmp_path, capsys) -> None:
    """The demo stands on it: 0 above the best null in the wedge, 1 below, 2 where nothing can be said."""
    even, odd = (open_volume(tiny / f"t_{half}.mrc") for half in ("EVN", "ODD"))
    generator = torch.Generator().manual_seed(1)
    truth = even.numpy() + odd.numpy() + 20 * torch.randn(even.shape, generator=generator).numpy()
    for name, data in (("truth", truth), ("noise", truth[::-1]), ("good", truth + 0.1 * even.numpy())):
        write_volume(tmp_path / f"{name}.mrc", data, voxel_size_angstrom=10.0)
    judged = ["--truth", str(tmp_path / "truth.mrc"), *halves, "--require-wedge", "-q"]
    assert run(["evaluate", str(tmp_path / "good.mrc"), *judged]) == 0
    said = error_of(capsys, ["evaluate", str(tmp_path / "noise.mrc"), *judged], 1)
    assert "best null in the wedge" in said
    said = error_of(capsys, ["evaluate", str(tmp_path / "good.mrc"), *judged, "--no-baselines"], 2)
    assert "--require-wedge" in said
    said = error_of(capsys, ["evaluate", str(tmp_path / "good.mrc"), *halves, "--require-wedge"], 2)
    assert "--truth" in said


@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_tilts_are_stated_once(command, tiny, capsys) -> None:
    both = ["--tilts", str(tiny / "t.tlt"), "--tilt-range", "-60", "60"]
    assert "--tilt-range" in error_of(capsys, [command, str(tiny / "t_EVN.mrc"), *both], 2)


def test_a_batch_by_name_skips_what_is_done_and_sets_bad_items_aside(tiny, tmp_path, capsys) -> None:
    """Rows 31 and 66: names with spaces, accents and dashes; the second run does what the first could not."""
    model = tmp_path / "model.safetensors"
    Restorer(RestorerSpec(1, 10.0, {"widths": [4, 8]})).save(model)
    data = open_volume(tiny / "t_EVN.mrc").numpy()[:24, :24, :24]
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["lamella 1", "Zürich_é", "-dash"]
    for i, name in enumerate(names):
        write_volume(folder / f"{name}.mrc", data + i, voxel_size_angstrom=10.0)
    whole = (folder / "lamella 1.mrc").read_bytes()
    (folder / "lamella 1.mrc").write_bytes(whole[:-1])
    command = ["restore", str(folder), "-o", str(tmp_path / "out"), "--model", str(model)]
    command += ["--tilt-range", "-60", "60", "-q", "--json"]
    said = error_of(capsys, command, 1)
    assert "1 of 3 tomograms failed" in said
    assert "lamella 1: " in said
    (folder / "lamella 1.mrc").write_bytes(whole)
    assert run([*command, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)["restore"]
    assert sum("done already" in line for line in plan) == 2
    assert run(command) == 0
    results = json.loads(capsys.readouterr().out)
    assert {r["name"]: r["skipped"] for r in results} == {"lamella 1": False, "Zürich_é": True, "dash": True}
    assert all(Path(path).is_file() for r in results for path in r["paths"])


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which cannot be made without a GPU."""


LACKING = {
    "disk": (OSError(errno.ENOSPC, "No space left on device", "run/metrics.csv"), "run/metrics.csv: the disk is full"),
    "memory": (MemoryError(), "out of memory"),
    "GPU": (OutOfMemoryError("CUDA out of memory. Tried to allocate\n20 GiB"), "--device cpu"),
}


@pytest.mark.parametrize("what", LACKING)
def test_too_little_of_something_is_no_bug(what, tiny, capsys, monkeypatch) -> None:
    """Rows 57, 59 and 60: exit code 3 and a way out, not 70 and a traceback."""
    from cryoaae.restoration import inspection

    error, words = LACKING[what]

    def starved(*_args, **_keywords):
        raise error

    monkeypatch.setattr(inspection, "inspect", starved)
    (line,) = error_of(capsys, ["inspect", str(tiny / "t_EVN.mrc")], 3).splitlines()
    assert words in line


def test_dry_runs_answer_in_json_and_write_nothing(halves, tmp_path, capsys) -> None:
    assert run(["simulate", "-o", str(tmp_path / "a"), "--shape", "20", "24", "28", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape_zyx"] == [20, 24, 28]
    assert run(["fit", *halves, "-o", str(tmp_path / "b"), "--set", "seed=7", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["seed"] == 7
    assert not list(tmp_path.iterdir())


MISUSED = {
    "unknown command": (["frobnicate"], "frobnicate.*cryoaae --help"),
    "unknown option": (["fit", "--bogus"], "--bogus.*cryoaae fit --help"),
    "option left out": (["embed", __file__, "-o", "y"], "--model"),
    "no number": (["fit", "x.mrc", "-o", "run", "--minutes", "abc"], "--minutes"),
    "one number for two": (["fit", "x.mrc", "-o", "run", "--tilt-range", "-60"], "--tilt-range"),
    "neither bright nor dark": (["restore", __file__, "-o", "r.mrc", "--density", "grey"], "--density.*bright"),
    "a mask for nothing": (["restore", __file__, "-o", "r.mrc", "--mask", "auto"], "--mask.*--adapt"),
    "two masks in one": (["fit", __file__, "-o", "run", "--mask", "auto", "--mask", "m.mrc"], "auto beside others"),
    "too small": (["fit", "x.mrc", "-o", "run", "--steps", "0"], "--steps"),
}


@pytest.mark.parametrize("fault", MISUSED)
def test_misuse_is_one_line_and_exit_code_2(fault: str, capsys) -> None:
    arguments, words = MISUSED[fault]
    (line,) = error_of(capsys, arguments, 2).splitlines()
    assert line.startswith("cryoaae: ")
    assert re.search(words, line)


def test_no_command_shows_the_commands(capsys) -> None:
    assert run([]) == 2
    shown = capsys.readouterr()
    assert set(COMMANDS) <= set((shown.out + shown.err).split())


def test_quiet_lasts_as_long_as_its_command(tiny) -> None:
    log = logging.getLogger("cryoaae")
    before = log.level
    assert run(["inspect", str(tiny / "t_EVN.mrc"), "-q"]) == 0
    assert log.level == before
    assert run(["inspect", str(tiny / "nowhere.mrc"), "-q"]) == 2
    assert log.level == before
