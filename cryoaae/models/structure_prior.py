"""The pair loss, and an energy that compares restorations put through the microscope again with real patches.

    restorer   min  pair loss + lambda * energy(T R f(y) + n)

(METHODS.) The energy sees one-wedge inputs, as a restoration does. Its gradient is kept below a share of the pair
loss's on the restorer's last layer, the mean head: a prior, however sure of itself, can only lean on the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cryoaae.matching.frozen import save_energy
from cryoaae.matching.structure import CloudDraw, Microscope
from cryoaae.models.pair_fitting import PairFitting
from cryoaae.patches.pairs import PairBatch


@dataclass(frozen=True)
class PriorBatch:
    """Pairs for one step, and what the two clouds are made of.

    Parameters
    ----------
    pairs : PairBatch
    blocks : (b, 1, n, n, n)
        Halves as they are, to be restored and put through the microscope again.
    draw : CloudDraw
    """

    pairs: PairBatch
    blocks: Tensor
    draw: CloudDraw


class GradientRecord(Protocol):
    """Who takes down how large an energy's gradient is."""

    def note_gradient(self, ratio: Tensor, weight: Tensor) -> None:
        """Take down the energy's gradient on the restorer's head over the pair loss's, and the weight it is given."""
        ...


class StructurePrior(PairFitting):
    """What fits with priors on structure have in common; each brings its `phases` and its matcher.

    Parameters
    ----------
    *arguments
        As for `PairFitting`.
    microscope : Microscope
    weight : float
        Lambda, as long as the share allows it.
    share : float
        Largest norm of the energy's gradient on the last layer, over that of the pair loss.
    """

    def __init__(self, *arguments: Any, microscope: Microscope, weight: float, share: float) -> None:
        super().__init__(*arguments)
        self.microscope, self.weight, self.share = microscope, weight, share

    @property
    def matcher(self) -> nn.Module:
        """What gives patches their energies."""
        raise NotImplementedError

    def save_energy(self, path: Path) -> None:
        """Write the matcher as it is now, with the sizes that it goes with."""
        save_energy(path, self.matcher, patch=self.microscope.patch, block=self.microscope.block)

    def bounded(self, pairs: Tensor, energy: Tensor, restored: Tensor, record: GradientRecord) -> Tensor:
        """Energy times lambda, a scalar; lambda falls where the gradient's share would be too large."""
        head = self.restorer.network.last.weight
        return bounded_energy(pairs, energy, restored, head, record, weight=self.weight, share=self.share)


def bounded_energy(
    own: Tensor, energy: Tensor, made: Tensor, head: Tensor, record: GradientRecord, *, weight: float, share: float
) -> Tensor:
    """An energy times its weight, which falls where the energy's gradient would be too large.

    The way back through matcher and microscope is walked once: to what was made, whence the rest follows.

    Parameters
    ----------
    own : Tensor
        The loss that the energy may only lean on, a scalar.
    energy : Tensor
        Of `made`, a scalar.
    made : Tensor
        What a network has made.
    head : Tensor
        Weight of the network's last layer, on which the gradients are compared.
    record : GradientRecord
    weight : float
        As long as the share allows it.
    share : float
        Largest norm of the energy's gradient over that of the loss.
    """
    (slope,) = torch.autograd.grad(energy, made)
    along = (made * slope).sum()
    norm, its = (
        torch.linalg.vector_norm(torch.autograd.grad(term, head, retain_graph=True)[0]) for term in (own, along)
    )
    ratio = its / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    factor = torch.clamp(share / ratio.clamp(min=torch.finfo(norm.dtype).tiny), max=weight)
    record.note_gradient(ratio, factor)
    return factor * (energy.detach() + along - along.detach())
