"""What a fitted member of the family is worth, by its variant's protocol (see docs/method_2d.md).

Every function returns a flat dict of numbers; images of the test set are scored once, after fitting.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from cryoaae.autoencoding.judge import Judge
from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.mmd import MMD
from cryoaae.draws import Draws
from cryoaae.io.images import Images, ImageSplit
from cryoaae.metrics.clustering import (
    adjusted_rand_index,
    clusters_used,
    confident_error,
    held_out_majority_error,
    majority_error,
    normalised_mutual_information,
)
from cryoaae.metrics.codes import holes, mmd_floor, spill, two_sample_accuracy
from cryoaae.metrics.parzen import choose_sigma, mean_and_sem, parzen_log_likelihood
from cryoaae.metrics.probes import knn_accuracy, probe_accuracy
from cryoaae.models.autoencoder import STYLE, Autoencoder, half_squared_error
from cryoaae.models.categorical import CategoricalAutoencoder
from cryoaae.models.dimension_reduction import DimensionReduction
from cryoaae.models.evia import EVIA
from cryoaae.models.supervised import SupervisedAutoencoder
from cryoaae.nets.stacked import StackedLinear
from cryoaae.priors.mixture import Mixture
from cryoaae.priors.prior import Prior
from cryoaae.priors.swiss_roll import SwissRoll

MMD_POINTS, CLOUD, PARZEN_SAMPLES, PARZEN_VALIDATION = 1000, 5000, 10_000, 1000
FLOOR_REPEATS = 50
SWAPPED, PROBED = 1000, 10_000
# Fewer candidates are themselves no good sample of the prior: their MMD^2 from it is about 3 / CANDIDATES.
POSTERIOR_IMAGES, CANDIDATES = 1000, 8192


@torch.no_grad()
def evaluate_member(
    model: Autoencoder, data: ImageSplit, seed: int, *, parzen: bool = False, judge: Judge | None = None
) -> dict[str, float]:
    """Score one model.

    Parameters
    ----------
    model : Autoencoder
        Without a stack; it is put into evaluation mode.
    data : ImageSplit
    seed : int
        Of prior draws and of the probes of codes.
    parzen : bool
        Whether to estimate the log-likelihood of the test images too.
    judge : Judge, optional
        Given where the model was told what its classes are: it is then asked to generate each, and a class
        code is scored as a classifier too.
    """
    model.eval()
    draws = Draws.seeded(seed, device=data.test.pixels.device, dtype=data.test.pixels.dtype)
    test = data.test
    image = model.reconstruct(test.pixels, test.labels, draws)
    found = {"half_squared_error": float(half_squared_error(image, test.pixels))}
    if isinstance(model, EVIA):
        found |= posterior_scores(model, data, draws)
    else:
        found |= style_scores(model, test, draws, seed)
    if isinstance(model, SupervisedAutoencoder):
        found |= style_leak(model, data, draws, seed)
    if isinstance(model, CategoricalAutoencoder):
        found |= class_scores(model, data, labelled=judge is not None)
    if judge is not None and isinstance(model, SupervisedAutoencoder | CategoricalAutoencoder):
        found |= conditional_accuracy(model, data, draws, judge)
    if isinstance(model, DimensionReduction):
        found |= head_scores(model, data, draws)
    if parzen:
        found |= likelihood(model, data, draws)
    return found


def style_scores(model: Autoencoder, test: Images, draws: Draws, seed: int) -> dict[str, float]:
    """How well the style codes of held-out images follow their prior."""
    code = model.encoder(test.pixels, draws)
    prior, clouds, found = model.prior, model.clouds(code), {}
    for name, critic in model.critics().items():
        q, p = (critic.as_refereed(c, draws) for c in critic.pair(clouds[name], draws, model.told(code, test.labels)))
        found[f"critic_accuracy_{name}"] = float(critic.divergence.accuracy(q, p))  # type: ignore[operator]
        found[f"jensen_shannon_bound_{name}"] = float(critic.divergence.jensen_shannon(q, p))  # type: ignore[operator]
    style = code.style
    found |= cloud_scores(style, prior, draws, seed)
    found["code_mean_over_std"] = float((style.mean(dim=0).abs() / style.std(dim=0)).max())
    found["code_std_over_prior"] = float(style.std(dim=0).mean() / prior.scale)
    if model.latent_matches()[STYLE].conditional:
        found |= own_component(style, test.labels, prior)
    return found


def cloud_scores(codes: Tensor, prior: Prior, draws: Draws, seed: int) -> dict[str, float]:
    """MMD with its floor, a fresh classifier's accuracy, holes and spill of a cloud of codes."""

    def fresh(n: int) -> Tensor:
        return prior.sample(n, generator=draws.generators[0], dtype=draws.dtype)

    mmd, n = MMD(prior), min(MMD_POINTS, len(codes))

    def mmd2(x: Tensor, y: Tensor) -> float:
        return float(mmd(Codes(x), Codes(y)))

    floor = mmd_floor(prior, n, generator=draws.generators[0], repeats=FLOOR_REPEATS, distance=mmd2)
    m = min(CLOUD, len(codes))
    return {
        "mmd2": mmd2(codes[:n], fresh(n)),
        "mmd2_floor": floor.mean,
        "mmd2_floor_sd": floor.sd,
        "two_sample_accuracy": two_sample_accuracy(codes[:m], fresh(m), seed=seed),
        "holes_percent": 100 * holes(codes[:m], fresh(m), fresh(m)),
        "spill_percent": 100 * spill(codes[:m], fresh(m), fresh(m)),
    }


