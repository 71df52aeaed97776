"""A small 3-D U-Net that treats every place alike.

No normalisation layers: they see one patch, turn empty ice into structure and forget the contrast.
Without biases the network is homogeneous of degree one, so silence in is silence out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

SLOPE = 0.1


def _convolutions(inputs: int, outputs: int, count: int, bias: bool) -> nn.Sequential:
    layers = []
    for index in range(count):
        layers.append(
            Convolution(
                spatial_dims=3,
                in_channels=inputs if index == 0 else outputs,
                out_channels=outputs,
                kernel_size=3,
                act=("leakyrelu", {"negative_slope": SLOPE, "inplace": True}),
                norm=None,
                bias=bias,
            )
        )
    return nn.Sequential(*layers)


class ContextGates(nn.Module):
    """Smooth factors in [0, 1.05], from the moments of the features in wide windows; 1 at the start.

    For each feature h of every level, averages over a window give loudness, log <h^2>, and shape,
    <h> / sqrt(<h^2>). The shape of filtered Gaussian noise is the same whatever its spectrum, so that it
    tells structure from featureless density; loudness tells empty ice. One place cannot tell either.
    """

    WINDOW, OPEN, FLOOR = 7, 3.0, 1e-6

    def __init__(self, features: int, gates: int, scale: int, hidden: int = 16) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Conv3d(2 * features, hidden, 1)
        self.second = nn.Conv3d(hidden, gates, 1)

    @property
    def radius(self) -> int:
        """Reach beyond that of the features, in voxels of the output."""
        return self.scale * (self.WINDOW // 2 + 1)

    def _moments(self, h: Tensor, step: int) -> Tensor:
        """Shape and loudness of features, averaged over windows on a grid coarser by `step`."""
        both = nn.functional.avg_pool3d(torch.cat([h, h.square()], dim=1), step)
        for axis, n in enumerate(both.shape[-3:]):
            window = [1, 1, 1]
            window[axis] = min(self.WINDOW, n - 1 + n % 2)
            both = nn.functional.avg_pool3d(both, window, 1, [w // 2 for w in window], count_include_pad=False)
        first, second = both.chunk(2, dim=1)
        second = second + self.FLOOR
        return torch.cat([first / second.sqrt(), second.log()], dim=1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Features of all levels, (b, c, z / 2^l, ...) -> gates (b, gates, z, y, x)."""
        with torch.no_grad():  # a third of the time of a step otherwise; the features serve the residual
            moments = torch.cat([self._moments(h, 2 ** (len(levels) - 1 - i)) for i, h in enumerate(levels)], dim=1)
        x = nn.functional.leaky_relu(self.first(moments), SLOPE)
        gates = torch.sigmoid(self.OPEN + self.second(x)) / torch.sigmoid(torch.tensor(self.OPEN))
        out: Tensor = nn.functional.interpolate(gates, scale_factor=float(self.scale), mode="trilinear")
        return out


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
    gates : int
        Smooth factors to return beside the residual; see `ContextGates`.
    """

    def __init__(
        self,
        in_channels: int = 2,
        widths: Sequence[int] = (8, 32, 64),
        convolutions: int = 2,
        bias: bool = False,
        gates: int = 0,
    ) -> None:
        super().__init__()
        levels = len(widths)
        self.levels, self.convolutions = levels, convolutions
        self.down = nn.ModuleList(
            _convolutions(in_channels if i == 0 else widths[i - 1], w, convolutions, bias) for i, w in enumerate(widths)
        )
        # Narrowed before it is enlarged: full-resolution channels are what costs.
        self.narrow = nn.ModuleList(
            nn.Conv3d(widths[i + 1], widths[i], 1, bias=False) for i in range(levels - 1)
        )
        self.up = nn.ModuleList(
            _convolutions(2 * widths[i], widths[i], convolutions, bias) for i in range(levels - 1)
        )
        self.last = nn.Conv3d(widths[0], 1, 1, bias=False)
        self.gates = ContextGates(sum(widths), gates, 2 ** (levels - 1)) if gates else None
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
        if self.gates is not None:
            nn.init.zeros_(self.gates.second.weight)
            nn.init.zeros_(self.gates.second.bias)  # type: ignore[arg-type]

    @property
    def multiple(self) -> int:
        """Spatial sizes must be multiples of this."""
        return int(2 ** (self.levels - 1))

    @property
    def radius(self) -> int:
        """Receptive-field radius in voxels: no output depends on anything further away."""
        reach = 0
        for level in range(self.levels):
            blocks = 1 if level == self.levels - 1 else 2
            reach += blocks * self.convolutions * 2**level
        if self.gates is not None:
            reach = max(reach, self.convolutions * (self.multiple * 2 - 1) + self.gates.radius)
        # Pooling and repeating shift by up to a cell of the coarser grid.
        return reach + 2 * (self.multiple - 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(b, c, z, y, x) -> residual (b, 1, z, y, x) and gates (b, g, z, y, x)."""
        # A third faster on CPUs; the result is the same.
        x = x.contiguous(memory_format=torch.channels_last_3d)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                x = nn.functional.avg_pool3d(x, 2)
            x = block(x)
            skips.append(x)
        gates = None if self.gates is None else self.gates(skips)
        for level in reversed(range(self.levels - 1)):
            x = nn.functional.interpolate(self.narrow[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat([x, skips[level]], dim=1))
        return self.last(x), gates
