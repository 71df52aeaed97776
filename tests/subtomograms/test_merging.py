"""Which references are one structure: laws of the evidence, and copies and look-alikes that were planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import NullProgress
from cryoaae.simulation.specimen import Species
from cryoaae.simulation.subtomograms import ImagingSettings, SubtomogramSimulator
from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.band import banded_particles
from cryoaae.subtomograms.held_out import halves, held_out_evidence
from cryoaae.subtomograms.merging import APART, Evidence, merged, told_apart
from cryoaae.subtomograms.mixture import ANY, Mixture, Stages
from cryoaae.subtomograms.multi_reference import search_stages
from cryoaae.subtomograms.references import References
from cryoaae.subtomograms.rotation_grid import rotation_grid

BOX, FREQ_MAX, SNR = 20, 0.25, 0.4
# Blobs (z, y, x from the centre, height). The second has three dipoles besides: their outlines are the same.
FIRST = [(0, 0, 0, 1.0), (5, 0, 0, 1.2), (5, 3, 0, 0.8), (-3, 0, 3, 1.0), (0, -4, 0, 0.7)]
SECOND = [
    *FIRST, (2, -2, -2.5, 0.7), (2, -4, -2.5, -0.7), (-3, 3, -1, 0.7), (-3, 3, -3, -0.7), (-3, -3, 1, 0.7),
    (-3, -3, 3, -0.7),
]  # fmt: skip
EACH = 28
# Particles that each planted reference is averaged from: two copies of the first class, and the second. The smaller
# copy is so noisy that the larger one correlates better with the second class.
MEMBERS = (range(25), range(25, EACH), range(EACH, 2 * EACH))


def drawn(blobs: list, size: int, turn: Tensor | None = None) -> Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size)) - size // 2] * 3, indexing="ij"), dim=-1)
    turn = torch.eye(3) if turn is None else turn
    places = [(turn @ torch.tensor([float(v) for v in p]), h) for *p, h in blobs]
    return torch.stack([h * torch.exp(-(grid - p).square().sum(dim=-1) / 2 / 1.3**2) for p, h in places]).sum(dim=0)


@pytest.fixture(scope="module")
def planted() -> tuple[Mixture, Stages]:
    """A mixture whose first two references are averages of one class, lying differently, one of three particles."""
    species = [Species(name, drawn(b, 17).numpy()) for name, b in (("first", FIRST), ("second", SECOND))]
    settings = ImagingSettings(box=BOX, snr=SNR, shift_voxels=1.0, defocus_range_um=(0.0, 0.0), tilt_step_deg=6.0)
    simulator = SubtomogramSimulator(species, [EACH, EACH], settings, seed=0)
    volumes = torch.from_numpy(np.stack([simulator[i] for i in range(len(simulator))]))
    labels = torch.tensor([int(true.name == "second") for true in simulator.truth])
    volumes = volumes[labels.argsort(stable=True)]
    wedge = MissingWedge.from_tilts(simulator.tilts_deg)
    index = torch.zeros(len(volumes), dtype=torch.long)
    particles = banded_particles(volumes.split(25), BOX, [wedge], index, FREQ_MAX)
    search = AlignmentSettings(clusters=2, coarse_step_deg=30, fine_step_deg=20, shift_voxels=1.0)
    stages = search_stages(particles, search)
    signal = torch.ones(particles.band.shell_count)
    mixture = Mixture(
        particles, References(particles.band, 3, signal, torch.device("cpu")), torch.zeros(3),
        particles.noise_power.clone(), signal, torch.full((3,), ANY),
    )  # fmt: skip
    scale = 1 / float(volumes.flatten(1).std(dim=1).mean())
    turn = rotation_grid(40.0)[33]
    densities = (drawn(FIRST, BOX), drawn(FIRST, BOX, turn), drawn(SECOND, BOX))
    for k, density in enumerate(densities):
        mixture.references.put(k, particles.band.coefficients(scale * density).to(torch.complex64))
    averages = []
    for k, members in enumerate(MEMBERS):
        mixture.log_proportions = torch.full((3,), -1e6).index_fill(0, torch.tensor(k), 0.0)
        chosen = torch.isin(torch.arange(len(particles)), torch.tensor(list(members)))
        averages.append(mixture.made_anew(k, mixture.fine_poses(stages)[0], chosen, stages.fine))
    for k, average in enumerate(averages):
        mixture.references.grid[k], mixture.references.power[k] = average.grid[0], average.power[0]
    mixture.log_proportions = torch.tensor([len(members) / (2 * EACH) for members in MEMBERS]).log()
    return mixture, stages


@pytest.fixture(scope="module")
def evidence(planted: tuple[Mixture, Stages]) -> Evidence:
    return held_out_evidence(*planted, torch.arange(3), NullProgress())


def test_copies_merge_and_lookalikes_do_not(evidence: Evidence) -> None:
    groups, losses = merged(evidence, 2)
    assert sorted(map(sorted, groups)) == [[0, 1], [2]]
    assert merged(evidence, 1)[1][1] > 2 * losses[0]


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
def test_the_order_of_references_does_not_matter(
    planted: tuple[Mixture, Stages], evidence: Evidence, order: list[int]
) -> None:
    again = held_out_evidence(*planted, torch.tensor(order), NullProgress())
    assert torch.allclose(again.losses(), evidence.losses()[order][:, order], rtol=1e-4, atol=1e-2)
    groups = [[order[k] for k in group] for group in merged(again, 2)[0]]
    assert sorted(map(sorted, groups)) == [[0, 1], [2]]


def test_no_particle_is_scored_against_itself(planted: tuple[Mixture, Stages], evidence: Evidence) -> None:
    # A few noisy particles explain themselves better than as many others do: their average is in part their own noise.
    mixture, stages = planted
    poses = mixture.fine_poses(stages)[0]
    own = poses.class_log_weight.argmax(dim=1) == 1
    assert int(own.sum()) == int(evidence.counts[1]) > 2
    held_out = float(evidence.sums[1, 1] / evidence.counts[1])
    assert float(poses.gain[own].mean()) > held_out + 10


def test_halves_are_halves_of_each_group() -> None:
    groups = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(0))
    found = halves(groups)
    for k in range(4):
        assert abs(int((found[groups == k] == 0).sum()) - int((found[groups == k] == 1).sum())) <= 1
    assert set(found.tolist()) == {0, 1}


# -- the statistics ---------------------------------------------------------------------------------


def gaussian(counts: list[int], structures: Tensor, errors: Tensor, seed: int) -> Evidence:
    """Evidence from particles of structures (k, q) in unit noise, for references that are wrong by `errors` (k, q)."""
    members = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(members), structures.shape[1], generator=torch.Generator().manual_seed(seed))
    # Power of the noise is 1 and the log-likelihood -|x - t|^2, as of complex coefficients.
    seen, references = structures[members] + noise / 2**0.5, structures + errors
    return Evidence.of(2 * seen @ references.T - references.square().sum(dim=1), members)


def test_losses_estimate_those_of_the_true_structures_whatever_the_references_noise() -> None:
    structures = torch.zeros(3, 40)
    structures[1, 0] = structures[2, 0] = 1.5  # the second and third are copies
    counts = [30, 20, 5]
    generator = torch.Generator().manual_seed(0)
    trials = []
    for seed in range(400):
        errors = torch.tensor([0.1, 0.3, 1.0])[:, None] * torch.randn(3, 40, generator=generator)
        trials.append(gaussian(counts, structures, errors, seed).losses())
    trials = torch.stack(trials)
    expected = torch.tensor([[0, 12 * 2.25, 30 / 7 * 2.25], [12 * 2.25, 0, 0], [30 / 7 * 2.25, 0, 0]])
    spread = trials.std(dim=0) / 400**0.5
    assert bool(((trials.mean(dim=0) - expected).abs() <= 4 * spread + 1e-9).all())
    # Tight enough to tell 0 from what the worst reference adds to a distance that is not held out: 40 * (1 + 0.09).
    assert float(spread.max()) < 2


def test_a_small_class_outlives_the_copies_of_a_large_one() -> None:
    structures = torch.zeros(4, 40)
    structures[2, 0], structures[3, 1] = 8.0, 8.0
    errors = 0.2 * torch.randn(4, 40, generator=torch.Generator().manual_seed(1))
    groups, losses = merged(gaussian([60, 60, 4, 60], structures, errors, 0), 3)
    assert groups == [[0, 1], [2], [3]]
    assert losses[0] < 0.1 * 4 * 64


def test_merged_references_count_by_their_particles() -> None:
    structures = torch.randn(4, 12, generator=torch.Generator().manual_seed(2))
    found = gaussian([6, 3, 5, 4], structures, torch.zeros(4, 12), 0)
    one = found.joined(0, 3)
    assert one.counts.tolist() == [10, 3, 5]
    assert float(one.sums.sum()) == pytest.approx(
        float((0.6 * found.sums[:, 0] + 0.4 * found.sums[:, 3] + found.sums[:, 1] + found.sums[:, 2]).sum())
    )
    onward, other = one.joined(0, 2), found.joined(0, 2).joined(0, 2)  # 0, 3, then 2; and 0, 2, then 3
    assert torch.allclose(onward.losses(), other.losses())


def test_references_of_one_known_class_are_one_and_of_two_are_never() -> None:
    """The first two are copies, the last two far from all; what is known of them says otherwise."""
    evidence = gaussian([50, 50, 50, 50], torch.tensor([[0.0, 0], [0, 0], [9, 0], [0, 9]]), torch.zeros(4, 2), 0)
    groups = merged(evidence, 2, [0, 1, 0, -1])[0]
    assert len(groups) == 2
    of = {k: i for i, group in enumerate(groups) for k in group}
    assert of[0] == of[2] != of[1]
    assert len(merged(evidence, 1, [0, 1, 2, -1])[0]) == 3  # no fewer than are known


def test_a_reference_without_particles_goes_first() -> None:
    structures = 5 * torch.eye(3, 12)
    found = gaussian([10, 0, 10], structures, torch.zeros(3, 12), 0)
    groups, losses = merged(found, 2)
    assert losses == [0.0]
    assert any(len(group) == 2 and 1 in group for group in groups)
    assert merged(found, 3) == ([[0], [1], [2]], [])


def test_a_small_class_of_its_own_is_kept_and_copies_of_a_large_one_are_not() -> None:
    structures = torch.zeros(4, 40)
    structures[:, :20] = 1.0
    structures[2, 20:30] = 1.0  # differs by half of what it explains
    structures[3] = structures[2]
    errors = 0.2 * torch.randn(4, 40, generator=torch.Generator().manual_seed(1))
    evidence = gaussian([400, 300, 6, 5], structures, errors, seed=2)
    groups, shares = told_apart(evidence)
    assert sorted(map(sorted, groups)) == [[0, 1], [2, 3]]
    assert len(shares) == 3
    assert max(shares[:2]) < APART < shares[2]


def test_references_that_explain_nothing_are_not_told_apart() -> None:
    noise = torch.randn(3, 40, generator=torch.Generator().manual_seed(3))
    groups, _ = told_apart(gaussian([30, 30, 30], torch.zeros(3, 40), 0.01 * noise, seed=4))
    assert [sorted(group) for group in groups] == [[0, 1, 2]]
