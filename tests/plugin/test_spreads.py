"""What `cryoaae sample` and `restore --uncertainty` wrote, as layers and as lines of text; without Qt."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from napari_cryoaae.comparison import Kind, entries_of
from napari_cryoaae.facts import KEY, Role
from napari_cryoaae.provenance import provenance
from napari_cryoaae.readers import get_reader
from napari_cryoaae.run_folder import read_run
from napari_cryoaae.spread_record import draw_number, read_spread, spread_of, spreads_near
from napari_cryoaae.validation_curves import spread_charts, spread_sentences


def read(path: Path) -> list[Any]:
    reader = get_reader(str(path))
    assert reader is not None
    return reader(str(path))


def facts(path: Path) -> list[Any]:
    return [look["metadata"][KEY] for _, look, _ in read(path)]


def test_folder_of_draws_opens_mean_spread_and_draws(sampled: Any) -> None:
    layers = read(sampled.draws)
    known = [look["metadata"][KEY] for _, look, _ in layers]
    assert [f.role for f in known] == [Role.RESTORED, Role.STD, Role.DRAW, Role.DRAW]
    assert [f.draw for f in known] == [None, None, 1, 2]
    assert [look.get("visible", True) for _, look, _ in layers] == [True, False, False, False]
    assert {f.tomogram for f in known} == {"t"}
    for (data, _, _), f in zip(layers, known, strict=True):
        assert np.array_equal(data, open_volume(f.source).data)


def test_run_brings_the_spreads_made_with_it(sampled: Any) -> None:
    """The draws' own mean is the restoration again, and not opened twice."""
    roles = [f.role for f in facts(sampled.run)]
    assert roles.count(Role.RESTORED) == 1
    assert roles.count(Role.STD) == 2  # of the draws, and beside the restoration
    assert roles.count(Role.DRAW) == 2
    digest = read_run(sampled.run).digest
    assert {record.model for record in spreads_near(sampled.run, digest)} == {digest}
    assert spreads_near(sampled.run, "another") == []


def test_spread_beside_a_restoration_belongs_to_its_tomogram(sampled: Any) -> None:
    (known,) = facts(sampled.beside)
    assert (known.role, known.tomogram) == (Role.STD, "t")
    assert known.record == sampled.beside.with_suffix(".json")
    assert spread_of(sampled.output) is None
    assert known.wedge == facts(sampled.output)[0].wedge


def test_entries_of_a_run_with_draws(sampled: Any) -> None:
    napari = pytest.importorskip("napari.layers", reason="the extra gui is not installed")
    layers = [napari.Image(data, **look) for data, look, _ in read(sampled.run)]
    entries, notes = entries_of(layers)
    kinds = {entry.title: (entry.kind, entry.draw) for entry in entries}
    assert kinds["draw 1"] == (Kind.DENSITY, 1)
    assert kinds["draw 2"] == (Kind.DENSITY, 2)
    assert [title for title, (kind, _) in kinds.items() if kind is Kind.SPREAD] == ["std", "t_restored_std"]
    assert notes == []


@pytest.mark.parametrize("name", ["draws", "beside"])
def test_the_command_it_shows_makes_the_same_spread_again(
    sampled: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sample` and `restore` recognise their own output as done, so inputs, model and options are those of then."""
    from cryoaae.cli import run

    path = sampled.draws / "std.mrc" if name == "draws" else sampled.beside
    sections = {title: dict(lines) for title, lines in provenance(facts(path)[0])}
    lines = sections["Spread"]
    assert lines["model digest"] == read_run(sampled.run).digest
    assert lines["draws"] == "2 by learned, seed 0"
    assert "recalibration" in lines
    command = lines["same again"].replace("--model RUN", f"--model {sampled.run}")
    words = shlex.split(command.replace("--tilts TILTS.tlt", f"--tilts {sampled.tilts}"))
    assert run([*words[1:], "--dry-run"]) == 0
    assert "done already" in capsys.readouterr().out


def test_curves_of_draws(sampled: Any) -> None:
    report = json.loads((sampled.draws / "report.json").read_text())
    (chart,) = spread_charts(report)
    measured = [shell["measured"] for shell in report["shells"]]
    assert np.allclose(chart.curves[0].values, np.array(measured, float), equal_nan=True)
    assert [curve.name for curve in chart.curves] == ["where measured", "in the wedge"]
    assert spread_sentences(report, "none: because")[0] == "t: 2 draws by learned"
    assert spread_charts({"shells": []}) == []


def shell(low: float, **values: Any) -> dict[str, Any]:
    return {"low_per_angstrom": low, "high_per_angstrom": low + 0.01, **values}


def test_a_calibrated_spread_says_by_what_and_how_well(tmp_path: Path) -> None:
    check = {
        "measured": [shell(0.0, before=2.0, after=1.1, interval=[0.9, 1.3])],
        "hidden": [shell(0.01, before=0.4, after=None, interval=[None, None])],
        "whole": {"measured": {"before": 2.0, "after": 1.1}, "hidden": {"before": 0.4, "after": None}},
    }
    calibration = {"calibrated": True, "why": None, "check": check, "shares": {"extrapolated": 0.12}}
    made_from = {"model": "x", "wedge": {}}
    record = {"format": "cryoaae sample 1", "outputs": [], "made_from": made_from, "calibration": calibration}
    (tmp_path / "report.json").write_text(json.dumps(record))
    spread = read_spread(tmp_path)
    assert spread is not None
    assert spread.calibrated
    text = spread.calibration_text()
    assert "1.10 times the error where data were measured" in text
    assert "in hidden tilts" not in text  # of that no number was found
    assert text.endswith("12% of it in the wedge is extrapolated")
    (chart,) = spread_charts(record)
    after, before, hidden, hidden_before = chart.curves
    assert (after.values[0], after.low[0], after.high[0], before.values[0]) == (1.1, 0.9, 1.3, 2.0)
    assert np.isnan(hidden.values[0])
    assert hidden_before.values[0] == 0.4
    assert np.allclose(hidden.sfreq_per_angstrom, [0.015])


@pytest.mark.parametrize("damage", ["no file", "not json", "another format", "no model", "volumes gone"])
def test_what_is_no_record_of_draws_is_passed_over(tmp_path: Path, damage: str) -> None:
    whole = {"format": "cryoaae sample 1", "outputs": ["std.mrc"], "made_from": {"model": "x", "wedge": {}}}
    texts = {
        "not json": "{", "another format": json.dumps(whole | {"format": "cryoaae validation 1"}),
        "no model": json.dumps(whole | {"made_from": {}}), "volumes gone": json.dumps(whole),
    }  # fmt: skip
    if damage in texts:
        (tmp_path / "report.json").write_text(texts[damage])
    assert spread_of(tmp_path / "std.mrc") is None
    if damage == "volumes gone":
        with pytest.raises(InputError, match="holds no draws"):
            read(tmp_path)
    else:
        assert read_spread(tmp_path) is None
        assert get_reader(str(tmp_path)) is None


@pytest.mark.parametrize(("name", "number"), [("draw_003", 3), ("draw_1000", 1000), ("draw_x", None), ("std", None)])
def test_number_of_a_draw(name: str, number: int | None) -> None:
    assert draw_number(Path(f"{name}.mrc")) == number
