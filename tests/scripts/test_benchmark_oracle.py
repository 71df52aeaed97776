"""The table of samplers is what its script makes of the committed rows, and says whether they hold what they must."""

from __future__ import annotations

import json
from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    return import_module("benchmark_oracle")


def test_the_committed_table_is_that_of_the_committed_rows(oracle: ModuleType) -> None:
    assert oracle.TABLE.read_text() == oracle.table(json.loads(oracle.ROWS.read_text()))


def test_the_last_row_of_a_name_counts_and_a_missed_floor_is_called_so(oracle: ModuleType) -> None:
    rows = oracle.latest(json.loads(oracle.ROWS.read_text()))
    old = rows["8^3, white", "learned"]
    bad = {**old, "closed_form_excess": oracle.EXCESS_MUST + 0.001}
    assert ": held;" in oracle.table([bad, old])
    assert "not held" in oracle.table([old, bad])
