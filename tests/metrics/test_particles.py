"""Laws of the count of lost and invented particles: planted ones, erased ones, extra ones, noise alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoaae.metrics.particles import NOMINAL_RATE, ParticleScorer
from cryoaae.physics.fourier import irfft, radius, rfft

SHAPE = (56, 56, 56)
RING, SOLID = "ring", "solid"
# On a lattice of 14 voxels, every second place left empty.
LATTICE = [(z, y, x) for z in (14, 28, 42) for y in (14, 28, 42) for x in (14, 28, 42)]
LISTED, FREE = LATTICE[::2], LATTICE[1::2]


def particle(kind: str, centre_zyx: tuple[int, int, int]) -> Tensor:
    """A ball or a hollow shell of radius 4 with a soft edge, (z, y, x)."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"), dim=-1).float()
    distance = (grid - torch.tensor(centre_zyx)).norm(dim=-1)
    solid = torch.sigmoid(2 * (4 - distance))
    return solid if kind == SOLID else solid - torch.sigmoid(2 * (2 - distance))


def background(seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    smooth = irfft(rfft(torch.randn(SHAPE, generator=g)) * torch.exp(-((radius(SHAPE) / 0.12) ** 2)), SHAPE)
    return 0.08 * smooth / smooth.std()


@dataclass(frozen=True)
class Scene:
    classes: list[str]
    structures: list[Tensor]
    scorer: ParticleScorer

    @property
    def structure(self) -> Tensor:
        return torch.stack(self.structures).sum(dim=0)


@pytest.fixture(scope="module")
def scene() -> Scene:
    classes = [RING if i % 2 else SOLID for i in range(len(LISTED))]
    structures = [particle(kind, at) for kind, at in zip(classes, LISTED, strict=True)]
    truth = torch.stack(structures).sum(dim=0) + background(0)
    scorer = ParticleScorer(truth, np.array(LISTED, float), classes, generator=torch.Generator().manual_seed(1))
    return Scene(classes, structures, scorer)


def test_a_faithful_volume_loses_and_invents_nothing_whatever_its_units_and_background(scene: Scene) -> None:
    for volume in (scene.structure + background(0), 40 - 0.3 * background(2) + 7 * scene.structure):
        counts = scene.scorer.score(volume)
        assert (counts["particles"], counts["lost"], counts["invented"]) == (len(LISTED), 0, 0)
        assert min(c["correlation"] for c in counts["classes"].values()) > 0.9


def test_what_is_erased_is_lost_and_nothing_else(scene: Scene) -> None:
    erased = [1, 4, 7]
    kept = [s for i, s in enumerate(scene.structures) if i not in erased]
    counts = scene.scorer.score(torch.stack(kept).sum(dim=0) + background(3))
    assert counts["lost"] == len(erased)
    assert counts["classes"][RING]["lost"] == sum(scene.classes[i] == RING for i in erased)
    assert counts["invented"] == 0


@pytest.mark.parametrize("kind", [RING, SOLID])
def test_what_is_planted_in_empty_places_is_invented_there(scene: Scene, kind: str) -> None:
    places = FREE[2:12:4]
    extra = torch.stack([particle(kind, at) for at in places]).sum(dim=0)
    counts = scene.scorer.score(scene.structure + extra + background(4))
    assert (counts["lost"], counts["invented"]) == (0, len(places))
    found = {tuple(at) for at in counts["invented_zyx"]}
    assert all(any(np.linalg.norm(np.subtract(at, place)) <= 1 for at in found) for place in places)
    assert counts["classes"][kind]["invented"] == len(places)


def test_a_faint_trace_in_an_empty_place_is_not_taken_for_a_particle(scene: Scene) -> None:
    faint = 0.3 * particle(SOLID, FREE[2])
    assert scene.scorer.score(scene.structure + faint)["invented"] == 0


def test_a_density_of_the_other_sign_holds_no_particle_unless_structure_is_said_to_be_dark(scene: Scene) -> None:
    assert scene.scorer.score(-scene.structure)["lost"] == len(LISTED)
    dark = ParticleScorer(
        -scene.structure - background(0), np.array(LISTED, float), scene.classes,
        generator=torch.Generator().manual_seed(1), sign=-1.0,
    )  # fmt: skip
    for name, facts in scene.scorer.facts["classes"].items():
        assert dark.facts["classes"][name] == pytest.approx(facts, rel=1e-4)  # an even count has two middles
    assert dark.score(-scene.structure)["lost"] == 0


def test_noise_alone_exceeds_the_threshold_at_the_nominal_rate(scene: Scene) -> None:
    rate = 0.01
    truth = scene.structure + background(0)
    scorer = ParticleScorer(
        truth, np.array(LISTED, float), scene.classes, generator=torch.Generator().manual_seed(5), rate=rate
    )  # fmt: skip
    g = torch.Generator().manual_seed(6)
    above = [scorer.score(scorer.structureless(g)) for _ in range(12)]
    assert np.mean([counts["above_in_empty"] for counts in above]) == pytest.approx(rate, rel=0.35)
    assert np.mean([counts["lost"] for counts in above]) > 0.9 * len(LISTED)
    assert scorer.noise["invented"] > 0, "by chance alone some peaks stand out at this rate"
    assert scene.scorer.facts["nominal_rate"] == NOMINAL_RATE
    for name, facts in scene.scorer.facts["classes"].items():
        assert 0 < scorer.facts["classes"][name]["threshold"] < facts["threshold"] < 1, "a rarer event lies higher"


def test_a_half_voxel_in_the_list_is_the_voxel_below(scene: Scene) -> None:
    truth = scene.structure + background(0)
    shifted = ParticleScorer(
        truth, np.array(LISTED) + 0.5, scene.classes, generator=torch.Generator().manual_seed(1)
    )  # fmt: skip
    assert shifted.facts == scene.scorer.facts


def test_particles_outside_are_left_out_and_none_at_all_is_refused(scene: Scene) -> None:
    truth, g = scene.structure, torch.Generator().manual_seed(1)
    points = np.array([*LISTED, (-3, 10, 10), (20, 20, 70)], float)
    scorer = ParticleScorer(truth, points, [*scene.classes, RING, SOLID], generator=g)
    assert scorer.score(truth)["particles"] == len(LISTED)
    with pytest.raises(ValueError, match="no particle lies in the volume"):
        ParticleScorer(truth, points[-2:], [RING, SOLID], generator=g)
    with pytest.raises(ValueError, match="does not match"):
        scorer.score(truth[1:])
