"""The page of `benchmark_uncertainty.py` from rows alone: sizes, places, scores, and what must hold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import chi2

from cryoaae.restoration.held_out import SHELLS

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "uncertainty.json"
TABLE = ROWS.with_suffix(".md")
REGIONS, STATES = ("measured", "wedge"), ("before", "after")
KINDS = ("before", "sized", "after")
NULLS = ("constant", "local_rms", "noise")
# Musts of ratios and coverage; goals where they are sharper.
MUST_RATIO, GOAL_RATIO = 0.25, 0.15
MUST_SEEN, MUST_WEDGE, GOAL_STRATA = (0.87, 0.93), (0.83, 0.96), (0.78, 0.98)
GOAL_RANK, MEAN_TOLERANCE, SPECTRUM_TOLERANCE, CARRIED = 0.05, 0.005, 0.15, 0.5
Rows = Sequence[Mapping[str, Any]]
# How the names of runs end whose sampler was fitted on the tomogram's own halves first.
FITTED, FITTED_BY_EM = "_fitted", "_fitted_em"


def kinds(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """States of a run's scores. Draws that know places are written as sized; the third is what a map makes of them."""
    return ("before", "sized", "mapped") if "mapped" in row["crps"] else KINDS


def latest(rows: Rows) -> Rows:
    """The last row of each run and number of draws."""
    return list({(row["run"], row["draws"]): row for row in rows}.values())


