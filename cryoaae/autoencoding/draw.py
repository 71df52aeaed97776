"""Figures of a fitted member of the family, and the page with a slider over its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.autoencoding.build import make_part
from cryoaae.autoencoding.diagnostics import Diagnostics, Reading, plane_extent
from cryoaae.autoencoding.settings import AutoencodingSettings
from cryoaae.draws import Draws
from cryoaae.errors import InputError
from cryoaae.io.atomic import write_bytes, write_text
from cryoaae.io.checkpoint import load_latest
from cryoaae.io.images import Images
from cryoaae.metrics.codes import outside_prior
from cryoaae.models.autoencoder import Autoencoder
from cryoaae.models.categorical import CategoricalAutoencoder
from cryoaae.models.dimension_reduction import DimensionReduction
from cryoaae.models.supervised import SupervisedAutoencoder
from cryoaae.priors import PRIORS
from cryoaae.priors.gaussian import Gaussian
from cryoaae.priors.prior import Prior
from cryoaae.reports.latent_figures import (
    density_ratio_figure,
    image_grid,
    latent_scatter,
    manifold_codes,
    training_curves,
)
from cryoaae.reports.latent_page import LatentFrame, LatentHistory, latent_page
from cryoaae.reports.style import png
from cryoaae.runs.folder import read_mapping

if TYPE_CHECKING:
    from cryoaae.autoencoding.run import FamilyRun

SIDE, MEMBERS, SHOWN, PRIOR_DRAWS = 16, 10, 3000, 3000
# How the curves of a run are called where people read them.
CURVE_TITLES = {
    "accuracy_style": "discriminator accuracy",
    "accuracy_class": "discriminator accuracy, class",
    "mmd2": "unbiased MMD",
    "half_squared_error": "held-out reconstruction",
    "cluster_error": "held-out error of named clusters",
    "jensen_shannon_style": "estimated JSD (lower bound)",
}
REFERENCES = {"discriminator accuracy": 0.5, "discriminator accuracy, class": 0.5}


def draw_run(run: FamilyRun, diagnostics: Diagnostics, folder: Path, beside: Path | None = None) -> None:
    """Write every figure that a run's first member gives rise to, and its page.

    `beside` is the folder of another run on the same images, shown on the same page.
    """
    model = run.member(0)
    model.eval()
    device, dtype = run.data.test.pixels.device, run.data.test.pixels.dtype
    draws = Draws.seeded(run.all_seeds()[0], device=device, dtype=dtype)
    write_bytes(folder / "curves.png", png(training_curves(curves(diagnostics), REFERENCES)))
    with torch.no_grad():
        for name, figure in figures(model, run, diagnostics, draws).items():
            write_bytes(folder / f"{name}.png", png(figure))
    histories = [latent_history(run.settings, diagnostics)]
    if beside is not None:
        settings, readings = read_run(beside)
        other = Diagnostics(diagnostics.pixels, diagnostics.labels, diagnostics.seeds, readings)
        histories.append(latent_history(settings, other))
    drawable = [h for h in histories if h is not None]
    if drawable:
        shown = run.data.validation.pixels[: len(drawable[0].labels)]
        title = " beside ".join(h.title for h in drawable)
        write_text(folder / "latent.html", latent_page(drawable, title=title, thumbnails=thumbnails(run, shown)))


def figures(model: Autoencoder, run: FamilyRun, diagnostics: Diagnostics, draws: Draws) -> dict[str, Any]:
    """Figures by name, as far as the variant has them."""
    test = run.data.test
    prior = model.prior
    drawn: dict[str, Any] = {"reconstructions": _reconstructions(model, test, draws)}
    if prior.dim == 2 and not isinstance(model, CategoricalAutoencoder):
        drawn["latent"] = _plane_of_codes(model, run, prior, draws)
        if isinstance(prior, Gaussian) and not isinstance(model, SupervisedAutoencoder):
            drawn["manifold"] = _manifold(model, prior, test)
        last = diagnostics.readings[-1]
        if last.boundary is not None and last.codes is not None:
            log_ratio = -torch.logit(last.boundary.double(), eps=1e-6)
            drawn["density_ratio"] = density_ratio_figure(log_ratio, plane_extent(prior.scale), last.codes)
    if isinstance(model, SupervisedAutoencoder | CategoricalAutoencoder):
        drawn["styles"] = _style_by_content(model, run, draws)
    if isinstance(model, CategoricalAutoencoder):
        drawn["clusters"] = _clusters(model, test)
    if isinstance(model, DimensionReduction) and prior.dim == 2:
        codes = [model.representation(model.encoder(p.pixels[:SHOWN], draws)) for p in (run.data.train, test)]
        drawn["latent"] = latent_scatter(
            codes[0].cpu(), run.data.train.labels[:SHOWN].cpu(), codes[1].cpu(), test.labels[:SHOWN].cpu(),
            heads=model.heads.detach().cpu(),
        )  # fmt: skip
    return drawn


def _pictures(pixels: Tensor, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Flattened images (..., pixels) as (..., rows, columns) or (..., rows, columns, 3)."""
    image = pixels.detach().cpu().double().unflatten(-1, shape)
    return np.asarray(image.squeeze(-3) if shape[0] == 1 else image.movedim(-3, -1))


def _reconstructions(model: Autoencoder, test: Images, draws: Draws) -> Any:
    x = test.pixels[:MEMBERS]
    rows = torch.stack([x, model.reconstruct(x, test.labels[:MEMBERS], draws)])
    return image_grid(_pictures(rows, test.shape), ["image", "decoded"])


