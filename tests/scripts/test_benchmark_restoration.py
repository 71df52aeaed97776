"""The restoration benchmark: its page is that of its rows, its musts can fail, its fits are the method's own."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cryoaae
from cryoaae.io.weights import load_weights
from cryoaae.metrics.fsc import correlation
from cryoaae.metrics.nulls import gaussian

TINY = {
    "patch_size": 16, "block_size": 40, "blocks": 2, "batch_size": 1, "widths": (4, 8), "refills": 1, "evaluations": 3,
    "working_bin": 1, "presence": False, "start": "spectrum",
}  # fmt: skip


conditions = import_module("restoration_conditions")
page = import_module("restoration_table")
benchmark = import_module("benchmark_restoration")


def scores(level: float, **changed: Any) -> dict[str, Any]:
    figures = dict.fromkeys(("cc", "seen", "wedge", "low", "mid", "fine"), level)
    curves = {name: [level] * 4 for name in ("fsc_seen", "fsc_wedge", "power_seen", "power_wedge")}
    return {**figures, "slope": 1.0, "excess": 1.0, "lost": 2, "invented": 5, **curves, **changed}


def row(condition: str, ours: dict[str, Any], *, early: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
    minutes = conditions.CONDITIONS[condition].minutes
    each = [early or ours, ours][-len(minutes) :]
    checkpoints = {
        f"{m:g}": {"steps": 100, "cpu_seconds": 60, "wall_minutes": 1.0, "scores": s}
        for m, s in zip(minutes, each, strict=True)
    }
    return {
        "condition": condition, "variant": "default", "seed": seed, "checkpoints": checkpoints,
        "nulls": {"zero_fill": scores(0.2), "gaussian": scores(0.5), "clip_input": scores(0.6), "oracle": scores(0.99)},
        "input_signal_angstrom": 36.0, "particles_noise": {"particles": 100, "lost": 100, "invented": 50},
    }  # fmt: skip


FIRST = {"earlier": True, "condition": "A", "seed": 0, "scores": scores(0.75), "note": "", "started": "2026-01-01",
         "nothing": {"noise_wedge": 0.0}}  # fmt: skip


def test_the_committed_page_and_figure_are_those_of_the_committed_rows() -> None:
    rows = benchmark.read_rows(page.ROWS)
    text = page.ROWS.with_suffix(".md").read_text()
    assert text == page.table(rows, benchmark.read_rows(page.GENERAL_ROWS))
    drawn = page.ROWS.with_suffix(".png")
    assert drawn.exists() == bool(page.measured(rows)) == (f"({drawn.name})" in text)
    if drawn.exists():
        with Image.open(drawn) as image:
            image.load()
            assert image.text["Rows"] == page.digest(rows)


def test_good_rows_hold_every_must_and_none_holds_unmeasured() -> None:
    good = [FIRST, row("A", scores(0.9), early=scores(0.8)), row("full", scores(0.9)), row("A-single", scores(0.8))]
    judged = page.musts(good)
    assert [held for _, held, _ in judged] == [True] * 6
    assert "0.100 short of two halves" in judged[-1][2]
    assert [held for _, held, _ in page.musts([FIRST])] == [None] * 6


@pytest.mark.parametrize(
    ("number", "bad", "figures"),
    [
        (0, row("full", scores(0.9, mid=0.55)), "mid 0.550, Clip"),
        (1, row("A", scores(0.9, low=0.69)), "lo 0.690"),
        (2, row("full", scores(0.9, fine=0.22)), "+0.020"),
        (3, row("A", scores(0.9), early=scores(0.8, wedge=0.7)), "in wedge 0.700 (0.750)"),
        (4, row("full", scores(0.9, lost=3)), "3 lost, input 2"),
        (4, row("full", scores(0.9, invented=51)), "51 invented, noise 50"),
        (5, row("A-single", scores(0.59)), "best null 0.600"),
    ],
)
def test_a_missed_must_is_called_so(number: int, bad: dict[str, Any], figures: str) -> None:
    what, held, why = page.musts([FIRST, bad])[number]
    assert held is False
    assert figures in why
    assert f"- {what}: **does not hold**" in page.table([FIRST, bad], [])


def test_the_way_to_training_with_truths_is_a_share_of_what_lies_beyond_the_best_clip() -> None:
    rows, made = [row("A", scores(0.7))], [{"condition": "A", "seed": 0, "scores": {"general": scores(0.8)}}]
    what, held, figures = page.gap_closed(rows, made)
    assert (held, figures) == (False, "A, default: 50%")
    assert page.gap_closed([row("A", scores(0.75))], made)[1] is True
    assert page.gap_closed(rows, [])[1] is None and f"- {what}: not measured" in page.table(rows, [])


def test_where_the_input_has_no_signal_nulls_need_not_be_beaten() -> None:
    blind = row("full", scores(0.1)) | {"input_signal_angstrom": 41.0}
    assert page.musts([blind])[0][1] is None


def test_a_band_without_coefficients_is_passed_over() -> None:
    small = row("full", scores(0.9, mid=None))
    for null in small["nulls"].values():
        null["mid"] = None
    assert page.musts([small])[0][1] is True
    assert "| – |" in page.table([small], [])


def test_the_last_row_of_a_run_counts_and_tables_show_every_null_but_only_nulls_are_beaten() -> None:
    rows = [row("full", scores(0.1), seed=700), row("full", scores(0.9), seed=700), row("full", scores(0.7), seed=701)]
    text = page.table(rows, [])
    assert "| Default, 12 min (100 steps) | 0.800 |" in text, "the mean over seeds"
    assert "| Noise-free, wedge empty | 0.990 |" in text
    assert page.musts(rows)[0][1] is True
    assert benchmark.done(rows) == {"full/default/700", "full/default/701"}


def test_scores_are_in_the_units_of_the_truth_and_correlations_have_none() -> None:
    """A truth in units of its own: every volume is so many times as strong against it."""

    def entry(gain: float) -> dict[str, Any]:
        band = {"fcc": 0.5, "slope": 0.8 * gain, "excess_power": 1.5 * gain**2}
        region = {
            "bands": dict.fromkeys(("low", "mid", "band"), band), "fsc": [0.9, 0.8, 0.6, 0.4, None, 0.1, 0.1, 0.1],
            "power": [gain**2, None],
        }  # fmt: skip
        return {"cc": 0.7, "regions": {"seen": region, "missing": region}}

    plain, scaled = (page.scores_of(entry(g), units=g, curves=True) for g in (1.0, 0.5))
    assert plain == scaled
    assert (plain["slope"], plain["excess"]) == (0.8, 1.5)
    # Shells of 1/16 cycles a voxel: the third and the fourth have their middle in the band.
    assert plain["fine"] == pytest.approx((0.6 + 0.4) / 2)
    assert plain["power_seen"] == [1.0, None]


def test_the_figure_is_drawn_from_the_rows() -> None:
    rows = [row("A", scores(0.9)), row("full", scores(0.8))]
    assert page.drawn(rows)["wedge"]["±60°, SNR 1.0"] == {"Best null": 0.6, "4 minutes": 0.8, "12 minutes": 0.8}
    assert page.digest(rows) != page.digest(rows[:1])
    assert page.figure(rows).startswith(b"\x89PNG")


def test_the_plan_holds_what_the_report_needs_and_is_tuned_elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    runs = conditions.plan()
    assert len(runs) == len({run.name for run in runs})
    assert {run.condition for run in runs} == set(conditions.CONDITIONS)
    by = [(run.condition, run.variant) for run in runs]
    assert by.count(("full", "default")) == by.count(("full", "unet")) == 3
    assert all(by.count(("small", variant)) == 2 for variant in conditions.ABLATED)
    tuned = conditions.plan(conditions.FIRST_TUNING_SEED)
    assert not {run.seed for run in runs if run.condition == "full"} & {run.seed for run in tuned}
    (tmp_path / "maps_10A").mkdir()
    for name in ("a", "b", "c", "d", "e"):
        (tmp_path / "maps_10A" / f"{name}.mrc.gz").touch()
    monkeypatch.setenv("CRYOAAE_DATA", str(tmp_path))
    even, odd = ([path.name[0] for path in conditions.density_maps(odd_lines)] for odd_lines in (False, True))
    assert (even, odd) == (["b", "d"], ["a", "c", "e"])


@pytest.mark.parametrize("minutes", [4.0, 12.0])
def test_a_budget_pays_for_its_steps_and_for_no_more(minutes: float) -> None:
    pace = {"pace": "x", "fixed_cpu_seconds": 60.0, "step_cpu_seconds": 1.1}
    steps, budget = benchmark.steps_of(minutes, pace), minutes * 60 * benchmark.CORES
    assert 60 + 1.1 * steps <= budget < 60 + 1.1 * (steps + 1)
    with pytest.raises(SystemExit, match="do not pay"):
        benchmark.steps_of(0.4, pace)


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: Any) -> Path:
    return cryoaae.simulate(tmp_path_factory.mktemp("data"), shape_zyx=(40, 40, 40), seed=1, count=4)


def data_of(folder: Path) -> Any:
    halves = {half: folder / f"{half}.mrc" for half in ("even", "odd")}
    return conditions.Data(halves, folder / "truth.mrc", folder / "tilts.tlt", folder / "particles.star", {"maps": []})


def weights_in(run: Path) -> dict[str, torch.Tensor]:
    return load_weights(run / "model.safetensors")[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_fit_in_legs_is_the_fit_in_one_and_a_killed_leg_is_made_again(
    tiny_data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(conditions.VARIANTS, "default", conditions.Variant("Tiny", TINY))
    monkeypatch.setitem(conditions.CONDITIONS, "full", conditions.Condition("Tiny", edge=40, minutes=(1.0, 2.0)))
    run, data = conditions.Run("full", "default", 3), data_of(tiny_data)
    settings = benchmark.settings_of(run)
    (whole,) = benchmark.legs(data, settings, [6], tmp_path / "whole")
    made = benchmark.measure(run, data, [3, 6], tmp_path / "legs")
    expected = weights_in(whole.folder)
    assert same(weights_in(tmp_path / "legs" / "steps_6"), expected)
    assert not same(load_weights(tmp_path / "legs" / "steps_3.safetensors")[0], expected)
    assert [made["checkpoints"][m]["steps"] for m in ("1", "2")] == [3, 6]
    assert made["checkpoints"]["2"]["cpu_seconds"] >= made["checkpoints"]["1"]["cpu_seconds"] > 0
    assert made["checkpoints"]["1"]["scores"] != made["checkpoints"]["2"]["scores"]
    assert made["nulls"]["zero_fill"]["fine"] is not None
    assert "| Tiny, 2 min (6 steps) |" in page.table([made], [])
    # Killed in its second leg: the first is not made again.
    (tmp_path / "legs" / "steps_6.json").unlink()
    first, second = benchmark.legs(data, settings, [3, 6], tmp_path / "legs")
    assert first.cpu_seconds == json.loads((tmp_path / "legs" / "steps_3.json").read_text())["cpu_seconds"]
    assert same(weights_in(second.folder), expected)
    assert whole.steps == second.steps == 6


def test_halves_by_tilts_show_the_specimen_of_the_truth(tiny_data: Path, tmp_path: Path) -> None:
    for name in ("tilts.tlt", "even.mrc"):
        (tmp_path / name).write_bytes((tiny_data / name).read_bytes())
    made = json.loads((tiny_data / "meta.json").read_text())
    conditions.halves_by_tilts(tmp_path, tuple(made["shape_zyx"]), made["seed"], [], count=made["count"])
    even, odd, before = (
        torch.from_numpy(np.array(cryoaae.open_volume(path).numpy()))
        for path in (tmp_path / "even.mrc", tmp_path / "odd.mrc", tiny_data / "even.mrc")
    )
    truth = torch.from_numpy(np.array(cryoaae.open_volume(tiny_data / "truth.mrc").numpy()))
    assert correlation(gaussian((even + odd) / 2, 1.5), truth) > 0.6
    assert not torch.equal(even, before)