def table(rows: Rows) -> str:
    """The page as Markdown, from committed rows alone."""
    rows = latest(rows)
    full = [row for row in rows if "places" in row]
    lines = [
        "# The spread against the errors, before and after calibration", "",
        "Made by `scripts/benchmark_uncertainty.py` from `uncertainty.json`: draws on simulated "
        "tomograms of 96^3 voxels, calibrated from the two halves and hidden tilts alone; errors against the truth. "
        "Runs named general are of the restorer that comes along, on structures that neither it nor the map of places "
        "has seen; the others are fits of their own. Ratio: rms of the spread over rms of the error, 1 is right, below "
        "1 the spread is too small. Covered: voxels whose error lies in the nominal 90% interval of the normal law "
        "with the spread that `std.mrc` has, over the draws and a window of two working voxels. Border: between what "
        "was measured for sure and the wedge that is tested. `a → b`: as drawn → as written. Rows without the tables "
        "further down are older, of the calibration in size alone, and covered by Student's law voxel by voxel. Names "
        "that end in learned: draws of the learned sampler, in fitted first fitted on the tomogram's own halves (`fit "
        "--posterior`, 30 steps), in fitted_em with as many further steps of conditional EM between them; of all "
        "others: of the bootstrap, in quarter by `--turns quarter`.", "",
        "| run | draws | measured: ratio | covered | wedge: ratio | covered | border: ratio | all: ratio | covered |",
        "|---|---|---|---|---|---|---|---|---|", *map(run_line, rows), "",
    ]  # fmt: skip
    if full:
        lines += [*which_voxels(full), *by_stratum(full), *means(full), *spectra(full)]
    lines += [
        "## Ratio by shell", "", "Shells of the working grid, coarse to fine; of the wedge the median over distances.",
        "", "| run | region | " + " | ".join(str(shell + 1) for shell in range(SHELLS)) + " |",
        "|---|---|" + "---|" * SHELLS,
        *(shells_line(row, region, state) for row in rows for region in REGIONS for state in STATES), "",
        "## What must hold", "",
    ]  # fmt: skip
    if full:
        for title, own in groups(full):
            lines += [f"### {title}", "", f"Of {len(own)} runs of all tables:", "", *verdicts(own, full), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def fairly_scored(rows: Rows) -> Rows:
    """Rows whose draws were scored with either sign, or as they are where their law has a mean of its own."""
    return [row for row in rows if row.get("signs") in ("either", "own")]


def groups(rows: Rows) -> list[tuple[str, Rows]]:
    """Runs by sampler, the bootstrap first; learned draws have the bootstrap's of the same run to beat."""
    parts = [("The bootstrap", [row for row in rows if row["sampler"] == "bootstrap"])]
    further = {"The learned sampler": "learned", "Importance sampling": "importance", "Langevin walks": "langevin"}
    for title, name in further.items():
        own = [row for row in rows if row["sampler"] == name]
        parts.append((title, [row for row in own if not row["run"].endswith((FITTED, FITTED_BY_EM))]))
    fitted = {"": FITTED, ", with conditional EM": FITTED_BY_EM}
    parts[2:2] = [
        (f"The learned sampler, fitted on halves{how}", [row for row in rows if row["run"].endswith(name)])
        for how, name in fitted.items()
    ]
    return [(title, own) for title, own in parts if own]


def arrow(facts: Mapping[str, Any], name: str, form: str, states: Sequence[str] = STATES) -> str:
    return " → ".join(format(facts[state][name], form) for state in states)


def run_line(row: Mapping[str, Any]) -> str:
    parts = []
    for region in REGIONS:
        facts = row["regions"][region]
        parts += [arrow(facts, "ratio", ".2f"), arrow(facts, "coverage", ".0%")]
    parts += [arrow(row["regions"]["border"], "ratio", ".2f")]
    parts += [arrow(row["whole"], "ratio", ".2f"), arrow(row["whole"], "coverage", ".0%")]
    return f"| {row['run']} | {row['draws']} | {' | '.join(parts)} |"


def which_voxels(rows: Rows) -> list[str]:
    """Ranks, scores and what the halves confirm."""
    return [
        "## Which voxels", "",
        "Drawn: the sampler's own spread. Sized: calibrated where it is. Placed: brought to the places where errors "
        "are foretold. Draws of the bootstrap are written as placed, learned ones as sized. Less is better of scores, "
        "in units of the error's rms. Constant and local rms: "
        "normal laws of one width, or one that follows the local rms of the restoration, both given the error's true "
        "size. Noise: Gaussian noise of the calibrated power about the restoration. CRPS is that of the draws "
        "themselves, with either sign (deviations are as likely as their opposites; signs that alternate would pass "
        "for spread; those of importance sampling and Langevin walks have a mean of their own and are taken as they "
        "are), unbiased for any number of them; in brackets that of the normal law with the spread of "
        "`std.mrc`. Runs whose rows are older, scored with the signs that draws came with, are left out.", "",
        "| run | CRPS: drawn | sized | placed | constant | local rms | noise |", "|---|---|---|---|---|---|---|",
        *map(crps_line, fairly_scored(rows)), "",
        "Energy score over patches of 8^3 voxels:", "",
        "| run | drawn | sized | placed | constant | local rms | noise |", "|---|---|---|---|---|---|---|",
        *(f"| {row['run']} | {_cells(row['energy'], (*kinds(row), *NULLS))} |" for row in fairly_scored(rows)), "",
        "Rank correlation (Spearman) of the spread with |error|; and the share of the foretold unevenness that the "
        "halves confirm (95 % interval), what they would find of the true error, and what was applied:", "",
        "| run | drawn | sized | placed | local rms | confirmed | true | applied |",
        "|---|---|---|---|---|---|---|---|",
        *map(place_line, rows), "",
    ]  # fmt: skip


def _cells(values: Mapping[str, float], names: Iterable[str]) -> str:
    return " | ".join(f"{values[name]:.3f}" for name in names)


def crps_line(row: Mapping[str, Any]) -> str:
    cells = []
    for name in (*kinds(row), *NULLS):
        own = f" ({row['crps'][name]:.3f})" if name in kinds(row) else ""
        cells.append(f"{row['crps_of_draws'][name]:.3f}{own}")
    return f"| {row['run']} | {' | '.join(cells)} |"


def place_line(row: Mapping[str, Any]) -> str:
    places = row["places"]
    low, high = places["interval"]
    return (
        f"| {row['run']} | {_cells(row['spearman'], (*kinds(row), 'local_rms'))} | {places['found']:.2f} "
        f"[{low:.2f}, {high:.2f}] | {places['true']:.2f} | {places['applied']:.2f} |"
    )


def by_stratum(rows: Rows) -> list[str]:
    lines = []
    for row in rows:
        for stratum, facts in row["strata"].items():
            if not facts["voxels"]:
                continue
            shown = [arrow(facts, name, form, KINDS) for name, form in (("ratio", ".2f"), ("coverage", ".0%"))]
            lines.append(
                f"| {row['run']} | {stratum} | {facts['voxels']} | {' | '.join(shown)} "
                f"| {facts['constant']['coverage']:.0%} |"
            )
    return [
        "## Strata", "", "Drawn → sized → placed; covered by a constant of the true size for comparison. Filaments "
        "count as particles.", "",
        "| run | stratum | working voxels | ratio | covered | constant |", "|---|---|---|---|---|---|", *lines, "",
    ]  # fmt: skip


def means(rows: Rows) -> list[str]:
    counts = list(rows[0]["means"]["means"])
    return [
        "## The mean of P draws", "", "Correlation with the truth, and what draws of a posterior with the restoration "
        "as its mean would have, rho / sqrt(1 + (1 - rho^2) / (P rho^2)). That takes the slope g of the truth on the "
        "restoration for 1, as it is on a posterior's mean. Of draws about any restoration with the power of its "
        "error it is rho / sqrt(1 + (g^2 / rho^2 - 2 g + 1) / P): *by slope*, for P = 1. *About centre*: of a "
        "posterior whose mean is what draws are spread about, for P = 1. Rows without these two are older, and their "
        "draws lie about the restoration itself.", "",
        "| run | restored | " + " | ".join(f"P = {count}" for count in counts) + " | slope | by slope | about centre |",
        "|---|---|" + "---|" * (len(counts) + 3), *map(means_line, rows), "",
    ]  # fmt: skip


def means_line(row: Mapping[str, Any]) -> str:
    told = row["means"]
    shown = [f"{m['found']:.3f} ({m['posterior']:.3f})" for m in told["means"].values()]
    one, further = next(iter(told["means"].values())), ["–"] * 3
    if "slope" in told:
        further = [f"{value:.3f}" for value in (told["slope"], one["calibrated"], one["centre"])]
    return f"| {row['run']} | {told['restored']:.3f} | {' | '.join([*shown, *further])} |"


def spectra(rows: Rows) -> list[str]:
    def shown(shell: Mapping[str, Any]) -> str:
        odd, even = shell["ratio"]
        return f"{odd:.2f}, {even:.2f}, {shell['all']:.2f}" + ("" if shell["agreement"] >= CARRIED else "*")

    return [
        "## A draw's spectrum", "",
        "Root mean square of a draw over that of the truth, measured shells, coarse to fine: of the first draw and the "
        "second, whose deviations have opposite signs if they are the bootstrap's, and of all together. *: the halves "
        f"agree by less than {CARRIED:g}.", "",
        "| run | " + " | ".join(str(shell + 1) for shell in range(SHELLS)) + " |", "|---|" + "---|" * SHELLS,
        *(f"| {row['run']} | {' | '.join(map(shown, row['spectrum']))} |" for row in rows), "",
    ]  # fmt: skip


def shells_line(row: Mapping[str, Any], region: str, state: str) -> str:
    shown = []
    for shell in range(SHELLS):
        found = [c[state]["ratio"] for c in row["cells"] if c["region"] == region and c["shell"] == shell]
        shown.append(f"{statistics.median(found):.2f}" if found else "–")
    return f"| {row['run']} | {region}, {state} | {' | '.join(shown)} |"


# -- what must hold -----------------------------------------------------------------------------------


def verdicts(rows: Rows, every: Rows) -> list[str]:
    """Each must and goal, and of how many runs or cells it holds; the bootstrap's runs are among `every`."""
    seen = [_mean(pooled(row)) for row in rows]
    wedge = [row["regions"]["wedge"]["after"]["coverage"] for row in rows]
    lines = [
        said("Coverage of 90%, measured region and hidden sectors pooled", seen, MUST_SEEN),
        said("Coverage of 90%, true wedge", wedge, MUST_WEDGE)
        + f" Goal {MUST_SEEN[0]:.0%} to {MUST_SEEN[1]:.0%}: {_within(wedge, MUST_SEEN)}.",
    ]
    strata = [s["after"]["coverage"] for row in rows for s in row["strata"].values() if s["voxels"]]
    lines += [said("Coverage by stratum", strata, GOAL_STRATA, "goal"), *ratios(rows), *scores(rows, every)]
    return [*lines, *laws(rows)]


def pooled(row: Mapping[str, Any]) -> list[float]:
    """Coverage where data were measured, and of each hidden sector."""
    return [row["regions"]["measured"]["after"]["coverage"], *(sector["coverage"] for sector in row["hidden"])]


def said(what: str, shares: Sequence[float], ends: tuple[float, float], kind: str = "must") -> str:
    low, high = ends
    return (
        f"- {what}, {kind} {low:.0%} to {high:.0%}: {_within(shares, ends)} "
        f"({min(shares):.0%} to {max(shares):.0%})."
    )


def ratios(rows: Rows) -> list[str]:
    """Predicted over actual rms by shell and region, before and after."""
    lines = []
    for region in REGIONS:
        found: dict[str, list[float]] = {state: [] for state in STATES}
        for row in rows:
            for shell in sorted({c["shell"] for c in row["cells"] if c["region"] == region}):
                for state in STATES:
                    found[state].append(by_shell(row, region, shell, state))
        counts = {
            (state, reach): sum(abs(ratio - 1) <= reach for ratio in found[state])
            for state in STATES for reach in (MUST_RATIO, GOAL_RATIO)
        }  # fmt: skip
        lines.append(
            f"- Predicted over actual rms by shell, {region}: must within {MUST_RATIO:.0%} in "
            f"{counts['after', MUST_RATIO]} of {len(found['after'])} (as drawn: {counts['before', MUST_RATIO]}), goal "
            f"{GOAL_RATIO:.0%} in {counts['after', GOAL_RATIO]}. {_together(rows, region)}"
        )
    return lines


def _together(rows: Rows, region: str) -> str:
    """Shells of all runs together, and how often chance alone would miss the must in the smallest shell."""
    shells = sorted({c["shell"] for row in rows for c in row["cells"] if c["region"] == region})
    ratios = []
    for shell in shells:  # errors in units of what was stated of each
        squares = [by_shell(row, region, shell, "after") ** -2 for row in rows]
        ratios.append(len(squares) ** 0.5 / math.sqrt(math.fsum(squares)))
    said = f"Shells of all runs together: {min(ratios):.2f} to {max(ratios):.2f}."
    numbers = [by_shell_count(row, region) for row in rows if "coefficients" in row["cells"][0]]
    if not numbers:
        return said
    least = round(min(number for counts in numbers for number in counts))
    low, high = (1 / (1 + sign * MUST_RATIO) ** 2 for sign in (1, -1))
    missed = chi2.cdf(least * low, least) + chi2.sf(least * high, least)
    return (
        f"{said} The smallest has {least} coefficients, so that of a spread that is right to a hair chance alone "
        f"misses the must there in {missed:.0%} of tomograms."
    )


def by_shell_count(row: Mapping[str, Any], region: str) -> list[float]:
    """Coefficients of each shell."""
    counts: dict[int, float] = {}
    for cell in row["cells"]:
        if cell["region"] == region:
            counts[cell["shell"]] = counts.get(cell["shell"], 0.0) + cell["coefficients"]
    return list(counts.values())


def by_shell(row: Mapping[str, Any], region: str, shell: int, state: str) -> float:
    """Median over the shell's distances."""
    return statistics.median(
        c[state]["ratio"] for c in row["cells"] if c["region"] == region and c["shell"] == shell
    )


def rivals(rows: Rows, every: Rows) -> list[tuple[Mapping[str, Any], Mapping[str, Any], str]]:
    """Each run, and the state of the bootstrap's draws that it is to beat: of its own run, as drawn, or as written."""
    runs = {row["run"]: row for row in every}
    found = []
    for row in rows:
        name = row["run"].removesuffix(FITTED_BY_EM).removesuffix(FITTED).removesuffix(f"_{row['sampler']}")
        other = row if row["sampler"] == "bootstrap" else runs.get(name)
        if other is not None:
            found.append((row, other, "before" if other is row else "after"))
    return found


def scores(rows: Rows, every: Rows) -> list[str]:
    """Scores against each null and the bootstrap, ranks against the local rms."""
    lines, pairs, scored = [], rivals(fairly_scored(rows), fairly_scored(every)), fairly_scored(rows)
    for title, name in (("CRPS", "crps_of_draws"), ("Energy score over 8^3 patches", "energy")):
        wins = ", ".join(
            f"{null.replace('_', ' ')} {sum(row[name]['after'] < row[name][null] for row in scored)}" for null in NULLS
        )
        beaten = sum(row[name]["after"] < other[name][state] for row, other, state in pairs)
        goal = f"goal, than the bootstrap: {beaten} of {len(pairs)}"
        lines.append(f"- {title}, must be better than: {wins} of {len(scored)}; {goal}.")
    gaps = [row["spearman"]["after"] - row["spearman"]["local_rms"] for row in rows]
    better, far = (sum(gap > least for gap in gaps) for least in (0.0, GOAL_RANK))
    lines.append(
        f"- Spearman above that of the local rms: must in {better} of {len(rows)}, goal by {GOAL_RANK:g} in {far} "
        f"({min(gaps):+.3f} to {max(gaps):+.3f})."
    )
    return lines


def laws(rows: Rows) -> list[str]:
    """The mean of draws, and a draw's spectrum."""
    apart = [_apart(row, "posterior") for row in rows]
    newer = [row for row in rows if "slope" in row["means"]]
    further = [
        f"{words}: {sum(value <= MEAN_TOLERANCE for value in found)} of {len(found)} (at most {max(found):.3f})"
        for words, found in (
            ("of one about the draws' own centre", [_apart(row, "centre") for row in newer]),
            ("of what the restoration's slope calls for", [_apart(row, "calibrated") for row in newer]),
        ) if found
    ]  # fmt: skip
    known = [s for row in rows for s in row["spectrum"] if s["agreement"] >= CARRIED]
    carried = [abs(ratio - 1) for s in known for ratio in s["ratio"]]
    together = [abs(s["all"] - 1) for s in known]
    near = sum(value <= SPECTRUM_TOLERANCE for value in carried)
    return [
        f"- Mean of P draws within {MEAN_TOLERANCE:g} of what a posterior's would have: "
        + "; ".join(
            [f"{sum(value <= MEAN_TOLERANCE for value in apart)} of {len(rows)} (at most {max(apart):.3f})", *further]
        ) + ".",
        "- The shipped mean is the restoration, to the bit (tested).",
        f"- One draw's spectrum within {SPECTRUM_TOLERANCE:.0%} of the truth's where the halves agree by "
        f"{CARRIED:g} or more: {near} of {len(carried)} shells and draws (at most {max(carried, default=0):.0%} off); "
        f"of all draws together in {sum(v <= SPECTRUM_TOLERANCE for v in together)} of {len(together)} shells.",
    ]


def _apart(row: Mapping[str, Any], name: str) -> float:
    """How far the mean of P draws is off at most."""
    return max(abs(m["found"] - m[name]) for m in row["means"]["means"].values())


def _within(values: Sequence[float], ends: tuple[float, float]) -> str:
    kept = sum(ends[0] <= value <= ends[1] for value in values)
    return f"{kept} of {len(values)}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
