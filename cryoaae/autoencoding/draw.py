"""Figures of a fitted member of the family, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.autoencoding.diagnostics import BOUNDARY, Diagnostics, Reading, plane_extent
from cryoaae.autoencoding.page import REFERENCES, curves, write_page
from cryoaae.draws import Draws
from cryoaae.io.atomic import write_bytes
from cryoaae.io.images import Images
from cryoaae.metrics.codes import fresh_log_ratio, outside_prior
from cryoaae.models.autoencoder import Autoencoder
from cryoaae.models.categorical import CategoricalAutoencoder
from cryoaae.models.dimension_reduction import DimensionReduction
from cryoaae.models.supervised import SupervisedAutoencoder
from cryoaae.priors.gaussian import Gaussian
from cryoaae.priors.prior import Prior
from cryoaae.reports.image_grid import image_grid
from cryoaae.reports.latent_curves import training_curves
from cryoaae.reports.latent_figures import density_ratio_figure, latent_scatter, manifold_codes, plane_codes
from cryoaae.reports.style import png

if TYPE_CHECKING:
    from cryoaae.autoencoding.family import FamilyRun

SIDE, MEMBERS, SHOWN, PRIOR_DRAWS = 16, 10, 3000, 3000


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
    write_page(run, diagnostics, folder, beside)


def figures(model: Autoencoder, run: FamilyRun, diagnostics: Diagnostics, draws: Draws) -> dict[str, Any]:
    """Figures by name, as far as the variant has them."""
    test = run.data.test
    prior = model.prior
    drawn: dict[str, Any] = {"reconstructions": _reconstructions(model, test, draws)}
    if prior.dim == 2 and not isinstance(model, CategoricalAutoencoder):
        drawn["latent"] = _plane_of_codes(model, run, prior, draws)
        if isinstance(prior, Gaussian) and not isinstance(model, SupervisedAutoencoder):
            drawn["manifold"] = _manifold(model, prior, test)
    if prior.dim == 2:
        drawn["density_ratio"] = _density_ratio(diagnostics.readings[-1], prior, draws)
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


def _density_ratio(last: Reading, prior: Prior, draws: Draws) -> Any:
    """As the discriminator sees it, or where it was told labels too, a classifier fitted to these codes."""
    assert last.codes is not None
    extent = plane_extent(prior.scale)
    if last.boundary is not None:
        return density_ratio_figure(-torch.logit(last.boundary.double(), eps=1e-6), extent, last.codes)
    drawn = prior.sample(len(last.codes), generator=draws.generators[0], dtype=draws.dtype)
    plane = torch.as_tensor(plane_codes(BOUNDARY, extent), dtype=last.codes.dtype)
    log_ratio = fresh_log_ratio(last.codes, drawn, plane, seed=0)
    return density_ratio_figure(log_ratio.view(BOUNDARY, BOUNDARY), extent, last.codes)


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
