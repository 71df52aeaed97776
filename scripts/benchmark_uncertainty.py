"""Whether the spread of draws is that of the errors: as drawn, calibrated in size, and brought to its places too.

    benchmark_uncertainty.py RUN_FOLDER [RUN_FOLDER ...] [--draws K]
    benchmark_uncertainty.py --general SEED [SEED ...] [--defocus UM] [--draws K] [--sampler S] [--turns T]
                             [--fitted N [--em]]
    benchmark_uncertainty.py --phantom NAME --model RUN [--draws K]
    benchmark_uncertainty.py --table

Takes simulated tomograms and fits (folders with data and run, as `benchmark_validation.py` leaves them), or simulates
tomograms of the even lines of $CRYOAAE_DATA/maps_10A, 96^3 voxels, SNR 1, and restores them by the general restorer;
or a phantom of $CRYOAAE_DATA with a fit on it (without strata: what is where is not known).
Deviations are drawn on the working grid (kept in benchmark_runs/uncertainty, with the errors found: what stands is not
made again; with --fitted by a learned sampler that was fitted for N steps on the tomogram's own halves first, as
`cryoaae fit --posterior --keep-restorer` does; every other step of conditional EM with --em, else none) and taken in
three states: before, as they were drawn; sized, calibrated from the two halves and hidden tilts where they have their
spread; after, as `sample` writes them: those of the bootstrap brought to the places where errors are foretold, as far
as the halves confirm it, and calibrated. Learned draws are written as sized; mapped is what the bootstrap's places
would make of them. All are compared with the error of the restoration against the truth, faces left out, beside spreads
that know less (uncertainty_scores.py). Rows are appended to docs/benchmarks/uncertainty.json;
docs/benchmarks/uncertainty.md is made from them (uncertainty_table.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, provenance, read_rows
from torch import Tensor
from uncertainty_scores import NOMINAL, Compared, Scored, rms, strata_of, sum_of
from uncertainty_table import FITTED, FITTED_BY_EM, ROWS, STATES, TABLE, table

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.io.weights import digest
from cryoaae.metrics.calibration import coverage
from cryoaae.metrics.spread_factors import LEVEL
from cryoaae.nets.error_size import ErrorSize
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.draw_sources import TURNS, covering, covering_axes
from cryoaae.restoration.draw_store import ERRORS, FARED, DrawStore
from cryoaae.restoration.fit import fit
from cryoaae.restoration.fit_sampler import SamplerSettings
from cryoaae.restoration.foretold import foretold
from cryoaae.restoration.found_errors import FoundErrors, chessboard, coefficients, find_errors, measured_table
from cryoaae.restoration.held_out import Key, cells, half_noise, hide_tilts, scored_cells
from cryoaae.restoration.learned_draws import sampler_of
from cryoaae.restoration.loudness import Loudness, centred
from cryoaae.restoration.placement import LocalError, evened, uneven
from cryoaae.restoration.plain import plain
from cryoaae.restoration.recalibration import (
    Recalibration,
    fit_recalibration,
    power_by_cell,
    powers_of_draws,
    recalibrated,
)
from cryoaae.restoration.sampler_weights import FILE
from cryoaae.restoration.samplers import SAMPLERS, sampler_named
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.wedge_forecast import wedge_table
from cryoaae.runs.progress import ConsoleProgress

DRAWN = Path("benchmark_runs") / "uncertainty"
DRAWS, SEED = 8, 0
# Turns whose hidden tilts are compared with the truth of them.
HIDDEN_BY_DEG = (30.0, -30.0)


def simulated(seed: int, defocus_um: float) -> Path:
    """Folder with a tomogram for the general restorer, of structures that it has not seen."""
    from benchmark_validation import even_lines, simulate

    folder = DRAWN / "data" / (f"general_snr1_seed{seed}" + (f"_defocus{defocus_um:g}" if defocus_um else ""))
    maps = even_lines(Path(os.environ["CRYOAAE_DATA"]) / "maps_10A")
    simulate(folder / "data", 1.0, (-60, 60), "--seed", seed, "--maps", maps, "--defocus", defocus_um)
    return folder


def phantom(name: str, model: Path) -> Path:
    """Folder with a phantom and a fit on it; its truth is brought to the units of the tomogram."""
    source, folder = Path(os.environ["CRYOAAE_DATA"]) / "phantoms" / name, DRAWN / "data" / f"phantom_{name}_fitted"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "run").mkdir(exist_ok=True)
    links = {folder / "data" / file: source / file for file in ("even.mrc", "odd.mrc", "tilts.tlt")}
    links[folder / "run" / "model.safetensors"] = model / "model.safetensors" if model.is_dir() else model
    for link, target in links.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())
    about = json.loads((source / "meta.json").read_text())
    wedge = MissingWedge((about["lo"], about["hi"]))
    even, odd, truth = (open_volume(source / f"{file}.mrc") for file in ("even", "odd", "truth"))
    known = truth.numpy() - truth.numpy().mean()
    structure = wedge.measured(torch.from_numpy(known))
    mean = torch.from_numpy((even.numpy() + odd.numpy()) / 2)
    gain = float((structure * (mean - mean.mean())).sum() / structure.square().sum())
    for file, volume in (("truth", gain * torch.from_numpy(known)), ("noiseless", gain * structure)):
        level, path = float(mean.mean()), folder / "data" / f"{file}.mrc"
        values = (volume + level).numpy()
        write_volume(path, values, voxel_size_angstrom=even.voxel_size_angstrom, overwrite=True)
    write_text(folder / "data" / "meta.json", json.dumps({"defocus_um": about["defocus"]}))
    return folder


def seen(truth: Tensor, folder: Path, voxel_size_angstrom: float) -> Tensor:
    """The truth as the microscope shows it: the contrast transfer is undone after all that is compared here."""
    defocus = json.loads((folder / "data" / "meta.json").read_text())["defocus_um"]
    if not defocus:
        return truth
    transfer, _ = ContrastTransfer((defocus,)).at(radius(truth.shape) / voxel_size_angstrom)
    return irfft(rfft(truth) * transfer, truth.shape).float()


@dataclass(frozen=True)
class Fitted:
    """How a learned sampler is fitted on the halves of a tomogram first."""

    steps: int
    em: bool

    @property
    def ending(self) -> str:
        """Of the names of such runs."""
        return FITTED_BY_EM if self.em else FITTED

    def weights(self, folder: Path) -> Path:
        """Made about the general restorer, unless they stand."""
        data, run = folder / "data", folder / f"posterior_{self.steps}{self.ending}"
        if not (run / FILE).exists():
            settings = SamplerSettings(steps=self.steps, seed=SEED)
            settings = settings if self.em else replace(settings, redrawn_boxes=0)
            fit(
                (), run, even=data / "even.mrc", odd=data / "odd.mrc", tilts=data / "tilts.tlt", keep_restorer=True,
                posterior=settings, overwrite=True, progress=ConsoleProgress(),
            )  # fmt: skip
        return run / FILE


def run_name(folder: Path, sampler: str, turns: str, fitted: Fitted | None = None) -> str:
    name = folder.name + ("" if sampler == "bootstrap" else f"_{sampler}") + ("" if turns == "any" else f"_{turns}")
    return name + ("" if fitted is None else fitted.ending)


class Sampled:
    """A tomogram, its restoration, draws in their states, and what they were calibrated by."""

    def __init__(self, folder: Path, count: int, sampler: str, turns: str, fitted: Fitted | None) -> None:
        from benchmark_error_power import open_run

        self.folder, self.count, self.turns = folder, count, turns
        self.name, self.source = run_name(folder, sampler, turns, fitted), sampler_named(sampler)
        self.further = {} if fitted is None else {"weights": fitted.weights(folder)}
        self.tomogram, truth = open_run(folder, "truth")
        self.truth = seen(truth, folder, self.tomogram.voxel_size_angstrom)
        self.clean = self.tomogram.bring(open_volume(folder / "data" / "noiseless.mrc"))
        self.estimates = self.tomogram.restore_each(self.tomogram.halves)
        self.estimate = sum_of(self.estimates) / 2
        self.parts = chessboard(self.tomogram)
        self.store, before = self.drawn()
        self.found = self.errors_found()
        self.size = ErrorSize.bundled()(self.estimate, self.inside)
        self.local = LocalError(self.tomogram, self.estimates)
        self.confirmed = self.local.confirms(self.size, self.tomogram.counted)
        first, sized = self.calibrated(before)
        place = evened(sized, self.inside) * uneven(self.size, self.confirmed.applied).sqrt()
        generator = torch.Generator().manual_seed(SEED + 1000)
        noise = [torch.randn(self.tomogram.shape, generator=generator) for _ in before]
        second, placed = self.calibrated([place * d for d in sized])
        own = self.source.knows_places
        self.fitted = first if own else second.following(first)
        self.loudness = Loudness.of(self.found)
        written = self.about_centre(sized if own else placed)
        self.deviations = {
            "before": before, "sized": written if own else sized, "after": written,
            **({"mapped": placed} if own else {}), "noise": self.calibrated(noise, level=LEVEL)[1],
        }  # fmt: skip
        self.shifts = {}
        if self.source.centred:
            (shift,) = self.about_centre([torch.zeros(self.tomogram.shape)])
            self.shifts = dict.fromkeys(("sized", "after") if own else ("after",), shift)

    def about_centre(self, deviations: list[Tensor]) -> list[Tensor]:
        """Deviations about what is as loud as a posterior's mean; those with a mean of their own stay."""
        if not self.source.centred:
            return deviations
        fields = self.loudness.fields(self.tomogram)
        return [centred(deviation, fields, self.estimate) for deviation in deviations]

    @property
    def inside(self) -> Tensor:
        """Voxels that lie in the tomogram."""
        where = torch.zeros(self.tomogram.shape, dtype=torch.bool)
        where[covering(self.tomogram.plan.frame)] = True
        return where

    def drawn(self) -> tuple[DrawStore, list[Tensor]]:
        """Deviations on the continued working grid; those that stand are not made again."""
        tomogram, name = self.tomogram, self.name
        made_from = {
            "run": name, "model": digest(dict(tomogram.model.state_dict())), "seed": SEED, **self.source.made_from(),
            **{name: digest(dict(sampler_of(file).state_dict())) for name, file in self.further.items()},
        }  # fmt: skip
        store = DrawStore(DRAWN / name, made_from)
        store.open(tomogram.voxel_size_angstrom, overwrite=not store.ours() and self.source.knows_places)
        estimate = store.estimate(lambda: self.estimate)
        missing = [n for n in range(1, self.count + 1) if not store.path(n).exists()]
        source = self.source(tomogram, estimate, seed=SEED, turns=self.turns, **self.further) if missing else None
        for number in missing:
            assert source is not None
            store.write(number, source.deviation(number))
            print(f"{name}: draw {number}", flush=True)
        if source is not None and hasattr(source, "facts"):
            told = {key: value for key, value in source.facts().items() if key != "each"}
            write_text(store.folder / FARED, json.dumps(plain(told)) + "\n")
        axes = covering_axes(tomogram.plan.frame)
        return store, [continued(torch.from_numpy(d.copy()), axes) for d in store.read_all(self.count)]

    def errors_found(self) -> FoundErrors:
        """Errors by the halves and hidden tilts; found once, whatever the sampler."""
        model = digest(dict(self.tomogram.model.state_dict()))[:16]
        path = self.folder / f"{model}_{ERRORS}"
        try:
            return FoundErrors.from_facts(json.loads(path.read_text()))
        except (OSError, KeyError):  # none, or found when less was looked at
            generator = torch.Generator().manual_seed(SEED)
            made = find_errors(self.tomogram, self.estimates, self.parts, generator=generator)
            write_text(path, json.dumps(made.facts()) + "\n")
            return made

    def calibrated(
        self, deviations: list[Tensor], *, level: float | None = None
    ) -> tuple[Recalibration, list[Tensor]]:
        """Factors from the halves alone, and the draws with them."""
        (powers,) = powers_of_draws(self.tomogram, self.estimate, deviations, [self.tomogram.counted])
        within = self.source.wedge_within if level is None else level
        fitted = fit_recalibration(self.tomogram, self.found, powers, wedge_within=within)
        fields = fitted.fields(self.tomogram)
        generators = (torch.Generator().manual_seed(SEED + 1 + k) for k in range(len(deviations)))
        return fitted, [recalibrated(d, fields, g) for d, g in zip(deviations, generators, strict=True)]


