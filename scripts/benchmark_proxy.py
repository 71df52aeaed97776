"""Whether real patches and structures put through the microscope again can be told apart: the fairness of the proxy.

    benchmark_proxy.py [--rows NAME ...] [--seed 0] [--restored NAME=FOLDER ...] [--maps GLOB]
    benchmark_proxy.py --table

Ten crowded phantoms are simulated once and kept in benchmark_runs/proxy. A fixed small classifier learns on six of
them, 2,000 steps, to tell real patches from `T R x_hat + n`, and is scored on 2,000 patches of the other four, away
from the faces: the area under its ROC curve, with a bootstrap interval. Rows:

    truth      x_hat is the noise-free reconstruction from -90 to 90 degrees: what is left is the operator's fault
    smeared    the noise-free tomogram with its wedge, its power brought to the truth's shell by shell
    wedge+20, wedge-20   the truth, seen through a wedge that is wrong by so many degrees
    NAME       restorations, FOLDER/phantom_00.mrc and so on

Structures are procedural, or those that --maps names ("$CRYOAAE_DATA/maps_10A/*.gz"). Rows are appended to
docs/benchmarks/proxy.json unless --dry-run; the table docs/benchmarks/proxy.md is made from them. One that stands
is not measured again. --edge, --steps and --patches make smaller ones, for --dry-run alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_rows import append, provenance, read_rows
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.io.tilts import read_tilts
from cryoaae.matching.structure import CloudDraw, Clouds, Microscope, blocks_at, settled
from cryoaae.nets.discriminators import PatchDiscriminator
from cryoaae.patches.normalise import Normalisation, shared_normalisation
from cryoaae.patches.source import TomogramSource, prepare_source
from cryoaae.physics.fourier import irfft, multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.resample import to_working_grid
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation import dataset
from cryoaae.simulation.reconstruction import back_project
from cryoaae.simulation.tilt_series import detector_width, project, tilt_angles_deg

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "proxy.json"
TABLE = ROWS.with_suffix(".md")
RUNS = Path("benchmark_runs") / "proxy"
PHANTOMS, LEARNED_ON, FIRST_SEED = 10, 6, 700
VOXEL_ANGSTROM, WORKING_BIN, SNR = 10.0, 2, 1.0
TILTS = tilt_angles_deg((-60.0, 60.0), 3.0)
COMPLETE_TILTS = tilt_angles_deg((-90.0, 88.5), 1.5)
PATCH, BLOCK = 24, 42
# Turned blocks are dear, real patches cheap; noise is added anew in every step.
BLOCKS, REAL = 1500, 4000
BATCH, RATE, WEIGHT_DECAY = 16, 1e-3, 1e-2
NOISE_NEIGHBOURS = 20
RESAMPLES = 1000
TRUTH, SMEARED = "truth", "smeared"
WRONG_DEG = {"wedge+20": 20.0, "wedge-20": -20.0}
LARGEST_TRUTH, LEAST_SMEARED, LEAST_RATIO = 0.55, 0.70, 4.0


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    edge: int = 160
    steps: int = 2000
    patches: int = 2000


# -- phantoms ------------------------------------------------------------------------------------------


def make_phantom(folder: Path, seed: int, edge: int, maps: Sequence[str]) -> None:
    """Simulate a tomogram, as `cryoaae simulate` does, and its noise-free reconstruction from all angles."""
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
    species = dataset.load_species(maps, (), VOXEL_ANGSTROM) or dataset.procedural_species(streams[0], VOXEL_ANGSTROM)
    shape = (edge,) * 3
    # Membranes and filaments know a direction: slab and faces confine them.
    built = dataset.build_specimen(streams[1], species, shape, VOXEL_ANGSTROM, TILTS)
    volumes = dataset.image_specimen(built, streams[2], TILTS, SNR).volumes
    complete = complete_reconstruction(torch.from_numpy(volumes["truth"]))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("even", "odd", "noiseless"):
        write_volume(folder / f"{name}.mrc", volumes[name], voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)
    write_volume(folder / "complete.mrc", complete.numpy(), voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)
    write_text(folder / "tilts.tlt", "".join(f"{tilt:.2f}\n" for tilt in TILTS))


def complete_reconstruction(truth: Tensor) -> Tensor:
    """The noise-free reconstruction of a volume (z, y, x) from all angles."""
    # Of the volume alone: what lies beside it would be in some of the images only.
    images = project(truth, COMPLETE_TILTS, detector_width(truth.shape))
    return back_project((image - image.mean() for image in images), COMPLETE_TILTS, truth.shape)


@dataclass(frozen=True)
class Phantom:
    """A phantom on the working grid."""

    folder: Path
    source: TomogramSource
    normalisation: Normalisation

    def volume(self, path: Path) -> Tensor:
        """A volume in the tomogram's units, normalised as its halves are, (z, y, x)."""
        return to_working_grid(torch.from_numpy(self.normalisation.apply(open_volume(path).numpy())), WORKING_BIN)


