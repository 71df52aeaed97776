"""Laws of rotation: nothing inside the band is lost, and a wedge turns with its object."""

from __future__ import annotations

import math

import pytest
import torch

from cryoaae.physics.fourier import irfft, radius, rfft, shell_index, shell_sum, soft_lowpass
from cryoaae.physics.resample import BAND_STOP, band_limit, fourier_resample
from cryoaae.physics.rotation import (
    OVERSAMPLING,
    TOGETHER,
    _near_each_other,
    _sampled,
    quarter_turned,
    quarter_turns,
    random_rotations,
    rotation_about,
    sample_cubic,
    sample_positions,
    spline_prefilter,
)
from cryoaae.physics.wedge import MissingWedge

SIZE, SHELLS = 48, 12


def local_field(generator: torch.Generator, size: int = SIZE) -> torch.Tensor:
    """A band-limited random field confined to a ball, so that rotating it loses no corner."""
    i = torch.arange(size) - size // 2
    r = (i[:, None, None] ** 2 + i[None, :, None] ** 2 + i[None, None, :] ** 2).float().sqrt()
    return band_limit(torch.randn(size, size, size, generator=generator) * soft_lowpass(r, 0.15 * size, 0.28 * size))


def rotate(volume: torch.Tensor, rotation: torch.Tensor, *, prefilter: bool = True) -> torch.Tensor:
    n = volume.shape[-1]
    box = (OVERSAMPLING * n,) * 3
    fine = fourier_resample(volume, box)
    if prefilter:
        fine = irfft(rfft(fine) * spline_prefilter(box), box)
    centre = torch.full((3,), float(OVERSAMPLING * (n // 2)))
    return sample_cubic(fine[None], sample_positions(rotation, centre, n, OVERSAMPLING))[0]


def shell_agreement(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fourier correlation and gain of b on a, per shell up to the end of the band."""
    index = shell_index(a.shape, SHELLS, BAND_STOP)
    fa, fb = rfft(a), rfft(b)
    cross = shell_sum((fa * fb.conj()).real, index, SHELLS)
    aa, bb = shell_sum(fa.abs() ** 2, index, SHELLS), shell_sum(fb.abs() ** 2, index, SHELLS)
    return cross / (aa * bb).sqrt(), cross / aa


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_there_and_back_keeps_every_shell(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = local_field(generator)
    rotation = random_rotations(1, generator=generator)[0]
    correlation, gain = shell_agreement(x, rotate(rotate(x, rotation), rotation.T))
    assert correlation.min() >= 0.995
    assert (gain - 1).abs().max() <= 0.02


def test_the_law_fails_without_the_prefilter() -> None:
    generator = torch.Generator().manual_seed(0)
    x = local_field(generator)
    rotation = random_rotations(1, generator=generator)[0]
    back = rotate(rotate(x, rotation, prefilter=False), rotation.T, prefilter=False)
    _, gain = shell_agreement(x, back)
    assert (gain - 1).abs().max() > 0.02


def test_a_point_moves_to_r_p() -> None:
    x = torch.zeros(SIZE, SIZE, SIZE)
    point, centre = torch.tensor([6.0, -3.0, 9.0]), SIZE // 2
    x[tuple((point + centre).long().tolist())] = 1.0
    # A quarter turn about z takes +y to +x (on (z, y, x) vectors).
    quarter = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    out = rotate(band_limit(x), quarter)
    peak = torch.tensor([int(i) for i in torch.unravel_index(out.argmax(), out.shape)]) - centre
    assert torch.equal(peak.float(), quarter @ point)


@pytest.mark.parametrize(("lo", "hi"), [(-60.0, 60.0), (-47.0, 66.0)])
def test_rotating_a_patch_and_its_wedge_agree(lo: float, hi: float) -> None:
    """What the rotated wedge calls missing is empty in the rotated, wedged patch.

    An asymmetric range tells R from its inverse and one sign of the angles from the other.
    """
    generator = torch.Generator().manual_seed(3)
    wedge = MissingWedge((lo, hi))
    x = wedge.measured(local_field(generator))
    rotation = random_rotations(1, generator=generator)[0]
    power = rfft(rotate(x, rotation)).abs() ** 2
    k = radius(x.shape)
    band = (k > 0.08) & (k < 0.4)

    def share(candidate: MissingWedge) -> float:
        # Deep inside: the ball blurs the edge of the wedge by a few Fourier voxels.
        deep = (candidate.depth(x.shape) > 5) & band
        return float(power[deep].mean() / power[band].mean())

    assert share(wedge.rotated(rotation)) < 0.02
    assert share(wedge.rotated(rotation.T)) > 0.2
    assert share(wedge) > 0.2


def test_rotations_are_uniform_on_so3() -> None:
    r = random_rotations(4000, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(3)
    assert torch.allclose(r @ r.transpose(1, 2), eye.expand_as(r), atol=1e-5)
    assert torch.allclose(torch.linalg.det(r), torch.ones(len(r)), atol=1e-5)
    # Haar moments: E R = 0, E R_ij^2 = 1/3, and the angle's mean is pi/2 + 2/pi.
    assert r.mean(dim=0).abs().max() < 0.03
    assert ((r**2).mean(dim=0) - 1 / 3).abs().max() < 0.02
    trace = r.diagonal(dim1=1, dim2=2).sum(dim=1)
    angle = torch.arccos(((trace - 1) / 2).clamp(-1, 1))
    assert abs(float(angle.mean()) - (math.pi / 2 + 2 / math.pi)) < 0.03


@pytest.mark.parametrize(
    ("wedge", "count"),
    [
        (MissingWedge((-60.0, 60.0)), 4),
        (MissingWedge((-50.0, 62.0)), 2),
        (MissingWedge((-50.0, 62.0), tilt_axis_deg=90.0), 2),
        (MissingWedge((-60.0, 60.0), tilt_axis_deg=30.0), 1),
    ],
)
def test_half_turns_keep_the_wedge(wedge: MissingWedge, count: int) -> None:
    x = wedge.measured(torch.randn(17, 17, 17, generator=torch.Generator().manual_seed(0)))
    turns = wedge.half_turns()
    assert len(turns) == count
    for flips in turns:
        turned = torch.flip(x, flips)
        assert torch.linalg.vector_norm(wedge.complement(turned)) < 1e-4 * torch.linalg.vector_norm(x)


def test_rotation_about_an_axis_keeps_it_and_is_right_handed() -> None:
    axis = torch.tensor([0.3, -0.5, 0.8])
    turn = rotation_about(axis.tolist(), 1.1)
    assert torch.allclose(turn @ axis, axis, atol=1e-6)
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)
    assert torch.allclose(turn, rotation_about(axis.tolist(), 0.4) @ rotation_about(axis.tolist(), 0.7), atol=1e-6)
    x, y = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    assert torch.allclose(rotation_about((1.0, 0.0, 0.0), math.pi / 2) @ x, y, atol=1e-6)


def test_turning_about_the_tilt_axis_turns_the_wedge_in_its_plane() -> None:
    wedge = MissingWedge((-50.0, 60.0), tilt_axis_deg=20.0)
    box, nothing = (33, 33, 33), torch.zeros(2, dtype=torch.float64)
    assert torch.allclose(wedge._frame() @ torch.tensor(wedge.tilt_axis_zyx, dtype=torch.float64), nothing)
    quarter = wedge.rotated(rotation_about(wedge.tilt_axis_zyx, math.pi / 2))
    missing = ~wedge.support(box)
    # 70 degrees are missing, so a quarter turn parts the two.
    assert float(missing.float().mean()) > 0.3
    assert not (missing & ~quarter.support(box)).any()


def test_quarter_turns_are_the_24_rotations_of_the_cube() -> None:
    every = quarter_turns()
    assert every.shape == (24, 3, 3) and torch.equal(every[0], torch.eye(3))
    assert torch.equal(every @ every.mT, torch.eye(3).expand(24, 3, 3)) and bool((torch.linalg.det(every) > 0.5).all())
    known = {tuple(r.flatten().int().tolist()) for r in every}
    products = {tuple((a @ b).flatten().int().tolist()) for a in every for b in every}
    assert len(known) == 24 and products == known


@pytest.mark.parametrize("box", [8, 9])
def test_quarter_turned_cubes_carry_every_voxel_where_the_matrix_says(box: int) -> None:
    volumes, centre = torch.zeros(2, 1, box, box, box), box // 2
    marks = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [1, -2, 3]])
    for number, mark in enumerate(marks, start=1):
        volumes[:, 0, *(centre + mark).tolist()] = number
    for rotation in quarter_turns():
        turned = quarter_turned(volumes, rotation)
        assert turned.shape == volumes.shape and int((turned > 0).sum()) == 2 * len(marks)
        for number, mark in enumerate(marks, start=1):
            place = centre + rotation @ mark.float()
            assert (turned[:, 0, *place.int().tolist()] == number).all()


@pytest.mark.parametrize("shape", [(50, 31, 27), (40000, 1, 1), (1, 200, 130), (3, 24, 24)])
@pytest.mark.parametrize("threads", [1, 3])
def test_positions_sampled_part_by_part_are_those_sampled_at_once(
    shape: tuple[int, int, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, whatever the shape and the threads; and the parts together are every position once."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 20, 24, 22, generator=generator)
    positions = torch.rand(*shape, 3, generator=generator) * torch.tensor([19.0, 23.0, 21.0])
    counted = torch.zeros(shape)
    for part in _near_each_other(shape):
        counted[part] += 1
        assert counted[part].numel() <= TOGETHER
    assert counted.min() == counted.max() == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert torch.equal(sample_cubic(source, positions), _sampled(source, positions))