def measure(folder: Path, count: int, sampler: str, turns: str, fitted: Fitted | None) -> dict[str, Any]:
    made = Sampled(folder, count, sampler, turns, fitted)
    tomogram = made.tomogram
    errors = {"truth": made.estimate - made.truth, "noiseless": made.estimate - made.clean}

    def compared(band: Tensor) -> Compared:
        return Compared(band, tomogram.counted, errors, {state: made.deviations[state] for state in STATES})

    tables = {"measured": measured_table(tomogram), "wedge": wedge_table(tomogram)}
    row: dict[str, Any] = {
        "run": made.name, "sampler": sampler, "signs": "either" if made.source.centred else "own", "draws": count,
        "cells": [], "regions": {},
        "places": places(made, errors["noiseless"]),
    }  # fmt: skip
    for region, cells_of in tables.items():
        counts = coefficients(cells_of, tomogram.counted)
        for key, band in scored_cells(cells_of, tomogram.shape):
            row["cells"].append({
                "region": region, "shell": key[0], "distance": key[1], "coefficients": counts[key],
                **marks(made.fitted, region, key), **compared(band).facts(),
            })  # fmt: skip
        row["regions"][region] = compared(cells_of >= 0).facts()
    row["regions"]["border"] = compared(border(tables)).facts()
    row["hidden"] = [facts for angle in HIDDEN_BY_DEG if (facts := hidden(made, angle)) is not None]
    band = everything(tables["measured"])
    row["whole"] = compared(band).facts()
    symmetric = made.source.centred
    scored = Scored.of(
        tomogram, band, made.truth, made.estimate, made.deviations, made.shifts, centred=symmetric
    )  # fmt: skip
    generator = torch.Generator().manual_seed(SEED)
    if (fared := made.store.folder / FARED).exists():
        row["sampling"] = json.loads(fared.read_text())
    row |= scored.by_voxel() | {
        "energy": scored.by_patch(generator), "means": scored.means_of_draws("after"),
        "strata": scored.by_stratum(strata_of(folder / "data", tomogram), ("before", "sized", "after")),
        "spectrum": scored.spectrum("after", scored_cells(tables["measured"], tomogram.shape), agreement(made)),
    }
    error_size = digest(dict(ErrorSize.bundled().state_dict()))[:16]
    working = {"working_voxel_angstrom": tomogram.voxel_size_angstrom, "working_zyx": list(tomogram.core_shape)}
    return {**row, **working, "error_size": error_size, **provenance()}


