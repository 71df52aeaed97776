"""How a phase descends: by Adam, by SGD, or with orthogonalised steps of its convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.models.phase import Phase


class MuonForFilters:
    """Muon for filter banks and Adam for all other parameters, as one optimiser.

    The step of a filter bank, as a matrix with a row for each output channel, is its averaged gradient made
    orthogonal: all singular values one, so that rare directions move as fast as the loudest. Of a U-Net on noisy
    densities that is most of what Adam wastes (docs/decisions/0019-orthogonal-steps.md). Its length is that of
    Adam's, so that one learning rate serves both.

    Parameters
    ----------
    parameters : sequence of nn.Parameter
        Those with more than one tap, (out, in, z, y, x), go to Muon.
    lr : float
    betas : (float, float)
        Of Adam.

    References
    ----------
    K. Jordan et al., Muon, 2024; length of the step: J. Liu et al., arXiv:2502.16982.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, betas: tuple[float, float]) -> None:
        self.filters = [p for p in parameters if p.ndim == 5 and p[0, 0].numel() > 1]
        others = [p for p in parameters if not any(p is one for one in self.filters)]
        self.rows = [_as_rows(p.detach()).requires_grad_() for p in self.filters]
        muon = torch.optim.Muon(self.rows, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.parts: list[torch.optim.Optimizer] = [muon]
        if others:
            self.parts.append(torch.optim.Adam(others, lr=lr, betas=betas))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both parts; a new ``lr`` set there counts from the next step."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts[1:]:
            part.zero_grad(set_to_none)
        for p in self.filters:
            p.grad = None

    def step(self) -> None:
        """Descend the gradients."""
        for p, rows in zip(self.filters, self.rows, strict=True):
            rows.grad = None if p.grad is None else p.grad.permute(0, *_order(p)).reshape(rows.shape)
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on, as tensors and plain data."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for part, its in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(its)


def _order(weight: Tensor) -> list[int]:
    """Axes of a filter in the order in which memory holds them."""
    strides = weight.stride()
    return sorted(range(1, weight.ndim), key=lambda axis: (-strides[axis], axis))


def _as_rows(weight: Tensor) -> Tensor:
    """Filter bank (out, in, z, y, x) as (out, in * z * y * x), the same memory; the order of columns is no matter."""
    return weight.permute(0, *_order(weight)).view(len(weight), -1)


def optimiser_of(phase: Phase, rate: float) -> torch.optim.Optimizer | MuonForFilters:
    """The optimiser of a phase, at a learning rate."""
    if phase.momentum is not None:
        return torch.optim.SGD(phase.parameters, lr=rate, momentum=phase.momentum)
    if phase.orthogonal:
        return MuonForFilters(phase.parameters, rate, phase.betas)
    # Fused steps pay for large matrices; a restorer resumed with them was not bit-identical.
    fused = phase.clip is None
    return torch.optim.Adam(phase.parameters, lr=rate, betas=phase.betas, fused=fused)
