"""Images for the loop: every member of a stack goes through them in an order of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoaae.draws import Draws
from cryoaae.models.image_batch import ImageBatch


@dataclass(frozen=True)
class Labelled:
    """The labelled examples of each member: indices into the images and their labels, (*stack, m)."""

    indices: Tensor
    labels: Tensor


class ImageFeed:
    """Batches of images.

    Parameters
    ----------
    pixels : (n, pixels)
        Shared by all members.
    known : (*stack, n) int, optional
        Labels that the model is given beside the images; -1: unlabelled.
    labelled : Labelled, optional
        Examples for the supervised term.
    draws : Draws
        Orders, prior samples and noise of each member.
    batch_size, labelled_batch_size : int
    """

    def __init__(
        self,
        pixels: Tensor,
        draws: Draws,
        *,
        known: Tensor | None = None,
        labelled: Labelled | None = None,
        batch_size: int = 100,
        labelled_batch_size: int = 100,
    ) -> None:
        self.pixels, self.draws, self.known, self.labelled = pixels, draws, known, labelled
        self.batch_size = min(batch_size, len(pixels))
        self.labelled_batch_size = labelled_batch_size
        self.fraction = 0.0
        self.order = self.labelled_order = torch.empty(*draws.stack, 0, dtype=torch.long, device=pixels.device)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.pixels) // self.batch_size)

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Remember how far the fit is; nothing is kept out here, so nothing changes."""
        self.fraction = fraction
        return False

    def batch(self) -> ImageBatch:
        """Return the next images of each member's order; a rest too small for a batch is left out."""
        if self.order.shape[-1] < self.batch_size:
            self.order = self.draws.permutation(len(self.pixels))
        chosen, self.order = self.order[..., : self.batch_size], self.order[..., self.batch_size :]
        batch = ImageBatch(self.pixels[chosen], self.draws, fraction=self.fraction)
        if self.known is not None:
            batch.labels = self.known.gather(-1, chosen)
        if self.labelled is not None:
            rows = self._next_labelled(self.labelled)
            batch.labelled_pixels = self.pixels[self.labelled.indices.gather(-1, rows)]
            batch.labelled_labels = self.labelled.labels.gather(-1, rows)
        return batch

    def _next_labelled(self, labelled: Labelled) -> Tensor:
        count = labelled.labels.shape[-1]
        size = min(self.labelled_batch_size, count)
        if self.labelled_order.shape[-1] < size:
            self.labelled_order = self.draws.permutation(count)
        rows, self.labelled_order = self.labelled_order[..., :size], self.labelled_order[..., size:]
        return rows

    def held_out(self) -> list[ImageBatch]:
        """Return nothing: an adversarial loss does not say when to stop."""
        return []

    def state(self) -> dict[str, Any]:
        """Return generators and what is left of the orders."""
        return {"draws": self.draws.state(), "order": self.order, "labelled_order": self.labelled_order}

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Go on from `state`."""
        self.draws.load_state(state["draws"])
        self.order = state["order"].to(self.pixels.device)
        self.labelled_order = state["labelled_order"].to(self.pixels.device)
