"""The general restorer learns on scenes to tell structure from featureless density and from noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cryoaae.fitting import presence, scene_feed
from cryoaae.fitting.general_presence import learn_general_presence, told_apart
from cryoaae.models.general import GeneralRestorer, GeneralSpec
from cryoaae.nets.presence import FEATURELESS, NOTHING, STRUCTURE
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.scenes import Scene

EDGE = 40


def made_scene(seed: int) -> Scene:
    """Sparse blobs, which no Gaussian density looks like, and white noise."""
    generator = torch.Generator().manual_seed(seed)
    shape, wedge = (EDGE,) * 3, MissingWedge((-50.0, 60.0))
    field = band_limit(torch.randn(shape, generator=generator), 0.10, 0.14)
    truth = (field / field.std() - 1.5).clamp(min=0) * 8
    noises = [wedge.measured(torch.randn(shape, generator=generator)).numpy() for _ in range(2)]
    return Scene(wedge.measured(truth).numpy(), *noises, truth.numpy(), 20.0, (-50.0, 60.0), 3.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    for index in range(4):
        made_scene(index).save(folder / f"{index}.npz")
    return sorted(folder.iterdir())


def general() -> GeneralRestorer:
    torch.manual_seed(0)
    made = GeneralRestorer(GeneralSpec({"widths": [4, 8], "conditions": CONDITIONS}, (14.0, 30.0), (40.0, 70.0)))
    torch.nn.init.normal_(made.network.last.weight)
    return made


def test_it_tells_them_apart_on_scenes_it_has_not_seen_and_the_network_stays(
    scenes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_feed, "LOG_NOISE", (-0.6, -0.3))  # for a network that was not trained
    made, untaught = general(), general()
    learn_general_presence(made, scenes[:3], tomograms=6, seed=0)
    found = told_apart(made, scenes[3:], tomograms=3, seed=1)
    for case in (NOTHING, FEATURELESS, STRUCTURE):
        assert found[case][case] > 0.6
    assert all(
        torch.equal(a, b) for a, b in zip(made.network.parameters(), untaught.network.parameters(), strict=True)
    )


def test_what_it_learned_is_used_kept_and_made_again(
    scenes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "STEPS", 20)
    made, again = general(), general()
    assert not made.presence_known
    for model in (made, again):
        learn_general_presence(model, scenes, tomograms=1, seed=0)
    made.save(tmp_path / "general.safetensors")
    read = GeneralRestorer.load(tmp_path / "general.safetensors")
    assert read.presence_known and made.presence_known
    for a, b, c in zip(*(model.state_dict().values() for model in (made, again, read)), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
