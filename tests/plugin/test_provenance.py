"""What a layer was made with: from the files themselves, and no more than they say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.models.restorer import Restorer
from napari_cryoaae.facts import KEY, LayerFacts, Role
from napari_cryoaae.provenance import as_text, provenance
from napari_cryoaae.readers import get_reader
from napari_cryoaae.run_folder import read_run, read_validation, restoration_of, validation_near
from napari_cryoaae.validation_curves import validation_charts, validation_sentences


def facts(path: Path) -> LayerFacts:
    reader: Any = get_reader(str(path))
    found: LayerFacts = reader(str(path))[0][1]["metadata"][KEY]
    return found


def test_run_says_what_the_library_loads(restored: Any) -> None:
    from cryoaae.io.weights import load_weights

    run, model = read_run(restored.run), Restorer.load(restored.run)
    assert run.digest == load_weights(restored.run / "model.safetensors")[1]["digest"]
    assert run.spec["noise_share"] == model.spec.noise_share
    assert [made.file for made in run.restorations()] == [restored.output.with_suffix(".json")]


def test_lines_of_a_restored_layer(restored: Any) -> None:
    sections = {title: dict(lines) for title, lines in provenance(facts(restored.output))}
    spec, record = read_run(restored.run).spec, json.loads(restored.output.with_suffix(".json").read_text())
    assert sections["Layer"]["voxel size"] == "10 Å"
    assert sections["Restoration"]["model digest"] == record["settings"]["model"] == sections["Model"]["digest"]
    assert "-60 to 60°, 41 tilts" in sections["Restoration"]["wedge"]
    assert f"{spec['noise_share']:.3g}" in sections["Model"]["normalisation"]
    assert record["versions"]["torch"] in sections["Restoration"]["versions"]
    assert "model digest: " + record["settings"]["model"] in as_text(provenance(facts(restored.output)))


def test_the_command_it_shows_makes_the_same_again(restored: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`restore` recognises its own output as done, so inputs, model and settings are those of then."""
    from cryoaae.cli import run

    sections = {title: dict(lines) for title, lines in provenance(facts(restored.output))}
    words = shlex.split(sections["Restoration"]["same again"])
    assert words[0] == "cryoaae"
    assert run([*words[1:], "--dry-run"]) == 0
    assert "done already" in capsys.readouterr().out


def test_particles_say_what_clustered_them(clustered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from cryoaae.cli import run
    from cryoaae.io.weights import load_weights

    sections = {title: dict(lines) for title, lines in provenance(facts(clustered.run))}
    said = sections["Model of particles"]
    assert said["digest"] == load_weights(clustered.run / "model.safetensors")[1]["digest"]
    assert said["voxel size"] == "10 Å, box 12; works on 12 voxels of 10 Å"
    assert said["store"] == str(clustered.store)
    words = shlex.split(said["same again"])
    assert words[words.index("--clusters") + 1] == "2"
    assert run([*words[1:], "--dry-run", "--overwrite"]) == 0
    assert str(clustered.store) in capsys.readouterr().out


def test_computed_layer_and_lost_run(tmp_path: Path) -> None:
    (lines,) = provenance(LayerFacts(Role.FILLED, "t", run=tmp_path / "gone"))
    assert dict(lines[1])["file"] == "none: computed here"
    assert dict(lines[1])["wedge"] == "not known"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format": "cryoaae restoration 1"}', '{"format": "other"}'])
def test_a_json_that_is_no_record_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert restoration_of(tmp_path / "a.mrc") is None


@pytest.mark.parametrize("damage", ["no folder", "no record", "foreign weights"])
def test_bad_run_folders_are_refused(tmp_path: Path, damage: str) -> None:
    if damage == "foreign weights":
        from safetensors.numpy import save_file

        (tmp_path / "run.json").write_text('{"command": "fit"}')
        save_file({"a": np.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="run folder"):
        read_run(tmp_path / "x" if damage == "no folder" else tmp_path)


def shell(low: float, **scores: Any) -> dict[str, Any]:
    return {"low_per_angstrom": low, "high_per_angstrom": low + 0.01, **scores}


REPORT = {
    "format": "cryoaae validation 1",
    "name": "t",
    "verdict": "caution",
    "reasons": [
        {"check": "model", "level": "ok", "sentence": "Fine."},
        {"check": "halves", "level": "caution", "sentence": "Look here."},
    ],
    "held_out": {
        "shells": [
            shell(0.0, strict=None, lenient=None),
            shell(0.01, strict={"correlation": 0.5, "interval": [0.4, 0.6]}, lenient={"correlation": 0.7}),
        ],
        "wedge": {"curve": [shell(0.0, strict=0.2, expected=0.3)]},
    },
    "measured": {"shells": [shell(0.0, kept_out=None, fitted=None)]},
    "null_tests": {"noise_only": {"shells": [shell(0.0, measured=0.1, wedge=None)]}, "phase_randomised": None},
}


def test_curves_of_a_validation() -> None:
    charts = {chart.title: chart.curves for chart in validation_charts(REPORT)}
    hidden = charts["Tilts that were hidden"]
    assert np.allclose(hidden[0].sfreq_per_angstrom, [0.005, 0.015])
    assert np.allclose(hidden[0].values, [np.nan, 0.5], equal_nan=True)
    assert (hidden[0].low[1], hidden[0].high[1]) == (0.4, 0.6)
    assert np.isnan(hidden[1].low).all()
    assert [c.values[0] for c in charts["Expected in the missing wedge"][:2]] == [0.2, 0.3]
    assert "Where data were measured" not in charts  # no number in it
    assert [c.name for c in charts["Put out when there is nothing"]] == ["noise only, measured", "noise only, wedge"]
    assert validation_sentences(REPORT) == ["t: caution", "Look here.", "Fine."]


def test_validation_of_a_single_volume_has_no_curves() -> None:
    assert validation_charts({**REPORT, "held_out": None, "measured": None, "null_tests": None}) == []


def test_validation_is_found_beside_a_run(tmp_path: Path) -> None:
    assert validation_near([tmp_path / "run"]) is None
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "report.json").write_text(json.dumps(REPORT))
    assert validation_near([tmp_path / "run"]) == tmp_path / "validation"
    with pytest.raises(InputError, match="is not a report"):
        read_validation(tmp_path)