def _plane_of_codes(model: Autoencoder, run: FamilyRun, prior: Prior, draws: Draws) -> Any:
    train, test = run.data.train, run.data.test
    codes = [model.encoder(p.pixels[:SHOWN], draws).style for p in (train, test)]
    reference = prior.sample(PRIOR_DRAWS, generator=draws.generators[0], dtype=draws.dtype)
    again = prior.sample(PRIOR_DRAWS, generator=draws.generators[0], dtype=draws.dtype)
    return latent_scatter(
        codes[0].cpu(), train.labels[:SHOWN].cpu(), codes[1].cpu(), test.labels[:SHOWN].cpu(),
        reference.cpu(), outside_prior(codes[1], reference, again).cpu(),
    )  # fmt: skip


def _manifold(model: Autoencoder, prior: Prior, test: Images) -> Any:
    codes = torch.as_tensor(manifold_codes(SIDE, prior.scale), dtype=test.pixels.dtype, device=test.pixels.device)
    return image_grid(_pictures(model.decode(codes), test.shape).reshape(SIDE, SIDE, *_picture_shape(test.shape)))


def _picture_shape(shape: tuple[int, int, int]) -> tuple[int, ...]:
    return shape[1:] if shape[0] == 1 else (*shape[1:], shape[0])


def _style_by_content(
    model: SupervisedAutoencoder | CategoricalAutoencoder, run: FamilyRun, draws: Draws
) -> Any:
    """Every row one style of a test image, every column a class."""
    test = run.data.test
    styles = model.encoder(test.pixels[:MEMBERS], draws).style
    classes = run.settings.classes if isinstance(model, CategoricalAutoencoder) else run.labels
    one_hot = torch.eye(classes, dtype=styles.dtype, device=styles.device)
    seen = [model.from_class(one_hot, style.expand(classes, -1)) for style in styles]
    rows = torch.stack([torch.cat([x[None], model.decode(s)]) for x, s in zip(test.pixels, seen, strict=False)])
    return image_grid(_pictures(rows, test.shape), column_titles=["image", *(str(k) for k in range(classes))])


def _clusters(model: CategoricalAutoencoder, test: Images) -> Any:
    """Every row a cluster: its head decoded with style zero, then the test images it is surest of."""
    probabilities = model.classify(test.pixels)
    classes = probabilities.shape[1]
    one_hot = torch.eye(classes, dtype=probabilities.dtype, device=probabilities.device)
    style = probabilities.new_zeros(classes, model.prior.dim)
    heads = model.decode(model.from_class(one_hot, style))
    members = test.pixels[probabilities.topk(MEMBERS, dim=0).indices.T]
    mine = probabilities.argmax(dim=1).bincount(minlength=classes)
    members[mine == 0] = float("nan")
    rows = torch.cat([heads[:, None], members], dim=1)
    return image_grid(_pictures(rows, test.shape), [f"{k}" for k in range(classes)], ["head", *[""] * MEMBERS])


def curves(diagnostics: Diagnostics) -> dict[str, tuple[list[float], list[float]]]:
    """Mean over the seeds of every diagnostic that has a title, by that title."""
    steps = [float(r.step) for r in diagnostics.readings]
    found = {}
    for name, title in CURVE_TITLES.items():
        if name in diagnostics.readings[0].values:
            found[title] = (steps, [float(np.mean(r.values[name])) for r in diagnostics.readings])
    return found


def latent_history(settings: AutoencodingSettings, diagnostics: Diagnostics) -> LatentHistory | None:
    """Training of a run as the page shows it, where its codes lie in a plane."""
    frames = [
        LatentFrame(r.step, r.codes.numpy(), None if r.boundary is None else r.boundary.numpy())
        for r in diagnostics.readings
        if r.codes is not None
    ]
    if not frames:
        return None
    prior: Prior = make_part(PRIORS, settings.prior)
    divergence = settings.divergence["name"]
    return LatentHistory(
        title=settings.variant if settings.variant == "evia" else f"{settings.variant} ({divergence})",
        frames=frames,
        labels=diagnostics.labels[: len(frames[0].codes)].cpu().numpy(),
        prior=prior.sample(PRIOR_DRAWS // 2, generator=torch.Generator().manual_seed(0)).numpy(),
        extent=plane_extent(prior.scale),
        curves=curves(diagnostics),
        references=REFERENCES,
    )


def read_run(folder: Path, data: str | None = None) -> tuple[AutoencodingSettings, list[Reading]]:
    """Settings and readings of another run, which must be on the images `data` if those are named.

    Raises
    ------
    InputError
        If the folder holds no such run.
    """
    state = load_latest(folder / "checkpoints")
    if "readings" not in state:
        raise InputError(folder, "is no run of `cryoaae aae`", "give a folder that it made")
    config = read_mapping(folder / "config.yaml")
    if data is not None and config.get("data") != data:
        raise InputError(folder, f"was made from {config.get('data')}, not {data}", "show runs on the same images")
    known = AutoencodingSettings.model_fields
    try:
        settings = AutoencodingSettings(**{k: v for k, v in config.items() if k in known})
    except ValueError as error:
        raise InputError(folder / "config.yaml", "damaged", "give another run") from error
    return settings, [Reading(**reading) for reading in state["readings"]]


def thumbnails(run: FamilyRun, pixels: Tensor) -> NDArray[np.float64] | None:
    """Images for the page to show beside a code; none for colour."""
    return _pictures(pixels, run.data.train.shape) if run.data.train.shape[0] == 1 else None
