"""Rotations spread evenly over SO(3), and which of a finer grid lie near those of a coarser one.

Super-Fibonacci spirals (Alexa, CVPR 2022): with s = i + 1/2, point i of n is the unit quaternion

    (r sin a, r cos a, R sin b, R cos b),    r^2 = s / n,  R^2 = 1 - s / n,  a = 2 pi s / phi,  b = 2 pi s / psi

where phi = sqrt 2 and psi^4 = psi + 4. In the metric of rotation angles SO(3) has volume 8 pi^2, so n
rotations stand about (8 pi^2 / n)^(1/3) apart.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

PHI, PSI = math.sqrt(2.0), 1.533751168755204288118041


def rotation_count(step_deg: float) -> int:
    """How many rotations stand about `step_deg` apart: 4,400 at 15 degrees."""
    return max(1, round(8 * math.pi**2 / math.radians(step_deg) ** 3))


def rotation_grid(step_deg: float) -> Tensor:
    """Rotations (n, 3, 3) float32 about `step_deg` apart."""
    count = rotation_count(step_deg)
    s = np.arange(count) + 0.5
    r, other = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = 2 * math.pi * s / PHI, 2 * math.pi * s / PSI
    quaternions = np.stack([r * np.sin(a), r * np.cos(a), other * np.sin(b), other * np.cos(b)], axis=-1)
    return torch.from_numpy(Rotation.from_quat(quaternions).as_matrix()).float()


def angles_between_deg(first: Tensor, second: Tensor) -> Tensor:
    """Angle of the rotation that takes one of `first` (..., 3, 3) to one of `second` (..., 3, 3), degrees."""
    trace = (first.double() * second.double()).sum(dim=(-2, -1))
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))


def neighbours(coarse_step_deg: float, fine_step_deg: float) -> int:
    """How many fine rotations are searched about a coarse one: twice those that fall to it, for they overlap."""
    return max(4, 2 * round(rotation_count(fine_step_deg) / rotation_count(coarse_step_deg)))


def nearest_rotations(coarse: Tensor, fine: Tensor, count: int) -> Tensor:
    """For each of `coarse` (m, 3, 3) the `count` nearest of `fine` (n, 3, 3): indices (m, count), the nearest first."""
    # The trace of R^T S falls with the angle between R and S.
    return (coarse.reshape(-1, 9) @ fine.reshape(-1, 9).T).topk(min(count, len(fine)), dim=1).indices
