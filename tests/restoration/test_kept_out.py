"""Where data were measured: the ceiling is one, and both scores are those of white signal and noise."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.held_out import SHELL_EDGES, SHELLS
from cryoaae.restoration.kept_out import MeasuredScore, measured_scores

SHAPE = (32, 30, 36)
WEDGE = MissingWedge((-50.0, 60.0))
SIGNAL, NOISE = 1.0, 1.5  # power a coefficient


def made(seed: int = 0, noise: float = NOISE) -> tuple[Any, Tensor]:
    """What of a tomogram is looked at, of a white structure and white noise, and the structure."""
    generator = torch.Generator().manual_seed(seed)
    truth, *noises = torch.randn(3, *SHAPE, generator=generator)
    truth = math.sqrt(SIGNAL) * truth
    halves = [WEDGE.measured(truth + math.sqrt(noise) * n) for n in noises]
    return SimpleNamespace(halves=halves, wedge=WEDGE, shape=SHAPE, core_shape=SHAPE), truth


def everywhere() -> Tensor:
    return torch.ones(SHAPE, dtype=torch.bool)


def estimates(tomogram: Any, truth: Tensor) -> dict[str, list[Tensor]]:
    """What restorers of many kinds make of the halves, each of its own."""
    even, odd = tomogram.halves
    smooth = torch.exp(-4 * radius(SHAPE))
    other = torch.randn(SHAPE, generator=torch.Generator().manual_seed(99))
    return {
        "copy": [even, odd],
        "louder": [3 * even, 3 * odd],
        "filter": [irfft(rfft(half) * smooth, SHAPE) for half in (even, odd)],
        "clip": [half.clamp(min=0) for half in (even, odd)],
        "oracle": [truth, truth],
        "partly": [0.4 * half + 0.6 * truth for half in (even, odd)],
        "invented": [other, other],
        "wrong": [-even, -odd],
    }


def error_of(found: MeasuredScore) -> float:
    """Three standard deviations of a correlation of so many coefficients."""
    return 3 / math.sqrt(found.powers.freedom)


def test_both_scores_are_the_closed_form_of_white_signal_and_noise() -> None:
    tomogram, truth = made()
    of_halves = SIGNAL / (SIGNAL + NOISE)
    expected = {
        "copy": of_halves, "louder": of_halves, "filter": of_halves, "oracle": math.sqrt(of_halves), "invented": 0.0,
        "wrong": -of_halves,
        # <m, y> / (|m| |y|) of m = x + 0.4 n
        "partly": SIGNAL / math.sqrt((SIGNAL + 0.16 * NOISE) * (SIGNAL + NOISE)),
    }  # fmt: skip
    # Against the structure the mean of the restored halves is judged, with half the noise.
    correlation = {"copy": math.sqrt(SIGNAL / (SIGNAL + NOISE / 2)), "oracle": 1.0, "invented": 0.0}
    for name, pair in estimates(tomogram, truth).items():
        found = measured_scores(tomogram, pair, everywhere())
        assert set(found) == set(range(1, SHELLS))  # the lowest shell has too few coefficients in this box
        for score in found.values():
            assert score.ceiling == pytest.approx(math.sqrt(of_halves), abs=error_of(score))
            if name in expected:
                assert score.against_other_half == pytest.approx(expected[name], abs=error_of(score))
            if name in correlation:
                assert score.powers.correlation == pytest.approx(correlation[name], abs=2 * error_of(score))


@pytest.mark.parametrize("noise", [0.3, 4.0])
def test_no_restoration_made_from_one_half_passes_the_ceiling(noise: float) -> None:
    passed = []
    for seed in range(3):
        tomogram, truth = made(seed, noise)
        for pair in estimates(tomogram, truth).values():
            for score in measured_scores(tomogram, pair, everywhere()).values():
                assert score.against_other_half < score.ceiling + error_of(score)
        # One that has seen the other half does: the law can be broken.
        cheating = [tomogram.halves[1], tomogram.halves[0]]
        cheated = measured_scores(tomogram, cheating, everywhere()).values()
        passed += [score.against_other_half > score.ceiling + 0.02 for score in cheated]
    assert all(passed)


def test_a_shell_s_scores_are_of_its_measured_coefficients_alone() -> None:
    tomogram, _ = made()
    depth = WEDGE.depth(SHAPE)
    k = radius(SHAPE)
    outside = irfft(rfft(torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))) * (depth > -1), SHAPE)
    found = measured_scores(tomogram, tomogram.halves, everywhere())
    filled = measured_scores(tomogram, [half + 20 * outside for half in tomogram.halves], everywhere())
    assert set(found) == set(filled) and len(found) > 5
    for shell in found:
        low, high = SHELL_EDGES[shell : shell + 2]
        assert filled[shell].against_other_half == pytest.approx(found[shell].against_other_half, abs=1e-4)
        assert filled[shell].powers.correlation == pytest.approx(found[shell].powers.correlation, abs=1e-4)
        band = (k >= low) & (k < high) & (depth < -1)
        even, odd = (rfft(half) for half in tomogram.halves)
        weight = multiplicity(SHAPE) * band
        cross = float(((even * odd.conj()).real * weight).sum())
        powers = [float((half.abs().square() * weight).sum()) for half in (even, odd)]
        assert found[shell].ceiling == pytest.approx(math.sqrt(cross / math.sqrt(powers[0] * powers[1])), rel=1e-4)


def test_parts_have_scores_of_their_own() -> None:
    tomogram, truth = made()
    box = torch.zeros(SHAPE, dtype=torch.bool)
    box[8:24, 6:26, 8:30] = True
    # A network that knows the structure by heart, but not in the box.
    learnt = [torch.where(box, half, truth) for half in tomogram.halves]
    kept_out, fitted = (measured_scores(tomogram, learnt, where) for where in (box, ~box))
    for shell in range(2, SHELLS):
        inside, outside = kept_out[shell], fitted[shell]
        assert outside.against_other_half > inside.against_other_half + 0.05
        assert outside.powers.correlation > inside.powers.correlation + 0.05
        assert inside.ceiling == pytest.approx(outside.ceiling, abs=error_of(inside))


def test_halves_without_a_structure_have_a_ceiling_of_zero_and_an_empty_part_none() -> None:
    tomogram, _ = made()
    tomogram.halves[1] = -tomogram.halves[0]
    assert {score.ceiling for score in measured_scores(tomogram, tomogram.halves, everywhere()).values()} == {0.0}
    assert measured_scores(tomogram, tomogram.halves, ~everywhere()) == {}
    empty = [torch.zeros(SHAPE)] * 2
    assert all(math.isnan(s.against_other_half) for s in measured_scores(tomogram, empty, everywhere()).values())