def places(made: Sampled, error: Tensor) -> dict[str, Any]:
    """What the halves confirm of the foretold places, beside what is true of the error that they can see."""
    true = LocalError(made.tomogram, made.estimates)
    true.values = true.filtered(error).square()
    there = true.confirms(made.size, made.tomogram.counted)
    return {**made.confirmed.facts(), "true": there.share, "true_deviation": there.deviation}


def agreement(made: Sampled) -> dict[int, float]:
    """Correlation of the halves by measured shell."""
    even, odd = (rfft(half) for half in made.tomogram.halves)
    found = {}
    for (shell, _), band in scored_cells(measured_table(made.tomogram), made.tomogram.shape):
        a, b = (irfft(s * band, made.tomogram.shape)[made.tomogram.counted].double() for s in (even, odd))
        found[shell] = float((a * b).mean()) / (rms(a) * rms(b))
    return found


def hidden(made: Sampled, angle_deg: float) -> dict[str, Any] | None:
    """Coverage of hidden tilts' truth by normal laws of the foretold power, in the foretold places.

    No draws are made of turned tomograms, neither here nor by `sample`: their spread is what the wedge's rule says of
    the cells that were hidden.
    """
    generator, tomogram = torch.Generator().manual_seed(SEED), made.tomogram
    noise = half_noise(tomogram, generator=generator)
    turned = hide_tilts(tomogram, angle_deg, made.estimates, noise, generator, strict=False)
    if turned is None:
        return None
    restored = sum_of(turned.estimates["lenient"]) / 2
    where = turned.turner.inside() & turned.turner.mask(tomogram.counted)
    (power,) = power_by_cell(turned.table, [restored], [where])
    stated, _, _ = foretold(made.found.all_measured(), made.found.all_hidden(), power)
    variance = torch.zeros(turned.table.shape)
    for key, band in scored_cells(turned.table, tomogram.shape):
        if key in power and math.isfinite(stated[key]):
            variance[band] = float(stated[key])
    known = variance > 0
    error = irfft(rfft(restored - turned.turner(made.truth)) * known, tomogram.shape)[where].double()
    uniform = sum_variance(variance, tomogram.shape)
    size = ErrorSize.bundled()(restored, where)
    spread = (uniform * uneven(size, made.confirmed.applied)).sqrt()[where].double()
    return {
        "angle_deg": angle_deg, "ratio": rms(spread) / rms(error),
        "coverage": coverage(error, spread, nominal=NOMINAL),
        "coverage_even": coverage(error, torch.full_like(error, math.sqrt(uniform)), nominal=NOMINAL),
    }  # fmt: skip


