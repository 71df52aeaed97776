"""From images to codes: a trunk with a head for the style and, if asked, one for the class.

Three kinds of style code (Makhzani et al. 2016, section 2): deterministic; Gaussian, re-parametrised;
and the universal approximator f(x, eta), whose noise eta enters with the image, so that q(z | x) can
take any shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoaae.draws import Draws
from cryoaae.nets.stacked import Stack, StackedBatchNorm, StackedLinear

KINDS = ("deterministic", "gaussian", "universal")
LOG_STD_RANGE = (-7.0, 3.0)


@dataclass(frozen=True)
class Encoded:
    """What an encoder says of a batch.

    Parameters
    ----------
    style : (*stack, n, dim)
        A code, drawn where the encoder draws.
    mean, log_std : (*stack, n, dim)
        Law of the style; `log_std` is None unless the encoder is Gaussian.
    logits : (*stack, n, classes) or None
        Of the class.
    """

    style: Tensor
    mean: Tensor
    log_std: Tensor | None = None
    logits: Tensor | None = None


class Encoder(nn.Module):
    """Encoder of flattened images, (*stack, n, pixels).

    Parameters
    ----------
    trunk : nn.Module
        Maps (x, draws) to features (*stack, n, trunk.outputs); for the universal kind its input has
        `noise_dim` more columns.
    style_dim : int
        Length of the style code; 0 for none.
    classes : int
        Classes of a categorical head; 0 for none.
    kind : {"deterministic", "gaussian", "universal"}
    stack : tuple of int
    noise_dim : int
        Length of eta.
    head_norm : bool
        Batch normalisation of the logits, which keeps clusters from falling empty (appendix A.3).
    style_scale : float
        Factor on the style's head, so that a unit output is a typical code of a wide prior.
    """

    def __init__(
        self,
        trunk: nn.Module,
        style_dim: int,
        *,
        classes: int = 0,
        kind: str = "deterministic",
        stack: Stack = (),
        noise_dim: int = 0,
        head_norm: bool = False,
        style_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"'{kind}' is not one of {KINDS}")
        self.trunk, self.kind, self.style_scale = trunk, kind, style_scale
        self.noise_dim = noise_dim if kind == "universal" else 0
        width = int(trunk.outputs)  # type: ignore[arg-type]
        self.mean = StackedLinear(width, style_dim, stack=stack)
        self.log_std = StackedLinear(width, style_dim, stack=stack) if kind == "gaussian" else None
        self.logits = StackedLinear(width, classes, stack=stack) if classes else None
        self.logits_norm = StackedBatchNorm(classes, stack=stack) if classes and head_norm else None

    def forward(self, x: Tensor, draws: Draws | None = None) -> Encoded:
        """Encode; without `draws` a Gaussian style is its mean and eta is zero."""
        if self.noise_dim:
            shape = (*x.shape[:-1], self.noise_dim)
            eta = x.new_zeros(shape) if draws is None else draws.normal(*shape[-2:])
            x = torch.cat([x, eta], dim=-1)
        return self.read(self.trunk(x, draws), draws)

    def read(self, features: Tensor, draws: Draws | None = None) -> Encoded:
        """Codes of the trunk's features (*stack, n, trunk.outputs)."""
        mean = self.mean(features) * self.style_scale
        style, log_std = mean, None
        if self.log_std is not None:
            log_std = self.log_std(features).clamp(*LOG_STD_RANGE)
            if draws is not None:
                style = mean + log_std.exp() * draws.normal(*mean.shape[-2:])
        logits = None if self.logits is None else self.logits(features)
        if logits is not None and self.logits_norm is not None:
            logits = self.logits_norm(logits)
        return Encoded(style, mean, log_std, logits)
