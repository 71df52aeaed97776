"""Multi-reference alignment: laws of its parts, and classes and poses that were planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.progress import NullProgress
from cryoaae.simulation.specimen import Species
from cryoaae.simulation.subtomograms import ImagingSettings, SubtomogramSimulator
from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.band import Band, BandedParticles, banded_particles, bin_means
from cryoaae.subtomograms.mixture import ANY, Mixture
from cryoaae.subtomograms.multi_reference import align, search_stages
from cryoaae.subtomograms.pose_search import SearchGrid, search, shift_grid
from cryoaae.subtomograms.references import References
from cryoaae.subtomograms.rotation_grid import angles_between_deg, nearest_rotations, rotation_grid

BOX, FREQ_MAX, STEP_DEG = 20, 0.25, 15.0
# Blobs (z, y, x from the centre, height) of two particles without any symmetry, of one mass and like size.
FIRST = [(0, 0, 0, 1.0), (5, 0, 0, 1.2), (5, 3, 0, 0.8), (-3, 0, 3, 1.0), (0, -4, 0, 0.7)]
SECOND = [(-4, 0, 0, 1.0), (4, 0, 0, 1.0), (0, 4, 2, 1.2), (1, 0, -4, 0.8), (-4, 4, 0, 0.7)]


def drawn(blobs: list, size: int, sigma: float = 1.3) -> Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size)) - size // 2] * 3, indexing="ij"), dim=-1)
    parts = (h * torch.exp(-(grid - torch.tensor(p)).square().sum(dim=-1) / 2 / sigma**2) for *p, h in blobs)
    return torch.stack(list(parts)).sum(dim=0)


class Planted:
    """Particles of two classes with everything known of them."""

    def __init__(self, each: int, snr: float) -> None:
        species = [Species(name, drawn(b, 17).numpy()) for name, b in (("first", FIRST), ("second", SECOND))]
        settings = ImagingSettings(
            box=BOX, snr=snr, shift_voxels=1.0, defocus_range_um=(0.0, 0.0), tilt_step_deg=6.0
        )
        simulator = SubtomogramSimulator(species, [each, each], settings, seed=0)
        volumes = torch.from_numpy(np.stack([simulator[i] for i in range(len(simulator))]))
        self.wedge = MissingWedge.from_tilts(simulator.tilts_deg)
        self.labels = torch.tensor([int(true.name == "second") for true in simulator.truth])
        turns = [true.rotation.as_matrix()[::-1, ::-1].copy() for true in simulator.truth]
        self.rotations = torch.from_numpy(np.stack(turns)).float()
        index = torch.zeros(len(volumes), dtype=torch.long)
        self.particles = banded_particles(volumes.split(25), BOX, [self.wedge], index, FREQ_MAX)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(each=30, snr=0.3)


def pose_errors_deg(found: Tensor, true: Tensor) -> Tensor:
    """Angles left after the one rotation between the frames of reference and truth that fits best, (n,)."""
    between = torch.einsum("nji,njk->ik", found.double(), true.double())
    left, _, right = torch.linalg.svd(between)
    sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(left @ right).sign())], dtype=torch.float64))
    return angles_between_deg(found.double() @ (left @ sign @ right), true.double())


def test_planted_classes_and_poses_are_found(planted: Planted) -> None:
    settings = AlignmentSettings(
        clusters=2, references=4, coarse_iterations=6, fine_iterations=3, final_iterations=2, shift_voxels=2.0
    )
    found = align(planted.particles, settings, generator=torch.Generator().manual_seed(0))
    assert adjusted_rand_index(found.classes, planted.labels) >= 0.9
    assert found.proportions == pytest.approx(torch.tensor([0.5, 0.5]), abs=0.05)
    for k in (0, 1):
        own = found.classes == k
        errors = pose_errors_deg(found.rotations[own], planted.rotations[own])
        # Poses lie between those of the grid, whose own are 7 degrees off on average.
        assert float(errors.median()) < STEP_DEG / 3
        assert float((errors < STEP_DEG).float().mean()) > 0.9
    assert torch.equal(found.probabilities.argmax(dim=1), found.classes)


def test_at_one_temperature_no_iteration_lowers_the_likelihood(planted: Planted) -> None:
    settings = AlignmentSettings(clusters=2, shift_voxels=2.0)
    stages = search_stages(planted.particles, settings)
    mixture = Mixture.seeded(
        planted.particles, torch.full((3,), ANY), None, stages.coarse, torch.Generator().manual_seed(1), NullProgress()
    )
    for _ in range(10):
        mixture.iterate_coarse(stages.coarse, 1.0)
    steps = np.diff(mixture.history)
    assert mixture.history[-1] > mixture.history[0]
    # The seeds are particles, fitted to themselves; from then on every step is an ascent, but for the cut to the ball.
    rise = max(mixture.history) - min(mixture.history)
    assert steps[1:].min() > -0.01 * rise


def test_there_are_many_references_at_first_whatever_is_asked_for() -> None:
    assert AlignmentSettings().first_references(1000) == AlignmentSettings(clusters=3).first_references(1000) == 16
    assert AlignmentSettings(clusters=12).first_references(1000) == 24
    assert AlignmentSettings(clusters=3).first_references(20) == 6  # few particles: no more than twice as many
    assert AlignmentSettings(clusters=3, over=1, references=2).first_references(1000) == 3


def test_a_seed_says_all(planted: Planted) -> None:
    few = planted.particles.only(torch.arange(12))
    settings = AlignmentSettings(
        clusters=2, over=1, coarse_iterations=2, fine_iterations=1, final_iterations=0, coarse_step_deg=40,
        fine_step_deg=30, shift_voxels=1,
    )  # fmt: skip
    first, again = (align(few, settings, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.classes, again.classes)
    assert first.log_likelihood == again.log_likelihood
    cancelled = NullProgress()
    cancelled.cancel()
    with pytest.raises(InterruptedRunError):
        align(few, settings, generator=torch.Generator(), progress=cancelled)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"clusters": 0}, "clusters"), ({"over": 0.5}, "over"), ({"temperature": 0.0}, "temperature"),
                         ({"starts": 0}, "starts"), ({"coarse_iterations": 0}, "coarse_iterations"),
                         ({"coarse_freq": 0.6}, "coarse_freq"), ({"fine_step_deg": 30.0}, "fine_step_deg"),
                         ({"fine_step_deg": 1.0}, "fine_step_deg")],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(wrong: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        AlignmentSettings(**wrong)


def test_more_references_than_particles_are_refused(planted: Planted) -> None:
    with pytest.raises(InputError, match="60 for 80 references"):
        align(planted.particles, AlignmentSettings(clusters=40), generator=torch.Generator())


# -- the band ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [9, 12])
def test_a_band_holds_one_of_each_pair_and_gives_volumes_back(box: int) -> None:
    band = Band.up_to(box, 0.3)
    points = {tuple(p) for p in band.points_zyx.tolist()}
    assert not points & {tuple(-v for v in p) for p in points}
    reach = [p for p in np.ndindex(box, box, box) if 0 < sum((v - box // 2) ** 2 for v in p) <= (0.3 * box) ** 2]
    assert 2 * len(points) == len(reach)
    volume = torch.randn(2, box, box, box, generator=torch.Generator().manual_seed(0)).double()
    kept = band.volumes(band.coefficients(volume))
    assert torch.allclose(band.coefficients(kept), band.coefficients(volume))
    assert torch.allclose(band.volumes(band.coefficients(kept)), kept)


def test_phases_move_what_they_say() -> None:
    band = Band.up_to(BOX, FREQ_MAX)
    shift = (1.0, -2.0, 0.5)
    moved = band.coefficients(drawn([(0, 0, 0, 1.0)], BOX)) * band.shift_phases(torch.tensor([shift]))[0]
    there = band.coefficients(drawn([(*shift, 1.0)], BOX))
    assert float((moved - there).abs().max() / there.abs().max()) < 1e-3


def test_noise_is_known_from_the_corners(planted: Planted) -> None:
    noise = torch.randn(40, BOX, BOX, BOX, generator=torch.Generator().manual_seed(4))
    noise += 8 * drawn([(0, 0, 0, 1.0)], BOX)
    index = torch.zeros(40, dtype=torch.long)
    found = banded_particles([noise], BOX, [MissingWedge((-89.0, 89.0))], index, FREQ_MAX)
    flat = float((noise.flatten(1).std(dim=1) ** -2).mean())
    assert float(found.noise_power[found.band.shells > 1].mean()) == pytest.approx(flat, rel=0.1)


def test_means_over_bins_weigh_what_was_measured() -> None:
    values, weights = torch.tensor([4.0, 2.0, 9.0]), torch.tensor([2.0, 1.0, 3.0])
    assert bin_means(values, weights, torch.tensor([0, 0, 2])).tolist() == [2.0, 2.0, 3.0]


# -- rotations and references -----------------------------------------------------------------------


@pytest.mark.parametrize("step", [40.0, 20.0])
def test_no_rotation_lies_far_from_the_grid(step: float) -> None:
    grid = rotation_grid(step)
    drawn_turns = random_rotations(500, generator=torch.Generator().manual_seed(0))
    nearest = nearest_rotations(drawn_turns, grid, 2)
    angles = angles_between_deg(drawn_turns[:, None], grid[nearest])
    assert float(angles[:, 0].max()) < step
    assert bool((angles[:, 0] <= angles[:, 1] + 1e-3).all())
    brute = angles_between_deg(drawn_turns[:20, None], grid[None]).min(dim=1).values
    assert torch.allclose(brute, angles[:20, 0], atol=0.1)
    assert len(grid) == pytest.approx(8 * math.pi**2 / math.radians(step) ** 3, abs=1)


def references() -> References:
    band = Band.up_to(BOX, FREQ_MAX)
    made = References(band, 1, torch.ones(band.shell_count), torch.device("cpu"))
    made.put(0, band.coefficients(drawn(FIRST, BOX)))
    return made


def relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def test_a_reference_turns_and_moves_as_its_density_does() -> None:
    made = references()
    turn = rotation_grid(24.0)[100]
    places = [torch.tensor([float(v) for v in p]) for *p, _ in FIRST]
    # Interpolation between points of a grid twice as fine fades a density as sinc^2.
    heights = [h * float((torch.sinc(p / (2 * BOX)) ** 2).prod()) for p, (*_, h) in zip(places, FIRST, strict=True)]
    blobs = [(*(turn @ p).tolist(), h) for p, h in zip(places, heights, strict=True)]
    turned = made.turned(made.turns(turn[None], len(made.band)))[0, 0]
    there = made.band.coefficients(drawn(blobs, BOX))
    error = relative(turned, there)
    assert error < 0.1  # at the end of the band interpolation reaches beyond what was put in
    assert relative(made.turned(made.turns(turn.T[None], len(made.band)))[0, 0], there) > 3 * error
    made.move(0, torch.tensor([1.0, 0.0, -2.0]))
    lying = made.turned(made.turns(torch.eye(3)[None], len(made.band)))[0, 0]
    assert relative(lying, made.band.coefficients(drawn([(z + 1, y, x - 2, h) for z, y, x, h in FIRST], BOX))) < 0.08


def test_reference_steps_use_the_adjoint_of_turning() -> None:
    made, generator = references(), torch.Generator().manual_seed(0)
    turns = made.turns(rotation_grid(60.0)[:7], len(made.band))
    values = torch.complex(*torch.randn(2, 7, len(made.band), generator=generator))
    weights = torch.rand(7, len(made.band), generator=generator)
    back, curvature = made._returned(turns, values, weights)
    forth = (made.turned(turns)[0].conj() * values).real.sum()
    assert float((made.grid[0].conj() * back).real.sum() / 2) == pytest.approx(float(forth), rel=1e-4)
    assert float(curvature.sum() / 2) == pytest.approx(float(weights.sum()), rel=1e-4)  # shares sum to 1


def test_steps_lead_to_the_density_that_was_seen_from_all_sides() -> None:
    made, rotations = references(), rotation_grid(40.0)
    turns = made.turns(rotations, len(made.band))
    seen = made.turned(turns)[0]
    truth = made.volumes()[0]
    made.grid.zero_()
    weights = torch.full_like(seen.real, 50.0)
    errors = []
    for _ in range(8):
        residual = seen - made.turned(turns)[0]
        errors.append(float(residual.abs().square().sum()))
        made.ascend(0, turns, 50 * residual, weights)
    # Down to where the cut to the ball moves as much as a step.
    assert all(after < before or after < 1e-3 * errors[0] for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 1e-3 * errors[0]
    assert relative(made.volumes()[0], truth) < 0.1


def test_a_pose_that_the_wedge_hides_gains_nothing_by_it() -> None:
    # Without the norm of the measured part a pose would win for what it shows there, not for what it explains.
    made = references()
    wedge = MissingWedge((-50.0, 50.0))
    rotations = rotation_grid(40.0)
    true = 37
    turns = made.turns(rotations, len(made.band))
    clean = made.turned(turns)[0, true]
    support = torch.zeros(1, len(made.band))
    z, y, x = (made.band.points_zyx % BOX).unbind(dim=1)
    support[0] = wedge.support((BOX,) * 3)[z, y, x].float()
    bins = made.band.noise_bins((0.0, 1.0, 0.0))
    particles = BandedParticles(
        made.band, (clean * support[0])[None].to(torch.complex64), support, torch.zeros(1, dtype=torch.long),
        torch.ones(1, made.band.shell_count), bins, torch.ones(len(made.band)),
    )  # fmt: skip
    shifts = shift_grid(1.0, 1.0)
    grid = SearchGrid(rotations, turns, shifts, made.band.shift_phases(shifts))
    poses = search(particles, made.turned(turns), grid, torch.ones(len(made.band)), torch.zeros(1))
    assert int(poses.cell[0, 0]) == true
    assert shifts[poses.shift[0, 0]].tolist() == [0, 0, 0]
    # At the truth the log-likelihood ratio is the power that was measured.
    assert float(poses.gain) == pytest.approx(float((clean.abs().square() * support[0]).sum()), rel=1e-4)
