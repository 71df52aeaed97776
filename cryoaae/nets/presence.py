"""Is there anything, and is it structure: what one place cannot tell, its neighbourhood can."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.nets.boxes import BOX_VOXELS
from cryoaae.nets.cells import halved, pointwise, window_mean
from cryoaae.nets.unet import SLOPE

NOTHING, FEATURELESS, STRUCTURE = range(3)


def _means(h: Tensor, step: int) -> Tensor:
    """Means of features and of their squares over cells of `step` voxels, (b, 2 c, z / step, ...)."""
    both = torch.cat([h, h.square()], dim=1)
    for _ in range(step.bit_length() - 1):
        both = halved(both)
    return both


class Presence(nn.Module):
    """Probabilities of noise alone, of featureless (Gaussian) density and of structure, place by place.

    For each feature h of an encoder's levels, averages over a window give loudness, log <h^2>, and shape,
    <h> / sqrt(<h^2>). The shape of filtered Gaussian noise is the same whatever its spectrum, so that it
    tells structure from featureless density; loudness tells empty ice.

    Parameters
    ----------
    features : int
        Channels of all levels together.
    levels : int
        The last has voxels of 2^(levels - 1) voxels of the input; probabilities live on its grid.
    """

    WINDOW, FLOOR, HIDDEN = 7, 1e-6, 16

    def __init__(self, features: int, levels: int) -> None:
        super().__init__()
        self.scale = int(2 ** (levels - 1))
        self.first = nn.Conv3d(2 * features, self.HIDDEN, 1)
        self.second = nn.Conv3d(self.HIDDEN, 3, 1)

    @property
    def reach(self) -> int:
        """How far beyond a box it looks, in cells of the last level: a window, and one for smoothness."""
        return self.WINDOW // 2 + 1

    def _moments(self, h: Tensor, step: int) -> Tensor:
        """Shape and loudness of features, averaged over windows on a grid coarser by `step`, a power of two."""
        planes = step * max(1, BOX_VOXELS // (step * h.shape[-2] * h.shape[-1]))
        both = torch.cat([_means(part, step) for part in h.split(planes, dim=2)], dim=2)
        first, second = window_mean(both, self.WINDOW).chunk(2, dim=1)
        second = second + self.FLOOR
        return torch.cat([first / second.sqrt(), second.log()], dim=1)

    def moments(self, features: list[Tensor]) -> Tensor:
        """Features of all levels, (b, c, z / 2^l, ...) -> what is known of each place, (b, 2 f, z / scale, ...)."""
        steps = (self.scale // 2**level for level in range(len(features)))
        return torch.cat([self._moments(h, step) for h, step in zip(features, steps, strict=True)], dim=1)

    def classify(self, moments: Tensor) -> Tensor:
        """Moments -> unnormalised log probabilities (b, 3, z / scale, ...)."""
        return pointwise(self.second, nn.functional.leaky_relu(pointwise(self.first, moments), SLOPE))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of all levels -> probabilities (b, 3, z, y, x), smooth."""
        coarse = self.classify(self.moments(features)).softmax(dim=1)
        out: Tensor = nn.functional.interpolate(coarse, scale_factor=float(self.scale), mode="trilinear")
        return out
