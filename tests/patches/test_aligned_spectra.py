"""Signal and noise of particles that lie in known poses."""

from __future__ import annotations

import torch

from cryoaae.patches.aligned_spectra import aligned_spectra
from cryoaae.patches.particle_spectra import particle_spectra
from cryoaae.physics.fourier import multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge

BOX, COUNT = 24, 40
WEDGES = MissingWedge((-60.0, 60.0)), MissingWedge((-45.0, 70.0))
# Centres (z, y, x) of three balls, voxels from the middle: no two poses of them look alike.
BALLS = torch.tensor([[3.0, 0.0, 0.0], [-1.0, 3.0, 1.0], [0.0, -2.0, 3.0]])


def lying(rotation: torch.Tensor) -> torch.Tensor:
    """The three balls, turned, (z, y, x)."""
    line = torch.arange(BOX) - BOX // 2
    places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
    return sum(torch.exp(-((places - ball) ** 2).sum(dim=-1) / 4) for ball in BALLS @ rotation.T)


def particles(signal: float, *, corners: float = 1.0):
    """(volume, wedge, rotation, class), with white noise that is fainter far from the middle by a factor."""
    generator = torch.Generator().manual_seed(0)
    turns = random_rotations(COUNT, generator=generator)
    line = torch.arange(BOX) - BOX // 2
    far = torch.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) > 0.45 * BOX
    loud = torch.where(far, corners, 1.0)
    for i, turn in enumerate(turns):
        noise = torch.randn((BOX,) * 3, generator=generator) * loud
        wedge = WEDGES[i % 2]
        yield wedge.measured(signal * lying(turn) + noise), wedge, turn, "balls"


def true_power() -> torch.Tensor:
    """Mean power per coefficient in each shell of what the particles hold."""
    index, weight = shell_index((BOX,) * 3, BOX // 2), multiplicity((BOX,) * 3)
    power = shell_sum(rfft(lying(torch.eye(3))).abs() ** 2 * weight, index, BOX // 2)
    return power / shell_sum(weight * torch.ones(index.shape), index, BOX // 2)


def test_the_signal_is_what_particles_share() -> None:
    found, wanted = aligned_spectra(particles(3.0), BOX), 9.0 * true_power()
    assert found is not None
    # The first shell loses with the mean inside the sphere; beyond the sixth the balls fade out.
    assert torch.allclose(found.signal[2:6], wanted[2:6], rtol=0.2)
    assert float(found.signal[9:].max()) < 0.02
    assert torch.allclose(found.noise[3:11], torch.ones(8, dtype=torch.float64), rtol=0.1)


def test_noise_that_is_fainter_at_the_corners_is_not_taken_for_signal() -> None:
    """A background that is too quiet makes a fifth of every shell signal; what particles share is none of it."""
    by_poses = aligned_spectra(particles(3.0, corners=0.9), BOX)
    supports = {wedge: wedge.support((BOX,) * 3) for wedge in WEDGES}
    given = ((volume - volume.mean(), wedge) for volume, wedge, _, _ in particles(3.0, corners=0.9))
    by_background = particle_spectra(((rfft(v) * supports[wedge], supports[wedge], wedge) for v, wedge in given), BOX)
    assert by_poses is not None
    assert by_background is not None
    fine = slice(8, 11)
    assert float(by_background.signal[fine].mean()) > 0.05
    assert float(by_poses.signal[fine].mean()) < 0.02


def test_where_nothing_is_shared_nothing_is_said() -> None:
    assert aligned_spectra(particles(0.0), BOX) is None
    assert aligned_spectra([], BOX) is None


def test_particles_of_different_classes_are_not_paired() -> None:
    one_each = [(v, wedge, turn, str(i)) for i, (v, wedge, turn, _) in enumerate(particles(3.0))]
    assert aligned_spectra(one_each, BOX) is None
