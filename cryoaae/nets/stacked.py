"""Layers with a leading stack axis: several models trained side by side in one batched product.

Without a stack a weight is (in, out) and an activation (n, in); a stack of S members has (S, in, out)
and (S, n, in). Nothing mixes members, so each one learns as it would alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from cryoaae.draws import Draws

Stack = tuple[int, ...]
MOMENTUM, EPSILON = 0.1, 1e-5
NARROW = 32
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "softplus": nn.functional.softplus}


class StackedLinear(nn.Module):
    """Affine map of the last axis, one a member: (*stack, n, inputs) -> (*stack, n, outputs).

    Parameters
    ----------
    inputs, outputs : int
    stack : tuple of int
        () or (members,).
    bias : bool
    spectral : bool
        Divide the weight by its largest singular value, estimated by one power iteration a call in
        training (Miyato et al. 2018, algorithm 1).
    std : float or None
        Standard deviation of the initial weights; None: uniform in +-1/sqrt(inputs).
    """

    right: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stack: Stack = (),
        bias: bool = True,
        spectral: bool = False,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.std, self.spectral = inputs, outputs, std, spectral
        self.weight = nn.Parameter(torch.zeros(*stack, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(*stack, 1, outputs)) if bias else None
        if spectral:
            self.register_buffer("right", torch.full((*stack, outputs, 1), 1 / math.sqrt(outputs)))

    def initialise(self, draws: Draws) -> None:
        """Draw new weights; biases start at zero."""
        with torch.no_grad():
            if self.std is not None:
                self.weight.copy_(draws.normal(self.inputs, self.outputs) * self.std)
            else:
                self.weight.copy_((draws.uniform(self.inputs, self.outputs) * 2 - 1) / math.sqrt(self.inputs))
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        weight = self._normalised() if self.spectral else self.weight
        if self.bias is None:
            return x @ weight
        if weight.dim() == 3 and x.dim() == 3:
            if self.outputs < NARROW:
                return cast("Tensor", _NarrowProduct.apply(x, weight)) + self.bias
            return torch.baddbmm(self.bias, x, weight)
        return torch.addmm(self.bias, x, weight) if weight.dim() == x.dim() == 2 else x @ weight + self.bias

    def _normalised(self) -> Tensor:
        w = self.weight
        with torch.no_grad():
            left = nn.functional.normalize(w @ self.right, dim=-2)
            right = nn.functional.normalize(w.mT @ left, dim=-2)
            if self.training:
                self.right.copy_(right)
        return w / (left.mT @ w @ right)


class _NarrowProduct(torch.autograd.Function):
    """x @ w with few columns in w, with the long side last in every product: several times as fast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return torch.bmm(w.mT, x.mT).mT.contiguous()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        (slope,) = slopes
        of_x = slope @ w.mT if ctx.needs_input_grad[0] else None
        return of_x, (slope.mT @ x).mT.contiguous() if ctx.needs_input_grad[1] else None


class StackedBatchNorm(nn.Module):
    """Batch normalisation over the rows of each member: (*stack, n, features)."""

    mean: Tensor
    variance: Tensor

    def __init__(self, features: int, *, stack: Stack = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*stack, features))
        self.bias = nn.Parameter(torch.zeros(*stack, features))
        self.register_buffer("mean", torch.zeros(*stack, features))
        self.register_buffer("variance", torch.ones(*stack, features))

    def forward(self, x: Tensor) -> Tensor:
        # One member's features beside the other's are features like any.
        rows = x if x.dim() == 2 else x.movedim(-2, 0).flatten(1)
        normal = nn.functional.batch_norm(
            rows, self.mean.view(-1), self.variance.view(-1), self.weight.view(-1), self.bias.view(-1),
            training=self.training, momentum=MOMENTUM, eps=EPSILON,
        )  # fmt: skip
        return normal if x.dim() == 2 else normal.unflatten(1, (x.shape[0], x.shape[2])).movedim(0, -2)


class MLP(nn.Module):
    """Fully connected network: noise on its input, then (linear, batch norm, activation, dropout) blocks.

    Parameters
    ----------
    inputs : int
    hidden : sequence of int
        Units of the hidden layers.
    outputs : int or None
        Units of a last linear layer; None: the last hidden layer is the output.
    stack : tuple of int
        () or (members,).
    activation : {"relu", "tanh", "softplus"}
    batch_norm : bool
        Before each activation. Never in a discriminator: it sees whether a batch is real.
    dropout : float
        Share of hidden units dropped in training.
    input_noise : float
        Standard deviation of Gaussian noise added to the input in training.
    spectral : bool
        Spectral normalisation of every layer.
    std : float or None
        As in `StackedLinear`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int | None = None,
        *,
        stack: Stack = (),
        activation: str = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        input_noise: float = 0.0,
        spectral: bool = False,
        std: float | None = None,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.linear = nn.ModuleList(
            StackedLinear(a, b, stack=stack, spectral=spectral, std=std) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(StackedBatchNorm(w, stack=stack) for w in hidden) if batch_norm else None
        self.last = (
            None if outputs is None else StackedLinear(widths[-1], outputs, stack=stack, spectral=spectral, std=std)
        )
        self.activation = ACTIVATIONS[activation]
        self.dropout, self.input_noise = dropout, input_noise
        self.outputs = widths[-1] if outputs is None else outputs

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Map (*stack, n, inputs) to (*stack, n, outputs); in training noise and dropout come from `draws`."""
        noisy = self.training and draws is not None
        if noisy and self.input_noise:
            x = torch.add(x, draws.normal(*x.shape[-2:]), alpha=self.input_noise)  # type: ignore[union-attr]
        for index, linear in enumerate(self.linear):
            x = linear(x)
            if self.norms is not None:
                x = self.norms[index](x)
            x = self.activation(x)
            if noisy and self.dropout:
                kept = draws.uniform(*x.shape[-2:]) >= self.dropout  # type: ignore[union-attr]
                x = x * kept / (1 - self.dropout)
        return x if self.last is None else self.last(x)


def initialise(module: nn.Module, draws: Draws) -> None:
    """Draw new weights for every part of a module that knows how, in the order in which it holds them."""
    for part in module.modules():
        draw = getattr(part, "initialise", None)
        if callable(draw):
            draw(draws)
