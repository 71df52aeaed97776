"""The volumetric adversarial autoencoder: class and style of subtomograms, whose class does not know the pose.

    loss =   weight * 1/2 sum |F A(y, z) - F v|^2 / sum B^2     reconstruction where v was measured; B^2 its noise
           + D(q(z), N(0, 1)) + D(q(y), Cat(pi))                each code matched to its prior
           + consistency * -log sum_k y_k y'_k                  a copy in another pose shares the class
           + guard * KL(mean y, pi)                             no class may die out

Every particle comes twice: as it is, and rotated and put through the wedge again (`subtomograms.copies`). Both are
encoded and decoded, each in its own pose, which is part of the style; or, where poses are known, the target of both is
the particle in the frame of its reference, and no code has to hold the pose (`frame` of the settings). Coefficients
that a particle's wedge hides have no weight. The proportions pi of the classes are learned: a share of them is the
running mean of the class codes, the rest uniform, so that sizes may differ and no class dies out.

Where a particle's class is known, the decoder is told it instead of what the encoder takes it for. Where averages m_k
of the classes are known, too, they need not be learned again, and the network adds what style changes:

    A(y, z) = sum_k y_k m_k + network(y, z)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoaae.matching.latent import LatentMatch
from cryoaae.models.autoencoder import CLASS, Objective, beside
from cryoaae.models.categorical import CategoricalAutoencoder, class_of
from cryoaae.models.image_batch import ImageBatch
from cryoaae.nets.encoders import Encoded, Encoder
from cryoaae.physics.fourier import irfft, multiplicity, rfft
from cryoaae.priors.categorical import Categorical
from cryoaae.priors.prior import UNLABELLED

COPIES = 2
# How fast the learned proportions follow the batches.
PROPORTION_RATE = 0.02
TINY = 1e-8


@dataclass(kw_only=True)
class VolumeBatch(ImageBatch):
    """Particles of a step: all of them as they are, then all their copies, in the same order.

    Parameters
    ----------
    pixels : (2 n, 1, z, y, x)
        Inputs of the encoder, see `VolumetricAutoencoder.inputs`.
    labels : (2 n,) int, optional
        Their classes as far as they are known; -1: unknown.
    target : (2 n, z, y, x // 2 + 1) complex
        Whitened spectra to be reconstructed.
    seen : (2 n, z, y, x // 2 + 1) bool
        Where they were measured.
    """

    target: Tensor
    seen: Tensor


class VolumetricAutoencoder(CategoricalAutoencoder):
    """Categorical autoencoder of volumes.

    Parameters
    ----------
    encoder, decoder : nn.Module
        Of volumes (n, 1, z, y, x).
    matches : mapping
        Of "style" and "class".
    objective : Objective
    input_filter : (z, y, x // 2 + 1)
        Radial filter of the encoder's input: a whitened particle is mostly noise.
    inside : (z, y, x)
        Window on what is encoded and decoded.
    band : (z, y, x // 2 + 1)
        Of the particles.
    consistency, guard : float
        Weights of the two terms.
    learned_share : float
        Share of the class proportions that is learned; 0: all classes are equally likely.
    averages : (classes, z, y, x), optional
        Whitened averages of the classes, which stay as they are; None: the decoder is a network alone.
    """

    averages: Tensor | None
    input_filter: Tensor
    inside: Tensor
    band: Tensor
    proportions: Tensor

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        matches: Mapping[str, LatentMatch],
        objective: Objective,
        observer: LatentMatch | None = None,
        *,
        input_filter: Tensor,
        inside: Tensor,
        band: Tensor,
        consistency: float = 1.0,
        guard: float = 1.0,
        learned_share: float = 0.5,
        averages: Tensor | None = None,
    ) -> None:
        super().__init__(encoder, decoder, matches, objective, observer)
        classes = self.latent_matches()[CLASS].prior.classes
        self.consistency, self.guard, self.learned_share = consistency, guard, learned_share
        self.register_buffer("input_filter", input_filter)
        self.register_buffer("inside", inside)
        self.register_buffer("averages", averages)
        self.register_buffer("band", band, persistent=False)
        self.register_buffer("proportions", torch.full((classes,), 1.0 / classes))

    # -- volumes and spectra -------------------------------------------------------------------------

    def inputs(self, spectra: Tensor) -> Tensor:
        """What the encoder sees of whitened spectra (n, z, y, x // 2 + 1): filtered, inside the window."""
        return irfft(spectra * self.input_filter, self.inside.shape)[:, None] * self.inside

    def decode(self, seen: Tensor) -> Tensor:
        """Whitened volumes (n, z, y, x) of what the decoder sees, in the band of the particles.

        Transposed convolutions leave a chequerboard, whose frequency is Nyquist's: the band takes it away.
        """
        volumes = irfft(rfft(self.decoder(seen)[:, 0]) * self.band, self.inside.shape)
        if self.averages is not None:
            volumes = volumes + torch.einsum("nk,kzyx->nzyx", seen[:, -len(self.averages) :], self.averages)
        return volumes * self.inside

    def decoder_input(self, code: Encoded, labels: Tensor | None) -> Tensor:
        """Style and class side by side; the class is the label (n,) where there is one, -1 where there is none.

        A decoder that is shown nothing but guesses of an encoder that has yet to learn makes the mean of all classes,
        whatever class it is asked for.
        """
        y = self.seen_class(code)
        if labels is not None:
            known = nn.functional.one_hot(labels.clamp(min=0), y.shape[-1]).to(y)
            y = torch.where((labels != UNLABELLED)[:, None], known, y)
        return beside(code.style, y)

    # -- terms ---------------------------------------------------------------------------------------

    def _joint_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        assert isinstance(batch, VolumeBatch)
        self.follow_proportions()
        code = self._encode(batch)
        y = class_of(code)
        self._learn_proportions(y)
        volumes = self.decode(self.decoder_input(code, batch.labels))
        error = self.error(volumes, batch.target, batch.seen).mean()
        reconstruction = self.objective.reconstruction_weight * error
        return {
            "reconstruction": reconstruction,
            **self.structure_terms(volumes, reconstruction, batch),
            **self._match_terms(code, batch),
            "consistency": self.consistency * disagreement(*y.chunk(COPIES)),
            "guard": self.guard * self._lopsidedness(y),
            **self._known_terms(code, batch),
        }

    def _known_terms(self, code: Encoded, batch: ImageBatch) -> dict[str, Tensor]:
        """Cross-entropy of all whose class is known: of the batch, which is encoded anyway, and beside it."""
        assert code.logits is not None
        pairs = [] if batch.labels is None else [(code.logits, batch.labels)]
        if batch.labelled_pixels is not None and batch.labelled_labels is not None:
            beside_it = self.encoder(batch.labelled_pixels, batch.draws).logits
            assert beside_it is not None
            pairs.append((beside_it, batch.labelled_labels))
        if not pairs:
            return {}
        logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        # Summed and divided, so that a batch in which none is known has no loss instead of none that exists.
        total = nn.functional.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
        return {"supervised": self.objective.supervised_weight * total / (labels != UNLABELLED).sum().clamp(min=1)}

    def structure_terms(self, volumes: Tensor, reconstruction: Tensor, batch: ImageBatch) -> dict[str, Tensor]:
        """Terms of decoded volumes (2 n, z, y, x) beside their reconstruction: none."""
        return {}

    def held_out_loss(self, batch: ImageBatch) -> Tensor:
        """Reconstruction error, a scalar."""
        assert isinstance(batch, VolumeBatch)
        volumes = self.decode(self.decoder_input(self.encoder(batch.pixels), batch.labels))
        return self.error(volumes, batch.target, batch.seen).mean()

    def error(self, volumes: Tensor, target: Tensor, seen: Tensor) -> Tensor:
        """`measured_error` of decoded volumes (n, z, y, x), whose noise has the power of the band, (n,)."""
        return measured_error(volumes, target, seen, self.band.square())

    # -- proportions ---------------------------------------------------------------------------------

    def expected_proportions(self) -> Tensor:
        """Pi, (classes,) float64, with the sum 1."""
        learned = self.proportions.double()
        return self.learned_share * learned / learned.sum() + (1 - self.learned_share) / len(learned)

    def _learn_proportions(self, y: Tensor) -> None:
        if self.training:
            with torch.no_grad():
                self.proportions.lerp_(y.mean(dim=0).to(self.proportions), PROPORTION_RATE)

    def follow_proportions(self) -> None:
        """Hold the class codes against a prior of the present proportions."""
        shares = self.expected_proportions().tolist()
        match = self.latent_matches()[CLASS]
        if self.learned_share > 0:
            match.prior = Categorical(len(shares), [share / sum(shares) for share in shares])

    def _lopsidedness(self, y: Tensor) -> Tensor:
        """KL of the batch's mean class code from pi."""
        mean = y.mean(dim=0).clamp(min=TINY)
        return (mean * (mean / self.expected_proportions().to(mean)).log()).sum()


def measured_error(volumes: Tensor, target: Tensor, seen: Tensor, noise: Tensor) -> Tensor:
    """Half squared difference over the measured coefficients, by the noise power there, (n,): 1/2 for noise alone.

    Parameters
    ----------
    volumes : (n, z, y, x)
    target : (n, z, y, x // 2 + 1) complex
    seen : (n, z, y, x // 2 + 1) bool
        Coefficients outside count for nothing.
    noise : (z, y, x // 2 + 1)
        Power of a target's noise in each coefficient.
    """
    weight = seen * multiplicity(volumes.shape[-3:], device=volumes.device)
    difference = rfft(volumes) - target
    energy = (weight * (difference.real.square() + difference.imag.square())).sum(dim=(-3, -2, -1))
    return 0.5 * energy / (weight * noise).sum(dim=(-3, -2, -1)).clamp(min=1.0)


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """-log of the probability that two copies are of one class, mean over (n, classes) pairs: 0 for equal one-hots."""
    return -(first * second).sum(dim=-1).clamp(min=TINY).log().mean()
