"""The page of `benchmark_priors.py`: its variants, its tables and what follows from the rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from restoration_conditions import CONDITIONS, Run, Variant
from restoration_table import shell_centres

from cryoaae.fitting.settings import FROM_SPECTRUM

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "priors.json"
PLAIN, AMPLITUDE, NOISE, TRUTH, SMEARED = "none", "amplitude", "noise", "truth", "smeared"
RESTORED, SCRATCH, DESCENT = "restored", "scratch", "descent"
# The general restorer has no codes: what has them starts from the spectrum, and so does what it is held against.
VOLUMETRIC = {
    **FROM_SPECTRUM, "network": "autoencoder", "widths": (16, 32, 64), "latent_prior": "mmd", "prior": "adversarial",
    "presence": False,
}  # fmt: skip
VARIANTS = {
    PLAIN: Variant("None"),
    "cryogen1": Variant("CryoGEN-I", {"prior": "adversarial"}),
    "cryogen2": Variant("CryoGEN-II, Sinkhorn", {"prior": "transport"}),
    "volumetric": Variant("Volumetric, code by MMD", VOLUMETRIC),
    "volumetric-aae": Variant("Volumetric, code by a discriminator", VOLUMETRIC | {"latent_prior": "adversarial"}),
    "cryogen2-sliced": Variant("CryoGEN-II, sliced", {"prior": "transport", "prior_divergence": "sliced"}),
    SCRATCH: Variant("None, from the spectrum", FROM_SPECTRUM),
    # Its restoration is moved to a mode afterwards, down a discriminator that the fit learned and froze.
    DESCENT: Variant("CryoGEN-I, mode by descent", {"reference_steps": 600}),
    "bottleneck-aae": Variant("Bottleneck AAE", {**FROM_SPECTRUM, "latent_prior": "adversarial"}),
    "bottleneck-wae": Variant("Bottleneck WAE", {**FROM_SPECTRUM, "latent_prior": "mmd"}),
}
BESIDE = {
    AMPLITUDE: "None + amplitudes matched", NOISE: "None + matched noise", SMEARED: "Noise-free, wedge empty",
    TRUTH: "Truth",
}  # fmt: skip
# Shells, in cycles a voxel, over which the power ratio is averaged: the two bands.
POWER_BAND = (0.01, 0.16)
# A gain or loss below this says nothing at one phantom a seed.
LOSS = 0.01
Rows = Sequence[Mapping[str, Any]]


def measured(rows: Rows) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """Rows of the plan by condition, variant and seed; the last one of each."""
    return {(row["condition"], row["variant"], row["seed"]): row for row in rows if "auc" in row}


def done(rows: Rows) -> set[str]:
    """Names of the runs that stand."""
    return {Run(*key).name for key in measured(rows)}


def of(rows: Rows, condition: str, variant: str) -> list[Mapping[str, Any]]:
    """Rows of a condition and a variant, by seed."""
    found = measured(rows)
    return [found[key] for key in sorted(found) if key[:2] == (condition, variant)]


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what was measured, or None."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def power_ratio(scores: Mapping[str, Any], region: str) -> float | None:
    """Power over the truth's in a region, mean over the shells of the bands."""
    curve, (low, high) = scores[f"power_{region}"], POWER_BAND
    return mean([p for freq, p in zip(shell_centres(curve), curve, strict=True) if low <= freq < high])


# -- the page ------------------------------------------------------------------------------------------


def table(rows: Rows) -> str:
    """The page as Markdown."""
    lines = [
        "# Priors: what they give and what they cost", "",
        "Made by `scripts/benchmark_priors.py` from `priors.json`. Every variant has the same CPU-seconds, restoring "
        "included. Fits start from the general restorer; volumetric ones and those with a prior on codes, which it "
        "has not, from the spectrum, and are held against `None, from the spectrum`. Seen, lo, mid: Fourier "
        "correlation with the truth in the measured region, and in the wedge in 0.01–0.08 and 0.08–0.16 cycles a "
        "voxel. Power: over the truth's, mean over the shells of those bands, in the measured region and in the "
        "wedge. AUC: how well the output, turned and measured again, is told from the truth treated likewise, by a "
        "classifier that learned on six other phantoms (`scripts/priors_judge.py`); 0.5 if it is not, less if it "
        "looks truer than the truth. Lost, invented: particles by matched filter. A prior counts as realism if its "
        "AUC is nearer to 0.5 than those of the two changed defaults, whose power was brought to the signal's with "
        "no prior at all.", "",
    ]  # fmt: skip
    for condition in CONDITIONS:
        lines += condition_section(rows, condition)
    if len(lines) == 4:
        lines += ["No row stands yet.", ""]
    return "\n".join(lines).rstrip() + "\n"


