"""A referee of the two clouds: a discriminator whose logit is the log density ratio, and how it fares.

    referee   min  E_again softplus(l) + E_real softplus(-l) + r1 / 2 E_real |grad l|^2
    restorer  min  energy = - E_again l

At its optimum l = log p_real / p_again of what a neighbourhood holds (Goodfellow et al. 2014), so that the energy
is KL(again || real). Every neighbourhood has a logit, every scale the same say.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cryoaae.metrics.codes import jensen_shannon_bound

softplus = nn.functional.softplus

# Running means are over some 50 steps.
MEMORY = 0.02
# A referee that is right so often has won; its logit no longer says how to improve.
WON = 0.95
# Below this gradient, over that of the pair loss and before lambda, the energy says nothing.
SILENT = 1e-6
# Steps in a row before the fit is called stuck.
PATIENCE = 500


class Referee(nn.Module):
    """Tells real patches from restorations measured again, and keeps a record of how well.

    Parameters
    ----------
    network : nn.Module
        Patches (b, 1, p, p, p) to a list of logits (b, places), one a scale.
    r1 : float
        Weight of the gradient penalty on real patches (Mescheder et al. 2018, eq. 9).

    Notes
    -----
    The record is part of the state, so that a resumed run goes on with it. Accuracy and divergence are those on
    patches that were drawn just now, before the referee learns from them.
    """

    kind = "adversarial"
    accuracy: Tensor
    divergence: Tensor
    gradient_share: Tensor
    slope: Tensor
    stuck: Tensor

    def __init__(self, network: nn.Module, *, r1: float = 0.0) -> None:
        super().__init__()
        self.network, self.r1 = network, r1
        self.register_buffer("accuracy", torch.tensor(0.5))
        self.register_buffer("divergence", torch.tensor(0.0))
        self.register_buffer("gradient_share", torch.tensor(0.0))
        self.register_buffer("slope", torch.tensor(0.0))
        self.register_buffer("stuck", torch.tensor(0))

    def energy(self, again: Tensor) -> Tensor:
        """What a restorer descends, minus the mean log density ratio, a scalar; the referee gets no gradient."""
        weights = {name: weight.detach() for name, weight in self.network.named_parameters()}
        return -_mean(functional_call(self.network, weights, (again,))).mean()

    def energies(self, patches: Tensor) -> Tensor:
        """Minus the log density ratio of each patch, (b, 1, p, p, p) -> (b,), in nats."""
        return -_mean(self.network(patches))

    @property
    def settings(self) -> dict[str, Any]:
        """What its network is made with."""
        return dict(self.network.settings)  # type: ignore[arg-type]

    def loss(self, real: Tensor, again: Tensor) -> Tensor:
        """What the referee descends, a scalar, 2 log 2 at chance; keeps the record."""
        real, again = real.detach().requires_grad_(self.r1 > 0), again.detach()
        of_real, of_again = self.network(real), self.network(again)
        loss = torch.stack(
            [softplus(-a).mean() + softplus(b).mean() for a, b in zip(of_real, of_again, strict=True)]
        ).mean()
        self._keep(_mean(of_real).detach(), _mean(of_again).detach())
        if self.r1 > 0:
            (slope,) = torch.autograd.grad(_mean(of_real).sum(), real, create_graph=True)
            loss = loss + self.r1 / 2 * slope.square().flatten(1).sum(dim=1).mean()
        return loss

    # -- the record ----------------------------------------------------------------------------------

    def _keep(self, of_real: Tensor, of_again: Tensor) -> None:
        if not torch.isfinite(of_real.sum() + of_again.sum()):
            return  # a step that the loop skips; one such number would stay in the means for good
        half = torch.full((), 0.5, device=of_real.device)
        right = (torch.heaviside(of_real, half).mean() + torch.heaviside(-of_again, half).mean()) / 2
        self.accuracy.lerp_(right, MEMORY)
        self.divergence.lerp_(jensen_shannon_bound(of_real, of_again).to(self.divergence), MEMORY)
        self.stuck.copy_(self.stuck + 1 if self._won() or self._silent() else torch.zeros_like(self.stuck))

    def note_gradient(self, ratio: Tensor, weight: Tensor) -> None:
        """Take down the energy's gradient on the restorer's head over the pair loss's, and the weight it is given.

        A small weight is the user's wish, a small gradient the referee's collapse.
        """
        if torch.isfinite(ratio * weight):
            self.slope.lerp_(ratio.detach().to(self.slope), MEMORY)
            self.gradient_share.lerp_((ratio * weight).detach().to(self.gradient_share), MEMORY)

    def _won(self) -> bool:
        return float(self.accuracy) > WON

    def _silent(self) -> bool:
        return float(self.slope) < SILENT

    def doubtful(self) -> bool:
        """Whether the present state is not one to go back to."""
        return int(self.stuck) > 0

    def trouble(self) -> str | None:
        """What has been wrong for too long, or None."""
        if int(self.stuck) < PATIENCE:
            return None
        if self._won():
            right = f"the referee is right in {float(self.accuracy):.0%} and the restorer cannot follow"
            return f"{right}; raise prior_r1, or fit with --prior none"
        return "the referee has collapsed, its logit does not depend on the patch; fit with --prior none"

    def figures(self) -> dict[str, float]:
        """Record as running means."""
        names = ("accuracy", "divergence", "gradient_share")
        return {name: float(getattr(self, name)) for name in names}


def _mean(logits: list[Tensor]) -> Tensor:
    """Mean over places, then over scales: (b, places) each -> (b,)."""
    return torch.stack([scale.mean(dim=1) for scale in logits]).mean(dim=0)
