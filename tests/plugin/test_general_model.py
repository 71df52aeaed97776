"""Restorations by general restorers, known by what their weights or their record say, never by which they are."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cryoaae.models.general import GeneralRestorer, GeneralSpec
from napari_cryoaae import general_model
from napari_cryoaae.general_model import bundled_general, general_in, general_of
from napari_cryoaae.provenance import provenance
from napari_cryoaae.readers import facts_of_file
from napari_cryoaae.restore_request import describe_model, restored_layers
from napari_cryoaae.spread_record import SpreadRecord

TRAINED = {"scenes": 7}


@pytest.fixture(scope="module")
def made(restored: Any, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights of a general restorer of another day, and what it restores, beside each other."""
    import cryoaae

    folder = tmp_path_factory.mktemp("general")
    weights, output = folder / "of_another_day.safetensors", folder / "t_restored.mrc"
    torch.manual_seed(0)
    spec = GeneralSpec({"widths": [4, 8], "conditions": 11}, (14.0, 30.0), (40.0, 70.0), TRAINED)
    GeneralRestorer(spec).save(weights)
    cryoaae.restore(
        output=output, even=restored.even, odd=restored.odd, tilts=tiny / "t.tlt", model=weights, symmetries=False,
        device="cpu",
    )  # fmt: skip
    return weights, output


def said_of(output: Path) -> dict[str, dict[str, str]]:
    return {title: dict(lines) for title, lines in provenance(facts_of_file(output))}


def test_weights_beside_the_output_are_found_and_the_command_names_them(
    made: tuple[Path, Path], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryoaae.cli import run

    weights, output = made
    said = said_of(output)
    assert said["Model"]["is"].startswith("a general restorer, not the one here")
    assert said["Model"]["digest"] == said["Restoration"]["model digest"] != bundled_general().digest
    assert said["Model"]["weights"] == str(weights)
    assert said["Model"]["trained on"] == "7 simulated scenes"
    assert "Model of particles" not in said
    again = said["Restoration"]["same again"].replace("TILTS.tlt", str(tiny / "t.tlt"))
    assert run([*shlex.split(again)[1:], "--dry-run"]) == 0
    assert "done already" in capsys.readouterr().out


def test_without_its_weights_the_record_says_what_it_was(made: tuple[Path, Path], tmp_path: Path) -> None:
    for suffix in (".mrc", ".json"):
        shutil.copy(made[1].with_suffix(suffix), tmp_path)
    said = said_of(tmp_path / made[1].name)
    assert said["Model"]["is"].startswith("a general restorer")
    assert said["Model"]["weights"] == "were not found"
    assert "--model GENERAL.safetensors" in said["Restoration"]["same again"]
    # A record of before such was written down says nothing.
    record = json.loads((tmp_path / "t_restored.json").read_text())
    del record["result"]["general"]
    (tmp_path / "t_restored.json").write_text(json.dumps(record))
    assert "Model" not in said_of(tmp_path / made[1].name)


def test_the_one_that_comes_along_is_whatever_the_package_brings(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of the package: what was another one is now the one that comes along, and needs no --model."""
    found = general_in(made[0])
    assert found is not None
    assert not found.comes_along
    monkeypatch.setattr(general_model, "bundled_general", lambda: found)
    assert found.option() == []
    said = said_of(made[1])
    assert said["Model"]["is"].startswith("the general restorer that comes along")
    assert "--model" not in said["Restoration"]["same again"]


def test_weights_in_a_run_folder_are_not_taken_for_its_model(
    made: tuple[Path, Path], restored: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(restored.run, tmp_path / "run"))
    weights = Path(shutil.copy(made[0], run))
    facts = replace(facts_of_file(made[1]), run=weights)
    said = {title: dict(lines) for title, lines in provenance(facts)}
    assert said["Model"]["weights"] == str(weights)
    assert "fitted on" not in said["Model"]


def test_fitted_weights_and_other_files_are_no_general_restorer(restored: Any, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    for place in (restored.run / "model.safetensors", restored.run, tmp_path / "x.safetensors", tmp_path / "no", None):
        assert general_in(place) is None
    assert general_of("", restored.run, stated=False) is None
    assert general_of("0" * 64, restored.run / "model.safetensors", stated=False) is None


def test_the_restore_panel_hands_on_what_a_layer_was_made_with(made: tuple[Path, Path], restored: Any) -> None:
    weights, output = made
    assert "a general restorer" in describe_model(weights)
    for model, place in (
        (weights, weights), (Path("general"), bundled_general().weights), (restored.run, restored.run),
        (restored.run / "model.safetensors", restored.run),
    ):  # fmt: skip
        ((_, look, _),) = restored_layers([output], model)
        assert look["metadata"]["cryoaae"].run == place


@pytest.mark.parametrize(
    ("named", "general", "weights"),
    [("the general restorer", True, None), ("/x/general.safetensors", False, Path("/x/general.safetensors"))],
)
def test_a_spread_says_it_by_the_name_of_its_model(named: str, general: bool, weights: Path | None) -> None:
    spread = SpreadRecord(Path("x_std.json"), {"model": named})
    assert (spread.by_general, spread.weights) == (general, weights)
