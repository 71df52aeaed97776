"""Rotations of volumes, in real space and without loss inside the band.

A rotation matrix acts on (z, y, x) column vectors. Rotating a volume by R moves the density at
point p to R p, and with it the spectrum: F_out(k) = F_in(R^T k). Volumes are sampled with a cubic
B-spline on a grid twice as fine as the output; `spline_prefilter` undoes the attenuation of the
spline exactly inside the band, so that neither signal nor noise changes its spectrum when rotated.
(Trilinear rotation low-passes noise, and a network fitted on such patches passes noise it never saw.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from cryoaae.physics.fourier import frequencies

OVERSAMPLING = 2
# Positions that a CPU samples together: near each other in the box they are near in the source, and what they read
# stays in its cache. Twice as fast as all at once.
TOGETHER = 16**3


def random_rotations(count: int, *, generator: torch.Generator) -> Tensor:
    """Draw rotations uniform on SO(3), (count, 3, 3) float32 on the CPU.

    Unit quaternions uniform on the sphere (normalised Gaussians) are uniform on SO(3).
    """
    q = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    w, x, y, z = torch.unbind(q / torch.linalg.vector_norm(q, dim=1, keepdim=True), dim=1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], dim=1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], dim=1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], dim=1),
    ]
    return torch.stack(rows, dim=1).float()


def quarter_turns() -> Tensor:
    """The rotations that map the axes onto themselves, (24, 3, 3) float32 on (z, y, x) vectors; the identity first."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            rotation = torch.zeros(3, 3)
            rotation[torch.arange(3), list(order)] = torch.tensor(signs)
            if torch.linalg.det(rotation) > 0:
                found.append(rotation)
    return torch.stack(found)


def quarter_turned(volumes: Tensor, rotation: Tensor) -> Tensor:
    """Cubes (..., n, n, n) turned by one of `quarter_turns` about voxel n // 2: voxels change places, none is made.

    An even cube is taken to go on periodically.
    """
    order = rotation.abs().argmax(dim=1).tolist()
    flipped = [axis - 3 for axis in range(3) if rotation[axis, order[axis]] < 0]
    leading = range(volumes.dim() - 3)
    out = volumes.permute(*leading, *(volumes.dim() - 3 + axis for axis in order)).flip(flipped)
    # Of an even box, a flip moves voxel n // 2 by one.
    return torch.roll(out, [1] * len(flipped), flipped) if flipped and out.shape[-1] % 2 == 0 else out


