"""Outputs that cannot be, dry runs that check and write nothing, bugs told in one line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cryoaae.cli import run
from cryoaae.runs.folder import RunFolder


@pytest.fixture
def halves(tiny: Path, tmp_path: Path) -> list[str]:
    for name in ("t_EVN.mrc", "t_ODD.mrc"):
        shutil.copy(tiny / name, tmp_path / name)
    even, odd = tmp_path / "t_EVN.mrc", tmp_path / "t_ODD.mrc"
    return ["--even", str(even), "--odd", str(odd), "--tilt-range", "-60", "60"]


def line_of(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 2) -> str:
    """The one line that the command ends with."""
    capsys.readouterr()
    assert run(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("output", ["file", "file/inside", "/proc/nowhere"])
@pytest.mark.parametrize("command", ["simulate", "fit"])
def test_row_54_a_folder_that_cannot_be_made_is_refused(command, output, halves, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    given = ["--shape", "16", "16", "16", "-q"] if command == "simulate" else [*halves, "--steps", "1", "-q"]
    said = line_of(capsys, [command, *given, "-o", str(tmp_path / output)])
    assert str(tmp_path / output) in said
    assert (tmp_path / "file").read_text() == "mine"


def test_row_53_simulate_refuses_to_replace(tmp_path, capsys) -> None:
    (tmp_path / "meta.json").write_text("old")
    assert "--overwrite" in line_of(capsys, ["simulate", "-o", str(tmp_path), "--shape", "16", "16", "16", "-q"])
    assert [p.name for p in tmp_path.iterdir()] == ["meta.json"]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def test_a_dry_fit_refuses_what_the_fit_would(halves, tmp_path, capsys) -> None:
    dry = ["fit", *halves, "-o", str(tmp_path / "run"), "--dry-run"]
    even = tmp_path / "t_EVN.mrc"
    whole = even.read_bytes()
    even.write_bytes(whole[:-1])
    before = tree(tmp_path)
    assert re.search("t_EVN.mrc: .*bytes", line_of(capsys, dry))
    assert tree(tmp_path) == before
    even.write_bytes(whole)
    assert run(dry) == 0
    with RunFolder.create(tmp_path / "run", "fit", {}):
        pass
    before = tree(tmp_path)
    assert "already holds a run" in line_of(capsys, dry)
    assert run([*dry, "--overwrite"]) == 0
    assert tree(tmp_path) == before


def test_a_dry_restore_checks_and_writes_nothing(halves, tiny, tiny_settings, tmp_path, capsys) -> None:
    model = tmp_path / "run"
    assert run(["fit", *halves, "-o", str(model), "--steps", "1", *tiny_settings, "-q"]) == 0
    before = tree(tmp_path)
    dry = ["restore", *halves, "--model", str(model), "--dry-run", "-o"]
    assert run([*dry, str(tmp_path / "out.mrc")]) == 0
    assert run([*dry, str(tmp_path / "outs")]) == 0
    assert "44 x 48 x 46 voxels" in capsys.readouterr().out
    assert "voxel size" in line_of(capsys, [*dry, str(tmp_path / "out.mrc"), "--voxel-size", "13"])
    assert "input" in line_of(capsys, [*dry, str(tmp_path / "t_ODD.mrc"), "--overwrite"])
    assert tree(tmp_path) == before


def test_a_bug_with_a_long_story_is_told_in_one_line(halves, tmp_path, capsys, monkeypatch) -> None:
    from cryoaae.restoration import fit as module

    def broken(*_args, **_keywords):
        raise RuntimeError("first\nsecond\nthird")

    monkeypatch.setattr(module, "fit", broken)
    said = line_of(capsys, ["fit", *halves, "-o", str(tmp_path / "run"), "-q"], code=70)
    log = Path(said.rsplit(" ", 1)[1])
    assert "RuntimeError: first" in said
    assert "third" in log.read_text()
    log.unlink()