def own_component(style: Tensor, labels: Tensor, prior: Prior) -> dict[str, float]:
    """Share of codes in the part of the prior that belongs to their label, where it has parts."""
    if isinstance(prior, Mixture) and prior.classes > int(labels.max()):
        found = prior.responsibilities(style).argmax(dim=-1)
    elif isinstance(prior, SwissRoll):
        found = prior.decile(style)
    else:
        return {}
    return {"own_component_percent": 100 * float((found == labels).double().mean())}


def class_scores(model: CategoricalAutoencoder, data: ImageSplit, *, labelled: bool) -> dict[str, float]:
    """Errors of the class code: as clusters named by validation images and, if `labelled`, as a classifier."""
    validation, test = model.classify(data.validation.pixels), model.classify(data.test.pixels)
    on_validation, on_test = validation.argmax(dim=1), test.argmax(dim=1)
    named = majority_error(on_test, data.test.labels, on_validation, data.validation.labels)
    as_classifier = {
        "test_error_percent": 100 * float((on_test != data.test.labels).double().mean()),
        "validation_error_percent": 100 * float((on_validation != data.validation.labels).double().mean()),
    }
    return (as_classifier if labelled else {}) | {
        "validation_majority_error_percent": 100 * held_out_majority_error(on_validation, data.validation.labels),
        "majority_error_percent": 100 * named,
        "confident_error_percent": 100 * confident_error(validation, data.validation.labels, test, data.test.labels),
        "nmi": normalised_mutual_information(on_test, data.test.labels),
        "ari": adjusted_rand_index(on_test, data.test.labels),
        "clusters_used": float(clusters_used(on_test, test.shape[1])),
    }


def head_scores(model: DimensionReduction, data: ImageSplit, draws: Draws) -> dict[str, float]:
    """Distances of the cluster heads, and how well neighbours in the representation share a label."""
    train = Images(data.train.pixels[:PROBED], data.train.labels[:PROBED], data.train.shape)
    codes = [model.representation(model.encoder(part.pixels, draws)) for part in (train, data.test)]
    apart = torch.pdist(model.heads)
    return {
        "nearest_heads": float(apart.min()),
        "heads_apart_percent": 100 * float((apart >= 0.99 * model.head_distance).double().mean()),
        "knn_accuracy_percent": 100 * knn_accuracy(codes[0], train.labels, codes[1], data.test.labels),
    }


def style_leak(model: Autoencoder, data: ImageSplit, draws: Draws, seed: int) -> dict[str, float]:
    """How well a classifier reads the label from the style, which should not know it."""
    train = data.train.pixels[:PROBED]
    codes = [model.encoder(pixels, draws).style for pixels in (train, data.test.pixels)]
    leak = probe_accuracy(codes[0], data.train.labels[:PROBED], codes[1], data.test.labels, seed=seed)
    return {"style_leak_percent": 100 * leak}


