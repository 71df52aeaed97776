"""Features of thousands of patches that were seen lately, and the frame they are compared in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Principal directions quieter than this share of the mean variance are not raised any higher.
FLOOR = 0.3


class Memory(nn.Module):
    """The latest points of a cloud; its buffers are its state.

    Parameters
    ----------
    dim, capacity : int
        Length of a point; how many are kept.
    """

    points: Tensor
    seen: Tensor

    def __init__(self, dim: int, capacity: int) -> None:
        super().__init__()
        self.register_buffer("points", torch.zeros(capacity, dim))
        self.register_buffer("seen", torch.tensor(0))

    def __len__(self) -> int:
        return min(int(self.seen), len(self.points))

    @property
    def cloud(self) -> Tensor:
        """All points that are kept, (n, dim), in no order."""
        return self.points[: len(self)]

    @torch.no_grad()
    def add(self, points: Tensor) -> None:
        """Keep points (b, dim) in place of the oldest."""
        at = (self.seen + torch.arange(len(points), device=self.seen.device)) % len(self.points)
        self.points[at] = points.to(self.points)
        self.seen += len(points)


class Whitening(nn.Module):
    """Affine map after which features of real patches have mean 0 and, along their principal axes, variance 1.

    Parameters
    ----------
    dim : int

    Notes
    -----
    Every feature is brought to variance 1, then every principal axis, to variance v / (v + floor) of its own v: what
    hardly varies is the operator's finest errors, not structure.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", torch.eye(dim))

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Take mean and axes from features (n, dim)."""
        points = features.double()
        std = points.std(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
        centred = (points - points.mean(dim=0)) / std
        variance, axes = torch.linalg.eigh(centred.T @ centred / (len(points) - 1))
        self.mean.copy_(points.mean(dim=0))
        self.axes.copy_(axes / std[:, None] / (variance.clamp(min=0.0) + FLOOR).sqrt())

    def forward(self, features: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return (features - self.mean) @ self.axes
