"""A prior on codes: which codes count, what is drawn, and whether an output needs them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cryoaae.divergences import DIVERGENCES
from cryoaae.fitting.settings import LATENT_PRIORS
from cryoaae.models.latent_prior import PLACES, UNUSED, LatentPrior, code_distance, code_use
from cryoaae.models.phase import Watches
from cryoaae.models.restorer import Restorer, RestorerSpec

UNET = {"widths": [4, 8], "code": 6}
AUTOENCODER = {"kind": "autoencoder", "patch": 8, "dim": 6, "widths": [4, 8]}


def restorer(network: dict[str, object]) -> Restorer:
    torch.manual_seed(0)
    return Restorer(RestorerSpec(1, 10.0, network=network))


def patches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 1, 16, 16, 16, generator=generator) for _ in range(count)]


def test_latent_priors_of_settings_are_the_divergences_that_there_are() -> None:
    assert set(LATENT_PRIORS) == {"none", *DIVERGENCES.names()}


def test_an_autoencoders_output_is_its_codes_and_a_fresh_unets_is_not() -> None:
    """Exchanged codes change all of one; the other starts as the linear estimate, whatever its code."""
    assert code_use(restorer(AUTOENCODER), patches()) > 0.3
    made = restorer(UNET)
    assert code_use(made, patches()) == 0 < UNUSED
    torch.nn.init.normal_(made.network.last.weight)
    assert code_use(made, patches()) > UNUSED, "once the decoder speaks"
    torch.nn.init.zeros_(made.network.narrow[-1].weight)
    assert code_use(made, patches()) == 0, "unless it goes by the skips alone"


def test_exchanging_codes_is_exchanging_patches_where_nothing_comes_past_them() -> None:
    made = restorer(AUTOENCODER)
    y = torch.cat(patches())
    features = made.features(y)
    other = made.from_features(y, [features[-1].roll(1, 0)])
    assert torch.allclose(other, made(y.roll(1, 0)), atol=1e-5)
    assert torch.equal(made.from_features(y, features), made(y))
    with pytest.raises(ValueError, match="one patch"):
        code_use(made, patches(1))


@pytest.mark.parametrize("divergence", sorted(set(LATENT_PRIORS) - {"none"}))
def test_every_divergence_pulls_codes_to_the_prior(divergence: str) -> None:
    """Codes that are off by two deviations: their own gradient leads back."""
    prior = LatentPrior(4, divergence, weight=1.0, share=1.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    start, reference = 2 + torch.randn(1, 4, 4, 4, 4, generator=generator), torch.randn(64, 4, generator=generator)
    coded = torch.cat([start, torch.zeros_like(start)], dim=1) if divergence == "kl" else start.clone()
    coded.requires_grad_()
    optimiser = torch.optim.Adam([coded], lr=0.15)
    critic = torch.optim.Adam(prior.critic_parameters(), lr=0.01) if prior.critic_parameters() else None
    for _ in range(25):
        optimiser.zero_grad()
        prior.loss(prior.drawn(coded)[1]).backward()
        optimiser.step()
        if critic is not None:
            critic.zero_grad()
            prior.critic_loss().backward()
            critic.step()
    far, near = (
        float(code_distance(z.detach()[:, :4].movedim(1, -1).reshape(-1, 4), reference)) for z in (start, coded)
    )
    assert near < far / 2
    assert near < prior.figures()["code_mmd"] < 1.2 * far, "the record remembers what was"


def test_draws_are_those_of_the_step_and_codes_are_drawn_from_their_law() -> None:
    prior, again = (LatentPrior(3, "kl", weight=1.0, share=1.0, seed=5) for _ in range(2))
    coded = torch.cat([torch.ones(1, 3, 10, 10, 10), torch.full((1, 3, 10, 10, 10), -1.0)], dim=1)
    given, codes = prior.drawn(coded)
    assert codes.samples.shape == (PLACES, 3)
    assert torch.equal(given, again.drawn(coded)[0])
    assert float(given.std()) == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.05)
    prior.loss(codes)
    assert not torch.equal(prior.drawn(coded)[0], given), "the next step draws anew"
    again.load_state_dict(prior.state_dict())
    assert torch.equal(prior.drawn(coded)[0], again.drawn(coded)[0]), "how many were drawn is part of the state"


def test_several_watches_are_one() -> None:
    class Told:
        def __init__(self, words: str | None) -> None:
            self.words = words

        def doubtful(self) -> bool:
            return self.words is not None

        def trouble(self) -> str | None:
            return self.words

        def figures(self) -> dict[str, float]:
            return {str(self.words): 1.0}

    calm, stuck = Told(None), Told("stuck")
    both = Watches((calm, stuck))
    assert both.doubtful()
    assert both.trouble() == "stuck"
    assert both.figures() == {"None": 1.0, "stuck": 1.0}
    assert not Watches((calm,)).doubtful()
