"""A turned tomogram in boxes: every voxel is served once, and how it was cut does not show."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import draw_sources
from cryoaae.restoration.draw_sources import Bootstrap, covering, generator_of
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.fresh_noise import FreshNoise
from cryoaae.restoration.turned_boxes import on_source_grid, turned_boxes
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

SLAB = (12, 30, 26)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def field(seed: int, shape: tuple[int, int, int] = SLAB) -> Tensor:
    return band_limit(torch.randn(shape, generator=seeded(seed)), 0.1, 0.25)


ROTATIONS = [torch.eye(3), *random_rotations(2, generator=seeded(0))]


@pytest.mark.parametrize("core", [16, 96])
@pytest.mark.parametrize("which", range(3))
def test_every_voxel_is_served_once_and_comes_back(which: int, core: int) -> None:
    rotation, x = ROTATIONS[which], field(1)
    source = on_source_grid(x, MissingWedge())
    back, served, boxes = torch.zeros(SLAB), torch.zeros(SLAB), 0
    for box in turned_boxes(SLAB, rotation, multiple=4, core=core, context=8):
        assert all(axis.padded % 4 == 0 for axis in box.axes)
        back[box.served] += box.back(box.forth(source, rotation), rotation.mT)
        served[box.served] += box.positions[1]
        boxes += 1
    assert bool((served == 1).all())
    assert (boxes > 1) == (core < 30)
    inside = (slice(2, -2),) * 3
    assert float((back - x)[inside].std() / x[inside].std()) < 0.05


class Smooth(torch.nn.Module):
    """A Wiener-like filter, and a little more that is not linear."""

    halo, multiple = 4, 4
    spec = SimpleNamespace(working_bin=1, noise_share=0.0)

    def forward(self, y: Tensor) -> Tensor:
        smooth = torch.nn.functional.avg_pool3d(y, 3, stride=1, padding=1, count_include_pad=False)
        return 0.6 * smooth + 0.2 * torch.relu(smooth)

    restore = forward


def tomogram(shape: tuple[int, int, int] = SLAB, *, noise: float = 0.5) -> WorkingTomogram:
    wedge = MissingWedge((-60.0, 60.0))
    halves = [
        wedge.measured(3 * field(2, shape) + noise * torch.randn(shape, generator=seeded(seed))) for seed in (3, 4)
    ]
    volumes = [Volume(half.numpy(), 10.0) for half in halves]
    return WorkingTomogram.of(volumes, wedge, Smooth(), options=RestoreOptions(device="cpu"))


def test_a_draw_of_a_slab_does_not_depend_on_the_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One box that holds all, and several with context: the same draw but for streaks that end at a box's faces."""
    slab = tomogram()
    source = Bootstrap(slab, slab.restore(slab.halves), seed=0, turns="any")
    whole = source.deviation(1)

    def cut(*given: object, **keywords: object) -> object:
        return turned_boxes(*given, **{**keywords, "core": 20, "context": 12})

    monkeypatch.setattr(draw_sources, "turned_boxes", cut)
    assert len(source.work(slab, 1, seed=0, turns="any")) > 1
    parts = source.deviation(1)
    assert float((parts - whole).std() / whole.std()) < 0.25
    # Another draw differs by far more.
    assert float((source.deviation(3) - whole).std() / whole.std()) > 0.6


def test_fresh_noise_has_the_spectrum_and_the_wedge_of_the_own_and_is_fresh() -> None:
    slab = tomogram((24, 40, 36))
    part = covering(slab.plan.frame)
    noise = FreshNoise(slab, part, generator=seeded(0))
    one, two = noise.draw(seeded(1))
    own = (slab.halves[0] - slab.halves[1])[part] / 2**0.5
    for sample in (one, two):
        assert float(sample.std() / own.std()) == pytest.approx(1, abs=1e-3)
        powers = [rfft(v).abs().square() for v in (sample, own)]
        shells = (radius(own.shape) * 16).long()
        ratio = [float(powers[0][shells == s].mean() / powers[1][shells == s].mean()) for s in range(1, 7)]
        assert ratio == pytest.approx([1.0] * 6, abs=0.02)
        empty = MissingWedge((-60.0, 60.0)).depth(own.shape) > 3
        assert float(powers[0][empty].mean() / powers[0].mean()) < 0.05
    for a, b in ((one, two), (one, own), (two, own), (one, noise.draw(seeded(2))[0])):
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.1


class Nothing(Smooth):
    """Leaves everything as it is."""

    def forward(self, y: Tensor) -> Tensor:
        return y

    restore = forward


def test_quarter_turns_of_a_slab_cost_no_more_than_restoring_it_and_lose_nothing() -> None:
    slab = replace(tomogram((14, 34, 38)), model=Nothing(), wedge=MissingWedge((-90.0, 90.0)))
    slab.halves[1] = slab.halves[0]  # no noise
    whole = torch.zeros(slab.shape)
    part = covering(slab.plan.frame)
    whole[part] = field(5, (14, 34, 38))
    source = Bootstrap(slab, whole, seed=0, turns="quarter")
    costs = {turns: sum(source.work(slab, 2, seed=0, turns=turns)) for turns in ("any", "quarter")}
    assert costs["quarter"] == pytest.approx(math.prod(slab.shape), rel=0.3) and costs["any"] > 1.8 * costs["quarter"]
    inside = (slice(3, -3),) * 3
    left = [float(source.deviation(n)[inside].std() / whole[part][inside].std()) for n in range(1, 5)]
    assert max(left) < 0.05


@pytest.mark.parametrize("turns", ["any", "quarter"])
def test_without_noise_and_restorer_a_draw_loses_the_turned_wedge(turns: str) -> None:
    """Of a structure alike in all directions that is the wedge's share of them: 60 degrees of 180."""
    shape = (26, 26, 26)
    slab = replace(tomogram(shape), model=Nothing())
    slab.halves[1] = slab.halves[0]  # no noise
    whole = torch.zeros(slab.shape)
    part = covering(slab.plan.frame)
    whole[part] = field(5, shape)
    source = Bootstrap(slab, whole, seed=0, turns=turns)
    inside = (slice(5, -5),) * 3
    lost = [float(source.deviation(n)[inside].square().mean() / whole[part][inside].square().mean()) for n in (1, 2, 3)]
    # Quarter turns know three directions only, in which one structure scatters more.
    assert sum(lost) / 3 == pytest.approx(1 / 3, abs=0.06 if turns == "any" else 0.1)


def test_numbers_seed_their_own_generators() -> None:
    draws = {float(torch.rand(1, generator=generator_of(seed, n))) for seed in (0, 1) for n in range(40)}
    assert len(draws) == 80
    assert torch.equal(torch.rand(3, generator=generator_of(5, 7)), torch.rand(3, generator=generator_of(5, 7)))
