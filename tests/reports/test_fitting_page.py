"""The page of a fit says what it was fitted on, what was changed, and does not praise what did not happen."""

from __future__ import annotations

from typing import Any

import pytest

from cryoaae.reports.fitting_page import fitting_report

FIT = {
    "run": "runs/<one>", "names": ["TS_01", "TS_02"], "halves": True, "tilt_ranges_deg": [[-60.0, 60.0], [-51.0, 57.0]],
    "start": "general", "steps": 240, "minutes": 3.04, "reason": "minutes", "working_bin": 2,
    "working_voxel_angstrom": 20.0, "held_out": [0.5, 0.4], "changed": {"prior": "adversarial"}, "device": "cpu",
    "version": "0.1.0",
}  # fmt: skip


def page(losses: bytes = b"png", **changed: Any) -> str:
    return fitting_report(FIT | changed, losses, [("after 0 steps", b"first"), ("after 240 steps", b"last")]).render()


def test_it_says_what_was_fitted_on_and_what_to_do_next() -> None:
    text = page()
    for words in (
        "TS_02", "two halves", "−51° to 57°", "the restorer that comes along", "in 3.04 minutes; the time was",
        "nothing finer than 40", "adversarial", "after 240 steps", "cryoaae validate --even",
    ):  # fmt: skip
        assert words in text, words
    assert "runs/&lt;one&gt;" in text, "escaped"
    assert text.count("data:image/png") == 3


@pytest.mark.parametrize(
    ("changed", "said", "not_said"),
    [
        ({"held_out": [0.4, 0.5]}, "never better than at its start", "nothing like it"),
        ({"halves": False}, "There are no halves", "--even"),
        ({"losses": b""}, "What to do with it", "kept out of fitting; the weights"),
        ({"changed": {}}, "All settings are the defaults", "adversarial"),
        ({"start": "runs/other"}, "from runs/other", "comes along"),
    ],
)
def test_what_did_not_happen_is_not_said(changed: dict[str, Any], said: str, not_said: str) -> None:
    text = page(**changed)
    assert said in text
    assert not_said not in text
