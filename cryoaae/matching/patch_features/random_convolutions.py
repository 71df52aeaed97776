"""Responses to random filters of 5^3 voxels at three scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.matching.patch_features import PATCH_FEATURES
from cryoaae.matching.patch_features.pooling import loudness_and_sparseness

SCALES, FILTERS, EDGE = 3, 6, 5
# No flip, and the three half turns.
TURNS: tuple[tuple[int, ...], ...] = ((), (-2, -1), (-3, -1), (-3, -2))
# The filters are part of the definition, as are the wavelets.
SEED = 0


@PATCH_FEATURES.register("random_convolutions")
class RandomConvolutions(nn.Module):
    """Loudness and sparseness of responses to random filters and their half turns, over 1, 2 and 4 voxels.

    Parameters
    ----------
    patch : int
        Edge in voxels, at least 5.
    """

    filters: Tensor

    def __init__(self, patch: int) -> None:
        super().__init__()
        # The coarsest scale still holds a filter.
        scales = min(SCALES, (patch // EDGE).bit_length())
        filters = torch.randn(FILTERS, 1, EDGE, EDGE, EDGE, generator=torch.Generator().manual_seed(SEED))
        filters = filters - filters.mean(dim=(-3, -2, -1), keepdim=True)
        filters = filters / torch.linalg.vector_norm(filters, dim=(-3, -2, -1), keepdim=True)
        filters = torch.cat([filters.flip(axes) for axes in TURNS])
        self.register_buffer("filters", filters, persistent=False)
        self.scales, self.dim = scales, 2 * len(filters) * scales

    def turned(self, axes: tuple[int, ...]) -> Tensor:
        """Where each feature of a patch flipped along two axes stands among those of the patch itself, (dim,)."""
        # Two half turns one after the other are the third: axes that are flipped twice are not flipped.
        wanted = [tuple(sorted({*turn} ^ {axis - 3 if axis >= 0 else axis for axis in axes})) for turn in TURNS]
        turn = torch.tensor([TURNS.index(each) for each in wanted])
        filters = (turn[:, None] * FILTERS + torch.arange(FILTERS)).flatten()
        kinds = torch.arange(2 * self.scales)[:, None] * len(filters)  # scale and statistic
        return (kinds + filters).flatten()

    def forward(self, patches: Tensor) -> Tensor:
        """(b, 1, p, p, p) -> (b, dim)."""
        parts = []
        for scale in range(self.scales):
            if scale:
                patches = nn.functional.avg_pool3d(patches, 2)
            parts.append(loudness_and_sparseness(nn.functional.conv3d(patches, self.filters)))
        return torch.cat(parts, dim=1)
