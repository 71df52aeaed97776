"""From settings and the size of the images to a model."""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from torch import nn

from cryoaae.autoencoding.settings import WITH_CLASSES, AutoencodingSettings, Component
from cryoaae.divergences import DIVERGENCES
from cryoaae.draws import Draws
from cryoaae.errors import InputError
from cryoaae.matching.latent import LatentMatch
from cryoaae.models.autoencoder import CLASS, STYLE, Autoencoder, Objective
from cryoaae.models.categorical import CategoricalAutoencoder
from cryoaae.models.dimension_reduction import DimensionReduction
from cryoaae.models.evia import EVIA
from cryoaae.models.supervised import SupervisedAutoencoder
from cryoaae.nets.convolutional import ConvDecoder, ConvTrunk
from cryoaae.nets.encoders import Encoder
from cryoaae.nets.stacked import MLP, Stack, initialise
from cryoaae.priors import PRIORS
from cryoaae.priors.prior import Prior
from cryoaae.registry import make_part

POTENTIAL_UNITS = (128, 128)
OBSERVER = {"name": "adversarial", "hidden": (128, 128)}


def build(
    settings: AutoencodingSettings, shape: tuple[int, int, int], labels: int, draws: Draws, *, spread: float = 1.0
) -> Autoencoder:
    """Make a model and draw its weights.

    Parameters
    ----------
    settings : AutoencodingSettings
    shape : (channels, rows, columns)
        Of an image.
    labels : int
        Different labels of the data.
    draws : Draws
        One generator a member of the stack.
    spread : float
        Half squared error of the mean image, of which EVIA's temperature is a share.

    Raises
    ------
    InputError
        For an unknown prior or divergence, or keywords that do not fit them.
    """
    stack = draws.stack
    if stack and settings.network != "mlp":
        raise InputError("--stack-seeds", "convolutional networks do not stack", "use network=mlp")
    prior: Prior = make_part(PRIORS, settings.prior)
    _check(settings, prior, labels)
    classes = settings.classes if settings.variant in WITH_CLASSES else 0
    encoder = Encoder(
        _trunk(settings, shape, stack), prior.dim, classes=classes, kind=settings.encoder, stack=stack,
        noise_dim=settings.noise_dim, head_norm=settings.head_norm, style_scale=prior.scale,
    )  # fmt: skip
    beside = {"supervised": labels, "semisupervised": classes, "clustering": classes}.get(settings.variant, 0)
    decoder = _decoder(settings, prior.dim + beside, shape, stack)
    if settings.variant == "evia":
        model: Autoencoder = _evia(settings, encoder, decoder, prior, stack, settings.temperature * spread)
    else:
        model = _matched(settings, encoder, decoder, prior, labels, stack)
    initialise(model, draws)
    return model


def _evia(
    settings: AutoencodingSettings, encoder: Encoder, decoder: nn.Module, prior: Prior, stack: Stack, gamma: float
) -> EVIA:
    potential = MLP(prior.dim, POTENTIAL_UNITS, 1, stack=stack, activation="softplus")
    observer = _match(OBSERVER, prior, 0.0, stack)
    return EVIA(
        encoder, decoder, potential, prior, _objective(settings), observer, gamma=gamma,
        candidates=settings.candidates, proposal_std=settings.proposal_std,
    )  # fmt: skip


def _matched(
    settings: AutoencodingSettings, encoder: Encoder, decoder: nn.Module, prior: Prior, labels: int, stack: Stack
) -> Autoencoder:
    # Told the label, the supervised variant's discriminator sees a style that knows it.
    told = labels if settings.variant in ("labelled", "supervised") else 0
    if settings.tell_class and settings.variant in WITH_CLASSES:
        told = settings.classes
    conditional = settings.variant == "labelled"
    matches = {STYLE: _match(settings.divergence, prior, settings.divergence_weight, stack, told, conditional)}
    observer = None
    if not matches[STYLE].critic_parameters():
        observer = _match(OBSERVER, prior, 0.0, stack)
    classes = settings.classes
    if settings.variant in WITH_CLASSES:
        categorical = make_part(PRIORS, {"name": "categorical", "classes": classes})
        matches[CLASS] = _match(settings.class_divergence, categorical, settings.class_weight, stack)
    parts = (encoder, decoder, matches, _objective(settings), observer)
    if settings.variant == "dimension-reduction":
        return DimensionReduction(
            *parts, classes=classes, dim=prior.dim, stack=stack,
            head_distance=settings.head_distance, head_weight=settings.head_weight,
        )  # fmt: skip
    if settings.variant in WITH_CLASSES:
        return CategoricalAutoencoder(*parts)
    if settings.variant == "supervised":
        return SupervisedAutoencoder(*parts, classes=labels)
    return Autoencoder(*parts)


