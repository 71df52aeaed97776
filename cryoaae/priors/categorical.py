"""One-hot codes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.priors import PRIORS
from cryoaae.priors.labels import chosen

SUM_TOLERANCE = 1e-6


@PRIORS.register("categorical")
class Categorical:
    """One-hot codes of classes; a label is the class.

    Parameters
    ----------
    classes : int
        Number of classes, and length of a code.
    probabilities : sequence of float, optional
        Of the classes, with the sum 1; without it all are equally likely.
    """

    def __init__(self, classes: int = 10, probabilities: Sequence[float] | None = None) -> None:
        if classes < 1:
            raise ValueError(f"a law of {classes} classes does not exist")
        shares = [1 / classes] * classes if probabilities is None else [float(p) for p in probabilities]
        if len(shares) != classes or not all(p >= 0 for p in shares) or abs(sum(shares) - 1) > SUM_TOLERANCE:
            raise ValueError(f"{shares} are not the probabilities of {classes} classes")
        self.dim = self.classes = classes
        self.probabilities = tuple(p / sum(shares) for p in shares)
        self.scale = math.sqrt(sum(p * (1 - p) for p in self.probabilities) / classes)

    def sample(
        self, n: int, *, generator: torch.Generator, labels: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw (n, classes), each row one-hot."""
        drawn = chosen(labels, self._classes(n, generator), self.classes)
        return torch.nn.functional.one_hot(drawn, self.classes).to(dtype)

    def log_density(self, z: Tensor) -> Tensor:
        """Log probability of a one-hot code, -inf of any other code, (..., classes) -> (...).

        Notes
        -----
        The density is one with respect to counting, not to volume: its sum over the one-hot codes is 1.
        """
        one_hot = ((z == 0) | (z == 1)).all(dim=-1) & (z.sum(dim=-1) == 1)
        logs = torch.tensor(self.probabilities, device=z.device, dtype=z.dtype).log()
        return torch.where(one_hot, logs[z.argmax(dim=-1)], -math.inf)

    def _classes(self, n: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        if len(set(self.probabilities)) == 1:
            # Nothing to send to the device at every draw.
            return torch.randint(self.classes, (n,), generator=generator, device=device)
        u = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        ends = torch.tensor(self.probabilities, device=device, dtype=torch.float64).cumsum(dim=0)
        # Divided by its end, the sum reaches 1 where the last class with a probability does, rounding or not.
        return torch.searchsorted(ends / ends[-1], u, right=True)
