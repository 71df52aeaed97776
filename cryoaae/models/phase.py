"""What the fitting loop knows of a model: a list of phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


class Watch(Protocol):
    """How a phase fares, beyond whether its loss is finite; its memory is part of the model's state."""

    def doubtful(self) -> bool:
        """Whether the present state is not one to go back to."""
        ...

    def trouble(self) -> str | None:
        """What has been wrong for too long, or None."""
        ...

    def figures(self) -> dict[str, float]:
        """Numbers for the record."""
        ...


@dataclass(frozen=True)
class Watches:
    """Several watches as one."""

    parts: tuple[Watch, ...]

    def doubtful(self) -> bool:
        """Whether one of them doubts."""
        return any(part.doubtful() for part in self.parts)

    def trouble(self) -> str | None:
        """What the first that has something to say says."""
        return next((words for part in self.parts if (words := part.trouble()) is not None), None)

    def figures(self) -> dict[str, float]:
        """Numbers of all."""
        return {name: value for part in self.parts for name, value in part.figures().items()}


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
        Batch to named terms, scalars or one value a member of a stack; their sum is descended.
    rate : float
        Learning rate as a multiple of the fit's.
    betas : (float, float)
        Decays of Adam's two moments.
    momentum : float or None
        Descend by SGD with this momentum instead of by Adam.
    orthogonal : bool
        Descend filters by Muon, other parameters by Adam.
    clip : float or None
        Largest norm of the gradient; None: as it is (the norm would tie the members of a stack together).
    watch : Watch or None
        Asked after every step; on trouble the loop goes back to the last good state.
    """

    name: str
    parameters: list[nn.Parameter]
    losses: Callable[[Any], dict[str, Tensor]]
    rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float | None = None
    orthogonal: bool = False
    clip: float | None = 1.0
    watch: Watch | None = None


class Model(Protocol):
    """A module whose fitting is described by phases."""

    def phases(self) -> list[Phase]:
        """Phases of one step, in order."""
        ...

    def held_out_loss(self, batch: Any) -> Tensor:
        """Scalar score of a batch on data kept out of fitting; lower is better."""
        ...
