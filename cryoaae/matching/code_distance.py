"""How unusual a patch is by its code: the distance of its codes from those of real patches.

    energy = mean over the codes of a patch of |S^-1/2 (z - m)|^2 / dim,     m, S of codes of real patches

A Mahalanobis distance, about 1 for what was fitted on (a little less: see `Whitening`), whatever the law of the codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cryoaae.matching.memory import Whitening

CHUNK = 64


class CodeDistance(nn.Module):
    """Gives every patch the distance of its codes.

    Parameters
    ----------
    dim : int
        Length of a code.

    Notes
    -----
    The encoder is not part of its state: it is the restorer's, given by `look_through`.
    """

    kind = "code"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.settings = {"dim": dim}
        self.frame = Whitening(dim)
        self._encode: Callable[[Tensor], Tensor] | None = None

    def look_through(self, encode: Callable[[Tensor], Tensor]) -> CodeDistance:
        """Use an encoder of patches, (b, 1, p, p, p) -> (b, dim, z, y, x); return itself."""
        self._encode = encode
        return self

    @torch.no_grad()
    def learn_real(self, patches: Tensor) -> None:
        """Measure mean and axes on codes of real patches (n, 1, p, p, p)."""
        self.frame.measure(self.codes(patches).flatten(0, 1))

    def codes(self, patches: Tensor) -> Tensor:
        """Codes of patches (b, 1, p, p, p), (b, places, dim)."""
        if self._encode is None:
            raise ValueError("there is no encoder to look through")
        return torch.cat([self._encode(part).flatten(2).movedim(1, -1) for part in patches.split(CHUNK)])

    def energies(self, patches: Tensor) -> Tensor:
        """Mean squared distance of the codes of each patch, (b, 1, p, p, p) -> (b,)."""
        return self.frame(self.codes(patches)).square().mean(dim=(1, 2))
