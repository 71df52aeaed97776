"""EVIA: an autoencoder whose posterior is the plan of an entropic transport between data and prior.

    min over decoders A of  min over plans pi of  E_pi c + gamma KL(pi | p_X x p_Z),  c(x, z) = |x - A(z)|^2 / 2

The plan is p_X p_Z exp((a(x) + b(z) - c) / gamma), so that

    q(z | x)  ~  kappa(z) exp(-c(x, z) / gamma),   kappa = p_Z exp(b / gamma)

(METHODS, "EVIA"; Genevay et al. 2016, eq. S_eps, for the semi-dual that fits b.) With b the aggregate of
q over the data is the prior, whatever the decoder; with kappa = p_Z it is the prior only where the decoder was
fitted to those data, freely and to the end: the best free decoder is the maximum-likelihood mixture, and there
E_x exp(-c(x, z) / gamma) / Z(x) is the same for all z of the prior (Lindsay 1983), so b is constant. For other data,
another temperature or a decoder that cannot follow, b does the work. The encoder is the barycentre, E_q z.
gamma -> 0 is the Wasserstein autoencoder, gamma -> infinity forgets the data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.draws import Draws
from cryoaae.matching.latent import LatentMatch
from cryoaae.models.autoencoder import Autoencoder, Objective
from cryoaae.models.candidates import Candidates, from_prior, has_density, with_local
from cryoaae.models.image_batch import ImageBatch
from cryoaae.models.phase import Phase
from cryoaae.nets.encoders import Encoded, Encoder
from cryoaae.priors.prior import Prior

# Share of the fit in which the temperature comes down from the spread of the costs to its own value.
ANNEALING = 0.5
# The temperature starts at this share of the typical cost.
START = 0.25
# Of the fit of a potential alone. Images and candidates are drawn anew every round, for a few steps each: of one
# cloud it would learn the accidents.
POTENTIAL_ROUNDS, ROUND_STEPS, POTENTIAL_RATE = 40, 8, 1e-2


class EVIA(Autoencoder):
    """Autoencoder by entropic transport.

    Parameters
    ----------
    encoder : Encoder
        Fits the barycentre.
    decoder : nn.Module
        Maps (code, draws) to pixel logits, or, with `linear`, to pixels.
    potential : nn.Module
        Maps (code / prior.scale, draws) to (*stack, n, 1), the dual potential b in units of gamma.
    prior : Prior
    gamma : float
        Temperature, in units of c.
    candidates : int
        Draws from the prior in a step; as many as there are images are proposed around their codes.
    proposal_std : float
        Spread of those proposals, in units of the prior's scale.
    linear : bool
        The decoder's output is taken as it is, not through a sigmoid.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        potential: nn.Module,
        prior: Prior,
        objective: Objective,
        observer: LatentMatch | None = None,
        *,
        gamma: float = 1.0,
        candidates: int = 256,
        proposal_std: float = 0.1,
        linear: bool = False,
    ) -> None:
        super().__init__(encoder, decoder, {}, objective, observer)
        self.potential, self.style_prior, self.gamma = potential, prior, gamma
        self.candidates, self.proposal_std, self.linear = candidates, proposal_std, linear
        self.has_density = has_density(prior)

    @property
    def prior(self) -> Prior:
        """Law that the posteriors' aggregate follows."""
        return self.style_prior

    # -- the posterior -------------------------------------------------------------------------------

    def dual_potential(self, codes: Tensor) -> Tensor:
        """Potential b / gamma at codes, (*stack, m, dim) -> (*stack, m)."""
        return self.potential(codes / self.prior.scale).squeeze(-1)

    def decode(self, seen: Tensor, draws: Draws | None = None) -> Tensor:
        """Images of codes."""
        image = self.decoder(seen, draws)
        return image if self.linear else torch.sigmoid(image)

    def costs(self, x: Tensor, codes: Tensor, draws: Draws | None = None) -> Tensor:
        """Half squared errors |x_i - A(z_j)|^2 / 2, (*stack, n, m)."""
        image = self.decode(codes, draws)
        squares = x.square().sum(dim=-1)[..., :, None] + image.square().sum(dim=-1)[..., None, :]
        return 0.5 * squares - x @ image.mT

    def propose(self, x: Tensor, draws: Draws, *, prior_draws: int, local_draws: int = 1) -> Candidates:
        """Candidates from the prior and around the codes of x, weighted so that they stand for the prior.

        Parameters
        ----------
        prior_draws : int
        local_draws : int
            Around each code; none where the prior has no density to weight them by.
        """
        if not (local_draws and self.has_density):
            return from_prior(self.prior, prior_draws, draws)
        with torch.no_grad():
            centres = self.encoder(x).style
        width = self.proposal_std * self.prior.scale
        return with_local(self.prior, prior_draws, centres, local_draws, width, draws)

    def log_posterior(
        self, costs: Tensor, candidates: Candidates, gamma: float | Tensor, *, with_potential: bool = True
    ) -> Tensor:
        """Log probability of each candidate for each x, (*stack, n, m); rows sum to one."""
        logits = candidates.log_weights[..., None, :] - costs / gamma
        if with_potential:
            logits = logits + self.dual_potential(candidates.codes)[..., None, :]
        return logits.log_softmax(dim=-1)

    @torch.no_grad()
    def sample_posterior(
        self,
        x: Tensor,
        draws: Draws,
        *,
        count: int = 1,
        candidates: int = 4096,
        local_draws: int = 16,
        with_potential: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Draw codes from q(z | x) by importance resampling.

        Parameters
        ----------
        x : (*stack, n, pixels)
        count : int
            Draws for each x.
        candidates, local_draws : int
            From the prior, and around each code.
        with_potential : bool
            False leaves kappa = p_Z: a posterior whose aggregate is not the prior, for comparison.

        Returns
        -------
        codes : (*stack, n, count, dim)
        effective : (*stack, n)
            Effective number of candidates, 1 / sum of squared weights; below about 10 the draws repeat.
        """
        proposed = self.propose(x, draws, prior_draws=candidates, local_draws=local_draws)
        costs = self.costs(x, proposed.codes)
        weights = self.log_posterior(costs, proposed, self.gamma, with_potential=with_potential).exp()
        chosen = draws.each(lambda g, w: torch.multinomial(w, count, replacement=True, generator=g), weights)
        index = chosen.flatten(-2)[..., None].expand(*chosen.shape[:-2], -1, self.prior.dim)
        codes = proposed.codes.gather(-2, index).unflatten(-2, chosen.shape[-2:])
        return codes, 1 / weights.square().sum(dim=-1)

    # -- fitting -------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """One step for all: each term's gradient stays with the part it fits. Then the observer's."""
        betas = (self.objective.beta1, 0.999)
        phases = [Phase("evia", self.autoencoder_parameters(), self._losses, betas=betas, clip=None)]
        if self.observer is not None:
            watching = self.observer.critic_parameters()
            rate = self.objective.critic_rate
            phases.append(Phase("critic", watching, self._critic_losses, rate=rate, betas=betas, clip=None))
        return phases

    def _losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        x = batch.pixels
        proposed = self.propose(x, batch.draws, prior_draws=self.candidates)
        costs = self.costs(x, proposed.codes, batch.draws)
        gamma = self.annealed(costs.detach(), batch.fraction)
        with torch.no_grad():
            weights = self.log_posterior(costs, proposed, gamma).exp()
            barycentre = weights @ proposed.codes
            batch.code = self._drawn(weights, proposed, batch.draws)
        code = self.encoder(x, batch.draws).style
        return {
            # Envelope theorem: the plan is optimal, so it counts as given.
            "transport": (weights * costs).sum(dim=-1).mean(dim=-1),
            "barycentre": ((code - barycentre) / self.prior.scale).square().sum(dim=-1).mean(dim=-1),
            "potential": -self.semi_dual(costs.detach(), proposed, gamma),
        }

    def _drawn(self, weights: Tensor, proposed: Candidates, draws: Draws) -> Encoded:
        """One code from each posterior, for the observer."""
        chosen = draws.each(lambda g, w: torch.multinomial(w, 1, generator=g), weights)
        codes = proposed.codes.gather(-2, chosen.expand(*chosen.shape[:-1], self.prior.dim))
        return Encoded(codes, codes)

    def semi_dual(self, costs: Tensor, candidates: Candidates, gamma: float | Tensor) -> Tensor:
        """What the potential ascends, in units of gamma, (*stack,).

        Its gradient at a candidate is the prior's mass there minus the aggregate posterior's.
        """
        b = self.dual_potential(candidates.codes)
        prior = candidates.log_weights.log_softmax(dim=-1)
        soft = (prior[..., None, :] + b[..., None, :] - costs / gamma).logsumexp(dim=-1)
        return (prior.exp() * b).sum(dim=-1) - soft.mean(dim=-1)

    def settle(self, pixels: Tensor, draws: Draws) -> None:
        """Bring the potential to its end: steps on few images and candidates leave it behind the decoder."""
        self.fit_potential(pixels, draws)

    def fit_potential(self, pixels: Tensor, draws: Draws, *, images: int = 1000, candidates: int = 2048) -> None:
        """Fit the potential anew to the law of these images; decoder and encoder stay as they are.

        Parameters
        ----------
        pixels : (n, pixels)
            Thousands of images, shared by all members: the aggregate of *their* posteriors becomes the prior.
        draws : Draws
        images, candidates : int
            Some of the images, and draws from the prior, in a round.
        """
        parameters = list(self.potential.requires_grad_(True).parameters())
        optimiser = torch.optim.Adam(parameters, lr=POTENTIAL_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, POTENTIAL_ROUNDS)
        for _ in range(POTENTIAL_ROUNDS):
            with torch.no_grad():
                proposed = from_prior(self.prior, candidates, draws)
                costs = self.costs(pixels[draws.permutation(len(pixels))[..., :images]], proposed.codes)
            for _ in range(ROUND_STEPS):
                optimiser.zero_grad()
                with torch.enable_grad():
                    loss = -self.semi_dual(costs, proposed, self.gamma).sum()
                loss.backward()
                optimiser.step()
            schedule.step()

    def annealed(self, costs: Tensor, fraction: float) -> Tensor:
        """Temperature at a share of the fit, (*stack, 1, 1): from a share of the typical cost down to gamma."""
        target = torch.as_tensor(self.gamma, dtype=costs.dtype, device=costs.device)
        typical = costs.flatten(-2).median(dim=-1).values[..., None, None] * START
        start = torch.maximum(typical, target)
        done = min(1.0, fraction / ANNEALING)
        return torch.exp((1 - done) * start.log() + done * target.log())
