"""Is there anything, and is it structure: what one place cannot tell, its neighbourhood can."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.nets.unet import SLOPE

NOTHING, FEATURELESS, STRUCTURE = range(3)


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
    def radius(self) -> int:
        """Reach beyond that of the features, in voxels of the input."""
        return self.scale * (self.WINDOW // 2 + 1)

    def _moments(self, h: Tensor, step: int) -> Tensor:
        """Shape and loudness of features, averaged over windows on a grid coarser by `step`."""
        both = torch.cat([nn.functional.avg_pool3d(x, step) for x in (h, h.square())], dim=1)
        for axis, n in enumerate(both.shape[-3:]):
            window = [1, 1, 1]
            window[axis] = min(self.WINDOW, n - 1 + n % 2)
            both = nn.functional.avg_pool3d(both, window, 1, [w // 2 for w in window], count_include_pad=False)
        first, second = both.chunk(2, dim=1)
        second = second + self.FLOOR
        return torch.cat([first / second.sqrt(), second.log()], dim=1)

    def moments(self, features: list[Tensor]) -> Tensor:
        """Features of all levels, (b, c, z / 2^l, ...) -> what is known of each place, (b, 2 f, z / scale, ...)."""
        steps = (self.scale // 2**level for level in range(len(features)))
        return torch.cat([self._moments(h, step) for h, step in zip(features, steps, strict=True)], dim=1)

    def classify(self, moments: Tensor) -> Tensor:
        """Moments -> unnormalised log probabilities (b, 3, z / scale, ...)."""
        out: Tensor = self.second(nn.functional.leaky_relu(self.first(moments), SLOPE))
        return out

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of all levels -> probabilities (b, 3, z, y, x), smooth."""
        coarse = self.classify(self.moments(features)).softmax(dim=1)
        out: Tensor = nn.functional.interpolate(coarse, scale_factor=float(self.scale), mode="trilinear")
        return out
