"""Signal and noise of particles whose poses are known: what they share when they lie alike is signal.

    S(|k|) = sum_classes (|sum_i A_i|^2 - sum_i |A_i|^2) / ((sum_i M_i)^2 - sum_i M_i),    N = (P - S) / E

with A_i the spectrum of a particle inside the sphere that holds it, turned back by its pose, M_i the turned support of
its wedge, P the power inside the sphere and E what unit noise leaves there. Terms of one particle with itself are taken
off, so noise adds nothing to S on average. It is the cross-spectrum over all pairs of a class.

Outside of the sphere noise need not be what it is inside: images no larger than the box leave less at its corners, and
in a cell the neighbours of a particle are noise, too. Where S is a hundredth of N, that error is larger than S.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cryoaae.patches.particle_spectra import sphere, windowed_power
from cryoaae.patches.spectra import Spectra
from cryoaae.patches.turning import Turner
from cryoaae.physics.fourier import multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.wedge import MissingWedge

# The shared power of all pairs counts from so many standard errors of what noise alone would give.
SIGNIFICANT = 5.0


@dataclass
class _Class:
    """Sums over the particles of a class on the half spectrum."""

    total: Tensor
    power: Tensor
    seen: Tensor


@dataclass
class AlignedSpectra:
    """Sums over particles with poses; `found` tells their spectra.

    Parameters
    ----------
    box : int
        Edge of the particles, voxels.
    """

    box: int
    _classes: dict[str, _Class] = field(default_factory=dict)
    _passed: dict[Hashable, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shape = (self.box,) * 3
        self._shells = self.box // 2
        self._index = shell_index(self._shape, self._shells)
        self._weight = multiplicity(self._shape)
        self._inside, self._count, self._unit = torch.zeros(3, self._shells, dtype=torch.float64)

    def add(self, volume: Tensor, wedge: MissingWedge, rotation: Tensor, name: str) -> None:
        """Count a particle in.

        Parameters
        ----------
        volume : (z, y, x)
        wedge : MissingWedge
        rotation : (3, 3)
            On (z, y, x) vectors, from the frame of its class to how it lies.
        name : str
            Its class.
        """
        window = sphere(self.box)
        held = (volume - (volume * window).sum() / window.sum()) * window
        if wedge not in self._passed:
            seen = wedge.support(self._shape)
            seen[0, 0, 0] = False
            unit = shell_sum(windowed_power(seen, window) * (seen * self._weight), self._index, self._shells)
            self._passed[wedge] = (seen, unit)
        seen, unit = self._passed[wedge]
        self._inside += self._summed(rfft(held).abs() ** 2 * seen)
        self._count += self._summed(seen)
        self._unit += unit
        back = rotation.T.float()
        support = wedge.rotated(back).support(self._shape)
        turned = rfft(Turner(self._shape, back)(held.float())) * support
        one = self._classes.setdefault(name, _empty(turned))
        one.total += turned
        one.power += turned.abs() ** 2
        one.seen += support

    def found(self) -> Spectra | None:
        """The spectra, or None where particles share no more than noise does, as with poses that are wrong."""
        if not self._classes:
            return None
        shared = sum((c.total.abs() ** 2 - c.power for c in self._classes.values()), torch.zeros(()))
        pairs = sum((c.seen * (c.seen - 1) for c in self._classes.values()), torch.zeros(()))
        # Of noise the sum at a coefficient has the spread of its own power; inside a window neighbours are not
        # independent, as many of them as the window is smaller than the box.
        spread = sum((c.power**2 for c in self._classes.values()), torch.zeros(()))
        low = self._shells // 2
        dependent = float((sphere(self.box) ** 2).mean())
        error = (self._summed(spread * self._weight)[1:low].sum() / dependent).sqrt()
        if not float(self._summed(shared)[1:low].sum()) > SIGNIFICANT * float(error):
            return None
        measured = torch.nonzero((self._summed(pairs) > 0) & (self._count > 0) & (self._unit > 0)).flatten()
        measured = measured[measured > 0]
        nearest = measured[(torch.arange(self._shells)[:, None] - measured).abs().argmin(dim=1)]
        signal = (self._summed(shared) / self._summed(pairs))[nearest].clamp(min=0.0)
        noise = ((self._inside - self._count * signal) / self._unit)[nearest]
        return Spectra(signal, noise.clamp(min=0.0))

    def _summed(self, values: Tensor) -> Tensor:
        """Over shells of the whole spectrum."""
        return shell_sum(values * self._weight, self._index, self._shells)


def aligned_spectra(particles: Iterable[tuple[Tensor, MissingWedge, Tensor, str]], box: int) -> Spectra | None:
    """Measure the spectra of particles with poses; see `AlignedSpectra.add` for what each of them is."""
    sums = AlignedSpectra(box)
    for particle in particles:
        sums.add(*particle)
    return sums.found()


def _empty(like: Tensor) -> _Class:
    return _Class(
        torch.zeros_like(like, dtype=torch.complex128), *torch.zeros(2, *like.shape, dtype=torch.float64)
    )
