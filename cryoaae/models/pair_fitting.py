"""The restorer as a model to fit: one phase, the self-supervised pair loss.

    loss = || M_R F( f(T R y_even) - R y_odd ) ||^2, whitened, hidden coefficients weighted

(DESIGN 4; SCIENCE E6, E7.) M_R is what the rotated tomogram measured; the second wedge T hid part
of it from the input, and that part teaches the filling of wedges. A prior on the network's codes may stand beside it.

A fit that starts from a restorer f_0 holds on to what that makes of what is in the input too. Of two halves with a
share of the weight; of a single volume, whose input and target have the same noise and which so tells nothing of it,
with all of it:

    (1 - a) || T F( f(T R y) - f_0(T R y) ) ||^2, whitened; the pair loss within T has the weight a
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.models.latent_prior import LatentPrior
from cryoaae.models.linear_start import LinearStart
from cryoaae.models.phase import Phase, Watch, Watches
from cryoaae.models.restorer import Restorer, convolve
from cryoaae.patches.pairs import PairBatch
from cryoaae.patches.spectra import Spectra, interpolate
from cryoaae.physics.fourier import multiplicity, radius, rfft, taper
from cryoaae.runs.ranks import mean_over_ranks, ranks

# A discriminator's Adam looks back less far than the restorer's: what it judges moves.
DISCRIMINATOR_BETAS = (0.5, 0.999)
# A discriminator of codes learns faster than the encoder, which all codes follow at once: else it chases them.
CODES_RATE = 4.0
# Shells quieter than this share of the loudest are not weighted any higher.
WHITENING_FLOOR = 1e-2


def whitening(spectra: Spectra) -> Tensor:
    """Weight per shell, 1 / noise power, mean 1, (shells,) float32."""
    noise = spectra.noise
    weight = 1.0 / noise.clamp(min=float(noise.max()) * WHITENING_FLOOR)
    return (weight / weight.mean()).float()


class PairFitting(nn.Module):
    """Fit a restorer on pairs.

    Parameters
    ----------
    restorer : Restorer
    shell_weight : (shells,)
        Weight per shell up to Nyquist of the working grid.
    hidden_weight : float
        Weight of what the target has and the second wedge took from the input. 2 makes the loss the
        supervised one on all but what both wedges hide.
    orthogonal : bool
        Descend with orthogonalised steps of the filters (`fitting.optimisers`).
    latent : LatentPrior, optional
        Of the network's codes.
    anchor : callable, optional
        f_0, which stays as it is: (b, 1, p, p, p) to the same.
    measured_weight : float
        With it: a, of pairs that have weight on what is in the input too.
    """

    shell_weight: Tensor

    def __init__(
        self,
        restorer: Restorer,
        shell_weight: Tensor,
        hidden_weight: float = 2.0,
        orthogonal: bool = False,
        latent: LatentPrior | None = None,
        anchor: Callable[[Tensor], Tensor] | None = None,
        measured_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.restorer, self.latent, self.anchor = restorer, latent, anchor
        self.measured_weight = 1.0 if anchor is None else measured_weight
        self.start = None if restorer.network.adds_to_linear else LinearStart()
        self.hidden_weight, self.orthogonal = hidden_weight, orthogonal
        self.register_buffer("shell_weight", shell_weight)

    def phases(self) -> list[Phase]:
        """The network's weights descend the pair loss, then a discriminator of codes its own, where there is one."""
        return [self.restorer_phase(self._losses), *self.latent_phases()]

    def restorer_phase(self, losses: Callable[[Any], dict[str, Tensor]], *watches: Watch) -> Phase:
        """The phase that moves the restorer."""
        seen = watches if self.latent is None else (*watches, self.latent)
        network = list(self.restorer.network.parameters())
        watch = Watches(seen) if seen else None
        return Phase("pairs", network, losses, orthogonal=self.orthogonal, watch=watch)

    def latent_phases(self) -> list[Phase]:
        """The phase of the latent divergence's own parameters, if it has any; after the restorer's."""
        latent = self.latent
        if latent is None or not latent.critic_parameters():
            return []
        return [
            Phase(
                "codes", latent.critic_parameters(), lambda _: {"codes": latent.critic_loss()},
                betas=DISCRIMINATOR_BETAS, rate=CODES_RATE,
            )
        ]  # fmt: skip

    def _losses(self, batch: PairBatch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.latent is None:
            prediction = self.restorer(batch.inputs)
        else:
            *finer, coded = self.restorer.features(batch.inputs)
            given, codes = self.latent.drawn(coded)
            prediction = self.restorer.from_features(batch.inputs, [*finer, given])
            terms["latent"] = self.latent.loss(codes)
        if self.start is not None:
            terms |= self.start(prediction, convolve(batch.inputs, self.restorer.wiener))
        if self.anchor is not None:
            terms["anchor"] = self._drift(prediction, self.anchor, batch)
        return {"pairs": self.distance(prediction, batch, batch.weight), **terms}

    def _drift(self, prediction: Tensor, anchor: Callable[[Tensor], Tensor], batch: PairBatch) -> Tensor:
        """How far what is in the input too has moved from what the start makes of it, a scalar."""
        with torch.no_grad():
            begun = anchor(batch.inputs)
        return self._energy(prediction - begun, batch.weight, batch.kept * (1 - self._trusted(batch)))

    def _trusted(self, batch: PairBatch) -> Tensor:
        """Weight of pairs on what is in the input too, (b, 1, 1, 1, 1)."""
        return self.measured_weight * batch.kept_weight[:, None, None, None, None]

    def estimate(self, y: Tensor) -> Tensor:
        """Current estimate of the structure on the working grid, (b, 1, z, y, x)."""
        return self.restorer(y)

    @property
    def multiple(self) -> int:
        """Sizes that `estimate` takes are multiples of this."""
        return self.restorer.multiple

    def held_out_loss(self, batch: PairBatch) -> Tensor:
        """The same loss where the tomogram was kept out of fitting."""
        return self.distance(self.restorer(batch.inputs), batch, batch.held_out_weight)

    def distance(self, prediction: Tensor, batch: PairBatch, inside: Tensor) -> Tensor:
        """Masked, whitened squared error per voxel inside, a scalar."""
        weight = batch.seen * torch.where(batch.kept, self._trusted(batch), self.hidden_weight)
        return self._energy(prediction - batch.targets, inside, weight)

    def _energy(self, difference: Tensor, inside: Tensor, weight: Tensor) -> Tensor:
        """Whitened energy per voxel inside of a difference, its coefficients weighted, a scalar.

        It is tapered before the FFT, so that the faces of the patch do not leak between the
        measured region and its complement.
        """
        box, device = difference.shape[-3:], difference.device
        error = rfft(difference * (inside * taper(box, device=device)))
        shell = interpolate(self.shell_weight, (radius(box, device=device) * 2).clamp(max=1.0))
        weight = shell * multiplicity(box, device=device) * weight
        # Of the whole batch, of which this process may hold a share: so that shares add up to its loss.
        energy = mean_over_ranks((inside**2).sum()).clamp(min=1.0 / ranks()[1])
        return (weight * (error.real**2 + error.imag**2)).sum() / energy
