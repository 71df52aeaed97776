"""Training of the sampler of deviations that comes with cryoaae: the steps behind `train_general.py sampler`."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml

from cryoaae import __version__
from cryoaae.fitting.deviation_feed import DeviationFeed
from cryoaae.io.atomic import write_text
from cryoaae.io.checkpoint import load_latest
from cryoaae.io.weights import digest
from cryoaae.models.deviation_fitting import DeviationFitting, constant_draws, draws_of
from cryoaae.models.general import GeneralRestorer
from cryoaae.nets.deviation import Deviation, DeviationSpec


@dataclass(frozen=True)
class SamplerSettings:
    """How the sampler is trained; see `FitSettings` and `DeviationFeed` for those of the same names."""

    full: int
    coarse: int
    patch_size: int
    pool: int
    renew_every: int
    batch_size: int
    draws: int
    draws_from: float
    learning_rate: float
    warm_up_steps: int
    ema_decay: float
    minutes: float
    held_out_scenes: int
    seed: int
    evaluations: int = 20
    patience: int = 1000
    steps: int | None = None

    @classmethod
    def read(cls, path: Path) -> SamplerSettings:
        return cls(**yaml.safe_load(path.read_text()))


def sampler_to_fit(
    settings: SamplerSettings, scenes: Sequence[Path], start: Path | None = None
) -> tuple[DeviationFitting, DeviationFeed]:
    """The model, at its start or with given weights, and its feed."""
    general = GeneralRestorer.bundled().requires_grad_(False)
    feed = DeviationFeed(
        general, scenes, held_out=settings.held_out_scenes, patch=settings.patch_size, pool=settings.pool,
        renew_every=settings.renew_every, batch_size=settings.batch_size, draws=settings.draws,
        draws_from=settings.draws_from, coarse=settings.coarse, seed=settings.seed,
    )  # fmt: skip
    if start is not None:
        return DeviationFitting(Deviation.load(start).train().requires_grad_(), settings.patch_size), feed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sampler = Deviation(_spec(settings, general))
    sampler.know_loudness(feed.held_out()[0].seen)
    return DeviationFitting(sampler, settings.patch_size), feed


def _spec(settings: SamplerSettings, general: GeneralRestorer) -> DeviationSpec:
    first, second, third = general.network.widths
    return DeviationSpec((first, second, third), settings.full, settings.coarse)


@torch.no_grad()
def held_out_scores(model: DeviationFitting, feed: DeviationFeed) -> dict[str, list[float]]:
    """Scores of voxels, patches and bands on scenes kept out: the sampler's, and of Gaussian noise of the true size."""
    found: dict[str, list[list[float]]] = {"sampler": [], "constant": []}
    for batch in feed.held_out():
        for name, draws in (("sampler", draws_of(model.sampler, batch)), ("constant", constant_draws(batch))):
            found[name].append(model.functionals.score(draws, batch).mean(dim=0).tolist())
    return {
        name: [round(statistics.fmean(column), 4) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }


def write_sampler(settings: SamplerSettings, scenes: Sequence[Path], checkpoints: Path, target: Path) -> None:
    """Write the averaged weights of the last checkpoint; print how they do on scenes kept out."""
    model, feed = sampler_to_fit(settings, scenes)
    state = load_latest(checkpoints)
    model.load_state_dict(state["average"])
    training = {
        "steps": int(state["step"]), "minutes": round(float(state["seconds"]) / 60, 1),
        "machine": f"{platform.machine()} CPU", "scenes": int(state["feed"]["files"]), "settings": asdict(settings),
        "general": digest(dict(feed.general.state_dict()))[:16], "kept_out": held_out_scores(model, feed),
        "cryoaae": __version__,
    }  # fmt: skip
    before = checkpoints.parent / "before.json"
    if before.exists():
        training["before"] = json.loads(before.read_text())
    model.sampler.save(target, training)
    write_text(checkpoints.parent / "sampler.json", json.dumps(training, indent=1) + "\n")
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {json.dumps(training)}")
