"""Convolutional trunk and decoder for subtomograms, behind the interface of those for images.

Each level halves the box, so nearly all the work is at its full size, in few channels. There are no normalisation
layers in the trunk: those of one particle turn empty ice into structure, and those of a batch make a particle's code
depend on its neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from cryoaae.draws import Draws

STRIDE, KERNEL, SLOPE = 2, 3, 0.1
ACTIVATION = ("leakyrelu", {"negative_slope": SLOPE})
# Edge of the grid of features that is read out; larger ones are averaged down to it, or weights would explode.
LARGEST_READ_OUT = 4


def draw_weights(module: nn.Module, draws: Draws) -> None:
    """Draw weights that keep the variance from layer to layer (He et al. 2015); biases start at zero."""
    if draws.stack:
        raise ValueError("volumetric networks do not stack")
    for part in module.modules():
        if isinstance(part, nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=SLOPE, nonlinearity="leaky_relu", generator=draws.generators[0])
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class VolumeTrunk(nn.Module):
    """Strided convolutions, then one linear layer: (n, 1, z, y, x) -> (n, outputs).

    Parameters
    ----------
    box : int
        Edge of the volumes, voxels.
    widths : sequence of int
        Channels after each halving.
    outputs : int
        Features.
    """

    def __init__(self, box: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.convolutions = nn.Sequential(
            *(
                Convolution(3, a, b, strides=STRIDE, kernel_size=KERNEL, act=ACTIVATION, norm=None)
                for a, b in itertools.pairwise([1, *widths])
            )
        )
        edge = min(LARGEST_READ_OUT, math.ceil(box / STRIDE ** len(widths)))
        self.read_out = nn.AdaptiveAvgPool3d(edge)
        self.linear = nn.Linear(widths[-1] * edge**3, outputs)

    def initialise(self, draws: Draws) -> None:
        """Draw new weights."""
        draw_weights(self, draws)

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        features = self.read_out(self.convolutions(x)).flatten(1)
        return nn.functional.leaky_relu(self.linear(features), SLOPE)


class VolumeDecoder(nn.Module):
    """Two linear layers, then transposed convolutions: (n, inputs) -> (n, 1, z, y, x).

    Parameters
    ----------
    inputs : int
        Length of a code.
    box : int
    widths : sequence of int
        Channels from fine to coarse, as of the trunk.
    units : int
        Of the hidden layer.
    """

    def __init__(self, inputs: int, box: int, widths: Sequence[int], units: int) -> None:
        super().__init__()
        self.box = box
        self.small = (widths[-1], *(math.ceil(box / STRIDE ** len(widths)),) * 3)
        self.hidden, self.linear = nn.Linear(inputs, units), nn.Linear(units, math.prod(self.small))
        channels = [*reversed(widths), 1]
        last = len(channels) - 2
        self.convolutions = nn.Sequential(
            *(
                Convolution(
                    3, a, b, strides=STRIDE, kernel_size=KERNEL, is_transposed=True, conv_only=i == last,
                    act=ACTIVATION, norm=None,
                )
                for i, (a, b) in enumerate(itertools.pairwise(channels))
            )
        )  # fmt: skip

    def initialise(self, draws: Draws) -> None:
        """Draw new weights; the last layer starts near silence, as most of a box is."""
        draw_weights(self, draws)
        with torch.no_grad():
            self.last.weight.mul_(0.1)

    @property
    def last(self) -> nn.ConvTranspose3d:
        """The layer that makes voxels."""
        return next(part for part in self.convolutions[-1].modules() if isinstance(part, nn.ConvTranspose3d))

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        hidden = nn.functional.leaky_relu(self.hidden(z), SLOPE)
        small = nn.functional.leaky_relu(self.linear(hidden), SLOPE).unflatten(-1, self.small)
        b = self.box
        return self.convolutions(small)[..., :b, :b, :b]
