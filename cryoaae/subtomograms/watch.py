"""How a fit on subtomograms goes: readings on a fixed batch of particles and their copies."""

from __future__ import annotations

import csv
import io
from typing import Any

import torch

from cryoaae.draws import Draws
from cryoaae.models.categorical import class_of
from cryoaae.models.volumetric import COPIES, VolumeBatch, VolumetricAutoencoder


class Watch:
    """Readings of a model.

    Parameters
    ----------
    batch : VolumeBatch
        Fixed for the whole fit; particles that are fitted, since all are to be clustered.
    seed : int
        What is drawn for a reading is drawn anew for each, and disturbs no other draw.

    Notes
    -----
    ``error`` is the reconstruction error (1/2: noise alone), ``agreement`` the share of particles whose copy is of
    the same class, ``classes`` how many classes the batch uses (exponential of the entropy of its mean class code),
    ``accuracy_*`` how often a discriminator tells codes from prior (1/2: matched), ``spread`` the standard deviation
    of styles over the prior's.
    """

    def __init__(self, batch: VolumeBatch, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self.rows: list[dict[str, float]] = []

    @torch.no_grad()
    def read(self, model: VolumetricAutoencoder, step: int, seconds: float) -> dict[str, float]:
        """Take and keep a reading of a model, which is left as it was."""
        training = model.training
        model.eval()
        try:
            row = {"step": float(step), "seconds": round(seconds, 1), **self._values(model)}
        finally:
            model.train(training)
        self.rows.append(row)
        return row

    def _values(self, model: VolumetricAutoencoder) -> dict[str, float]:
        draws = Draws.seeded(self.seed, device=self.batch.pixels.device)
        model.follow_proportions()
        code = model.encoder(self.batch.pixels)
        y, clouds = class_of(code), model.clouds(code)
        first, second = y.argmax(dim=-1).chunk(COPIES)
        mean = y.mean(dim=0).clamp(min=1e-9)
        values = {
            "error": float(model.held_out_loss(self.batch)),
            "agreement": float((first == second).double().mean()),
            "classes": float(torch.exp(-(mean * mean.log()).sum())),
            "spread": float(code.style.std(dim=0).mean() / model.prior.scale),
        }
        for name, match in model.critics().items():
            q, p = (match.as_refereed(c, draws) for c in match.pair(clouds[name], draws, None))
            values[f"accuracy_{name}"] = float(match.divergence.accuracy(q, p))  # type: ignore[operator]
        return values

    def table(self) -> str:
        """Readings as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows)
        return text.getvalue()

    def state(self) -> list[dict[str, Any]]:
        """Return the readings as plain data."""
        return [dict(row) for row in self.rows]
