"""The proxy's benchmark: its figures are what they are called, and its verdicts follow from the rows."""

from __future__ import annotations

import json
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch

from cryoaae.physics.fourier import multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.wedge import MissingWedge


@pytest.fixture(scope="module")
def proxy() -> ModuleType:
    return import_module("benchmark_proxy")


def test_matching_power_makes_every_shell_alike_and_keeps_the_phases(proxy: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(24, 24, 24, generator=generator) for _ in range(2))
    made = proxy.power_matched(one, 3 * other, shells=8)
    index = shell_index(made.shape, 8)
    ours, wanted = (
        shell_sum(rfft(v - v.mean()).abs() ** 2 * multiplicity(v.shape), index, 8) for v in (made, 3 * other)
    )
    assert torch.allclose(ours, wanted, rtol=1e-3)
    inside = (index < 8) & (rfft(one).abs() > 1e-3)
    inside[0, 0, 0] = False
    assert torch.allclose(rfft(made)[inside].angle().cos(), rfft(one)[inside].angle().cos(), atol=1e-3)


def test_a_wrong_wedge_is_wrong_by_what_it_says(proxy: ModuleType) -> None:
    wedge = MissingWedge.from_tilts([-60.0, 0.0, 60.0])
    assert proxy.shown_wedge("wedge+20", wedge).tilts_deg == (-40.0, 20.0, 80.0)
    assert proxy.shown_wedge("wedge-20", wedge).tilts_deg == (-80.0, -20.0, 40.0)
    assert proxy.shown_wedge("truth", wedge) == wedge


def test_the_area_and_its_interval_are_those_of_known_scores(proxy: ModuleType) -> None:
    rng = np.random.default_rng(0)
    real, again = rng.normal(1.0, 1.0, 1000), rng.normal(0.0, 1.0, 1000)
    # Two normal laws one standard deviation apart: Phi(1 / sqrt 2).
    assert proxy.area(real, again) == pytest.approx(0.760, abs=0.03)
    low, high = proxy.bootstrap(real, again, 0)
    assert low < proxy.area(real, again) < high
    assert 0.02 < high - low < 0.07
    assert proxy.area(real, real) == pytest.approx(0.5)


def test_verdicts_follow_from_the_rows(proxy: ModuleType) -> None:
    def row(name: str, auc: float) -> dict[str, object]:
        return {"row": name, "auc": auc}

    verdicts = proxy.judged([row("truth", 0.53), row("smeared", 0.72)])
    assert len(verdicts) == 3
    assert all(line.endswith(", holds.") for line in verdicts)
    verdicts = proxy.judged([row("truth", 0.60), row("smeared", 0.69)])
    assert all(line.endswith("does not hold.") for line in verdicts)
    # The mean over seeds counts.
    assert "0.550, holds" in proxy.judged([row("truth", 0.52), row("truth", 0.58)])[0]


def test_the_committed_table_is_that_of_the_committed_rows(proxy: ModuleType) -> None:
    if not proxy.ROWS.exists():
        pytest.skip("no rows yet: scripts/benchmark_proxy.py makes them")
    assert proxy.TABLE.read_text() == proxy.table(json.loads(proxy.ROWS.read_text()))