def conditional_accuracy(
    model: SupervisedAutoencoder | CategoricalAutoencoder, data: ImageSplit, draws: Draws, judge: Judge
) -> dict[str, float]:
    """Share of images, generated with every label in turn, that show it; styles of test images, and the prior's.

    Judged by a classifier fitted apart from the model, whose own accuracy on test images stands beside it.
    """
    found = model.encoder(data.test.pixels[:SWAPPED], draws).style
    drawn = model.prior.sample(len(found), generator=draws.generators[0], dtype=draws.dtype)
    classes = model.encoder.logits.outputs if isinstance(model.encoder.logits, StackedLinear) else judge.labels

    def share_right(style: Tensor) -> float:
        right = []
        for label in range(judge.labels):
            one_hot = style.new_zeros(len(style), classes)
            one_hot[:, label] = 1
            image = model.decode(model.from_class(one_hot, style))
            right.append((judge.labels_of(image) == label).double().mean())
        return float(torch.stack(right).mean())

    return {
        "conditional_accuracy_percent": 100 * share_right(found),
        "generated_accuracy_percent": 100 * share_right(drawn),
        "judge_accuracy_percent": 100 * judge.accuracy,
    }


def likelihood(model: Autoencoder, data: ImageSplit, draws: Draws) -> dict[str, float]:
    """Log-likelihood of the test images by a Parzen window on decoded prior draws, nats."""
    samples = model.decode(model.prior.sample(PARZEN_SAMPLES, generator=draws.generators[0], dtype=draws.dtype))
    sigma = choose_sigma(samples, data.validation.pixels[:PARZEN_VALIDATION])
    mean, error = mean_and_sem(parzen_log_likelihood(samples, data.test.pixels, sigma))
    return {"parzen_nats": mean, "parzen_standard_error": error, "parzen_sigma": sigma}


def posterior_scores(model: EVIA, data: ImageSplit, draws: Draws) -> dict[str, float]:
    """EVIA: whether the posteriors' aggregate is the prior, for the law of images that was fitted and for another.

    The other law is that of half the classes, under the same decoder, with the potential fitted to images of it
    and without one: `mmd2_half_the_classes`, `mmd2_half_the_classes_without_potential`. For the law that the decoder
    was fitted to, kappa = p_Z can be enough (see `EVIA`).
    """
    few, half = data.classes // 2, copy.deepcopy(model)
    half.fit_potential(data.train.pixels[data.train.labels < few], draws)
    seen = _shuffled(data.test.pixels, draws)[:POSTERIOR_IMAGES]
    seen_half = _shuffled(data.test.pixels[data.test.labels < few], draws)[:POSTERIOR_IMAGES]
    found: dict[str, float] = {}
    for end, with_potential in (("_without_potential", False), ("", True)):
        drawn, effective = _posterior(model, seen, draws, with_potential)
        found |= {f"{k}{end}": v for k, v in cloud_scores(drawn[:, 0], model.prior, draws, seed=0).items()}
        found[f"effective_candidates{end}"] = float(effective.median())
        of_half = _posterior(half, seen_half, draws, with_potential)[0][:, 0]
        reference = model.prior.sample(len(of_half), generator=draws.generators[0], dtype=draws.dtype)
        found[f"mmd2_half_the_classes{end}"] = float(MMD(model.prior)(Codes(of_half), Codes(reference)))
    spread = (drawn[:, 0] - drawn[:, 1]).square().mean() / 2
    found["posterior_std_over_prior"] = float(spread.sqrt() / model.prior.scale)
    return found


def _posterior(model: EVIA, x: Tensor, draws: Draws, with_potential: bool) -> tuple[Tensor, Tensor]:
    """Two codes of each image, and their effective candidates."""
    return model.sample_posterior(x, draws, count=2, candidates=CANDIDATES, with_potential=with_potential)


def _shuffled(pixels: Tensor, draws: Draws) -> Tensor:
    """Images in random order: the halves of MNIST's test file come from different writers."""
    return pixels[draws.permutation(len(pixels))]
