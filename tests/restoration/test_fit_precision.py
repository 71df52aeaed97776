"""Layers at half precision while a restorer is fitted: nearly the same fit, kept and gone on with as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cryoaae.cli import run as cli
from cryoaae.config import load_fit_config
from cryoaae.errors import InterruptedRunError
from cryoaae.fitting import session
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.weights import load_weights
from cryoaae.restoration.fit import fit
from cryoaae.runs.progress import NullProgress
from cryoaae.runs.resources import bfloat16_pays

STEPS = 6


class StopAfter(NullProgress):
    """Asks to stop after so many steps, as a signal would."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def advance(self, amount: float = 1.0, **facts: Any) -> None:
        if int(facts.get("step", 0)) >= self.steps:
            self.cancel()


def fitted(
    data: Path, run: Path, settings: list[str], precision: str, *more: str, **keywords: Any
) -> dict[str, Tensor]:
    """Weights of a fit of few steps."""
    overrides = [*settings[1::2], "refills=1", *more]
    fit(
        [], run, even=data / "t_EVN.mrc", odd=data / "t_ODD.mrc", tilts=data / "t.tlt", device="cpu", threads=1,
        settings=load_fit_config(overrides=overrides, steps=STEPS, precision=precision), **keywords,
    )  # fmt: skip
    return load_weights(run / "model.safetensors")[0]


def change(run: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
    """All that a fit changed of the network's weights, as one vector."""
    names = sorted(name for name in run if name.startswith("network."))
    return torch.cat([(run[name] - start[name]).flatten() for name in names])


def test_a_fit_at_half_precision_goes_the_same_way_and_its_weights_are_float32(
    tiny: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    whole = fitted(tiny, tmp_path / "whole", tiny_settings, "float32")
    half = fitted(tiny, tmp_path / "half", tiny_settings, "bfloat16")
    assert all(weight.dtype == whole[name].dtype for name, weight in half.items())
    start = fitted(tiny, tmp_path / "start", tiny_settings, "float32", "learning_rate=1e-12")
    ways = [change(run, start) for run in (whole, half)]
    assert not torch.equal(*ways)
    assert float(torch.cosine_similarity(*ways, dim=0)) > 0.9
    assert "precision: bfloat16" in (tmp_path / "half" / "config.yaml").read_text()


def test_a_fit_at_half_precision_goes_on_to_the_same_bits(
    tiny: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    whole = fitted(tiny, tmp_path / "whole", tiny_settings, "bfloat16")
    with pytest.raises(InterruptedRunError):
        fitted(tiny, tmp_path / "parts", tiny_settings, "bfloat16", progress=StopAfter(3))
    parts = fitted(tiny, tmp_path / "parts", tiny_settings, "bfloat16", resume=True)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    ("asked", "pays", "wanted"),
    [
        ({"minutes": 3.0}, True, torch.bfloat16),
        ({"minutes": 3.0}, False, torch.float32),
        ({"minutes": 3.0, "precision": "float32"}, True, torch.float32),
        ({"minutes": None, "steps": 9}, True, torch.float32),  # the seed alone decides
        ({"minutes": 3.0, "steps": 9}, True, torch.float32),
        ({"minutes": 3.0, "prior": "adversarial"}, True, torch.float32),  # not measured
        ({"minutes": None, "steps": 9, "precision": "bfloat16"}, False, torch.bfloat16),
    ],
)
def test_what_is_faster_is_taken_where_the_clock_decides_anyway(
    asked: dict[str, Any], pays: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "bfloat16_pays", lambda _: pays)
    assert session._precision(FitSettings(**asked), torch.device("cpu")) == wanted


def test_half_precision_is_tried_before_it_is_said_to_pay() -> None:
    found = bfloat16_pays(torch.device("cpu"))
    assert isinstance(found, bool) and bfloat16_pays(torch.device("cpu")) is found  # remembered
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        assert not found  # no instructions for it


def test_an_unknown_precision_is_refused_in_one_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(tiny / "t_EVN.mrc"), "-o", str(tmp_path / "run"), "--precision", "float8"]
    assert cli(words) == 2
    assert "precision" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