def open_phantom(folder: Path) -> Phantom:
    halves = [open_volume(folder / f"{half}.mrc") for half in ("even", "odd")]
    normalisation = shared_normalisation(halves, WORKING_BIN)
    source = prepare_source(
        folder.name, halves, MissingWedge.from_tilts(read_tilts(folder / "tilts.tlt")), normalisation,
        working_bin=WORKING_BIN, held_out=torch.zeros(0, 2, 3), noise=torch.ones(1),
    )  # fmt: skip
    return Phantom(folder, source, normalisation)


def phantoms(size: Size, maps: Sequence[str]) -> list[Phantom]:
    """All phantoms, simulated where they do not stand yet."""
    found = []
    for number in range(PHANTOMS):
        folder = RUNS / f"edge{size.edge}{'_maps' if maps else ''}" / f"phantom_{number:02d}"
        if not (folder / "tilts.tlt").exists():
            make_phantom(folder, FIRST_SEED + number, size.edge, maps)
        found.append(open_phantom(folder))
    return found


# -- what is put through the microscope ------------------------------------------------------------------


def power_matched(volume: Tensor, reference: Tensor, shells: int = 32) -> Tensor:
    """A volume (z, y, x) whose power is brought to that of a reference, shell by shell."""
    index = shell_index(volume.shape, shells)
    ours, wanted = (
        shell_sum(rfft(v - v.mean()).abs() ** 2 * multiplicity(v.shape), index, shells) for v in (volume, reference)
    )
    gain = torch.cat([(wanted / ours.clamp(min=1e-12)).sqrt(), torch.zeros(1)]).float()
    return irfft(rfft(volume - volume.mean()) * gain[index], volume.shape)


def volumes_of(row: str, restored: dict[str, Path]) -> Callable[[Phantom], Tensor]:
    """What x_hat is in a row."""
    if row in restored:
        return lambda phantom: phantom.volume(restored[row] / f"{phantom.folder.name}.mrc")
    if row == SMEARED:
        return lambda phantom: power_matched(
            phantom.volume(phantom.folder / "noiseless.mrc"), phantom.volume(phantom.folder / "complete.mrc")
        )
    return lambda phantom: phantom.volume(phantom.folder / "complete.mrc")


def shown_wedge(row: str, wedge: MissingWedge) -> MissingWedge:
    """The wedge that x_hat is seen through: the tomogram's, or one that is wrong."""
    by = WRONG_DEG.get(row, 0.0)
    return MissingWedge.from_tilts([tilt + by for tilt in wedge.tilts_deg or ()]) if by else wedge


@dataclass(frozen=True)
class Bank:
    """Patches of a set of phantoms: real ones, and what is needed to see structures again."""

    draw: CloudDraw
    real: Tensor  # (m, 1, p, p, p)
    real_tomogram: Tensor  # (m,)


