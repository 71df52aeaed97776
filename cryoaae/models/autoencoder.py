"""The autoencoder whose codes follow a prior: AAE, and with other divergences VAE, WAE-MMD, Sinkhorn AE.

    loss = weight * reconstruction + sum over codes of  D(q(z), p(z))

(Makhzani et al. 2016; Tolstikhin et al. 2018; Patrini et al. 2018.) Which code is compared with which
prior by which divergence is said by its matches; what the variants change is what the decoder sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.matching.latent import LatentMatch
from cryoaae.models.image_batch import ImageBatch
from cryoaae.models.phase import Phase
from cryoaae.nets.encoders import Encoded, Encoder
from cryoaae.priors.prior import Prior

STYLE, CLASS = "style", "class"


@dataclass(frozen=True)
class Objective:
    """What is descended and how.

    Parameters
    ----------
    reconstruction : {"bernoulli", "squared"}
        Cross-entropy of pixels or half squared error, summed over the image.
    reconstruction_weight, supervised_weight : float
    phased : bool
        The paper's alternating phases with SGD instead of one joint step with Adam.
    beta1 : float
        Decay of Adam's first moment.
    critic_rate : float
        Learning rate of the divergences' own parameters, as a multiple of the autoencoder's.
    class_gradient : float
        Share of the reconstruction's gradient that reaches a class code. Where a short style leaves the
        decoder in need, images are split into the classes that reconstruct best, not into those of the labels.
    """

    reconstruction: str = "bernoulli"
    reconstruction_weight: float = 1.0
    supervised_weight: float = 1.0
    phased: bool = False
    beta1: float = 0.5
    critic_rate: float = 1.0
    class_gradient: float = 1.0


class Autoencoder(nn.Module):
    """Encoder, decoder and the matches of its codes.

    Parameters
    ----------
    encoder : Encoder
    decoder : nn.Module
        Maps (code, draws) to pixel logits.
    matches : mapping of name to LatentMatch
        Of the codes "style" and, in variants that have it, "class".
    objective : Objective
    observer : LatentMatch, optional
        A discriminator that learns to tell style codes from their prior and teaches the encoder nothing:
        the same measure of how well they match, where the divergence has no discriminator of its own.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        matches: Mapping[str, LatentMatch],
        objective: Objective,
        observer: LatentMatch | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.objective = encoder, decoder, objective
        self.matches = nn.ModuleDict(matches)
        self.observer = observer

    def latent_matches(self) -> dict[str, LatentMatch]:
        """The matches by the name of their code."""
        return cast("dict[str, LatentMatch]", dict(self.matches.items()))

    # -- what variants change ------------------------------------------------------------------------

    def decoder_input(self, code: Encoded, labels: Tensor | None) -> Tensor:
        """What the decoder sees of a code, (*stack, n, width)."""
        return code.style

    def clouds(self, code: Encoded) -> dict[str, Codes]:
        """Codes by the name of the match that compares them."""
        return {STYLE: Codes(code.style, code.mean, code.log_std)}

    def told(self, code: Encoded, labels: Tensor | None) -> Tensor | None:
        """Labels that discriminators may be told beside codes, (*stack, n) int."""
        return labels

    def extra_terms(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Further terms that go with the reconstruction, each (*stack,)."""
        return {}

    def supervised_terms(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Terms of labelled images, each (*stack,)."""
        return {}

    @property
    def prior(self) -> Prior:
        """Law that the style follows."""
        return self.latent_matches()[STYLE].prior

    # -- use -----------------------------------------------------------------------------------------

    def decode(self, seen: Tensor) -> Tensor:
        """Images of what the decoder sees, values 0..1."""
        return torch.sigmoid(self.decoder(seen))

    def reconstruct(self, x: Tensor, labels: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        """Encode and decode, values 0..1."""
        return self.decode(self.decoder_input(self.encoder(x, draws), labels))

    # -- fitting -------------------------------------------------------------------------------------

    def settle(self, pixels: Tensor, draws: Draws) -> None:
        """Fit what the last steps leave open, on all images (n, pixels): nothing here."""

    def phases(self) -> list[Phase]:
        """One joint step and the critics', or the paper's phases."""
        return self._paper_phases() if self.objective.phased else self._joint_phases()

    def autoencoder_parameters(self) -> list[nn.Parameter]:
        """All but the critics' parameters."""
        critics = {id(p) for p in self._critic_parameters()}
        return [p for p in self.parameters() if id(p) not in critics]

    def _critic_parameters(self) -> list[nn.Parameter]:
        watching = [] if self.observer is None else [self.observer]
        return [p for m in [*self.latent_matches().values(), *watching] for p in m.critic_parameters()]

    def _joint_phases(self) -> list[Phase]:
        betas = (self.objective.beta1, 0.999)
        phases = [Phase("autoencoder", self.autoencoder_parameters(), self._joint_losses, betas=betas, clip=None)]
        if critics := self._critic_parameters():
            rate = self.objective.critic_rate
            phases.append(Phase("critic", critics, self._critic_losses, rate=rate, betas=betas, clip=None))
        return phases

    def _paper_phases(self) -> list[Phase]:
        """Reconstruction, critic and generator, supervised; SGD, momentum .1 where two play, else .9 (appendix A)."""
        own, encoder = self.autoencoder_parameters(), list(self.encoder.parameters())
        slow = {"momentum": 0.9, "rate": 0.1, "clip": None}
        fast = {"momentum": 0.1, "clip": None}
        phases = [Phase("reconstruction", own, self._reconstruction_losses, **slow)]  # type: ignore[arg-type]
        if critics := self._critic_parameters():
            phases.append(Phase("critic", critics, self._critic_losses, **fast))  # type: ignore[arg-type]
        phases.append(Phase("generator", encoder, self._generator_losses, **fast))  # type: ignore[arg-type]
        phases.append(Phase("supervised", encoder, self.supervised_terms, momentum=0.9, clip=None))
        return phases

    def _joint_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        code = self._encode(batch)
        return {
            "reconstruction": self._reconstruction(code, batch),
            **self._match_terms(code, batch),
            **self.extra_terms(batch),
            **self.supervised_terms(batch),
        }

    def _reconstruction_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        return {"reconstruction": self._reconstruction(self._encode(batch), batch), **self.extra_terms(batch)}

    def _generator_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        return self._match_terms(self._encode(batch), batch)

    def critics(self) -> dict[str, LatentMatch]:
        """Matches with a discriminator, the observer's for the style where there is no other."""
        found = {name: match for name, match in self.latent_matches().items() if match.critic_parameters()}
        if self.observer is not None:
            found[STYLE] = self.observer
        return found

    def _critic_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        code = batch.code if batch.code is not None else self._encode(batch)
        terms = {}
        for name, (match, q, told) in self._compared(code, batch).items():
            loss = match.critic_loss(q, batch.draws, told)
            if loss is not None:
                terms[f"critic_{name}"] = loss
        if self.observer is not None:
            seen = self.observer.critic_loss(self.clouds(code)[STYLE], batch.draws)
            assert seen is not None
            terms["observer"] = seen
        return terms

    def _match_terms(self, code: Encoded, batch: ImageBatch) -> dict[str, Tensor]:
        compared = self._compared(code, batch).items()
        return {f"match_{name}": match.loss(q, batch.draws, told) for name, (match, q, told) in compared}

    def _compared(self, code: Encoded, batch: ImageBatch) -> dict[str, tuple[LatentMatch, Codes, Tensor | None]]:
        """Every match with its codes and the labels that it may be told."""
        clouds, told = self.clouds(code), self.told(code, batch.labels)
        return {name: (match, clouds[name], told) for name, match in self.latent_matches().items()}

    def _encode(self, batch: ImageBatch) -> Encoded:
        code: Encoded = self.encoder(batch.pixels, batch.draws)
        batch.code = Encoded(*(None if t is None else t.detach() for t in vars(code).values()))  # type: ignore[arg-type]
        return code

    def _reconstruction(self, code: Encoded, batch: ImageBatch) -> Tensor:
        logits = self.decoder(self.decoder_input(code, batch.labels), batch.draws)
        return self.objective.reconstruction_weight * self.reconstruction_loss(logits, batch.pixels)

    def reconstruction_loss(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """Loss of an image, mean over the batch, (*stack,)."""
        if self.objective.reconstruction == "squared":
            return half_squared_error(torch.sigmoid(logits), pixels)
        per_pixel = nn.functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none")
        return per_pixel.sum(dim=-1).mean(dim=-1)

    def held_out_loss(self, batch: ImageBatch) -> Tensor:
        """Half squared error of an image, for every variant alike, (*stack,)."""
        return half_squared_error(self.reconstruct(batch.pixels, batch.labels, batch.draws), batch.pixels)


def half_squared_error(image: Tensor, pixels: Tensor) -> Tensor:
    """Half the squared error summed over an image, mean over the batch, (*stack,)."""
    return 0.5 * (image - pixels).square().sum(dim=-1).mean(dim=-1)


def beside(style: Tensor, classes: Tensor) -> Tensor:
    """Style and class weights side by side, (*stack, n, dim + classes)."""
    return torch.cat([style, classes], dim=-1)
