"""The transport benchmark: its error is a standard error, it tells laws apart, its table is that of its rows."""

from __future__ import annotations

import json
from importlib import import_module
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return import_module("benchmark_transport")


def test_the_jackknife_of_a_mean_is_its_standard_error(benchmark: ModuleType) -> None:
    values = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    without = [float((values.sum() - value) / 9) for value in values]
    assert benchmark.jackknife(without) == pytest.approx(float(values.std() / 10**0.5))


@pytest.mark.parametrize("divergence", ["sinkhorn", "sliced"])
def test_a_row_has_the_floor_for_one_law_and_more_for_another(benchmark: ModuleType, divergence: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(n: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(n, 4, generator=generator)

    phantoms = [benchmark.Clouds(normal(120), normal(60), normal(60, 1.6)) for _ in range(4)]
    row = benchmark.measure("wavelets", divergence, 100, phantoms)
    assert row["truth"] < 2 * row["floor"]
    assert row["apart"] < 2 * row["floor"]
    assert row["errors_apart"] > benchmark.LEAST_ERRORS
    assert abs(row["truth"] - row["floor"]) < 5 * row["truth_error"]


def test_the_committed_table_is_that_of_the_committed_rows(benchmark: ModuleType) -> None:
    rows = json.loads(benchmark.ROWS.read_text())
    assert benchmark.TABLE.read_text() == benchmark.table(rows)
    held = [row for row in rows if (row["features"], row["divergence"]) == ("wavelets", "sinkhorn")]
    assert held
    assert all(row["errors_apart"] > benchmark.LEAST_ERRORS for row in held), "what a fit compares by default"
