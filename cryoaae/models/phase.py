"""What the fitting loop knows of a model: a list of phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Phase:
    """One optimiser's share of a step.

    Parameters
    ----------
    name : str
        Shown in records and in messages about divergence.
    parameters : list of nn.Parameter
        What this phase updates.
    losses : callable
        Batch to named scalar terms; their sum is descended.
    """

    name: str
    parameters: list[nn.Parameter]
    losses: Callable[[Any], dict[str, Tensor]]


class Model(Protocol):
    """A module whose fitting is described by phases."""

    def phases(self) -> list[Phase]:
        """Phases of one step, in order."""
        ...

    def held_out_loss(self, batch: Any) -> Tensor:
        """Scalar score of a batch on data kept out of fitting; lower is better."""
        ...
