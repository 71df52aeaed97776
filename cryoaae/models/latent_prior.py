"""A prior on a restorer's codes: their law is matched to a Gaussian while the pair loss is descended.

    restorer        min  pair loss + lambda D(law of the codes, N(0, 1))
    discriminator   min  its own loss, where D has one

(Makhzani et al. 2016, Tolstikhin et al. 2018, Kingma and Welling 2014; DESIGN 3.) The codes are those of an
autoencoder of patches, or stand at a U-Net's coarsest level, beside whose skips they may go unused: `code_use` says
whether they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.mmd import mmd2
from cryoaae.draws import Draws
from cryoaae.matching.latent import LatentMatch
from cryoaae.models.restorer import Restorer
from cryoaae.nets.stacked import initialise
from cryoaae.priors.gaussian import Gaussian

# Codes that are held against as many draws of the prior in a step.
PLACES = 256
# The record is a running mean over some 50 steps.
MEMORY = 0.02
# Norms of gradients are means over a few steps: one that lags behind a falling loss lets the prior take over.
SLOPE_MEMORY = 0.3
# Of lambda, until the gradients' norms are known.
START = 1e-3
# Below this change of the output its code says nothing.
UNUSED = 0.01
DISCRIMINATOR = {"hidden": (128, 128), "input_noise": 0.1}


class LatentPrior(nn.Module):
    """Matches the codes of a restorer to a standard Gaussian.

    Parameters
    ----------
    dim : int
        Length of a code.
    divergence : str
        Name in `DIVERGENCES`; "kl" needs an encoder that gives a law.
    weight : float
        Lambda, as long as the share allows it.
    share : float
        Largest norm of the divergence's gradient on the codes, over that of the pair loss: the codes are pulled to
        their prior no harder than to what they are for, or an encoder follows the prior alone before its decoder has
        learned to speak.
    seed : int

    Notes
    -----
    Every step draws from a generator of its own, seeded by how many went before, which is part of the state: so a
    resumed run goes on with the same draws. So are the norms that lambda is limited by, running means of what the
    backward passes of earlier steps showed.
    """

    steps: Tensor
    code_mmd: Tensor
    slopes: Tensor

    def __init__(self, dim: int, divergence: str, *, weight: float, share: float, seed: int) -> None:
        super().__init__()
        prior = Gaussian(dim)
        made = DIVERGENCES.make(divergence, prior, **(DISCRIMINATOR if divergence == "adversarial" else {}))
        self.dim, self.seed, self.match = dim, seed, LatentMatch(prior, made)
        self.weight, self.share = weight, share
        self.lawful = divergence == "kl"
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("code_mmd", torch.tensor(0.0))
        # Of the pair loss and of the divergence, on the codes; 0: not known yet.
        self.register_buffer("slopes", torch.zeros(2))
        # Of the present step: codes, for the discriminator's phase, and lambda.
        self._shown: Codes | None = None
        self._used = 1.0
        initialise(made, Draws.seeded(seed))

    def drawn(self, coded: Tensor) -> tuple[Tensor, Codes]:
        """What the decoder is given of codes (b, c, ...), and those of some places as a cloud.

        Where the encoder gives a law, c is twice `dim` and a code is drawn from it.
        """
        draws = self._draws(coded.device)
        count = coded[:, 0].numel()
        noise = draws.normal(*coded[:, : self.dim].shape).to(coded) if self.lawful else None
        chosen = draws.permutation(count)[:PLACES]

        def some(values: Tensor) -> Tensor:
            return values.movedim(1, -1).reshape(count, self.dim)[chosen]

        given, _, _ = self._law(self._watched(coded, 0), noise)
        samples, mean, log_std = self._law(self._watched(coded, 1), noise)
        return given, Codes(some(samples), some(mean), None if log_std is None else some(log_std))

    def _law(self, coded: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Code, mean and logarithm of the standard deviation."""
        if noise is None:
            return coded, coded, None
        mean, log_std = coded[:, : self.dim], coded[:, self.dim :]
        return mean + log_std.exp() * noise, mean, log_std

    def _watched(self, coded: Tensor, term: int) -> Tensor:
        """The codes as one term of the loss sees them: its gradient is taken down on the way back."""
        seen = coded.view_as(coded)
        if seen.requires_grad:
            seen.register_hook(lambda gradient: self._note(gradient, term))
        return seen

    def _note(self, gradient: Tensor, term: int) -> None:
        norm = torch.linalg.vector_norm(gradient.detach()) / (self._used if term else 1.0)
        if torch.isfinite(norm):
            known = float(self.slopes[term]) > 0
            self.slopes[term].lerp_(norm.to(self.slopes), SLOPE_MEMORY if known else 1.0)

    @property
    def factor(self) -> float:
        """Lambda as it is now."""
        pairs, own = self.slopes.tolist()
        return min(self.weight, self.share * pairs / own) if pairs > 0 and own > 0 else START * self.weight

    def loss(self, codes: Codes) -> Tensor:
        """What the restorer descends, a scalar; keeps the record."""
        self.steps += 1
        self._shown = replace(codes, samples=codes.samples.detach())
        draws = self._draws(codes.samples.device)
        self._used = self.factor
        found = self._used * self.match.loss(codes, draws)
        distance = code_distance(codes.samples.detach(), self.match.reference(len(codes.samples), draws))
        if torch.isfinite(distance):
            first = int(self.steps) == 1
            self.code_mmd.lerp_(distance.to(self.code_mmd), 1.0 if first else MEMORY)
        return found

    def critic_loss(self) -> Tensor:
        """What the divergence's own parameters descend, a scalar, on the codes of the step."""
        assert self._shown is not None
        found = self.match.critic_loss(self._shown, self._draws(self._shown.samples.device))
        assert found is not None
        return found

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of the divergence itself; none but for an adversarial one."""
        return self.match.critic_parameters()

    def _draws(self, device: torch.device) -> Draws:
        return Draws.seeded(self.seed + int(self.steps), device=device)

    # -- what the loop asks of a watch -----------------------------------------------------------------

    def doubtful(self) -> bool:
        """Never: a code that does not follow its prior still restores."""
        return False

    def trouble(self) -> str | None:
        """None."""
        return None

    def figures(self) -> dict[str, float]:
        """Running mean of the unbiased squared MMD of codes from their prior: 0 if they agree."""
        return {"code_mmd": float(self.code_mmd), "code_weight": self.factor}


def code_distance(codes: Tensor, reference: Tensor) -> Tensor:
    """Unbiased squared MMD of codes (n, d) from draws of the standard Gaussian (m, d), a scalar."""
    return mmd2(codes, reference, base=2.0 * codes.shape[-1])


@torch.no_grad()
def code_use(restorer: Restorer, patches: Sequence[Tensor]) -> float:
    """How much an output changes when patches get each other's codes, over the output: RMS over RMS.

    Parameters
    ----------
    restorer : Restorer
        With codes.
    patches : sequence of (1, 1, p, p, p)
        Of one size, normalised; two or more.
    """
    y = torch.cat(list(patches))
    if len(y) < 2:
        raise ValueError("codes of one patch cannot be exchanged")
    features = restorer.features(y)
    plain = restorer.from_features(y, features)
    other = restorer.from_features(y, [*features[:-1], features[-1].roll(1, 0)])
    return float((other - plain).square().mean().sqrt() / plain.square().mean().sqrt().clamp(min=1e-12))
