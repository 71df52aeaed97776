"""What undoing the contrast transfer gains, by the floor, against the nulls undone the same way.

    benchmark_contrast.py [NAME ...] [--general]
    benchmark_contrast.py --table

Simulates tomograms from the odd lines of maps_10A, whose truth has no contrast transfer, with short fits; a name is
one of `CASES`, without any all are made. The restoration is scored as it is and divided in several ways, by floor, by
the wavelengths that stay as they are and by what share of the true defocus is stated; the nulls as they are and
divided in the way in use. "background" adds density longer than structures to both halves, as
ice and illumination do; "none" has no contrast transfer, and is divided by one of 4 µm all the same. A row for each
case is appended to docs/benchmarks/contrast.json, and the page contrast.md is made from the rows. What stands in
benchmark_runs/contrast is not made again. --general restores the same tomograms by the restorer that comes along, no
fit, with several shares of the gain before its network.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_rows import append, provenance, read_rows
from restoration_conditions import VOXEL_ANGSTROM, density_maps

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.io.tilts import read_tilts
from cryoaae.io.weights import digest
from cryoaae.metrics.fsc import Scorer
from cryoaae.metrics.nulls import NullInput, available_nulls
from cryoaae.models.general import GeneralRestorer
from cryoaae.patches.contrast import FLOOR, LONG_ANGSTROM, SHARE_BEFORE, gain_on_grid
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import contrast
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import filter_in_place, radial

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "contrast.json"
RUNS = Path("benchmark_runs") / "contrast"
EDGE, STEPS = 80, 100
SETTINGS = FitSettings.from_spectrum(
    steps=STEPS, minutes=None, patch_size=32, block_size=64, blocks=8, evaluations=4, refills=2)
FLOORS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
LONG = ((2000.0, 1000.0), (1000.0, 400.0), (400.0, 200.0))
# Shares of the true defocus.
STATED = (0.8, 1.2)
# Shortest wavelengths of the added background, and its deviation over that of the noise-free tomogram.
BACKGROUND_ANGSTROM, BACKGROUND_SHARE = 1500.0, 0.5
ASSUMED_UM = 4.0
SHOWN = {"cc": "cc", "seen": "seen", "low": "wedge lo", "mid": "wedge mid"}
NULLS = {
    "zero_fill": "Input", "gaussian": "Gaussian", "wiener_isotropic": "Wiener", "clip_input": "Clip + put back",
    "clip_wiener": "Clip + put back, from Wiener",
}  # fmt: skip
IN_USE = "divided"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """A simulated tomogram.

    Parameters
    ----------
    defocus_um : float
        0: no contrast transfer.
    seed : int
    background : bool
        Whether density longer than structures is added.
    """

    defocus_um: float
    seed: int
    background: bool = False

    @property
    def kind(self) -> str:
        if not self.defocus_um:
            return "no contrast transfer"
        return f"{self.defocus_um:g} µm{', background' if self.background else ''}"


CASES = {
    f"{'bg' if background else ''}{defocus_um:g}um_{seed}": Case(defocus_um, seed, background)
    for seed in (901, 902)
    for defocus_um, background in ((2.0, False), (4.0, False), (6.0, False), (4.0, True))
} | {"none_901": Case(0.0, 901)}  # fmt: skip


# -- data ----------------------------------------------------------------------------------------------


def prepared(case: Case, folder: Path) -> dict[str, Path]:
    """Simulate; keywords of `cryoaae.fit` and `cryoaae.restore`."""
    done = folder / "prepared.txt"  # written last
    if not done.exists():
        cryoaae.simulate(
            folder, maps=density_maps(odd_lines=True), shape_zyx=(EDGE,) * 3, voxel_size_angstrom=VOXEL_ANGSTROM,
            defocus_um=case.defocus_um, seed=case.seed,
        )  # fmt: skip
        if case.background:
            add_background(folder, case.seed)
        write_text(done, f"{case.kind}\n")
    return {"even": folder / "even.mrc", "odd": folder / "odd.mrc", "tilts": folder / "tilts.tlt"}


def add_background(folder: Path, seed: int) -> None:
    """Add the same slowly varying density to both halves."""
    white = np.random.default_rng(seed).standard_normal((2 * EDGE,) * 3)
    freq = np.fft.fftfreq(2 * EDGE, VOXEL_ANGSTROM)
    square = sum(k**2 for k in np.meshgrid(freq, freq, freq, indexing="ij"))
    smooth = np.fft.ifftn(np.fft.fftn(white) * np.exp(-square * BACKGROUND_ANGSTROM**2 / 2)).real
    cut = smooth[:EDGE, :EDGE, :EDGE]
    cut *= BACKGROUND_SHARE * open_volume(folder / "noiseless.mrc").numpy().std() / cut.std()
    for half in ("even", "odd"):
        volume = open_volume(folder / f"{half}.mrc").numpy() + cut
        write_volume(folder / f"{half}.mrc", volume, voxel_size_angstrom=VOXEL_ANGSTROM, overwrite=True)


def restored(case: Case, folder: Path, data: dict[str, Path]) -> torch.Tensor:
    """Fit and restore, without any division."""
    output = folder / "restored.mrc"
    if not output.exists():
        cryoaae.fit([], folder / "run", settings=replace(SETTINGS, seed=case.seed), device="cpu", **data)
        cryoaae.restore([], output, model=folder / "run", symmetries=True, device="cpu", **data)
    return tensor(output)


def tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(open_volume(path).numpy().astype(np.float32))


# -- scores --------------------------------------------------------------------------------------------


def divided(volume: torch.Tensor, defocus_um: float, **settings: Any) -> torch.Tensor:
    """A volume (z, y, x) with the contrast transfer of this defocus undone."""
    out = volume.numpy().copy()
    gain = gain_on_grid(ContrastTransfer((defocus_um,)), VOXEL_ANGSTROM, **settings)
    filter_in_place(out, radial(gain, out.shape), scratch=Scratch(None), check=lambda: None)
    return torch.from_numpy(out)


def candidates(folder: Path, made: torch.Tensor, wedge: MissingWedge) -> Iterator[tuple[str, torch.Tensor]]:
    """The restoration and the nulls."""
    yield "restored", made
    even, odd = tensor(folder / "even.mrc"), tensor(folder / "odd.mrc")
    inputs = NullInput((even + odd) / 2, wedge, even, odd, 1.0)
    for null in available_nulls(inputs):
        if null.name in NULLS:
            yield null.name, null.compute(inputs)


def divisions(case: Case) -> dict[str, dict[str, Any]]:
    """Keywords of `divided`, by name; the way in use first."""
    defocus_um = case.defocus_um or ASSUMED_UM
    ways: dict[str, dict[str, Any]] = {IN_USE: {}}
    ways |= {f"floor {floor:g}": {"floor": floor} for floor in FLOORS if floor != FLOOR}
    ways |= {f"beyond {b:g} to {a:g} Å as it is": {"long_angstrom": (a, b)} for a, b in LONG}
    ways |= {f"stated defocus x {share:g}": {"defocus_um": share * defocus_um} for share in STATED}
    return {name: {"defocus_um": defocus_um, **way} for name, way in ways.items()}


def measure(case: Case, folder: Path) -> dict[str, Any]:
    data = prepared(case, folder / "data")
    made = restored(case, folder, data)
    wedge = MissingWedge.from_tilts(read_tilts(data["tilts"]))
    scorer = Scorer(tensor(folder / "data" / "truth.mrc"), wedge, VOXEL_ANGSTROM)
    scores: dict[str, dict[str, Any]] = {}
    for name, volume in candidates(folder / "data", made, wedge):
        scores[name] = {"as it is": scores_of(scorer.score(volume))}
        for division, way in divisions(case).items():
            if name == "restored" or division == IN_USE:
                scores[name][division] = scores_of(scorer.score(divided(volume, **way)))
    return {"case": folder.name, "kind": case.kind, "steps": STEPS, "edge": EDGE, "scores": scores, **provenance()}


def measure_general(case: Case, folder: Path) -> dict[str, Any]:
    """Scores without a fit, by the share of the gain before the network."""
    data, output = prepared(case, folder / "data"), folder / "general.mrc"
    wedge = MissingWedge.from_tilts(read_tilts(data["tilts"]))
    scorer = Scorer(tensor(folder / "data" / "truth.mrc"), wedge, VOXEL_ANGSTROM)
    transfer, scores = ContrastTransfer((case.defocus_um or ASSUMED_UM,)), {}
    for share in SHARES:
        contrast.SHARE_BEFORE = share
        cryoaae.restore(
            [], output, symmetries=True, device="cpu", contrast_transfer=transfer, overwrite=True, **data
        )  # fmt: skip
        scores[f"{share:g}"] = scores_of(scorer.score(tensor(output)))
    weights = digest(dict(GeneralRestorer.bundled().state_dict()))[:16]
    return {"case": folder.name, "kind": case.kind, "weights": weights, "shares": scores, **provenance()}


def scores_of(row: Mapping[str, Any]) -> dict[str, float]:
    seen, missing = (row["regions"][name]["bands"] for name in ("seen", "missing"))
    values = {
        "cc": row["cc"], "seen": seen["band"]["fcc"], "low": missing["low"]["fcc"], "mid": missing["mid"]["fcc"],
    }  # fmt: skip
    return {name: round(float(value), 4) for name, value in values.items()}


# -- page ----------------------------------------------------------------------------------------------


def latest(rows: Rows, what: str = "scores") -> dict[str, Mapping[str, Any]]:
    """The last row of each case that has such scores."""
    return {row["case"]: row for row in rows if what in row}


def table(rows: Rows) -> str:
    """The page as Markdown."""
    kinds = by_kind(latest(rows))
    lines = [
        "# Undoing the contrast transfer", "",
        f"Made by `scripts/benchmark_contrast.py` from `contrast.json`. Simulated tomograms of {EDGE}³ voxels of "
        f"{VOXEL_ANGSTROM:g} Å, phase-flipped, from the odd lines of maps_10A; the truth has no contrast transfer. "
        f"Fits of {STEPS} steps: what counts here is the difference the division makes. Correlations with the truth: "
        f"of the volume, in the measured region, and in the wedge's bands; means over the seeds. \"Divided\" is "
        f"the way in use: floor {FLOOR:g}, wavelengths beyond {LONG_ANGSTROM[1]:g} to {LONG_ANGSTROM[0]:g} Å as they "
        "are.", "",
    ]  # fmt: skip
    for kind, own in kinds.items():
        title = f"{kind}; divided by {ASSUMED_UM:g} µm all the same" if kind == Case(0.0, 0).kind else kind
        lines += [f"## {title[0].upper()}{title[1:]}", "", f"{len(own)} of them.", "", *section(own), ""]
    lines += general_section(by_kind(latest(rows, "shares")))
    return "\n".join(lines).rstrip() + "\n"


def by_kind(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.values():
        kinds.setdefault(row["kind"], []).append(row)
    return kinds


def general_section(kinds: Mapping[str, Rows]) -> list[str]:
    """The general restorer by the share of the gain that comes before its network; a table a kind of tomogram."""
    lines = [
        "# A part of it before the network", "",
        "The restorer that comes along, no fit, on the same tomograms: gain^s before its network and gain^(1 - s) "
        f"after it. In use: s = {SHARE_BEFORE:g} (`docs/decisions/0044-transfer-before-the-network.md`).", "",
    ] if kinds else []  # fmt: skip
    for kind, own in kinds.items():
        weights = ", ".join(sorted({f"`{row['weights']}`" for row in own}))
        lines += [f"## {kind[0].upper()}{kind[1:]}, no fit", "", f"{len(own)} of them, weights {weights}.", ""]
        lines += [f"| s | {' | '.join(SHOWN.values())} |", "|---" * (len(SHOWN) + 1) + "|"]
        for share in own[0]["shares"]:
            means = [math.fsum(row["shares"][share][key] for row in own) / len(own) for key in SHOWN]
            lines.append(f"| {share} | {' | '.join(f'{value:.3f}' for value in means)} |")
        lines.append("")
    return lines


def section(own: Rows) -> list[str]:
    """The restoration divided in every way, then each null as it is and divided in the way in use."""
    lines = [f"| | {' | '.join(SHOWN.values())} |", "|---" * (len(SHOWN) + 1) + "|"]
    for division in own[0]["scores"]["restored"]:
        lines.append(line(f"Restored, {division}", own, "restored", division))
    for null, title in NULLS.items():
        for division in ("as it is", IN_USE):
            lines.append(line(f"{title}, {division}", own, null, division))
    return lines


def line(title: str, own: Rows, name: str, division: str) -> str:
    values = [mean(own, name, division, key) for key in SHOWN]
    return f"| {title} | {' | '.join(f'{value:.3f}' for value in values)} |"


def mean(own: Rows, name: str, division: str, key: str) -> float:
    return math.fsum(row["scores"][name][division][key] for row in own) / len(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--general", action="store_true", help="the restorer that comes along, in place of fits")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in CASES]:
        parser.error(f"no case is called {' or '.join(unknown)}; there are {', '.join(CASES)}")
    for name in () if options.table else options.names or CASES:
        append(ROWS, (measure_general if options.general else measure)(CASES[name], RUNS / name))
        print(name, flush=True)
    write_text(ROWS.with_suffix(".md"), table(read_rows(ROWS)))


if __name__ == "__main__":
    main()