def _objective(settings: AutoencodingSettings) -> Objective:
    return Objective(**{field.name: getattr(settings, field.name) for field in fields(Objective)})


def _check(settings: AutoencodingSettings, prior: Prior, labels: int) -> None:
    """Refuse parts that do not go together, before any of them fails at its first step.

    Raises
    ------
    InputError
    """

    def refuse(what: str, why: str, remedy: str) -> None:
        raise InputError(what, why, remedy)

    name, variant = settings.divergence["name"], settings.variant
    if variant in ("semisupervised", "dimension-reduction") and settings.labels and settings.classes < labels:
        refuse("--clusters", f"{settings.classes} classes for {labels} labels", f"give {labels} or more")
    if name == "kl" and settings.encoder != "gaussian":
        refuse("divergence kl", f"a {settings.encoder} encoder has no law", "set encoder=gaussian")
    if name == "kl" and _ends(prior):
        refuse("divergence kl", "this prior has no density where Gaussians reach", "choose another prior")
    if settings.class_divergence["name"] == "kl":
        refuse("class_divergence kl", "a class is no Gaussian", "choose adversarial, mmd, sinkhorn or sliced")
    if variant in ("labelled", "supervised") and name != "adversarial":
        refuse(f"divergence {name}", f"the {variant} variant tells labels to a discriminator", "use adversarial")
    if variant == "labelled" and prior.classes < labels:
        refuse("--latent", f"the prior has {prior.classes} parts for {labels} labels", "use mixture or swiss_roll")
    if settings.network == "convolutional" and len(settings.hidden) < 2:
        refuse("hidden", "a convolutional net needs channels and units", "give two numbers or more")
    for component in (settings.divergence, settings.class_divergence):
        if "told" in component or "stack" in component:
            refuse("divergence", "told and stack follow from the variant", "leave them out")


def _ends(prior: Prior) -> bool:
    """Whether the prior's density is zero somewhere, as that of a cube or of one-hot codes."""
    try:
        return not bool(prior.log_density(torch.full((1, prior.dim), 10 * prior.scale)).isfinite())
    except NotImplementedError:
        return False  # the divergence says so itself


def _match(
    component: Component, prior: Prior, weight: float, stack: Stack, told: int = 0, conditional: bool = False
) -> LatentMatch:
    extra = {"told": told + 1} if told else {}
    divergence = make_part(DIVERGENCES, component, prior, stack=stack, **extra)
    return LatentMatch(prior, divergence, weight=weight, told=told, conditional=conditional)


def _trunk(settings: AutoencodingSettings, shape: tuple[int, int, int], stack: Stack) -> nn.Module:
    extra = settings.noise_dim if settings.encoder == "universal" else 0
    if settings.network == "convolutional":
        *widths, units = settings.hidden
        return ConvTrunk(
            shape, widths, units, extra=extra, batch_norm=settings.batch_norm,
            input_noise=settings.input_noise, dropout=settings.dropout,
        )  # fmt: skip
    return MLP(
        math.prod(shape) + extra, settings.hidden, stack=stack, batch_norm=settings.batch_norm,
        input_noise=settings.input_noise, dropout=settings.dropout,
    )  # fmt: skip


def _decoder(settings: AutoencodingSettings, inputs: int, shape: tuple[int, int, int], stack: Stack) -> nn.Module:
    if settings.network == "convolutional":
        return ConvDecoder(inputs, shape, settings.hidden[:-1], batch_norm=settings.batch_norm)
    return MLP(
        inputs, list(reversed(settings.hidden)), math.prod(shape), stack=stack,
        batch_norm=settings.batch_norm, dropout=settings.dropout,
    )  # fmt: skip
