"""The benchmark of the contrast transfer: its page is that of its rows, and what was decided holds in them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryoaae.io.mrc import write_volume
from cryoaae.metrics.fsc import correlation
from cryoaae.physics.ctf import ContrastTransfer

conditions = import_module("restoration_conditions")
page = import_module("restoration_table")
restoration = import_module("benchmark_restoration")
benchmark = import_module("benchmark_contrast")
ROWS = benchmark.latest(benchmark.read_rows(benchmark.ROWS))


def test_the_committed_page_is_that_of_the_committed_rows() -> None:
    assert benchmark.ROWS.with_suffix(".md").read_text() == benchmark.table(benchmark.read_rows(benchmark.ROWS))


CLEAN = [name for name, row in ROWS.items() if "background" not in row["kind"] and name != "none_901"]


@pytest.mark.parametrize("name", [name for name in ROWS if name != "none_901"])
def test_dividing_pays_in_every_case_also_with_a_defocus_a_fifth_off(name: str) -> None:
    scores = ROWS[name]["scores"]["restored"]
    for way in (benchmark.IN_USE, *(f"stated defocus x {share:g}" for share in benchmark.STATED)):
        assert scores[way]["seen"] > scores["as it is"]["seen"] + 0.05
        assert scores[way]["cc"] > scores["as it is"]["cc"] + 0.03


@pytest.mark.parametrize("name", CLEAN)
def test_the_restoration_is_nearer_to_the_truth_than_a_wiener_filter_under_the_same_division(name: str) -> None:
    scores = {null: ROWS[name]["scores"][null][benchmark.IN_USE] for null in ("restored", "wiener_isotropic")}
    assert scores["restored"]["cc"] > scores["wiener_isotropic"]["cc"]


def test_the_page_tells_what_was_divided_from_what_was_not() -> None:
    def row(value: float) -> dict[str, Any]:
        score = dict.fromkeys(benchmark.SHOWN, 0.5)
        nulls = {null: {"as it is": score, benchmark.IN_USE: score} for null in benchmark.NULLS}
        made = {"as it is": score, benchmark.IN_USE: score | {"cc": value}}
        return {"case": f"4um_{value:g}", "kind": "4 µm", "scores": {"restored": made, **nulls}}

    lines = benchmark.table([row(0.6), row(0.8)]).splitlines()
    assert "| Restored, divided | 0.700 | 0.500 | 0.500 | 0.500 |" in lines
    assert "| Restored, as it is | 0.500 | 0.500 | 0.500 | 0.500 |" in lines


def test_nulls_of_the_restoration_benchmark_are_divided_like_the_restoration(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, even, odd = torch.randn(3, 24, 26, 28, generator=generator).numpy()
    paths = {"truth": tmp_path / "t.mrc", "even": tmp_path / "e.mrc", "odd": tmp_path / "o.mrc"}
    for path, volume in zip(paths.values(), (truth, even + truth, odd + truth), strict=True):
        write_volume(path, volume, voxel_size_angstrom=10.0)
    (tmp_path / "tilts.tlt").write_text("-60\n0\n60\n")
    halves = {half: paths[half] for half in ("even", "odd")}
    data = conditions.Data(halves, paths["truth"], tmp_path / "tilts.tlt", None, {}, ContrastTransfer((4.0,)))
    rows = {row["name"]: row for row in restoration.undone_nulls(data, data.transfer)}
    assert set(rows) == {null + page.UNDONE for null in page.NULLS}
    wanted = benchmark.divided(torch.from_numpy((even + odd) / 2 + truth), 4.0)
    found = rows["zero_fill" + page.UNDONE]["cc"]
    assert found == pytest.approx(correlation(wanted, torch.from_numpy(truth)), abs=1e-3)
    assert abs(found - float(np.corrcoef(((even + odd) / 2 + truth).ravel(), truth.ravel())[0, 1])) > 0.01
    assert page.null_title("gaussian" + page.UNDONE) == page.null_title("gaussian") + ", transfer undone"
