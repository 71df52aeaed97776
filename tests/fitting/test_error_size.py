"""Learning where restorations err."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from cryoaae.fitting.error_size import Examples, examples, learn_error_size, scores
from cryoaae.models.general import GeneralRestorer
from cryoaae.nets.error_size import LOOKS, ErrorSize
from cryoaae.simulation.scenes import draw_scene


def tomogram(seed: int, *, told: bool) -> Examples:
    """Errors whose size is told by the third look, or has to do with none; a contrast that misleads."""
    generator = torch.Generator().manual_seed(seed)
    looks = torch.randn(4000, LOOKS, generator=generator)
    size = (0.7 * looks[:, 2]).exp() if told else torch.ones(4000)
    error = size * torch.randn(4000, generator=generator)
    return Examples(looks, error / error.square().mean().sqrt(), looks[:, 0].exp())


def test_what_looks_tell_is_found() -> None:
    made = learn_error_size([tomogram(seed, told=True) for seed in range(4)], seed=0, steps=300)
    found = scores(made, tomogram(9, told=True))
    assert found["crps"]["learned"] < 0.9 * found["crps"]["constant"]
    assert found["crps"]["constant"] < found["crps"]["local_rms"]
    assert found["spearman"]["learned"] > 0.3 > 0.1 > found["spearman"]["local_rms"]


def test_where_looks_tell_nothing_the_spread_is_even() -> None:
    made = learn_error_size([tomogram(seed, told=False) for seed in range(4)], seed=0, steps=300)
    found = scores(made, tomogram(9, told=False))
    assert found["crps"]["learned"] == pytest.approx(found["crps"]["constant"], rel=0.01)


def test_a_seed_gives_the_same() -> None:
    bank = [tomogram(seed, told=True) for seed in range(2)]
    one, other = (learn_error_size(bank, seed=5, steps=20).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_one_that_comes_along_beats_a_constant_spread(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.npz" for seed in range(2)]
    for seed, path in enumerate(paths):
        draw_scene(np.random.default_rng(seed), [], 64).save(path)
    made = ErrorSize.bundled()
    found = [scores(made, one)["crps"] for one in examples(GeneralRestorer.bundled(), paths, tomograms=4, seed=0)]
    assert fmean(one["learned"] for one in found) < fmean(one["constant"] for one in found)
