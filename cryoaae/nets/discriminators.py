"""Discriminators of 3-D patches: strided convolutions that judge every neighbourhood by itself.

No normalisation layers: one that sees a batch tells real from false by its statistics, one that sees a patch
forgets the contrast.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn.utils import parametrizations

SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Logits of neighbourhoods: (b, 1, z, y, x) -> (b, places), one for every 2^depth voxels each way.

    Parameters
    ----------
    widths : sequence of int
        Channels after each halving.
    spectral : bool
        Spectral normalisation of every convolution (Miyato et al. 2018): bounds the slope of the logit.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64), *, spectral: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(
                Convolution(3, a, b, strides=2, kernel_size=3, act=("leakyrelu", {"negative_slope": SLOPE}), norm=None)
                for a, b in itertools.pairwise([1, *widths])
            )
        )
        self.logit = nn.Conv3d(widths[-1], 1, 1)
        for module in list(self.modules()):
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if spectral:
                    parametrizations.spectral_norm(module)

    def forward(self, patches: Tensor) -> Tensor:
        """(b, 1, z, y, x) -> (b, places)."""
        out: Tensor = self.logit(self.features(patches)).flatten(1)
        return out


class MultiScaleDiscriminator(nn.Module):
    """A `PatchDiscriminator` a scale, each of which sees patches averaged over twice as many voxels.

    Parameters
    ----------
    scales : int
        1: the patches as they are.
    widths, spectral
        As for `PatchDiscriminator`.
    """

    def __init__(self, scales: int = 1, widths: Sequence[int] = (16, 32, 64), *, spectral: bool = False) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"scales": scales, "widths": list(widths), "spectral": spectral}
        self.scales = nn.ModuleList(PatchDiscriminator(widths, spectral=spectral) for _ in range(scales))

    @property
    def neighbourhood(self) -> int:
        """Edge in voxels of what a logit of the finest scale sees."""
        return int(2 ** (len(self.settings["widths"]) + 1) - 1)

    def forward(self, patches: Tensor) -> list[Tensor]:
        """(b, 1, z, y, x) -> logits (b, places) of every scale."""
        logits = []
        for index, scale in enumerate(self.scales):
            if index:
                patches = torch.nn.functional.avg_pool3d(patches, 2)
            logits.append(scale(patches))
        return logits
