"""Convolutional trunk and decoder for small images, behind the interface of the fully connected ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from cryoaae.draws import Draws

# MNIST's 28 halves twice; what does not is padded by the convolution and cropped by the decoder.
STRIDE = 2


def _initialise(module: nn.Module, draws: Draws) -> None:
    """Draw the weights of convolutions and linear layers (He et al. 2015)."""
    if draws.stack:
        raise ValueError("convolutional networks do not stack")
    generator = draws.generators[0]
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(part.weight, a=math.sqrt(5), generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class ConvTrunk(nn.Module):
    """Strided convolutions, then one linear layer: (n, channels * rows * columns + extra) -> (n, outputs).

    Parameters
    ----------
    shape : (channels, rows, columns)
    widths : sequence of int
        Channels after each halving.
    outputs : int
        Features.
    extra : int
        Columns beyond the pixels (the noise of a universal approximator), shown to the linear layer.
    batch_norm : bool
    input_noise, dropout : float
        As in `MLP`; dropout acts on the features.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        widths: Sequence[int],
        outputs: int,
        *,
        extra: int = 0,
        batch_norm: bool = True,
        input_noise: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape, self.outputs, self.extra = shape, outputs, extra
        self.input_noise, self.dropout = input_noise, dropout
        channels = [shape[0], *widths]
        self.convolutions = nn.Sequential(
            *(
                Convolution(2, a, b, strides=STRIDE, kernel_size=3, act="relu", norm="batch" if batch_norm else None)
                for a, b in itertools.pairwise(channels)
            )
        )
        down = STRIDE ** len(widths)
        size = widths[-1] * math.ceil(shape[1] / down) * math.ceil(shape[2] / down)
        self.linear = nn.Linear(size + extra, outputs)

    def initialise(self, draws: Draws) -> None:
        """Draw new weights."""
        _initialise(self, draws)

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        pixels, extra = x[..., : x.shape[-1] - self.extra], x[..., x.shape[-1] - self.extra :]
        noisy = self.training and draws is not None
        if noisy and self.input_noise:
            pixels = pixels + self.input_noise * draws.normal(*pixels.shape)  # type: ignore[union-attr]
        features = self.convolutions(pixels.unflatten(-1, self.shape)).flatten(1)
        features = torch.relu(self.linear(torch.cat([features, extra], dim=-1)))
        if noisy and self.dropout:
            kept = draws.uniform(*features.shape) >= self.dropout  # type: ignore[union-attr]
            features = features * kept / (1 - self.dropout)
        return features


class ConvDecoder(nn.Module):
    """One linear layer, then transposed convolutions: (n, inputs) -> (n, channels * rows * columns) logits."""

    def __init__(
        self, inputs: int, shape: tuple[int, int, int], widths: Sequence[int], *, batch_norm: bool = True
    ) -> None:
        super().__init__()
        self.shape, down = shape, STRIDE ** len(widths)
        self.small = (widths[-1], math.ceil(shape[1] / down), math.ceil(shape[2] / down))
        self.linear = nn.Linear(inputs, math.prod(self.small))
        channels = [*reversed(widths), shape[0]]
        last = len(channels) - 2
        self.convolutions = nn.Sequential(
            *(
                Convolution(
                    2, a, b, strides=STRIDE, kernel_size=3, is_transposed=True, conv_only=i == last,
                    act="relu", norm="batch" if batch_norm else None,
                )
                for i, (a, b) in enumerate(itertools.pairwise(channels))
            )
        )

    def initialise(self, draws: Draws) -> None:
        """Draw new weights."""
        _initialise(self, draws)

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        small = torch.relu(self.linear(z)).unflatten(-1, self.small)
        return self.convolutions(small)[..., : self.shape[1], : self.shape[2]].flatten(1)
