from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cryoaae.io.mrc import open_volume
from cryoaae.metrics.fsc import Scorer
from cryoaae.metrics.nulls import (
    NULLS,
    NullInput,
    available_nulls,
    clip_and_put_back,
    gaussian,
    register_null,
    wiener_by_angle,
    wiener_isotropic,
)
from cryoaae.physics.fourier import rfft
from cryoaae.physics.wedge import MissingWedge

SHAPE = (40, 44, 48)
WEDGE = MissingWedge((-54, 60))


def blobs(seed: int = 0) -> torch.Tensor:
    """Bright round blobs on a dark background, (z, y, x)."""
    g = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"), dim=-1).float()
    volume = torch.zeros(SHAPE)
    for _ in range(12):
        centre = torch.rand(3, generator=g) * (torch.tensor(SHAPE) - 14) + 7
        volume += (-((grid - centre) ** 2).sum(-1) / (2 * 2.0**2)).exp()
    return volume


def halves(truth: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    seen = WEDGE.measured(truth)
    even, odd = (seen + sigma * WEDGE.measured(torch.randn(SHAPE, generator=g)) for _ in range(2))
    return even, odd


@pytest.fixture(scope="module")
def inputs() -> NullInput:
    even, odd = halves(blobs(), 0.15)
    return NullInput((even + odd) / 2, WEDGE, even, odd)


@pytest.mark.parametrize("name", sorted(NULLS))
def test_every_null_keeps_shape_and_mean_and_takes_negation(name, inputs):
    volume = NULLS[name].compute(inputs)
    assert volume.shape == inputs.mean.shape
    assert bool(torch.isfinite(volume).all())
    assert float(volume.mean()) == pytest.approx(float(inputs.mean.mean()), abs=1e-3)
    dark = NullInput(-inputs.mean, WEDGE, -inputs.even, -inputs.odd)
    assert torch.allclose(NULLS[name].compute(dark), -volume, atol=1e-4)


@pytest.mark.parametrize("name", ["clip_input", "clip_wiener"])
def test_clip_and_put_back_fills_the_wedge_of_bright_blobs(name, inputs):
    scorer = Scorer(blobs(), WEDGE, 10.0)

    def in_wedge(volume: torch.Tensor) -> float:
        return scorer.score(volume)["regions"]["missing"]["bands"]["mid"]["fcc"]

    assert in_wedge(NULLS[name].compute(inputs)) > in_wedge(inputs.mean) + 0.4


def test_clip_and_put_back_keeps_measured_coefficients(inputs):
    support = WEDGE.support(SHAPE)
    restored = clip_and_put_back(inputs.mean, WEDGE, rounds=5)
    assert torch.allclose(rfft(restored)[support], rfft(inputs.mean)[support], atol=1e-3)


def test_wiener_filters_beat_the_input_and_need_no_less_than_noise():
    truth = blobs()
    even, odd = halves(truth, 0.15)
    scorer = Scorer(truth, WEDGE, 10.0)
    before = scorer.score((even + odd) / 2)["cc"]
    assert scorer.score(wiener_isotropic(even, odd))["cc"] > before + 0.1
    assert scorer.score(wiener_by_angle(even, odd, WEDGE))["cc"] > before + 0.1
    clean = wiener_isotropic(truth, truth)
    assert torch.allclose(clean, truth, atol=2e-2)


def test_gaussian_has_the_transfer_of_its_width():
    point = torch.zeros(SHAPE)
    point[20, 22, 24] = 1.0
    blurred = gaussian(point, 1.5)
    offset = torch.arange(48) - 24
    variance = float((blurred.sum((0, 1)) * offset**2).sum())
    assert variance == pytest.approx(1.5**2, rel=1e-3)


def test_without_halves_the_wiener_nulls_are_left_out():
    names = {null.name for null in available_nulls(NullInput(blobs(), WEDGE))}
    assert names == {"zero_fill", "gaussian", "clip_input"}


def test_names_are_unique():
    with pytest.raises(ValueError, match="gaussian"):
        register_null("gaussian", "again")(lambda inputs: inputs.mean)


@pytest.mark.data
def test_nulls_on_phantom_a_score_as_published_in_the_design():
    root = os.environ.get("CRYOAAE_DATA")
    if not root or not (Path(root) / "phantoms" / "A").is_dir():
        pytest.skip("CRYOAAE_DATA with phantoms/A is not set")
    folder = Path(root) / "phantoms" / "A"
    even, odd, truth = (
        torch.from_numpy(open_volume(folder / f"{n}.mrc").numpy()) for n in ("even", "odd", "truth")
    )
    wedge = MissingWedge((-60, 60))
    inputs = NullInput((even + odd) / 2, wedge, even, odd)
    scorer = Scorer(truth, wedge, 10.0)
    for name, cc, in_wedge in (("gaussian", 0.713, 0.026), ("clip_input", 0.719, 0.261)):
        score = scorer.score(NULLS[name].compute(inputs))
        assert score["cc"] == pytest.approx(cc, abs=0.015)
        assert score["regions"]["missing"]["bands"]["band"]["fcc"] == pytest.approx(in_wedge, abs=0.01)
