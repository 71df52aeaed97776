"""A small 3-D U-Net that treats every place alike.

No normalisation layers: they see one patch, turn empty ice into structure and forget the contrast.
Without biases the network is homogeneous of degree one, so silence in is silence out. What is known of
the imaging beforehand (tilts, noise, voxel size) multiplies its features, which keeps it so.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cryoaae.nets.boxes import in_boxes
from cryoaae.nets.cells import halved, pointwise

SLOPE = 0.1


def _convolutions(inputs: int, outputs: int, count: int, bias: bool) -> nn.Sequential:
    """Convolutions of 3 x 3 x 3 voxels, each followed by a leaky rectifier; the names are those in weight files."""
    layers = []
    for index in range(count):
        width = inputs if index == 0 else outputs
        convolution = nn.Conv3d(width, outputs, 3, padding=1, bias=bias)
        rectifier = nn.LeakyReLU(SLOPE, inplace=True)
        layers.append(nn.Sequential(OrderedDict(conv=convolution, adn=rectifier)))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net with average pooling down, nearest-neighbour up, and a zero-initialised last layer.

    Parameters
    ----------
    in_channels : int
        Channels of the input; the output has one.
    widths : sequence of int
        Channels at each resolution, the full one first. A narrow first level pays: a voxel there
        costs 8 and 64 times one of the next levels, and what is restored is mostly coarse.
    convolutions : int
        3 x 3 x 3 convolutions in each block.
    bias : bool
        Whether layers have biases.
    conditions : int
        Numbers that say how the density was imaged; 0: the network is for one way of imaging.
    code : int
        Length of a code, linear in the features of the coarsest level, that stands in their place; 0: none.
    """

    # What it gives is added to the linear estimate.
    adds_to_linear = True

    def __init__(
        self,
        in_channels: int = 2,
        widths: Sequence[int] = (8, 32, 64),
        convolutions: int = 2,
        bias: bool = False,
        conditions: int = 0,
        code: int = 0,
    ) -> None:
        super().__init__()
        levels = len(widths)
        if code and levels < 2:
            raise ValueError("a network of one level has no bottleneck for a code")
        self.widths, self.conditions, self.code_dim = tuple(widths), conditions, code
        coarsest = code or widths[-1]
        self.levels, self.convolutions, self.features = levels, convolutions, sum(widths[:-1]) + coarsest
        self.down = nn.ModuleList(
            _convolutions(in_channels if i == 0 else widths[i - 1], w, convolutions, bias) for i, w in enumerate(widths)
        )
        # Narrowed before it is enlarged: full-resolution channels are what costs.
        below = [*widths[1:-1], coarsest]
        self.narrow = nn.ModuleList(nn.Conv3d(below[i], widths[i], 1, bias=False) for i in range(levels - 1))
        self.up = nn.ModuleList(
            _convolutions(2 * widths[i], widths[i], convolutions, bias) for i in range(levels - 1)
        )
        self.code = nn.Conv3d(widths[-1], code, 1, bias=False) if code else None
        self.last = nn.Conv3d(widths[0], 1, 1, bias=False)
        self.gains = _Gains(conditions, sum(self.blocks)) if conditions else None
        self._initialise()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def _initialise(self) -> None:
        """Keep the variance from layer to layer (He et al. 2015); the last layer starts at zero.

        With torch's default every layer shrinks its input, so the deep path is silent for hundreds
        of steps (measured: no progress on a phantom in 350 of them).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                slope = SLOPE if module.kernel_size != (1, 1, 1) else 1.0
                nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity="leaky_relu")
        nn.init.zeros_(self.last.weight)

    @property
    def blocks(self) -> list[int]:
        """Channels of all blocks, down and up again."""
        return [*self.widths, *reversed(self.widths[:-1])]

    @property
    def multiple(self) -> int:
        """Spatial sizes must be multiples of this."""
        return int(2 ** (self.levels - 1))

    @property
    def reach(self) -> int:
        """How far beyond a box it looks, in voxels, if the box starts and ends at multiples of `multiple`."""
        cells = 0
        for _ in range(self.levels - 1):  # down the levels: convolutions, then whole cells of the next
            cells = math.ceil((cells + self.convolutions) / 2)
        return self.encoder_reach(cells)

    def encoder_reach(self, cells: int) -> int:
        """The same of `encode`, of features wanted so many cells of the last level beyond the box."""
        for level in reversed(range(self.levels)):
            cells = (cells + self.convolutions) * (2 if level else 1)
        return cells

    @property
    def voxel_channels(self) -> float:
        """Numbers kept for each voxel of the input when features of all levels are."""
        return sum(width / 8**level for level, width in enumerate(self.widths))

    def _loud(self, x: Tensor, block: int, condition: Tensor | None) -> Tensor:
        """Features of a block, multiplied as the condition (b, c) says; blocks count down and up again."""
        if self.gains is None or condition is None:
            return x
        start = sum(self.blocks[:block])
        return x * self.gains(condition)[:, start : start + self.blocks[block], None, None, None]

    def encode(self, x: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """(b, c, z, y, x) -> features of all levels, (b, widths[l], z / 2^l, ...)."""
        # A third faster on CPUs; the result is the same.
        x = x.contiguous(memory_format=torch.channels_last_3d)
        features: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                x = halved(x)
            x = in_boxes(partial(self._down, level, block, condition), [x], reach=self.convolutions)
            features.append(x)
        if self.code is not None:
            features[-1] = pointwise(self.code, x)
        return features

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Scale the code: of volumes (b, c, z, y, x) its mean squares are 1, and the output stays as it was."""
        if self.code is None:
            return
        codes = self.encode(x)[-1].movedim(1, -1).flatten(0, -2)
        loudness = codes.square().mean(dim=0).sqrt().clamp(min=1e-6)
        self.code.weight.div_(loudness[:, None, None, None, None])
        self.narrow[-1].weight.mul_(loudness[:, None, None, None])  # type: ignore[operator]

    def decode(self, features: list[Tensor], condition: Tensor | None = None) -> Tensor:
        """Features of all levels -> (b, 1, z, y, x)."""
        x = features[-1]
        for level in reversed(range(self.levels - 1)):
            narrow = pointwise(self.narrow[level], x)
            x = in_boxes(partial(self._up, level, condition), [features[level], narrow], reach=self.convolutions)
        return x if self.levels > 1 else pointwise(self.last, x)

    def _down(self, level: int, block: nn.Module, condition: Tensor | None, x: Tensor) -> Tensor:
        """One block on the way down."""
        return self._loud(block(x), level, condition)

    def _up(self, level: int, condition: Tensor | None, features: Tensor, narrow: Tensor) -> Tensor:
        """One block on the way up: features of a level with what comes from the next; the last layer after all."""
        wide = nn.functional.interpolate(narrow, scale_factor=2.0, mode="nearest")
        x = self._loud(self.up[level](torch.cat([wide, features], dim=1)), 2 * (self.levels - 1) - level, condition)
        return x if level else pointwise(self.last, x)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(b, c, z, y, x) and what is known of the imaging (b, conditions) -> (b, 1, z, y, x)."""
        return self.decode(self.encode(x, condition), condition)


class _Gains(nn.Module):
    """A gain for every channel of every block from the conditions, (b, c) -> (b, channels); 1 at the start."""

    HIDDEN = 32

    def __init__(self, conditions: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(conditions, self.HIDDEN)
        self.second = nn.Linear(self.HIDDEN, channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, condition: Tensor) -> Tensor:
        """Keep gains positive: a channel is made louder or quieter, never turned over."""
        return torch.exp(self.second(torch.tanh(self.first(condition))))
