"""Fit the restorer that comes along on simulated particles like those of a store, for `restore STORE --model RUN`.

    fit_particles.py STORE.h5 -o RUN --diameter ANGSTROM [--maps GLOB ...] [--minutes 15] [--seed 0]

What simulated particles have of the store: box, voxel size, wedges, and the spectra of signal and noise, which are
measured by what its particles share when they lie alike, where it holds poses. What they do not have of it is shape:
that comes from procedural assemblies and from relatives of the maps, all as large as the diameter. Do not give a map
of what the particles are, if you want to learn something of it. RUN/model.safetensors is a general restorer; RUN/
report.json says what it saw and how its error fell.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoaae import __version__
from cryoaae.errors import CryoaaeError, InputError, InterruptedRunError
from cryoaae.fitting.loop import Loop, run
from cryoaae.fitting.particle_feed import ParticleFeed
from cryoaae.io.atomic import write_text
from cryoaae.io.store import SubtomogramStore
from cryoaae.models.general import GeneralRestorer, GeneralSpec
from cryoaae.models.general_fitting import GeneralFitting
from cryoaae.patches.imaging import ends_deg
from cryoaae.restoration.general import PARTICLES_LIKE
from cryoaae.restoration.particle_density import ParticleDensity
from cryoaae.restoration.particles import FACE_PAD
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads
from cryoaae.runs.signals import stop_on_signals
from cryoaae.simulation.particle_species import draw_particle_species

MODEL, REPORT = "model.safetensors", "report.json"
HIDDEN_WEIGHT = 2.0
# Voxel sizes that the fitted restorer is meant for, about that of the store.
VOXEL_TOLERANCE = 0.1
# Noise that it is meant for, over that of the store.
LOUDER = 1.5


@dataclass(frozen=True)
class FitParticlesSettings:
    """How it is fitted; see `FitSettings` for those of the same names."""

    minutes: float | None = 15.0
    steps: int | None = None
    species: int = 160
    held_out: int = 16
    batch_size: int = 4
    learning_rate: float = 1e-3
    warm_up_steps: int = 50
    ema_decay: float = 0.99
    evaluations: int = 20
    patience: int = 1000
    seed: int = 0


def fit_particles(
    store: SubtomogramStore,
    maps: list[Path],
    diameter_angstrom: float,
    settings: FitParticlesSettings,
    *,
    device: torch.device,
    progress: ConsoleProgress,
) -> tuple[GeneralRestorer, dict[str, Any]]:
    """The fitted restorer and the report.

    Raises
    ------
    InputError
        When the store or a map cannot be used.
    InterruptedRunError
        When `progress` says so.
    """
    if not 0 < diameter_angstrom < store.box * store.voxel_size_angstrom:
        edge = store.box * store.voxel_size_angstrom
        raise InputError("--diameter", f"{diameter_angstrom:g} in boxes of {edge:g} angstrom", "give the particle's")
    density = ParticleDensity(store)
    factor = density.working_bin
    voxel = factor * store.voxel_size_angstrom
    spectra = density.spectra.on_working_grid(factor, density.normalisation.scale)
    start = GeneralRestorer.bundled()
    species = draw_particle_species(
        np.random.default_rng(settings.seed), maps, count=settings.species, diameter_angstrom=diameter_angstrom,
        voxel_size_angstrom=voxel,
    )  # fmt: skip
    wedges = store.facts.wedges
    feed = ParticleFeed(
        species, spectra, wedges, box=store.box // factor, pad=FACE_PAD, multiple=start.network.multiple,
        voxel_size_angstrom=voxel, held_out=settings.held_out, batch_size=settings.batch_size,
        hidden_weight=HIDDEN_WEIGHT, seed=settings.seed, device=device,
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    loop = Loop(GeneralFitting(start.network, HIDDEN_WEIGHT, feed.margin).to(device), feed, settings)
    errors: list[float] = []
    shown = 0.0

    def on_step(record: dict[str, float]) -> None:
        nonlocal shown
        progress.advance(loop.budget.fraction - shown, step=loop.budget.step)
        shown = loop.budget.fraction

    progress.start("fitting on simulated particles", 1.0, "fit")
    run(loop, on_step=on_step, on_evaluation=errors.append, on_time=progress.check)
    progress.finish()
    ends = [abs(end) for wedge in wedges for end in ends_deg(wedge)]
    report = {
        PARTICLES_LIKE: store.path.name, "spectra": "poses" if density.by_poses else "background",
        "signal_over_noise": (spectra.signal / spectra.noise).tolist(), "maps": [path.name for path in maps],
        "diameter_angstrom": diameter_angstrom, "steps": loop.budget.step,
        "seconds": round(loop.budget.seconds), "cpu_seconds": round(time.process_time()),
        "seed": settings.seed, "error_of_wiener_filter_left": [round(error, 4) for error in errors],
        "cryoaae": __version__,
    }  # fmt: skip
    spec = GeneralSpec(
        start.spec.network, ((1 - VOXEL_TOLERANCE) * voxel, (1 + VOXEL_TOLERANCE) * voxel), (min(ends), max(ends)),
        {**report, "before": start.spec.training}, LOUDER * spectra.noise_to_signal,
    )  # fmt: skip
    made = GeneralRestorer(spec)
    # Whether there is structure at all it learned on noise alone: the classifier of tomograms is left out.
    made.network.load_state_dict(loop.average.network.state_dict())
    return made.eval(), report


def main() -> int:
    default = FitParticlesSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--diameter", type=float, required=True, help="of the particles, angstrom")
    parser.add_argument("--maps", nargs="*", default=[], help="density maps to take relatives of; quoted globs")
    parser.add_argument("--minutes", type=float, default=default.minutes)
    parser.add_argument("--steps", type=int, help="instead of minutes, to be reproducible")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args()
    target = given.output / MODEL
    if target.exists() and not given.overwrite:
        raise InputError(target, "exists already", "give --overwrite or another folder")
    set_threads(given.threads)
    keep_freed_memory()
    maps = [Path(name) for pattern in given.maps for name in (sorted(glob(pattern)) or [pattern])]  # noqa: PTH207
    settings = FitParticlesSettings(minutes=given.minutes, steps=given.steps, seed=given.seed)
    progress = ConsoleProgress()
    with stop_on_signals(progress.cancel):
        made, report = fit_particles(
            SubtomogramStore(given.store), maps, given.diameter, settings, device=choose_device(given.device),
            progress=progress,
        )  # fmt: skip
    given.output.mkdir(parents=True, exist_ok=True)
    write_text(given.output / REPORT, json.dumps(report, indent=1) + "\n")
    made.save(target)
    print(f"wrote {target}: {report['steps']} steps, error left {report['error_of_wiener_filter_left'][-1:]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CryoaaeError, InterruptedRunError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
