"""`cryoaae validate` on a tiny tomogram: the command, its verdicts and its refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryoaae.cli import run as cli
from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.models.restorer import Restorer
from cryoaae.restoration import validate as validate_module
from cryoaae.restoration.validate import ValidateOptions, validate


@pytest.fixture(scope="module", autouse=True)
def one_turn() -> Iterator[None]:
    """Three turns both ways are the same thing three times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate_module, "TURNS", (3,))
        yield


@pytest.fixture(scope="module")
def validated(tiny: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validated") / "out"
    assert cli(["validate", *halves(tiny), "--model", str(fitted), "-q", "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def fitted(tiny: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("validate") / "run"
    assert cli(["fit", *halves(tiny), "-o", str(run), "--steps", "12", "-q", *tiny_settings]) == 0
    return run


def halves(folder: Path) -> list[str]:
    even, odd, tilts = (str(folder / name) for name in ("t_EVN.mrc", "t_ODD.mrc", "t.tlt"))
    return ["--even", even, "--odd", odd, "--tilts", tilts]


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def levels(found: dict[str, Any]) -> dict[str, str]:
    return {reason["check"]: reason["level"] for reason in found["reasons"]}


def test_the_command_writes_a_report(tiny: Path, fitted: Path, validated: Path) -> None:
    first = report(validated)
    assert first["verdict"] in ("trusted", "caution", "do not use")
    assert levels(first)["model"] == "ok" and levels(first)["halves"] == "ok"
    held = first["held_out"]
    tested = [shell for shell in held["shells"] if shell["strict"]]
    assert tested and all(s["strict"]["interval"][0] <= s["strict"]["interval"][1] for s in tested)
    assert all(0 <= held["wedge"]["correlation"][name] <= 1 for name in ("strict", "expected"))
    # Fitting kept boxes out, and they are found again.
    assert any(shell["kept_out"] for shell in first["measured"]["shells"])
    stated = first["calibration"]
    assert stated["check"]["hidden_cells"] and len(stated["places"]["check"]["groups"]) == 3
    assert set(stated["check"]["measured"][0]["coverage_after"]) == {"50", "80", "90", "95"}
    html = (validated / "report.html").read_text()
    assert "Validation of t" in html and "data:image/png" in html and "Calibration: how far off" in html
    # The same again is done already; a report of anything else is not replaced unasked, which costs no work.
    command = ["validate", *halves(tiny), "--model", str(fitted), "-q", "-o", str(validated)]
    for options, code in (([], 0), (["--seed", "1"], 2), (["--hold-out-deg", "10"], 2)):
        assert cli([*command, *options]) == code
        assert report(validated) == first


def test_tilts_that_were_hidden_from_fitting_have_a_section(
    tiny: Path, tiny_settings: list[str], validated: Path, tmp_path: Path
) -> None:
    assert report(validated)["hidden_from_fitting"] is None
    run, out = tmp_path / "run", tmp_path / "out"
    fast = ["--steps", "12", "-q", *tiny_settings, "--set", "refills=1"]
    assert cli(["fit", *halves(tiny), "-o", str(run), "--hold-out-deg", "24", *fast]) == 0
    assert cli(["validate", *halves(tiny), "--model", str(run), "-q", "-o", str(out)]) == 0
    strip = report(out)["hidden_from_fitting"]
    assert strip["fitted_range_deg"] == [-60.0, 36.0]
    assert strip["cells"]
    scored = [shell["strip"] for shell in strip["shells"] if shell["strip"]]
    assert len(scored) >= 3
    for facts in (strip["whole"], *scored, *(cell["strip"] for cell in strip["cells"])):
        low, high = facts["interval"]
        assert (low is None) == (high is None)
        assert low is None or -1 <= low <= high <= 1
    whole = strip["whole"]
    assert all(math.isfinite(whole[name]) for name in ("correlation", "slope", "recovered", "error", "signal"))
    assert whole["signal"] > 0 and whole["interval"][0] <= whole["correlation"] <= whole["interval"][1]
    assert whole["signal"] == pytest.approx(sum(facts["signal"] for facts in scored))


def test_a_dry_run_says_how_long_and_writes_nothing(
    tiny: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli(["validate", *halves(tiny), "--model", str(fitted), "-o", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "44 x 48 x 46 voxels" in said and "about" in said and str(out) in said
    assert not out.exists()


def test_a_wrong_wedge_is_not_to_be_used(tiny: Path, fitted: Path, tmp_path: Path) -> None:
    given = halves(tiny)[:4]
    command = ["validate", *given, "--model", str(fitted), "-q", "--hold-out-deg", "8"]
    assert cli([*command, "--tilt-range", "-30", "30", "-o", str(tmp_path / "narrow")]) == 0
    found = report(tmp_path / "narrow")
    assert found["verdict"] == "do not use"
    assert levels(found)["tilt geometry"] == "do not use"


def test_a_model_of_other_tomograms_is_a_reason_for_caution_and_all_else_is_the_same(
    tiny: Path, fitted: Path, validated: Path, tmp_path: Path
) -> None:
    model = Restorer.load(fitted)
    model.spec.tomograms[0]["digests"] = ["of", "others"]
    result = validate(
        even=tiny / "t_EVN.mrc", odd=tiny / "t_ODD.mrc", tilts=tiny / "t.tlt", output=tmp_path, model=model,
    )[0]  # fmt: skip
    assert result["verdict"] != "trusted"
    assert levels(result)["model"] == "caution"
    assert result["measured"]["shells"][2]["kept_out"] is None
    # The same seed gives the same numbers.
    assert result["null_tests"]["noise_only"] == report(validated)["null_tests"]["noise_only"]


def test_of_a_single_volume_bounds_are_stated_and_nothing_of_the_wedge(
    tiny: Path, fitted: Path, tmp_path: Path
) -> None:
    given = [str(tiny / "t_EVN.mrc"), "--tilts", str(tiny / "t.tlt"), "--model", str(fitted), "-q"]
    assert cli(["validate", *given, "-o", str(tmp_path / "single")]) == 0
    found = report(tmp_path / "single")
    assert found["measured"] is found["hidden_from_fitting"] is found["null_tests"]["noise_only"] is None
    held = found["held_out"]
    assert held["wedge"] is None and set(held["whole"]) == {"strict"}
    assert math.isfinite(held["whole"]["strict"]["correlation"])
    assert found["verdict"] != "trusted" and levels(found)["halves"] == "caution"
    assert "single volume" in (tmp_path / "single" / "report.html").read_text().lower()


@pytest.mark.parametrize("degrees", [4.9, 30.1, float("nan")])
def test_sectors_that_cannot_be_hidden_are_refused(degrees: float) -> None:
    with pytest.raises(InputError, match="--hold-out-deg: .*give 5 to 30"):
        ValidateOptions(hold_out_deg=degrees)


def test_what_cannot_be_checked_or_written_costs_no_work(
    tiny: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    command = ["validate", *halves(tiny), "--model", str(fitted), "-q"]
    assert cli([*command, "-o", str(tmp_path / "file" / "below")]) == 2
    assert "cannot be made" in capsys.readouterr().err
    for half in ("EVN", "ODD"):
        slab = open_volume(tiny / f"t_{half}.mrc").numpy()[:12]
        write_volume(tmp_path / f"slab_{half}.mrc", slab, voxel_size_angstrom=10.0)
    thin = ["--even", str(tmp_path / "slab_EVN.mrc"), "--odd", str(tmp_path / "slab_ODD.mrc")]
    assert cli(["validate", *thin, *halves(tiny)[4:], "--model", str(fitted), "-o", str(tmp_path / "out")]) == 2
    assert "working voxels thick" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
