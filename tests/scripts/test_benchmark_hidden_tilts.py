"""What is put where tilts were hidden is scored there and nowhere else, and the page is that of the rows."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cryoaae.io.mrc import write_volume
from cryoaae.physics.resample import band_limit

SHAPE = (64, 64, 64)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return import_module("benchmark_hidden_tilts")


@pytest.fixture(scope="module")
def hidden(page: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("hidden")
    field = band_limit(torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)), 0.3, 0.35)
    write_volume(folder / "whole.mrc", field.numpy(), voxel_size_angstrom=10.0)
    return page.Hidden.of(page.Subject("a field", "whole.mrc", (-60.0, 60.0), 10.0), folder, folder / "run")


def test_the_committed_page_is_that_of_the_committed_rows(page: ModuleType) -> None:
    assert page.PAGE.read_text() == page.table(json.loads(page.ROWS.read_text()))


def test_the_measurement_itself_scores_one_and_what_is_left_of_it_nothing(page: ModuleType, hidden) -> None:
    assert all(c >= page.FEWEST for c in hidden.scores(hidden.whole)["coefficients"][1:])
    assert hidden.scores(hidden.whole)["mean"] == pytest.approx(1, abs=1e-4)
    shown = page.density(hidden.path, 10.0)
    assert hidden.scores(shown)["mean"] is None


def test_what_was_given_does_not_count_and_another_field_is_chance(page: ModuleType, hidden) -> None:
    """Any density where tilts were given changes no score; a strange one where they were not scores nothing."""
    strange = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    half = hidden.whole - hidden.shown.measured(hidden.whole)
    assert hidden.scores(half + hidden.shown.measured(100 * strange))["mean"] == pytest.approx(1, abs=1e-3)
    found = hidden.scores(strange)
    chances = [1 / np.sqrt(2 * count) for count in found["coefficients"]]
    assert all(abs(v) < 4 * c for v, c in zip(found["shells"], chances, strict=True) if v is not None)
    assert hidden.scores(-half)["mean"] == pytest.approx(-1, abs=1e-4)


def test_the_last_row_of_a_way_counts_and_nulls_come_first(page: ModuleType) -> None:
    rows = [
        {"subject": "a", "way": page.NO_FIT, "mean": 0.1}, {"subject": "a", "way": "zero_fill"},
        {"subject": "b", "way": page.NO_FIT, "mean": 0.9}, {"subject": "a", "way": page.NO_FIT, "mean": 0.2},
    ]  # fmt: skip
    assert [(r["way"], r.get("mean")) for r in page.latest(rows, "a")] == [("zero_fill", None), (page.NO_FIT, 0.2)]


def test_pages_are_made_without_the_data(page: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CRYOAAE_DATA", raising=False)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr("sys.argv", ["benchmark_hidden_tilts.py", "--table"])
    page.main()
    assert (tmp_path / "page.md").read_text().startswith("# What is filled in")
