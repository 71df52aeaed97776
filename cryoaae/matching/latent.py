"""A code, the prior it shall follow, and the divergence that compares the two."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.priors.prior import UNLABELLED, Prior


class LatentMatch(nn.Module):
    """Matches the law of a batch of codes to a prior.

    Parameters
    ----------
    prior : Prior
    divergence : nn.Module
        A `Divergence`, made for this prior.
    weight : float
        Of the divergence in the encoder's loss.
    told : int
        Classes that a discriminator is told of, with one more for "unlabelled"; 0: it sees codes alone.
    conditional : bool
        Whether a told label also chooses the part of the prior that its codes are held against.
    """

    def __init__(
        self,
        prior: Prior,
        divergence: nn.Module,
        *,
        weight: float = 1.0,
        told: int = 0,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        if conditional and prior.classes < told:
            raise ValueError(f"the prior has {prior.classes} parts for {told} labels")
        self.prior, self.divergence, self.weight = prior, divergence, weight
        self.told, self.conditional = told, conditional

    def loss(self, q: Codes, draws: Draws, labels: Tensor | None = None) -> Tensor:
        """What the encoder descends, (*stack,)."""
        q, p = self.pair(q, draws, labels)
        return self.weight * self.divergence(q, p, draws)

    def critic_loss(self, q: Codes, draws: Draws, labels: Tensor | None = None) -> Tensor | None:
        """What the divergence's own parameters descend, (*stack,)."""
        q, p = self.pair(q, draws, labels)
        return self.divergence.critic_loss(q, p, draws)  # type: ignore[operator]

    def as_refereed(self, codes: Codes, draws: Draws) -> Codes:
        """Codes with the noise that the discriminator sees them through in training.

        Without it a soft class is told from an exact one every time, and an accuracy says nothing.
        """
        width = float(getattr(self.divergence, "input_noise", 0.0)) * self.prior.scale
        return replace(codes, samples=codes.samples + width * draws.normal(*codes.samples.shape[-2:]))

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of the divergence itself."""
        return list(self.divergence.parameters())

    def reference(self, n: int, draws: Draws, labels: Tensor | None = None) -> Tensor:
        """N draws from the prior for each member, (*stack, n, dim)."""
        if labels is None or not self.conditional:
            return draws.each(lambda g: self.prior.sample(n, generator=g, dtype=draws.dtype))
        return draws.each(lambda g, part: self.prior.sample(n, generator=g, labels=part, dtype=draws.dtype), labels)

    def pair(self, q: Codes, draws: Draws, labels: Tensor | None) -> tuple[Codes, Codes]:
        """The codes and as many draws from the prior; both told their labels where labels are told.

        A code whose label is unknown is held against the whole prior, under the extra class.
        """
        labels = labels if self.told else None
        p = Codes(self.reference(q.samples.shape[-2], draws, labels))
        if labels is None:
            return q, p
        told = one_hot_or_unlabelled(labels, self.told, q.samples.dtype)
        return Codes(q.samples, q.mean, q.log_std, told), Codes(p.samples, told=told)


def one_hot_or_unlabelled(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot labels with one more column for "unlabelled", (..., n) -> (..., n, classes + 1)."""
    column = torch.where(labels == UNLABELLED, classes, labels)
    return nn.functional.one_hot(column, classes + 1).to(dtype)
