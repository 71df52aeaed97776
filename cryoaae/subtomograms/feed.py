"""Particles for the loop: each as it is and as a rotated, re-wedged copy, read from the stores step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cryoaae.draws import Draws
from cryoaae.models.refereed_volumes import MeasuredAgain, RefereedBatch
from cryoaae.models.volumetric import COPIES, VolumeBatch, VolumetricAutoencoder
from cryoaae.physics.rotation import quarter_turns, random_rotations
from cryoaae.priors.prior import UNLABELLED
from cryoaae.subtomograms.copies import Measured
from cryoaae.subtomograms.copy_bank import USES, CopyBank, Turned
from cryoaae.subtomograms.standard import Particles

QUARTERS = quarter_turns()


class ParticleFeed:
    """Batches of particles and their copies.

    Parameters
    ----------
    particles : Particles
    model : VolumetricAutoencoder
        Whose filter and window its inputs pass.
    draws : Draws
        On the model's device, for what the model draws.
    labels : (n,) int
        Known classes; -1: unlabelled.
    canonical : bool
        Targets are turned into the frame of the reference by the stores' poses.
    shift : float
        Largest shift of a copy along an axis, working voxels.
    batch_size, labelled_batch_size : int
    measured_again : int
        Decoded volumes a step that a structure discriminator sees; 0: the model has none.
    seed : int
        Of orders, poses, wedges and noise, which are drawn on the CPU, the same for every device.
    """

    def __init__(
        self,
        particles: Particles,
        model: VolumetricAutoencoder,
        draws: Draws,
        labels: Tensor,
        *,
        canonical: bool = False,
        shift: float = 1.0,
        batch_size: int = 48,
        labelled_batch_size: int = 24,
        measured_again: int = 0,
        seed: int = 0,
    ) -> None:
        self.particles, self.model, self.draws = particles, model, draws
        self.labels, self.labelled = labels, torch.nonzero(labels != UNLABELLED).flatten()
        self.canonical, self.bank = canonical, CopyBank(particles, canonical=canonical, shift=shift, seed=seed)
        self.batch_size = min(batch_size, len(particles))
        self.labelled_batch_size, self.measured_again = labelled_batch_size, measured_again
        self.generator = torch.Generator().manual_seed(seed)
        self.order = self.labelled_order = torch.empty(0, dtype=torch.long)
        self.round = 0

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Nothing is kept out, so nothing changes."""
        return False

    def batch(self) -> VolumeBatch:
        """Return the next particles of the order; a rest too small for a batch is left out."""
        if len(self.order) < self.batch_size:
            self.order, self.round = self._new_order(), self.round + 1
        chosen, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        drawn = [self.bank.get(int(i), self.round) for i in chosen]
        own, quarters = [one.own for one in drawn], self._quarters(len(drawn))
        shown = self._shown(drawn, quarters)
        if self.canonical:
            targets = COPIES * [one.reference for one in drawn if one.reference is not None]
        else:
            turns = zip(chosen, drawn, quarters, strict=True)
            copies = [self.bank.target(int(i), one, quarter) for i, one, quarter in turns]
            targets = [*own, *copies]
        device = self.draws.device
        parts: dict[str, Any] = {
            "pixels": self._inputs([*(m.spectrum for m in own), *shown]), "draws": self.draws,
            "target": torch.stack([m.spectrum for m in targets]).to(device),
            "seen": torch.stack([m.seen for m in targets]).to(device),
        }  # fmt: skip
        batch = RefereedBatch(**parts, again=self._again(own)) if self.measured_again else VolumeBatch(**parts)
        if len(self.labelled):
            batch.labels = self.labels[chosen].repeat(COPIES).to(device)
        # Where most are labelled, the batch itself has enough of them.
        if 0 < len(self.labelled) < len(self.particles) / 2:
            rows = self._next_labelled()
            labelled = [self.bank.get(int(i), self.round) for i in rows]
            batch.labelled_pixels = self._inputs(self._shown(labelled, self._quarters(len(rows))))
            batch.labelled_labels = self.labels[rows].to(device)
        return batch

    def _again(self, own: list[Measured]) -> MeasuredAgain:
        """How the first decoded volumes are measured again, and the particles of the batch's end to compare with."""
        count, box, device = min(self.measured_again, len(own)), self.particles.box, self.draws.device
        through = torch.randint(len(self.particles), (count,), generator=self.generator)
        return MeasuredAgain(
            random_rotations(count, generator=self.generator).to(device),
            torch.stack([self.particles.support(int(other)) for other in through]).to(device),
            torch.randn(count, box, box, box, generator=self.generator).to(device),
            self._inputs([m.spectrum for m in own[-count:]]),
        )

    def _new_order(self) -> Tensor:
        """All particles, each `USES` times: as many on end as the bank keeps, in an order of their own every time."""
        parts = torch.randperm(len(self.particles), generator=self.generator).split(self.bank.size)
        orders = (part[torch.randperm(len(part), generator=self.generator)] for part in parts for _ in range(USES))
        return torch.cat(list(orders))

    def _next_labelled(self) -> Tensor:
        size = self.labelled_batch_size
        # Where they are few, the same particle comes several times, in other poses.
        while len(self.labelled_order) < size:
            again = self.labelled[torch.randperm(len(self.labelled), generator=self.generator)]
            self.labelled_order = torch.cat([self.labelled_order, again])
        rows, self.labelled_order = self.labelled_order[:size], self.labelled_order[size:]
        return rows

    def _inputs(self, spectra: list[Tensor]) -> Tensor:
        return self.model.inputs(torch.stack(spectra).to(self.draws.device))

    def _quarters(self, count: int) -> Tensor:
        """Quarter turns drawn at random, (count, 3, 3)."""
        return QUARTERS[torch.randint(len(QUARTERS), (count,), generator=self.generator)]

    def _shown(self, drawn: list[Turned], quarters: Tensor) -> list[Tensor]:
        """Copies turned by quarters, each through the wedge of a particle drawn at random."""
        through = torch.randint(len(self.particles), (len(drawn),), generator=self.generator)
        return [
            one.seen(quarter) * self.particles.support(int(other))
            for one, quarter, other in zip(drawn, quarters, through, strict=True)
        ]

    def held_out(self) -> list[Any]:
        """Return nothing: an adversarial loss does not say when to stop."""
        return []

    def state(self) -> dict[str, Any]:
        """Return generators and what is left of the orders."""
        return {
            "draws": self.draws.state(), "generator": self.generator.get_state(),
            "order": self.order, "labelled_order": self.labelled_order, "round": self.round,
        }  # fmt: skip

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Go on from `state`."""
        self.draws.load_state(state["draws"])
        self.generator.set_state(state["generator"])
        self.order, self.labelled_order, self.round = state["order"], state["labelled_order"], int(state["round"])
