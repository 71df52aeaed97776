"""When to stop, and how the learning rate falls until then."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Budget:
    """Progress of a fit towards its ceiling.

    Parameters
    ----------
    steps, minutes : int or None, float or None
        Ceiling; steps win when both are given, so that a run is reproducible.
    step, seconds : int, float
        Done so far, over all sessions of a resumed run.
    """

    steps: int | None
    minutes: float | None
    step: int = 0
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """Share of the ceiling used, 0 to 1."""
        if self.steps is not None:
            return min(1.0, self.step / max(self.steps, 1))
        return min(1.0, self.seconds / (60.0 * (self.minutes or 1e-9)))

    def rate_factor(self, warm_up_steps: int) -> float:
        """Factor on the learning rate: linear warm-up, then a half cosine to zero."""
        warm = min(1.0, (self.step + 1) / max(warm_up_steps, 1))
        return warm * (0.5 + 0.5 * math.cos(math.pi * self.fraction))


@dataclass
class Plateau:
    """Watch a held-out loss; flat when `patience` readings in a row brought no improvement."""

    patience: int
    best: float = math.inf
    waited: int = 0

    def update(self, loss: float) -> bool:
        """Take a reading; return whether it is the best so far."""
        if loss < self.best * (1 - 1e-4):
            self.best, self.waited = loss, 0
            return True
        self.waited += 1
        return False

    @property
    def flat(self) -> bool:
        return self.waited >= self.patience
