"""Particles for the loop: each as it is and as a rotated, re-wedged copy, read from the stores step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cryoaae.draws import Draws
from cryoaae.models.volumetric import COPIES, VolumeBatch, VolumetricAutoencoder
from cryoaae.physics.rotation import random_rotations
from cryoaae.priors.prior import UNLABELLED
from cryoaae.subtomograms.copies import Measured, as_it_is, completed, fine_grid, in_reference_frame, turned_particle
from cryoaae.subtomograms.standard import Particles


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
        seed: int = 0,
    ) -> None:
        self.particles, self.model, self.draws = particles, model, draws
        self.labels, self.labelled = labels, torch.nonzero(labels != UNLABELLED).flatten()
        self.canonical, self.shift = canonical, shift
        self.batch_size = min(batch_size, len(particles))
        self.labelled_batch_size = labelled_batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.order = self.labelled_order = torch.empty(0, dtype=torch.long)

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Nothing is kept out, so nothing changes."""
        return False

    def batch(self) -> VolumeBatch:
        """Return the next particles of the order; a rest too small for a batch is left out."""
        if len(self.order) < self.batch_size:
            self.order = torch.randperm(len(self.particles), generator=self.generator)
        chosen, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        own = [as_it_is(self.particles, int(i)) for i in chosen]
        copies, shown = self._copies(own, chosen)
        targets = [*own, *copies]
        if self.canonical:
            targets = COPIES * [in_reference_frame(self.particles, int(i)) for i in chosen]
        device = self.draws.device
        batch = VolumeBatch(
            pixels=self._inputs([*(m.spectrum for m in own), *shown]), draws=self.draws,
            target=torch.stack([m.spectrum for m in targets]).to(device),
            seen=torch.stack([m.seen for m in targets]).to(device),
        )  # fmt: skip
        if len(self.labelled):
            batch.labels = self.labels[chosen].repeat(COPIES).to(device)
        # Where most are labelled, the batch itself has enough of them.
        if 0 < len(self.labelled) < len(self.particles) / 2:
            rows = self._next_labelled()
            labelled = [as_it_is(self.particles, int(i)) for i in rows]
            batch.labelled_pixels = self._inputs(self._copies(labelled, rows)[1])
            batch.labelled_labels = self.labels[rows].to(device)
        return batch

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

    def _copies(self, own: list[Measured], chosen: Tensor) -> tuple[list[Measured], list[Tensor]]:
        """A turned copy of each chosen particle, and how it is shown: through the wedge of one drawn at random."""
        count, box, generator, particles = len(chosen), self.particles.box, self.generator, self.particles
        rotations = random_rotations(count, generator=generator)
        shifts = (2 * torch.rand(count, 3, generator=generator) - 1) * self.shift
        through = torch.randint(len(particles), (count,), generator=generator)
        noise = torch.randn(count, box, box, box, generator=generator)
        copies, shown = [], []
        draws = zip(own, chosen, rotations, shifts, through, noise, strict=True)
        for measured, i, rotation, shift, other, grains in draws:
            fine = fine_grid(completed(measured, grains))
            copy, seen = turned_particle(fine, particles.wedge(int(i)), rotation, shift)
            copies.append(copy)
            shown.append(seen * particles.support(int(other)))
        return copies, shown

    def held_out(self) -> list[Any]:
        """Return nothing: an adversarial loss does not say when to stop."""
        return []

    def state(self) -> dict[str, Any]:
        """Return generators and what is left of the orders."""
        return {
            "draws": self.draws.state(), "generator": self.generator.get_state(),
            "order": self.order, "labelled_order": self.labelled_order,
        }  # fmt: skip

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Go on from `state`."""
        self.draws.load_state(state["draws"])
        self.generator.set_state(state["generator"])
        self.order, self.labelled_order = state["order"], state["labelled_order"]
