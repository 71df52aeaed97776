"""How a fit goes, alike for every variant, and when it must stop.

Read on images kept out of fitting: how well a discriminator tells codes from prior (it must drift to
one half), the unbiased MMD between them, and how well images are reconstructed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.mmd import MMD
from cryoaae.draws import Draws
from cryoaae.errors import FittingDivergedError
from cryoaae.metrics.clustering import held_out_majority_error
from cryoaae.models.autoencoder import CLASS, STYLE, Autoencoder
from cryoaae.models.categorical import CategoricalAutoencoder
from cryoaae.models.evia import EVIA
from cryoaae.models.image_batch import ImageBatch
from cryoaae.reports.latent_figures import plane_codes

SHOWN, BOUNDARY, MMD_POINTS = 2000, 48, 1000
# A referee that is right this often for so many readings, after so much of the fit, has won.
REFEREE_WINS, READINGS, GRACE, GRACE_STEPS = 0.97, 5, 0.25, 200
# Codes whose spread is below this share of the prior's have collapsed.
COLLAPSED = 0.05


@dataclass(frozen=True)
class Reading:
    """Diagnostics at a step.

    Parameters
    ----------
    step : int
    fraction : float
        Share of the fit that is done.
    values : dict of name to list of float
        One value a member of the stack.
    cpu_seconds : float
        Of fitting so far, all members together.
    codes : (n, 2), optional
        Of the first member, the first two numbers of each.
    boundary : (g, g), optional
        Probability of "prior" over the plane, row 0 the lowest y.
    """

    step: int
    fraction: float
    values: dict[str, list[float]]
    cpu_seconds: float = 0.0
    codes: Tensor | None = None
    boundary: Tensor | None = None

    def plain(self) -> dict[str, Any]:
        """Return the same as a dict, for a checkpoint."""
        return dict(vars(self))


@dataclass
class Diagnostics:
    """Reads a model on fixed images.

    Parameters
    ----------
    pixels : (n, pixels)
    labels : (n,)
        Their labels, told to the variants that must be told.
    seeds : int or list of int
        As the model's; what is drawn here is drawn anew for every reading, and disturbs no other draw.
    """

    pixels: Tensor
    labels: Tensor
    seeds: int | list[int]
    readings: list[Reading] = field(default_factory=list)
    # Codes whose discriminator has a say in the fit.
    refereed: set[str] = field(default_factory=lambda: {STYLE, CLASS})

    def read(self, model: Autoencoder, step: int, fraction: float, cpu_seconds: float = 0.0) -> Reading:
        """Take and keep a reading of a model, which is left as it was."""
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                reading = replace(self._read(model, step, fraction), cpu_seconds=cpu_seconds)
        finally:
            model.train(training)
        self.readings.append(reading)
        return reading

    def _read(self, model: Autoencoder, step: int, fraction: float) -> Reading:
        draws = Draws.seeded(self.seeds, device=self.pixels.device, dtype=self.pixels.dtype)
        x = self.pixels.expand(*draws.stack, *self.pixels.shape)
        known = self.labels.expand(*draws.stack, -1)
        batch = ImageBatch(x, draws, labels=known)
        values = {"half_squared_error": _members(model.held_out_loss(batch))}
        code = model.encoder(x, draws)
        clouds = model.clouds(code)
        self.refereed = {n for n, m in model.critics().items() if m.weight > 0}
        centres = code.style
        if isinstance(model, EVIA):
            drawn, _ = model.sample_posterior(x, draws, local_draws=1)
            clouds = {STYLE: Codes(drawn[..., 0, :])}
        for name, match in model.critics().items():
            q, p = (match.as_refereed(c, draws) for c in match.pair(clouds[name], draws, model.told(code, known)))
            values[f"accuracy_{name}"] = _members(match.divergence.accuracy(q, p))  # type: ignore[operator]
            values[f"jensen_shannon_{name}"] = _members(match.divergence.jensen_shannon(q, p))  # type: ignore[operator]
        if isinstance(model, CategoricalAutoencoder):
            classes = clouds[CLASS].samples
            assigned = classes.argmax(dim=-1).view(-1, classes.shape[-2])
            values["cluster_error"] = [held_out_majority_error(member, self.labels) for member in assigned]
        style, prior = clouds[STYLE].samples, model.prior
        reference = draws.each(lambda g: prior.sample(MMD_POINTS, generator=g, dtype=draws.dtype))
        values["mmd2"] = _members(MMD(prior)(Codes(style[..., :MMD_POINTS, :]), Codes(reference)))
        # Of EVIA the barycentres: its draws spread as the prior does even where they know nothing of the image.
        values["spread"] = _members(centres.std(dim=-2).mean(dim=-1) / prior.scale)
        first = style[0] if draws.stack else style
        shown = first[:SHOWN, :2].cpu() if prior.dim >= 2 else None
        boundary = self._boundary(model, draws) if prior.dim == 2 else None
        return Reading(step, fraction, values, codes=shown, boundary=boundary)

    def _boundary(self, model: Autoencoder, draws: Draws) -> Tensor | None:
        """Probability of "prior" over the plane as the first member's discriminator sees it."""
        match = model.critics().get(STYLE)
        if match is None or match.told:
            return None
        middles = plane_codes(BOUNDARY, plane_extent(match.prior.scale))
        plane = torch.as_tensor(middles, device=self.pixels.device, dtype=self.pixels.dtype)
        logits = match.divergence.log_ratio(plane.expand(*draws.stack, -1, -1))  # type: ignore[operator]
        first = logits[0] if draws.stack else logits
        return torch.sigmoid(first).view(BOUNDARY, BOUNDARY).cpu()

    def failed(self) -> dict[int, str]:
        """What is wrong with each member that has failed, over the last readings."""
        late = [r for r in self.readings if r.fraction >= GRACE and r.step >= GRACE_STEPS][-READINGS:]
        if len(late) < READINGS:
            return {}
        found = {}
        for member in range(len(late[-1].values["spread"])):
            for name in (n for n in self.refereed if f"accuracy_{n}" in late[-1].values):
                seen = [r.values[f"accuracy_{name}"][member] for r in late]
                if min(seen) > REFEREE_WINS:
                    found[member] = (
                        f"the discriminator of the {name} tells codes from prior in {100 * seen[-1]:.0f} % of cases "
                        "(it must drift to 50 %); raise its input_noise, or lower critic_rate or reconstruction_weight"
                    )
            spreads = [r.values["spread"][member] for r in late]
            if max(spreads) < COLLAPSED:
                found[member] = (
                    f"all codes lie within {100 * spreads[-1]:.1f} % of the prior's width; raise "
                    "reconstruction_weight, or lower divergence_weight or temperature"
                )
        return found

    def check(self) -> None:
        """Stop a fit of which no member is any good.

        Raises
        ------
        FittingDivergedError
            When for every member a discriminator wins for good or the codes have collapsed to a point.
        """
        failed = self.failed()
        if failed and len(failed) == len(self.readings[-1].values["spread"]):
            raise FittingDivergedError(f"stopped at step {self.readings[-1].step}: {failed[0]}")

    def state(self) -> list[dict[str, Any]]:
        """Return the readings as tensors and plain data."""
        return [r.plain() for r in self.readings]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on from `state`."""
        self.readings = [Reading(**reading) for reading in state]


def plane_extent(scale: float) -> float:
    """Half the width of the plane that is drawn."""
    return 3.5 * scale


def _members(value: Tensor) -> list[float]:
    return [float(v) for v in value.reshape(-1)]
