"""A discriminator between codes and prior: the adversarial autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.clouds import two_clouds
from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.metrics.codes import jensen_shannon_bound
from cryoaae.nets.stacked import MLP, Stack
from cryoaae.priors.prior import Prior

LOSSES = ("non_saturating", "minimax")
softplus = nn.functional.softplus


@DIVERGENCES.register("adversarial")
class Adversarial(nn.Module):
    """Learned density ratio between codes and prior.

    Parameters
    ----------
    prior : Prior
        Codes are divided by its `scale` before they enter.
    stack : tuple of int
        () or (members,).
    hidden : sequence of int
        Units of the discriminator's hidden layers.
    loss : {"non_saturating", "minimax"}
        What the encoder descends: ``E_q[-log D]`` or ``E_q[log(1 - D)]``, D the probability of "prior".
    input_noise : float
        Standard deviation, in units of the prior's scale, of noise added to the codes of both clouds in
        training; never to labels.
    r1 : float
        Weight of the gradient penalty ``r1 / 2 E_p |grad logit|^2`` (Mescheder et al. 2018, eq. 9); the
        gradient is with respect to codes in units of the prior's scale.
    spectral : bool
        Spectral normalisation of every layer: the logit changes by at most one per unit of scale.
    told : int
        Columns of one-hot labels shown beside each code (`Codes.told`).
    dropout : float
        Share of hidden units dropped in training.
    activation : {"relu", "tanh", "softplus"}

    Notes
    -----
    The prior is "real": the logit estimates ``log p(z) / q(z)``, high where codes are too few. The critic
    descends ``E_p[-log D] + E_q[-log(1 - D)]`` (Goodfellow et al. 2014, eq. 1), 2 log 2 at chance. Both losses
    are means over points, so a single point in a cloud is right, and none is refused. There is no batch
    normalisation: a discriminator that sees a batch tells real from false by its statistics.
    """

    def __init__(
        self,
        prior: Prior,
        *,
        stack: Stack = (),
        hidden: Sequence[int] = (500, 500),
        loss: str = "non_saturating",
        input_noise: float = 0.0,
        r1: float = 0.0,
        spectral: bool = False,
        told: int = 0,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"a loss '{loss}' is neither of {', '.join(LOSSES)}")
        if min(input_noise, r1, told) < 0 or not 0 <= dropout < 1:
            raise ValueError("noise, penalty and labels cannot be negative, and a dropout lies in [0, 1)")
        self.dim, self.scale = prior.dim, prior.scale
        self.loss, self.input_noise, self.r1, self.told = loss, input_noise, r1, told
        self.network = MLP(
            prior.dim + told, hidden, 1, stack=stack, activation=activation, dropout=dropout, spectral=spectral
        )

    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        """What the encoder descends, (*stack,); the discriminator gets no gradient.

        Raises
        ------
        ValueError
            If noise or dropout is asked for and there is nothing to draw it from, or labels are missing.
        """
        x, _ = two_clouds(q, p, self.dim)
        # Detached weights spare half of the backward pass.
        weights = {name: weight.detach() for name, weight in self.network.named_parameters()}
        shown = self._beside(self._seen(x, draws), q.told)
        logit = functional_call(self.network, weights, (shown, draws)).squeeze(-1)
        return (softplus(-logit) if self.loss == "non_saturating" else -softplus(logit)).mean(dim=-1)

    def critic_loss(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        """What the discriminator descends, (*stack,); the codes get no gradient.

        Raises
        ------
        ValueError
            As in `forward`.
        """
        x, y = (cloud.detach() for cloud in two_clouds(q, p, self.dim))
        told = None if q.told is None else q.told.detach()
        penalised = self.r1 > 0
        # The penalty is a gradient even where none is asked for, as in a validation.
        with torch.set_grad_enabled(torch.is_grad_enabled() or penalised):
            real = self._seen(y, draws).requires_grad_(penalised)
            # One pass for both clouds: rows do not see each other.
            shown = torch.cat([self._beside(self._seen(x, draws), told), self._beside(real, p.told)], dim=-2)
            codes, prior = self.network(shown, draws).squeeze(-1).split([x.shape[-2], y.shape[-2]], dim=-1)
            loss = softplus(codes).mean(dim=-1) + softplus(-prior).mean(dim=-1)
            if penalised:
                (slope,) = torch.autograd.grad(prior.sum(), real, create_graph=True)
                loss = loss + self.r1 / 2 * slope.square().sum(dim=-1).mean(dim=-1)
        return loss

    def log_ratio(self, z: Tensor, told: Tensor | None = None) -> Tensor:
        """Estimate log p(z) / q(z), prior over codes, without noise and dropout.

        Parameters
        ----------
        z : (*stack, n, dim)
            Codes; without a stack they are shown to every member.
        told : (*stack, n, told), optional

        Returns
        -------
        (*stack, n)
            Positive where the prior is denser.
        """
        # Looking must not turn the power iteration of a spectral norm.
        training = self.network.training
        self.network.eval()
        try:
            return self.network(self._beside(z / self.scale, told)).squeeze(-1)
        finally:
            self.network.train(training)

    @torch.no_grad()
    def accuracy(self, q: Codes, p: Codes) -> Tensor:
        """Share of points told rightly, (*stack,), half of it from each cloud; a logit of zero is half right."""
        half = torch.tensor(0.5, dtype=q.samples.dtype, device=q.samples.device)
        codes, prior = self._logits(q, p)
        return (torch.heaviside(-codes, half).mean(dim=-1) + torch.heaviside(prior, half).mean(dim=-1)) / 2

    @torch.no_grad()
    def jensen_shannon(self, q: Codes, p: Codes) -> Tensor:
        """Bound the Jensen-Shannon divergence from below, (*stack,), in nats.

        Notes
        -----
        ``log 2 - cross entropy``, half from each cloud (Goodfellow et al. 2014, theorem 1): the divergence if
        the logit is the log ratio, less for any other, up to sampling error on points that the
        discriminator was not trained on. It is returned as it is: negative where the discriminator is worse than
        chance.
        """
        codes, prior = self._logits(q, p)
        return jensen_shannon_bound(prior, codes)

    def _logits(self, q: Codes, p: Codes) -> tuple[Tensor, Tensor]:
        x, y = two_clouds(q, p, self.dim)
        return self.log_ratio(x, q.told), self.log_ratio(y, p.told)

    def _seen(self, z: Tensor, draws: Draws | None) -> Tensor:
        # In units of the prior's scale, with noise in training.
        z = z / self.scale
        if not self.training or not (self.input_noise or self.network.dropout):
            return z
        if draws is None:
            raise ValueError("noise and dropout need draws")
        return z + self.input_noise * draws.normal(*z.shape[-2:]).to(z) if self.input_noise else z

    def _beside(self, z: Tensor, told: Tensor | None) -> Tensor:
        if not self.told:
            return z
        if told is None:
            raise ValueError(f"the discriminator is told {self.told} columns of labels, and codes come without")
        if told.shape[-1] != self.told:
            raise ValueError(f"{told.shape[-1]} columns of labels where the discriminator is told {self.told}")
        return torch.cat([z, told.to(z)], dim=-1)
