"""The 2-D family: what each phase may touch, what each part says, encoders that can take two modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cryoaae.autoencoding.build import build
from cryoaae.autoencoding.settings import VARIANTS, WITH_CLASSES, AutoencodingSettings
from cryoaae.divergences.adversarial import Adversarial
from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.errors import InputError
from cryoaae.matching.latent import LatentMatch, one_hot_or_unlabelled
from cryoaae.models.autoencoder import STYLE, Autoencoder, Objective
from cryoaae.models.categorical import CategoricalAutoencoder
from cryoaae.models.dimension_reduction import DimensionReduction
from cryoaae.models.image_batch import ImageBatch
from cryoaae.nets.encoders import Encoder
from cryoaae.nets.stacked import MLP, initialise
from cryoaae.priors.gaussian import Gaussian
from cryoaae.priors.mixture import Mixture

SHAPE, PIXELS, LABELS = (1, 4, 4), 16, 3
PARTS = {
    "labelled": {"prior": {"name": "mixture", "components": LABELS}},
    "vae": {"encoder": "gaussian", "divergence": {"name": "kl"}},
    "wae": {"divergence": {"name": "mmd"}},
    "sinkhorn": {"divergence": {"name": "sinkhorn"}},
}


def settings(variant: str, **more: object) -> AutoencodingSettings:
    """A small member of the family."""
    values: dict[str, object] = {"prior": {"name": "gaussian", "dim": 2}}
    if variant in WITH_CLASSES:
        values["classes"] = LABELS
    if variant == "semisupervised":
        values["labels"] = 6
    return AutoencodingSettings(variant=variant, **{"hidden": (12,), **values, **PARTS.get(variant, {}), **more})


def batch(draws: Draws, n: int = 24) -> ImageBatch:
    return ImageBatch(
        draws.uniform(n, PIXELS), draws, labels=draws.integers(LABELS, n),
        labelled_pixels=draws.uniform(6, PIXELS), labelled_labels=draws.integers(LABELS, 6),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "phased"), [(v, phased) for v in VARIANTS for phased in (False, True) if not (v == "evia" and phased)]
)
def test_every_phase_moves_its_own_parameters_and_no_others(variant: str, phased: bool) -> None:
    draws = Draws.seeded(0)
    model = build(settings(variant, phased=phased), SHAPE, LABELS, draws)
    step = batch(draws)
    moved: set[int] = set()
    for phase in model.phases():
        for parameter in model.parameters():
            parameter.grad = None
        terms = phase.losses(step)
        if not terms:
            continue  # this variant has no such terms
        assert all(torch.isfinite(term) for term in terms.values())
        torch.stack([term.sum() for term in terms.values()]).sum().backward()
        own = {id(p) for p in phase.parameters}
        moved |= {id(p) for p in phase.parameters if p.grad is not None}
        if phase.name in ("critic", "autoencoder", "evia"):
            others = [n for n, p in model.named_parameters() if p.grad is not None and id(p) not in own]
            assert not others, f"{phase.name} sends gradients to {others}"
    unmoved = [n for n, p in model.named_parameters() if id(p) not in moved]
    assert not unmoved, f"nothing descends on {unmoved}"


@pytest.mark.parametrize("variant", ["aae", "semisupervised", "dimension-reduction", "wae"])
def test_a_label_that_is_not_told_changes_nothing(variant: str) -> None:
    """Only the labelled and the supervised variant may see labels beside the images."""
    terms = []
    for shift in (0, 1):
        draws = Draws.seeded(0)
        model = build(settings(variant), SHAPE, LABELS, draws)
        step = batch(draws)
        step.labels = (step.labels + shift) % LABELS
        terms.append([model.phases()[0].losses(step)[k] for k in ("reconstruction", "match_style")])
    assert torch.equal(torch.stack(terms[0]), torch.stack(terms[1]))


def test_labels_are_told_to_both_clouds_and_choose_the_prior_s_part() -> None:
    prior = Mixture(components=4)
    match = LatentMatch(prior, Adversarial(prior, told=5), told=4, conditional=True)
    labels = torch.tensor([0, 1, 2, 3, -1] * 200)
    q, p = match.pair(Codes(torch.zeros(1000, 2)), Draws.seeded(0), labels)
    assert q.told is not None
    assert p.told is not None
    assert torch.equal(q.told, p.told)
    known = labels >= 0
    assert (prior.responsibilities(p.samples)[known].argmax(dim=-1) == labels[known]).double().mean() > 0.95
    everywhere = prior.responsibilities(p.samples)[~known].argmax(dim=-1).bincount(minlength=4)
    assert everywhere.min() > 25, "what is unlabelled is held against the whole prior"
    assert torch.equal(one_hot_or_unlabelled(labels[-2:], 4, torch.float32).argmax(dim=-1), torch.tensor([3, 4]))


class Squares(nn.Module):
    """Decoder whose image sigmoid(log z^2) = z^2 / (1 + z^2) hides the sign of the code."""

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        return (z.square() + 1e-4).log()


def two_modes(kind: str) -> tuple[float, float]:
    """Shares of codes near the two codes, +1.2 and -1.2, that explain one image."""
    draws = Draws.seeded(0)
    prior = Gaussian(1)
    noise = 4
    encoder = Encoder(MLP(1 + (noise if kind == "universal" else 0), [64, 64]), 1, kind=kind, noise_dim=noise)
    match = LatentMatch(prior, Adversarial(prior, hidden=[64, 64], input_noise=0.1))
    objective = Objective("squared", reconstruction_weight=10.0, critic_rate=2.0)
    model = Autoencoder(encoder, Squares(), {STYLE: match}, objective)
    initialise(model, draws)
    optimisers = [torch.optim.Adam(p.parameters, lr=2e-3 * p.rate, betas=p.betas) for p in model.phases()]
    for _ in range(1000):
        z = draws.normal(128, 1)
        step = ImageBatch(z.square() / (1 + z.square()), draws)
        for phase, optimiser in zip(model.phases(), optimisers, strict=True):
            optimiser.zero_grad()
            torch.stack(list(phase.losses(step).values())).sum().backward()
            optimiser.step()
    model.eval()
    image = torch.full((2000, 1), 1.2**2 / (1 + 1.2**2))
    with torch.no_grad():
        codes = model.encoder(image, draws).style
    return float(((codes - 1.2).abs() < 0.4).double().mean()), float(((codes + 1.2).abs() < 0.4).double().mean())


def test_a_universal_approximator_finds_both_modes_of_a_posterior() -> None:
    up, down = two_modes("universal")
    assert min(up, down) >= 0.3
    assert up + down > 0.8


def test_a_gaussian_encoder_does_not() -> None:
    assert min(two_modes("gaussian")) < 0.3


def test_heads_are_pushed_apart_below_the_threshold_and_not_beyond() -> None:
    draws = Draws.seeded(0)
    model = build(settings("dimension-reduction", head_distance=2.0), SHAPE, LABELS, draws)
    assert isinstance(model, DimensionReduction)
    with torch.no_grad():
        model.heads.copy_(torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 5.0]]))
    assert model.head_penalty().item() == pytest.approx(0.25, abs=1e-5)
    model.head_penalty().backward()
    assert model.heads.grad is not None
    assert model.heads.grad[1, 0] < 0 < model.heads.grad[0, 0], "descent moves the near pair apart"
    assert not model.heads.grad[2].any()


def test_the_decoder_of_a_reduction_sees_head_plus_style() -> None:
    draws = Draws.seeded(0)
    model = build(settings("dimension-reduction"), SHAPE, LABELS, draws).eval()
    assert isinstance(model, DimensionReduction)
    code = model.encoder(draws.uniform(5, PIXELS))
    sure = torch.nn.functional.one_hot(torch.arange(5) % LABELS, LABELS).float()
    by_hand = torch.stack([model.heads[k % LABELS] + code.style[k] for k in range(5)])
    torch.testing.assert_close(model.from_class(sure, code.style), by_hand)


def test_logits_with_batch_normalisation_use_every_class() -> None:
    """What keeps clusters from falling empty: no logit can be the largest for all images."""
    draws = Draws.seeded(0)
    model = build(settings("clustering", head_norm=True, classes=6), SHAPE, LABELS, draws)
    assert isinstance(model, CategoricalAutoencoder)
    with torch.no_grad():
        model.encoder.logits.bias[..., 0] += 50  # type: ignore[union-attr, index]
    step = batch(draws, n=200)
    used = model.classify(step.pixels, draws).argmax(dim=-1).unique()
    assert len(used) == 6


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"prior": {"name": "gausian", "dim": 2}}, "did you mean 'gaussian'"),
        ({"prior": {"name": "gaussian", "dims": 2}}, "did you mean 'dim'"),
        ({"prior": {"name": "gaussian", "dim": 2, "std": -1}}, "standard deviation"),
        ({"divergence": {"name": "adversarial", "los": "minimax"}}, "did you mean 'loss'"),
        ({"divergence": {"name": "sinkhorn", "gamma": -1.0}}, "gamma"),
        ({"divergence": {"name": "adversarial", "activation": "gelu"}}, "gelu"),
        ({"divergence": {"name": "adversarial", "hidden": [-3]}}, "adversarial"),
        ({"divergence": {"name": "adversarial", "told": 3}}, "leave them out"),
        ({"prior": {"name": "gaussian", "dim": 2.5}}, "gaussian"),
        ({"divergence": {"name": "kl"}}, "encoder=gaussian"),
        ({"divergence": {"name": "kl"}, "encoder": "gaussian", "prior": {"name": "uniform"}}, "another prior"),
        ({"divergence": {"name": "kl"}, "encoder": "gaussian", "prior": {"name": "categorical"}}, "another prior"),
        ({"variant": "clustering", "class_divergence": {"name": "kl"}}, "class"),
        ({"network": "convolutional", "hidden": (16,)}, "two numbers"),
        ({"variant": "labelled", "prior": {"name": "gaussian"}}, "0 parts for 3 labels"),
        ({"variant": "labelled", "divergence": {"name": "mmd"}}, "discriminator"),
        ({"variant": "semisupervised", "classes": 2}, "2 classes for 3 labels"),
    ],
)
def test_parts_that_do_not_exist_are_refused_by_name(more: dict[str, object], word: str) -> None:
    variant = str(more.get("variant", "aae"))
    others = {key: value for key, value in more.items() if key != "variant"}
    with pytest.raises(InputError) as error:
        build(settings(variant, **others), SHAPE, LABELS, Draws.seeded(0))
    assert word in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"variant": "gan"}, {"hidden": []}, {"epochs": 0}, {"learning_rate": -1}, {"dropout": 1.0},
        {"prior": {"dim": 2}}, {"classes": 1, "variant": "clustering"}, {"betta": 1}, {"labels": 10},
        {"classes": 10}, {"labels": None, "variant": "semisupervised", "classes": 10},
        # What the variant would ignore:
        {"temperature": 2.0}, {"head_weight": 2.0}, {"tell_class": True}, {"class_weight": 0.5}, {"noise_dim": 3},
        {"supervised_weight": 2.0, "variant": "clustering", "classes": 3}, {"beta1": 0.9, "phased": True},
        {"reconstruction_weight": 0.1, "variant": "evia"}, {"encoder": "gaussian", "variant": "evia"},
        {"divergence": {"name": "mmd"}, "variant": "evia"}, {"phased": True, "variant": "evia"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(more))):
        AutoencodingSettings(**{"variant": "aae", **more})  # type: ignore[arg-type]


def test_two_builds_of_one_seed_are_one_model() -> None:
    """Nothing is drawn but from the generators, batch statistics included."""
    shape = (1, 8, 8)
    chosen = settings("aae", network="convolutional", hidden=(4, 8), batch_norm=True)
    one, two = (build(chosen, shape, LABELS, Draws.seeded(5)).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
