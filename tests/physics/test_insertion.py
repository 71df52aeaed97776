"""Insertion of central slices against objects whose projections are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoaae.physics.ctf import ctf_2d
from cryoaae.physics.insertion import insert_slices, padded_size, reconstruct_from_slices

N, SIGMA = 24, 1.8
RNG = np.random.default_rng(0)
CENTRES, HEIGHTS = RNG.uniform(-5, 5, (7, 3)), RNG.uniform(0.5, 1.5, 7)
NO_CTF = torch.ones(1, padded_size(N), padded_size(N) // 2 + 1)


def density() -> np.ndarray:
    grid = np.indices((N,) * 3) - N // 2
    square = ((grid[None] - CENTRES[:, :, None, None, None]) ** 2).sum(axis=1)
    return np.tensordot(HEIGHTS, np.exp(-square / 2 / SIGMA**2), 1)


def projections(rotations: np.ndarray) -> torch.Tensor:
    """Line integrals along the beam: of a Gaussian, again a Gaussian."""
    grid = np.indices((N, N)) - N // 2
    images = []
    for rotation in rotations:
        seen = (CENTRES @ rotation.T)[:, 1:, None, None]  # (beam, y, x) without the beam
        square = ((grid[None] - seen) ** 2).sum(axis=1)
        images.append(np.tensordot(HEIGHTS, np.sqrt(2 * np.pi) * SIGMA * np.exp(-square / 2 / SIGMA**2), 1))
    return torch.tensor(np.array(images), dtype=torch.float32)


def rotations(count: int) -> np.ndarray:
    return Rotation.random(count, random_state=1).as_matrix()


def relative_error(found: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - wanted) / np.linalg.norm(wanted))


def transfer(images: torch.Tensor, ctf: torch.Tensor) -> torch.Tensor:
    """Images times their CTF, made on a field wide enough that nothing wraps round."""
    room = padded_size(N) // 2 - N // 2
    wide = torch.nn.functional.pad(images, (room, room, room, room))
    seen = torch.fft.irfft2(torch.fft.rfft2(wide) * ctf, s=wide.shape[-2:])
    return seen[:, room : room + N, room : room + N]


def weak_ctf(count: int) -> torch.Tensor:
    defocus = torch.linspace(5e3, 12e3, count)
    return ctf_2d(
        (padded_size(N),) * 2, 8.0, defocus, defocus, torch.zeros(count), voltage_kv=300.0, cs_mm=2.7,
        amplitude_contrast=0.5,
    )  # fmt: skip


def test_the_density_comes_back_from_all_round():
    """Trilinear shares lose 4 % at this blur; an axis swapped or a centre off by half a voxel loses far more."""
    turns = rotations(300)
    found = reconstruct_from_slices(
        projections(turns), torch.from_numpy(turns), NO_CTF.expand(300, -1, -1), noise_to_signal=1e-2
    )
    assert relative_error(found, density()) < 0.07
    mirrored = reconstruct_from_slices(
        projections(turns).flip(-1), torch.from_numpy(turns), NO_CTF.expand(300, -1, -1), noise_to_signal=1e-2
    )
    assert relative_error(mirrored, density()) > 0.5


@pytest.mark.parametrize("premultiplied", [False, True])
def test_the_ctf_is_undone_however_it_comes(premultiplied):
    turns, ctf = rotations(200), weak_ctf(200)
    images = transfer(projections(turns), ctf**2 if premultiplied else ctf)
    found = reconstruct_from_slices(
        images, torch.from_numpy(turns), ctf, premultiplied=premultiplied, noise_to_signal=1e-2
    )
    ignored = reconstruct_from_slices(images, torch.from_numpy(turns), torch.ones_like(ctf), noise_to_signal=1e-2)
    assert relative_error(found, density()) < 0.12 < relative_error(ignored, density())


def test_an_image_of_no_weight_counts_for_nothing():
    turns = torch.from_numpy(rotations(20))
    images = projections(turns.numpy())
    spoilt = images.clone()
    spoilt[3] = 100.0
    weights = torch.ones(20)
    weights[3] = 0.0
    ctf = NO_CTF.expand(20, -1, -1)
    clean = reconstruct_from_slices(images, turns, ctf, weights=weights)
    assert torch.allclose(reconstruct_from_slices(spoilt, turns, ctf, weights=weights), clean)


def test_turning_the_object_turns_the_volume():
    """A quarter turn about z maps the grid onto itself (odd box), so nothing is interpolated."""
    turns = rotations(15)
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix()[::-1, ::-1]
    images = projections(turns)[:, 1:, 1:].contiguous()  # 23 pixels: the centre moves to voxel 11 = n // 2
    ctf = torch.ones(15, padded_size(23), padded_size(23) // 2 + 1)
    plain = reconstruct_from_slices(images, torch.from_numpy(turns), ctf)
    turned = reconstruct_from_slices(images, torch.from_numpy(turns @ quarter.T.copy()), ctf)
    assert torch.allclose(turned, torch.rot90(plain, 1, (2, 1)), atol=1e-4)


def test_sums_are_hermitian_and_every_slice_passes_the_origin():
    size = 16
    turns = torch.from_numpy(rotations(5))
    generator = torch.Generator().manual_seed(0)
    values = torch.fft.rfft2(torch.randn(5, size, size, generator=generator, dtype=torch.float64))
    spectrum, coverage = insert_slices(values, torch.ones(values.shape, dtype=torch.float64), turns)
    negated = torch.roll(spectrum.flip(0, 1, 2), (1, 1, 1), (0, 1, 2))
    assert torch.allclose(spectrum, negated.conj(), atol=1e-9)
    assert float(coverage[0, 0, 0]) >= 5.0
    inside = (torch.fft.fftfreq(size, 1 / size)[:, None] ** 2 + torch.fft.fftfreq(size, 1 / size) ** 2) <= 49
    assert float(coverage.sum()) == pytest.approx(5.0 * float(inside.sum()))
