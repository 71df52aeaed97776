"""Batches for the sampler of deviations, and fitting by them, stopped and gone on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cryoaae.fitting.deviation_feed import DeviationFeed, seen_tomogram
from cryoaae.fitting.loop import Loop
from cryoaae.models.deviation_fitting import DeviationFitting
from cryoaae.models.general import GeneralRestorer, GeneralSpec
from cryoaae.nets.deviation import Deviation, DeviationSpec
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.scenes import Scene

EDGE, PATCH = 40, 16
SPEC = DeviationSpec(features=(2, 3, 4), full=4, coarse=4)


@dataclass(frozen=True)
class Settings:
    learning_rate: float = 1e-3
    warm_up_steps: int = 1
    ema_decay: float = 0.9
    steps: int | None = 4
    minutes: float | None = None
    patience: int = 100
    evaluations: int = 1


@pytest.fixture(scope="module")
def general() -> GeneralRestorer:
    torch.manual_seed(0)
    made = GeneralRestorer(GeneralSpec({"widths": [2, 3, 4], "conditions": CONDITIONS}, (10.0, 30.0), (40.0, 70.0)))
    torch.nn.init.normal_(made.network.last.weight, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, wedge = tmp_path_factory.mktemp("scenes"), MissingWedge((-40.0, 65.0))
    for index in range(2):
        generator = torch.Generator().manual_seed(index)
        truth = 4 * (band_limit(torch.randn((EDGE,) * 3, generator=generator), 0.10, 0.14) - 0.1).clamp(min=0)
        noises = [wedge.measured(torch.randn((EDGE,) * 3, generator=generator)).numpy() for _ in range(2)]
        scene = Scene(wedge.measured(truth).numpy(), *noises, truth.numpy(), 20.0, (-40.0, 65.0), 3.0)
        scene.save(folder / f"{index}.npz")
    return sorted(folder.iterdir())


def loop_of(general: GeneralRestorer, scenes: list[Path]) -> Loop:
    feed = DeviationFeed(
        general, scenes, held_out=1, patch=PATCH, pool=2, renew_every=2, batch_size=2, draws=2, draws_from=0.5,
        coarse=4, seed=0,
    )  # fmt: skip
    torch.manual_seed(1)
    sampler = Deviation(SPEC)
    sampler.know_loudness(feed.held_out()[0].seen)
    return Loop(DeviationFitting(sampler, PATCH), feed, Settings())


def test_what_the_restorer_saw_is_cut_along(general: GeneralRestorer, scenes: list[Path]) -> None:
    """A patch at the corner: its features are those of the whole tomogram there, and truth is restoration and error."""
    whole = seen_tomogram(general, scenes[0], seed=3, patch=EDGE)
    loop = loop_of(general, scenes)
    loop.feed.prepare(0, 0.0, None)
    batch = loop.feed.batch()
    assert [tuple(level.shape) for level in batch.seen.features] == [
        (2, 2, PATCH, PATCH, PATCH), (2, 3, *(PATCH // 2,) * 3), (2, 4, *(PATCH // 4,) * 3)
    ]  # fmt: skip
    tomograms = loop.feed.pool.made
    for index in range(2):
        corner = batch.seen.features[2][index]
        found = [
            (seen, tuple(4 * n for n in at.tolist()))
            for seen in tomograms
            for at in torch.nonzero(seen.seen.features[2][0, 0] == corner[0, 0, 0, 0])
        ]
        assert found
        seen, (z, y, x) = found[0]
        here = (slice(z, z + PATCH), slice(y, y + PATCH), slice(x, x + PATCH))
        assert torch.equal(batch.error[index], seen.error[here])
        assert torch.equal(batch.seen.restored[index, 0], seen.seen.restored[0, 0][here])
        assert torch.equal(batch.seen.features[0][index], seen.seen.features[0][0][(slice(None), *here)])
    assert len(batch.white.full) == 0, "in the first part of the budget nothing is drawn"
    assert len(loop.feed.held_out()[0].white.full) > 1
    assert float(whole.sizes[0]) == pytest.approx(float(whole.error.square().mean().sqrt()))


def test_fitting_stopped_and_gone_on_ends_with_the_same_bits(general: GeneralRestorer, scenes: list[Path]) -> None:
    whole, first, second = (loop_of(general, scenes) for _ in range(3))
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    second.load_state(first.state())
    for _ in range(2):
        second.step()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name
    assert whole.evaluate() == second.evaluate()