def condition_section(rows: Rows, condition: str) -> list[str]:
    """Tables of one condition, and what follows."""
    own = {name: of(rows, condition, name) for name in VARIANTS}
    own = {name: each for name, each in own.items() if each}
    if not own:
        return []
    title = CONDITIONS[condition].title.removeprefix("Ablation: ")
    return [
        f"## {title}", "", "| | seeds | cc | seen | lo | mid | power seen | power in wedge | AUC | lost | invented |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(quality(VARIANTS[name].title, each) for name, each in own.items()), *beside_lines(own.get(PLAIN, [])), "",
        "What noise alone, and the data with random phases, give back in the wedge (in the measured region), over what "
        "the data do; what patches' exchanging their codes changes; what it took.", "",
        "| | noise | phases | codes exchanged | steps | CPU-s | MiB |", "|---|---|---|---|---|---|---|",
        *(cost(VARIANTS[name].title, each) for name, each in own.items()), "", *judged(own), "",
    ]  # fmt: skip


def quality(title: str, each: Rows) -> str:
    """A line of scores, means over seeds."""
    scores = [entry["scores"] for entry in each]
    figures = [
        *(mean([s[name] for s in scores]) for name in ("cc", "seen", "low", "mid")),
        *(mean([power_ratio(s, region) for s in scores]) for region in ("seen", "wedge")),
        mean([entry["auc"] for entry in each]),
    ]  # fmt: skip
    counts = [mean([s.get(name) for s in scores]) for name in ("lost", "invented")]
    cells = [*map(_cell, figures), *("–" if n is None else f"{n:.1f}" for n in counts)]
    return f"| {title} | {len(each)} | {' | '.join(cells)} |"


def beside_lines(plain: Rows) -> Iterator[str]:
    """What stands beside the default's rows."""
    for name, title in BESIDE.items():
        each = [row["beside"][name] for row in plain if name in row.get("beside", {})]
        if each and "scores" in each[0]:
            yield quality(title, each)
        elif each:
            yield f"| {title} | {len(each)} |" + " – |" * 6 + f" {_cell(mean([e['auc'] for e in each]))} | – | – |"


def cost(title: str, each: Rows) -> str:
    """A line of null tests, codes and costs, means over seeds."""
    nothing = [row["nothing"] for row in each if row["nothing"]]
    used = [row["codes"]["use"] for row in each if row.get("codes")]
    codes = "no code" if not used else f"{mean(used):.1%}" + (", code unused" if mean(used) < 0.01 else "")  # type: ignore[operator]
    wedge, seen, phases = (mean([n[key] for n in nothing]) for key in ("noise_wedge", "noise_seen", "phases_wedge"))
    back = [f"{wedge:.4f} ({seen:.4f})", f"{phases:.4f}"] if nothing else ["–", "–"]
    cells = [
        *back, codes,
        *(f"{mean([row[name] for row in each]):.0f}" for name in ("steps", "cpu_seconds", "memory_mib")),
    ]  # fmt: skip
    return f"| {title} | {' | '.join(cells)} |"


def judged(own: Mapping[str, Rows]) -> list[str]:
    """For each prior: whether it is more like structure than the rows to beat, and what it costs, paired by seed."""
    by_seed = {name: {row["seed"]: row for row in each} for name, each in own.items()}
    plain, lines = by_seed.get(PLAIN, {}), []
    for name, each in own.items():
        beside = by_seed.get(start_of(name), {})
        paired = [(row, beside[row["seed"]]) for row in each if row["seed"] in beside and row["seed"] in plain]
        if name in (PLAIN, SCRATCH) or not paired:
            continue
        beaten = [nearer_than_changed(row, plain[row["seed"]]) for row, _ in paired]
        low = [row["scores"]["low"] - none["scores"]["low"] for row, none in paired]
        lost = [none["scores"]["cc"] - row["scores"]["cc"] for row, none in paired]
        nearer = "nearer to structure than both changed defaults"
        realism = nearer if all(beaten) else "no realism beyond the rows to beat"
        realism = realism if None not in beaten else "not judged"
        loss = f"cc falls by {mean(lost):.3f}" if mean(lost) > LOSS else "cc within 0.01"  # type: ignore[operator]
        lines.append(f"- {VARIANTS[name].title}: {realism}; lo {mean(low):+.3f}, {loss} ({len(paired)} paired).")
    return lines


def start_of(variant: str) -> str:
    """The variant without a prior that starts where a variant does."""
    return SCRATCH if VARIANTS[variant].settings.get("start") == FROM_SPECTRUM["start"] else PLAIN


def nearer_than_changed(row: Mapping[str, Any], plain: Mapping[str, Any]) -> bool | None:
    """Whether a row's AUC is nearer to 0.5 than those of both changed defaults; None where there is no judge."""
    areas = [row["auc"], *(plain["beside"][other]["auc"] for other in (AMPLITUDE, NOISE))]
    if None in areas:
        return None
    own, *to_beat = (abs(area - 0.5) for area in areas)
    return bool(own < min(to_beat))


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
