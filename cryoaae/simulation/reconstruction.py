"""Weighted back-projection of a single-axis tilt series, with unit gain where it measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Detector samples per voxel after filtering: linear interpolation on a four times finer line
# passes 0.98 at a quarter and 0.95 at 0.4 cycles per voxel.
OVERSAMPLING = 4


def angular_weights_rad(tilts_deg: Sequence[float]) -> list[float]:
    """Angle each projection stands for, in radians: half the gap to either neighbour.

    The end tilts count as if the series went on with its last step: what they measured has unit
    gain too.
    """
    if len(tilts_deg) < 2:
        raise ValueError("a reconstruction needs at least two tilts")
    order = sorted(range(len(tilts_deg)), key=lambda i: tilts_deg[i])
    angle = [math.radians(tilts_deg[i]) for i in order]
    padded = [2 * angle[0] - angle[1], *angle, 2 * angle[-1] - angle[-2]]
    weights = [0.0] * len(order)
    for place, i in enumerate(order):
        weights[i] = (padded[place + 2] - padded[place]) / 2
    return weights


def ramp_filter(samples: int) -> Tensor:
    """Transfer |k| of the ramp on a half spectrum (samples // 2 + 1,), k in cycles per column.

    Sampled in real space (Ramachandran and Lakshminarayanan 1971), which keeps the right value at
    k = 0 where sampling |k| itself would lose the mean of every object.
    """
    n = torch.arange(samples, dtype=torch.float64)
    n = torch.minimum(n, samples - n)
    odd = n.long() % 2 == 1
    kernel = torch.where(odd, -1.0 / (math.pi * n.clamp(min=1)) ** 2, torch.zeros_like(n))
    kernel[0] = 0.25
    transfer: Tensor = torch.fft.rfft(kernel).real.float()
    return transfer


class BackProjector:
    """Adds filtered projections, one tilt at a time, into a volume.

    Parameters
    ----------
    shape_zyx : (int, int, int)
        Volume to reconstruct; its centre voxel n // 2 lies on the tilt axis.
    width : int
        Columns of the detector; column width // 2 looks at the centre.
    """

    def __init__(self, shape_zyx: Sequence[int], width: int) -> None:
        z, y, x = shape_zyx
        self.shape = (z, y, x)
        self.width = width
        # Twice the width: the ramp's tail must not wrap round.
        self._padded = 1 << (2 * width - 1).bit_length()
        self._ramp = ramp_filter(self._padded)
        self._pz = (torch.arange(z) - z // 2).repeat_interleave(x).double()
        self._px = (torch.arange(x) - x // 2).repeat(z).double()
        self._rows = torch.zeros(z * x, y)

    def add(self, image: Tensor, tilt_deg: float, weight_rad: float) -> None:
        """Filter a projection (u, y) and smear it back along its beam."""
        lines = self._filtered(image) * weight_rad
        t = math.radians(tilt_deg)
        u = (self._px * math.cos(t) - self._pz * math.sin(t) + self.width // 2) * OVERSAMPLING
        u.clamp_(0, lines.shape[0] - 2)
        left = u.floor().long()
        share = (u - left).float()[:, None]
        self._rows += lines[left] * (1 - share)
        self._rows += lines[left + 1] * share

    def _filtered(self, image: Tensor) -> Tensor:
        """Ramp-filtered columns on the finer line, (width * OVERSAMPLING, y)."""
        spectrum = torch.fft.rfft(image, n=self._padded, dim=0) * self._ramp[:, None]
        spectrum[-1] = 0  # Nyquist has no unique place on a finer grid
        fine: Tensor = torch.fft.irfft(spectrum, n=self._padded * OVERSAMPLING, dim=0) * OVERSAMPLING
        return fine[: self.width * OVERSAMPLING]

    def volume(self) -> Tensor:
        """Return the reconstruction so far, (z, y, x)."""
        z, y, x = self.shape
        return self._rows.reshape(z, x, y).permute(0, 2, 1).contiguous()


def back_project(images: Iterable[Tensor], tilts_deg: Sequence[float], shape_zyx: Sequence[int]) -> Tensor:
    """Reconstruct a volume (z, y, x) from projections (u, y), one per tilt."""
    projector: BackProjector | None = None
    for image, tilt, weight in zip(images, tilts_deg, angular_weights_rad(tilts_deg), strict=True):
        if projector is None:
            projector = BackProjector(shape_zyx, image.shape[0])
        projector.add(image, tilt, weight)
    assert projector is not None
    return projector.volume()
