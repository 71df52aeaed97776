"""The page of draws says what the numbers are, and that they are not calibrated."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from cryoaae.reports.sampling_figures import sampling_figures
from cryoaae.reports.sampling_page import sampling_report

EDGES = np.array([0.02, 0.07, 0.12, 0.17]) / 20.0


@pytest.fixture
def result() -> dict[str, Any]:
    shells = [
        {"low_per_angstrom": a, "high_per_angstrom": b, "measured": 0.2 + 0.1 * i, "wedge": 0.5 + 0.1 * i}
        for i, (a, b) in enumerate(zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), strict=True))
    ]
    shells[0]["wedge"] = None
    return {
        "format": "cryoaae sample 1", "version": "0.1.0", "name": "<tomo>", "model": "run", "shape_zyx": [96, 112, 128],
        "voxel_size_angstrom": 10.0, "working_voxel_angstrom": 20.0, "wedge": {"tilt_range_deg": [-60, 60]},
        "calibrated": False, "spread_rms": 0.3, "finer_share": 0.0214, "sampler": "bootstrap", "draws": 16,
        "regions": {
            "measured": {"share_of_spread": 0.553, "over_restoration": 0.31},
            "wedge": {"share_of_spread": 0.274, "over_restoration": None},
        },
        "shells": shells, "modes": [0.121, 0.08], "seconds": 63.0,
    }  # fmt: skip


def panels(*names: str) -> list[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [(name, draw.normal(size=(16, 20, 24)).astype(np.float32)) for name in names]


def test_the_page_says_it(result: dict[str, Any]) -> None:
    figures = sampling_figures(
        result, panels("Measured only", "Filled in only", "Restored", "Spread"), panels("Mode 1", "Mode 2")
    )
    html = sampling_report(result, figures).render()
    text = re.sub(r"<[^>]+>", " ", html)
    assert "not calibrated" in text and "too small" in text
    assert "27 %" in text and "55 %" in text and "Finer detail (2.1 %" in text
    assert "coarser than about 40 Å" in text and "uncertain by about 18 %" in text
    assert "the first holds 12 %" in text and "if they have nothing in common" in text
    assert html.count("data:image/png") == 3
    assert "<tomo>" not in html and "&lt;tomo&gt;" in html
    # The number that does not exist is a dash.
    assert re.search(r"where data were measured\s+55 %\s+0\.31", text) and re.search(r"wedge\s+27 %\s+–", text)


def test_without_modes_there_is_no_section_of_them(result: dict[str, Any]) -> None:
    result["modes"] = []
    figures = sampling_figures(result, panels("Measured only", "Filled in only", "Restored", "Spread"), [])
    assert set(figures) == {"slices", "spread"}
    assert "In which directions" not in sampling_report(result, figures).render()