def sum_variance(power: Tensor, shape: tuple[int, int, int]) -> float:
    """Variance of a voxel, of power per coefficient (z, y, x // 2 + 1)."""
    return float((power.double() * multiplicity(shape)).sum()) / math.prod(shape)


def marks(fitted: Recalibration, region: str, key: Key) -> dict[str, Any]:
    """What is said of a factor."""
    factors = getattr(fitted, region)
    beyond = region == "wedge" and bool(fitted.extrapolated[key])
    return {
        "gain": float(factors.gain[key]), "added": float(factors.added[key]), "pooled": bool(factors.pooled[key]),
        "extrapolated": beyond,
    }  # fmt: skip


def everything(cells_of: Tensor) -> Tensor:
    """All coefficients of the shells."""
    z, y, half = cells_of.shape
    return cells((z, y, 2 * (half - 1)), torch.zeros(1), torch.ones(cells_of.shape, dtype=torch.bool)) >= 0


def border(tables: dict[str, Tensor]) -> Tensor:
    """Between what was measured and the wedge: factors there are neither fitted nor tested."""
    return everything(tables["measured"]) & (tables["measured"] < 0) & (tables["wedge"] < 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN_FOLDER")
    parser.add_argument("--general", type=int, nargs="+", default=[], metavar="SEED")
    parser.add_argument("--defocus", type=float, default=0.0, help="micrometres, of those of --general")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--phantom", help="name of a folder of $CRYOAAE_DATA/phantoms; with --model")
    parser.add_argument("--model", type=Path, help="the fit on the phantom: a run folder or its weights")
    parser.add_argument("--sampler", default="bootstrap", choices=SAMPLERS)
    parser.add_argument("--turns", default="any", choices=TURNS)
    parser.add_argument("--fitted", type=int, metavar="N", help="of learned: fitted on the halves for N steps first")
    parser.add_argument("--em", action="store_true", help="with --fitted: every other step is one of conditional EM")
    parser.add_argument("--again", action="store_true", help="make rows that stand anew")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    fitted = None if options.fitted is None else Fitted(options.fitted, options.em)
    folders = list(options.runs)
    if options.phantom and not options.table:
        folders.append(phantom(options.phantom, options.model))
    general = () if options.table else (simulated(seed, options.defocus) for seed in options.general)
    for folder in () if options.table else itertools.chain(folders, general):
        standing = {(row["run"], row["draws"]) for row in read_rows(ROWS) if "error_size" in row}
        name = run_name(folder, options.sampler, options.turns, fitted)
        if options.again or (name, options.draws) not in standing:
            started = time.monotonic()
            append(ROWS, measure(folder, options.draws, options.sampler, options.turns, fitted))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()