def rotation_about(axis_zyx: Sequence[float], angle_rad: float) -> Tensor:
    """Right-handed rotation about an axis (z, y, x), (3, 3) float32.

    Rodrigues: R = cos a I + sin a [u]x + (1 - cos a) u u^T, written for (z, y, x) vectors.
    """
    z, y, x = (torch.tensor(axis_zyx, dtype=torch.float64) / math.hypot(*axis_zyx)).tolist()
    unit = torch.tensor([z, y, x], dtype=torch.float64)
    cross = torch.tensor([[0.0, x, -y], [-x, 0.0, z], [y, -z, 0.0]], dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    turned = math.cos(angle_rad) * (identity - unit[:, None] * unit) + math.sin(angle_rad) * cross
    return (turned + unit[:, None] * unit).float()


def spline_prefilter(
    shape_zyx: Sequence[int], *, device: torch.device | str | None = None
) -> Tensor:
    """Fourier factor (z, y, x // 2 + 1) that makes cubic-spline sampling have gain 1 below Nyquist.

    The cubic B-spline has transform sinc(k)^4 along each axis; spectra beyond 0.25 cycles per voxel
    must be empty (images of the band then stay below 1.3 %), so the factor stays below 2 an axis.
    """
    factor = torch.ones(1, device=device)
    for k in frequencies(shape_zyx, device=device):
        factor = factor / torch.sinc(k.clamp(-0.5, 0.5)) ** 4
    return factor


def sample_positions(
    rotation: Tensor,
    centre_zyx: Tensor,
    size: int | Sequence[int],
    step: float,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Source positions (*size, 3), (z, y, x) in source voxels, of a rotated box.

    The box has `size` voxels (a cube's edge, or z, y, x) of `step` source voxels; its voxel ``size // 2``
    lies on `centre_zyx`.
    """
    sizes = (size,) * 3 if isinstance(size, int) else size
    along_z, along_y, along_x = (
        (torch.arange(n, device=device, dtype=torch.float32) - n // 2) * step for n in sizes
    )
    # p_source = centre + R^T p_box, one axis at a time: rows of R are where each box axis points.
    r = rotation.to(device=device, dtype=torch.float32)
    z = along_z[:, None, None, None] * r[0]
    y = along_y[None, :, None, None] * r[1]
    x = along_x[None, None, :, None] * r[2]
    return centre_zyx.to(device=device, dtype=torch.float32) + z + y + x


def _spline_nodes(position: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Weights and positions of the two linear lookups that equal one cubic lookup along an axis.

    Sigg and Hadwiger, GPU Gems 2 (2005), chapter 20.
    """
    whole = torch.floor(position)
    f = position - whole
    w0, w3 = (1 - f) ** 3 / 6, f**3 / 6
    w1 = 2 / 3 - f**2 * (2 - f) / 2
    g0 = w0 + w1
    g1 = 1 - g0
    return (g0, whole - 1 + w1 / g0), (g1, whole + 1 + w3 / g1)


def reflect_positions(positions_zyx: Tensor, shape_zyx: tuple[int, ...]) -> Tensor:
    """Map positions (..., 3) into a box by reflection at the centres of its end voxels."""
    period = torch.tensor([2.0 * max(n - 1, 1) for n in shape_zyx], device=positions_zyx.device)
    folded = torch.remainder(positions_zyx, period)
    return torch.minimum(folded, period - folded)


def sample_cubic(source: Tensor, positions_zyx: Tensor) -> Tensor:
    """Sample prefiltered volumes with a cubic B-spline.

    Parameters
    ----------
    source : (c, z, y, x)
        Volumes times `spline_prefilter`; the last voxels go on outside.
    positions_zyx : (d, h, w, 3)
        Positions in source voxels.

    Returns
    -------
    (c, d, h, w)
    """
    shape = positions_zyx.shape[:3]
    if source.device.type != "cpu" or math.prod(shape) <= TOGETHER:
        return _sampled(source, positions_zyx)
    out = source.new_empty(source.shape[0], *shape)

    def sample(part: tuple[slice, ...]) -> None:
        out[(slice(None), *part)] = _sampled(source, positions_zyx[part])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(sample, _near_each_other(shape)))
    return out


def _near_each_other(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of at most `TOGETHER` positions, cubes where there is room."""
    room, edges = TOGETHER, list(shape)
    for rank, axis in enumerate(sorted(range(3), key=lambda axis: shape[axis])):
        edges[axis] = min(shape[axis], round(room ** (1 / (3 - rank))))
        room //= edges[axis]
    ranges = [range(0, n, edge) for n, edge in zip(shape, edges, strict=True)]
    for starts in itertools.product(*ranges):
        yield tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))


def _sampled(source: Tensor, positions_zyx: Tensor) -> Tensor:
    """`sample_cubic` of all positions at once."""
    axes = [_spline_nodes(positions_zyx[..., axis]) for axis in range(3)]
    # grid_sample wants (x, y, z) in [-1, 1] between the centres of the end voxels.
    scales = [2.0 / max(n - 1, 1) for n in source.shape[-3:]]
    nodes = [[(g, h * s - 1.0) for g, h in axis] for axis, s in zip(axes, scales, strict=True)]
    out = source.new_zeros(source.shape[0], *positions_zyx.shape[:3])
    for gz, hz in nodes[0]:
        for gy, hy in nodes[1]:
            for gx, hx in nodes[2]:
                grid = torch.stack([hx, hy, hz], dim=-1)[None]
                sampled = torch.nn.functional.grid_sample(
                    source[None], grid, mode="bilinear", padding_mode="border", align_corners=True
                )[0]
                out += sampled * (gz * gy * gx)
    return out