def draw_bank(
    sources: Sequence[TomogramSource], blocks: int, real: int, seed: int, *, patch: int = PATCH, block: int = BLOCK
) -> Bank:
    """Draw places, turns and noise of blocks, and real patches, from every phantom alike."""
    parts: list[CloudDraw] = []
    extra: list[Tensor] = []
    owner: list[Tensor] = []
    for number, source in enumerate(sources):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        clouds = Clouds([source], patch=patch, block=block, generator=generator)
        drawn = clouds.draw(blocks // len(sources))
        parts.append(replace(drawn, tomogram=drawn.tomogram + number))
        more = [drawn.real]
        while sum(map(len, more)) < real // len(sources):
            more.append(clouds.draw(blocks // len(sources)).real)
        extra.append(torch.cat(more)[: real // len(sources)])
        owner.append(torch.full((len(extra[-1]),), number))
    whole = CloudDraw(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(CloudDraw)))
    return Bank(whole, torch.cat(extra), torch.cat(owner))


def seen_again(bank: Bank, volumes: Sequence[Tensor], microscope: Microscope, chunk: int = 16) -> Tensor:
    """Structures of the bank's blocks, turned and measured, without noise; (n, 1, p, p, p)."""
    silent = replace(bank.draw, noise=torch.zeros_like(bank.draw.noise))
    parts = [silent.part(slice(start, start + chunk)) for start in range(0, len(silent), chunk)]
    return torch.cat([microscope(blocks_at(volumes, part, microscope.block), part) for part in parts])


# -- telling apart -----------------------------------------------------------------------------------------


def learn(bank: Bank, again: Tensor, turns: Sequence[tuple[int, ...]], steps: int, seed: int) -> PatchDiscriminator:
    """Fit the classifier; half turns that keep the wedge, and noise about as loud as a block's own, are drawn anew."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = PatchDiscriminator()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    noise = settled(bank.draw.noise)
    order = noise.flatten(1).var(dim=1).argsort()
    rank = order.argsort()
    for _ in range(steps):
        real = bank.real[torch.randint(len(bank.real), (BATCH,), generator=generator)]
        chosen = torch.randint(len(again), (BATCH,), generator=generator)
        shift = torch.randint(-NOISE_NEIGHBOURS, NOISE_NEIGHBOURS + 1, (BATCH,), generator=generator)
        fake = again[chosen] + noise[order[(rank[chosen] + shift).clamp(0, len(order) - 1)]]
        turn = turns[int(torch.randint(len(turns), (1,), generator=generator))]
        logits = network(torch.cat([real, fake]).flip(turn) if turn else torch.cat([real, fake])).mean(dim=1)
        label = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def scores(network: nn.Module, patches: Tensor) -> np.ndarray:
    return torch.cat([network(part).mean(dim=1) for part in patches.split(100)]).double().numpy()


def area(real: np.ndarray, again: np.ndarray) -> float:
    """Area under the ROC curve: how often a real patch scores above one seen again."""
    return float(roc_auc_score(np.r_[np.ones(len(real)), np.zeros(len(again))], np.r_[real, again]))


def bootstrap(real: np.ndarray, again: np.ndarray, seed: int) -> tuple[float, float]:
    """The middle 95 % of the area over patches drawn with replacement."""
    rng = np.random.default_rng(seed)
    areas = [area(rng.choice(real, len(real)), rng.choice(again, len(again))) for _ in range(RESAMPLES)]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


class Proxy:
    """The phantoms and draws that all rows share."""

    def __init__(self, size: Size, seed: int, maps: Sequence[str]) -> None:
        self.size, self.seed, self.maps = size, seed, maps
        known = phantoms(size, maps)
        self.sets = [known[:LEARNED_ON], known[LEARNED_ON:]]
        share = size.patches / Size.patches
        half = size.patches // 2
        counts = [(round(BLOCKS * share), round(REAL * share)), (half, half)]
        self.banks = [
            draw_bank([p.source for p in part], *count, seed=2 * seed + i)
            for i, (part, count) in enumerate(zip(self.sets, counts, strict=True))
        ]

    def measure(self, row: str, restored: dict[str, Path]) -> dict[str, Any]:
        """Learn on some phantoms, score on the others."""
        started, volume_of = time.process_time(), volumes_of(row, restored)
        again = []
        for part, bank in zip(self.sets, self.banks, strict=True):
            wedges = [shown_wedge(row, p.source.wedge) for p in part]
            microscope = Microscope(wedges, patch=PATCH, block=BLOCK)
            again.append(seen_again(bank, [volume_of(p) for p in part], microscope))
        turns = self.sets[0][0].source.wedge.half_turns()
        network = learn(self.banks[0], again[0], turns, self.size.steps, self.seed)
        test = self.banks[1]
        real, fake = scores(network, test.real), scores(network, again[1] + settled(test.draw.noise))
        owners = (test.real_tomogram.numpy(), test.draw.tomogram.numpy())
        each = [area(real[owners[0] == i], fake[owners[1] == i]) for i in range(len(self.sets[1]))]
        low, high = bootstrap(real, fake, self.seed)
        return {
            "row": row, "seed": self.seed, "maps": bool(self.maps), "auc": area(real, fake), "low": low, "high": high,
            "each_phantom": each, "patches": len(real) + len(fake), "steps": self.size.steps, "edge": self.size.edge,
            "cpu_seconds": round(time.process_time() - started), **provenance(),
        }  # fmt: skip


# -- rows and table ------------------------------------------------------------------------------------------


def judged(rows: list[dict[str, Any]]) -> list[str]:
    """The musts, in words."""
    areas: dict[str, list[float]] = {}
    for row in rows:
        areas.setdefault(row["row"], []).append(row["auc"])
    mean = {name: sum(values) / len(values) for name, values in areas.items()}
    lines = []
    if TRUTH in mean:
        word = "holds" if mean[TRUTH] <= LARGEST_TRUTH else "does not hold"
        lines.append(f"Truth at most {LARGEST_TRUTH}: {mean[TRUTH]:.3f}, {word}.")
    if SMEARED in mean:
        word = "holds" if mean[SMEARED] >= LEAST_SMEARED else "does not hold"
        lines.append(f"Smeared at least {LEAST_SMEARED:.2f}: {mean[SMEARED]:.3f}, {word}.")
    if TRUTH in mean and SMEARED in mean:
        excess = {name: max(mean[name] - 0.5, 0.0) for name in (TRUTH, SMEARED)}
        word = "holds" if excess[SMEARED] >= LEAST_RATIO * excess[TRUTH] else "does not hold"
        lines.append(
            f"Smeared above chance {LEAST_RATIO:g} times as far as truth: {excess[SMEARED]:.3f} against "
            f"{excess[TRUTH]:.3f}, {word}."
        )
    return lines


def table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone."""
    lines = [
        "# The proxy: can real patches be told from structures seen again?",
        "",
        "Made by `scripts/benchmark_proxy.py` from `proxy.json`. Area under the ROC curve of a fixed small classifier "
        "on patches of phantoms that it did not learn on; 0.5: nobody can tell. The interval is over patches, which "
        "overlap; the spread over phantoms stands beside it.",
        "",
        "| x_hat | structures | seed | AUC | 95 % | each unseen phantom | patches | steps | CPU-s |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(line, rows),
        "",
        *judged(rows),
    ]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    each = ", ".join(f"{value:.3f}" for value in row["each_phantom"])
    return (
        f"| {row['row']} | {'maps' if row['maps'] else 'procedural'} | {row['seed']} | {row['auc']:.3f} "
        f"| {row['low']:.3f} to {row['high']:.3f} | {each} | {row['patches']} | {row['steps']} | {row['cpu_seconds']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[TRUTH, SMEARED, *WRONG_DEG], choices=[TRUTH, SMEARED, *WRONG_DEG])
    parser.add_argument("--restored", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--maps", help="quoted glob of density maps")
    parser.add_argument("--edge", type=int, default=Size.edge)
    parser.add_argument("--steps", type=int, default=Size.steps)
    parser.add_argument("--patches", type=int, default=Size.patches)
    parser.add_argument("--dry-run", action="store_true", help="print rows, keep none")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    size = Size(options.edge, options.steps, options.patches)
    if size != Size() and not options.dry_run:
        parser.error("smaller rows are not kept: add --dry-run")
    maps = sorted(glob(options.maps)) if options.maps else []  # noqa: PTH207  patterns may be absolute
    restored = {name: Path(folder) for name, folder in (given.split("=", 1) for given in options.restored)}
    done = {(row["row"], row["seed"], row["maps"]) for row in read_rows(ROWS)}
    wanted = [] if options.table else [*options.rows, *restored]
    wanted = [row for row in wanted if options.dry_run or (row, options.seed, bool(maps)) not in done]
    if wanted:
        proxy = Proxy(size, options.seed, maps)
    for row in wanted:
        measured = proxy.measure(row, restored)
        print(json.dumps(measured), flush=True)
        if not options.dry_run:
            append(ROWS, measured)
    if not options.dry_run:
        write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()
