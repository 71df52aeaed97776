"""The page of `benchmark_restoration.py` from rows alone: what must hold, tables, figure."""

from __future__ import annotations

import hashlib
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from restoration_conditions import ABLATED, CONDITIONS, VARIANTS, plan

from cryoaae.metrics.nulls import NULLS
from cryoaae.reports.evaluation import number
from cryoaae.reports.style import COLOURS, new_figure, plain_axes

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "restoration.json"
GENERAL_ROWS = ROWS.with_name("general.json")
# Where the input still knows something, and no radial filter can raise a correlation by shell: cycles per voxel.
FINE = (0.10, 0.25)
FINE_GAIN = 0.03
# Correlations no farther apart than this are called the same.
SAME = 0.001
# A condition counts where the input has signal up to here in the measured region.
SIGNAL_ANGSTROM = 40.0
# Of the gap between clip + put back and the same network trained with the truth of many phantoms.
GAP_CLOSED = 0.6
PHANTOM_A = {"cc": 0.75, "low": 0.70, "mid": 0.38}
JUDGED = ("cc", "seen", "low", "mid")
SHOWN = {"cc": "cc", "seen": "seen", "wedge": "in wedge", "low": "lo", "mid": "mid", "fine": "seen, 0.10–0.25"}
COUNTED = {"lost": "lost", "invented": "invented"}
# Behind the name of a null whose contrast transfer is undone as the restoration's is.
UNDONE = "_undone"
Rows = Sequence[Mapping[str, Any]]
Must = tuple[str, bool | None, str]  # what, whether it holds (None: not measured), the figures


def scores_of(row: Mapping[str, Any], *, units: float, curves: bool) -> dict[str, Any]:
    """What a page needs of a row of `cryoaae evaluate`.

    Parameters
    ----------
    row : mapping
    units : float
        Gain of the input on the truth, whose units may be its own.
    curves : bool
        Whether to keep correlation and power ratio by shell.

    Returns
    -------
    dict
        cc; seen, wedge, low, mid: Fourier correlations of regions and bands; fine: mean over the shells of `FINE` of
        the correlation in the measured region; slope, excess: gain there, and power in the wedge over what
        agreement explains; lost, invented: particles.
    """
    seen, missing = (row["regions"][name] for name in ("seen", "missing"))
    by_shell = zip(shell_centres(seen["fsc"]), seen["fsc"], strict=True)
    fine = [value for freq, value in by_shell if FINE[0] <= freq < FINE[1] and value is not None]
    scores = {
        "cc": row["cc"], "seen": seen["bands"]["band"]["fcc"], "wedge": missing["bands"]["band"]["fcc"],
        "low": missing["bands"]["low"]["fcc"], "mid": missing["bands"]["mid"]["fcc"],
        "fine": statistics.fmean(fine) if fine else None, "slope": seen["bands"]["low"]["slope"] / units,
        "excess": missing["bands"]["band"]["excess_power"] / units**2,
    }  # fmt: skip
    counts = {key: row["particles"][key] for key in COUNTED} if "particles" in row else {}
    shells: dict[str, Any] = {}
    for name, region in (("seen", seen), ("wedge", missing)) if curves else ():
        shells[f"fsc_{name}"] = list(map(_rounded, region["fsc"]))
        shells[f"power_{name}"] = [_rounded(None if p is None else p / units**2) for p in region["power"]]
    return {key: _rounded(value) for key, value in scores.items()} | counts | shells


def shell_centres(curve: Sequence[Any]) -> list[float]:
    """Middle of each shell of a curve up to Nyquist, in cycles per voxel."""
    return [(i + 0.5) * 0.5 / len(curve) for i in range(len(curve))]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


# -- looking rows up ---------------------------------------------------------------------------------


def measured(rows: Rows) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """Rows of the plan by condition, variant and seed; the last one of each."""
    return {(row["condition"], row["variant"], row["seed"]): row for row in rows if "checkpoints" in row}


def of(rows: Rows, condition: str, variant: str = "default") -> list[Mapping[str, Any]]:
    """Rows of a condition and a variant, by seed."""
    found = measured(rows)
    return [found[key] for key in sorted(found) if key[:2] == (condition, variant)]


def final(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Scores at the end of the last budget."""
    return row["checkpoints"][f"{CONDITIONS[row['condition']].minutes[-1]:g}"]["scores"]


def nulls(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Scores of the nulls, without the oracle's."""
    return {name: scores for name, scores in row["nulls"].items() if name.removesuffix(UNDONE) in NULLS}


def null_title(name: str) -> str:
    """A null as the page calls it, or the oracle."""
    plain = name.removesuffix(UNDONE)
    title = NULLS[plain].title if plain in NULLS else "Noise-free, wedge empty"
    return title if plain == name else f"{title}, transfer undone"


def is_judged(row: Mapping[str, Any]) -> bool:
    signal = row["input_signal_angstrom"]
    return signal is not None and signal <= SIGNAL_ANGSTROM


# -- what must hold ----------------------------------------------------------------------------------


def musts(rows: Rows) -> list[Must]:
    """Every must of the issue, whether it holds in the rows there are, and the figures behind it."""
    own = [row for condition in CONDITIONS if condition != "small" for row in of(rows, condition)]
    judged = [row for row in own if is_judged(row)]
    bounds = [f"{SHOWN[key]} {bound:.2f}" for key, bound in PHANTOM_A.items()]
    return [
        _each("Above every null in cc, seen and both bands of the wedge", judged, _null_failures),
        _each(f"Phantom A: {', '.join(bounds)}", of(rows, "A"), _phantom_failures),
        _each(f"Measured region, 0.10 to 0.25 cycles a voxel: {FINE_GAIN} above the input", judged, _fine_failures),
        _first_landed(rows),
        _each("No more particles lost than in the input, nor invented than by noise", own, _particle_failures),
        _one_volume(rows),
    ]  # fmt: skip


def _each(what: str, rows: Rows, failures: Callable[[Mapping[str, Any]], Iterable[str]]) -> Must:
    if not rows:
        return what, None, ""
    failed = [f"{row['condition']} ({row['seed']}): {', '.join(why)}" for row in rows if (why := list(failures(row)))]
    held = len(rows) - len(failed)
    return what, not failed, "; ".join([f"{held} of {len(rows)} runs", *failed])


def _null_failures(row: Mapping[str, Any]) -> Iterator[str]:
    ours = final(row)
    for key in JUDGED:
        values = {name: scores[key] for name, scores in nulls(row).items() if scores[key] is not None}
        if ours[key] is None or not values:  # so small a box has no coefficients in this band
            continue
        name, best = max(values.items(), key=lambda item: item[1])
        if ours[key] <= best:
            yield f"{SHOWN[key]} {ours[key]:.3f}, {null_title(name)} {best:.3f}"


def _phantom_failures(row: Mapping[str, Any]) -> Iterator[str]:
    for key, bound in PHANTOM_A.items():
        if final(row)[key] < bound:
            yield f"{SHOWN[key]} {final(row)[key]:.3f}"


def fine_gain(scores: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """How far the mean correlation by shell lies above the input's, in the measured region."""
    return scores["fine"] - row["nulls"]["zero_fill"]["fine"]


def _fine_failures(row: Mapping[str, Any]) -> Iterator[str]:
    if fine_gain(final(row), row) < FINE_GAIN:
        yield f"{fine_gain(final(row), row):+.3f}"


def _particle_failures(row: Mapping[str, Any]) -> Iterator[str]:
    ours, before, noise = final(row), row["nulls"]["zero_fill"], row["particles_noise"]
    if ours["lost"] > before["lost"]:
        yield f"{ours['lost']} lost, input {before['lost']}"
    if ours["invented"] > noise["invented"]:
        yield f"{ours['invented']} invented, noise {noise['invented']}"


def _first_landed(rows: Rows) -> Must:
    what = "Phantom A: after 4 minutes what the first landed version reached in 12"
    first = next((row["scores"] for row in rows if "earlier" in row and row["condition"] == "A"), None)
    own = of(rows, "A")
    if first is None or not own:
        return what, None, ""
    early = own[0]["checkpoints"][f"{CONDITIONS['A'].minutes[0]:g}"]["scores"]
    keys = ("cc", "seen", "wedge", "low", "mid")
    figures = ", ".join(f"{SHOWN[key]} {early[key]:.3f} ({first[key]:.3f})" for key in keys)
    return what, all(early[key] >= first[key] - SAME for key in keys), figures


def _one_volume(rows: Rows) -> Must:
    what = "Phantom A, one volume: in the wedge above input, blur and clip + put back"
    single, both = of(rows, "A-single"), of(rows, "A")
    if not single:
        return what, None, ""
    ours = final(single[0])["wedge"]
    best = max(scores["wedge"] for scores in nulls(single[0]).values())
    short = f"; {final(both[0])['wedge'] - ours:.3f} short of two halves" if both else ""
    return what, ours > best, f"{ours:.3f}, best null {best:.3f}{short}"


def gap_closed(rows: Rows, supervised: Rows) -> Must:
    """How far fits on phantoms have come from clip + put back to the general restorer, which had truths to learn from.

    It is not fitted to them, and the default starts from it: a fit from the spectrum is the fairer figure.
    """
    what = f"Goal, phantoms: {GAP_CLOSED:.0%} of the way, in the wedge, from clip + put back to training with truths"
    unfitted = {(row["condition"], row["seed"]): row["scores"]["general"]["wedge"] for row in supervised}
    shares, figures = [], []
    for variant in ("default", "scratch"):
        for row in [row for name in ("A", "C") for row in of(rows, name, variant)]:
            reached, clip = unfitted.get((row["condition"], row["seed"])), _clip(row)
            if reached is None or reached <= clip:
                continue
            shares.append((final(row)["wedge"] - clip) / (reached - clip))
            figures.append(f"{row['condition']}, {VARIANTS[variant].title.lower()}: {shares[-1]:.0%}")
    return what, all(share >= GAP_CLOSED for share in shares) if shares else None, "; ".join(figures)


def _clip(row: Mapping[str, Any]) -> float:
    return max(scores["wedge"] for name, scores in nulls(row).items() if name.startswith("clip"))


# -- tables ------------------------------------------------------------------------------------------


def table(rows: Rows, supervised: Rows) -> str:
    """The page as Markdown; `supervised`: rows of the general restorer."""
    runs, made = plan(), measured(rows)
    lines = [
        "# Restoration quality per minute", "",
        f"Made by `scripts/benchmark_restoration.py` from `restoration.json`: "
        f"{sum((r.condition, r.variant, r.seed) in made for r in runs)} of {len(runs)} runs of the plan. "
        "Budgets are CPU-seconds, minutes of two cores; every run says what it took. Seen, in wedge, lo, mid: Fourier "
        "correlation with the truth in the measured region, in the wedge, and in its bands 0.01–0.08 and 0.08–0.16 "
        "cycles a voxel. Seen, 0.10–0.25: mean correlation by shell there, which no radial filter can change. Power: "
        "power in the wedge over what agreement explains. Lost, invented: particles by matched filter. A GPU was not "
        "measured.", "",
        "## What must hold", "", *map(must_line, [*musts(rows), gap_closed(rows, supervised)]), "",
        "Not measured: the same after 60 minutes.", "",
    ]  # fmt: skip
    if made:
        lines += ["![Correlation in the wedge, and by shell](restoration.png)", ""]
    for name in CONDITIONS:
        lines += condition_section(name, rows)
    lines += other_tools_section(rows) + ablation_section(rows) + earlier_section(rows)
    return "\n".join(lines).rstrip() + "\n"


def must_line(must: Must) -> str:
    what, holds, figures = must
    said = {None: "not measured", True: "holds", False: "**does not hold**"}[holds]
    return f"- {what}: {said}{f' ({figures})' if figures else ''}."


def condition_section(name: str, rows: Rows) -> list[str]:
    """Nulls, then the method and the reference at each budget, means over seeds."""
    own = of(rows, name)
    if name == "small" or not own:
        return []
    signal = own[0]["input_signal_angstrom"]
    reach = "no signal in the input" if signal is None else f"signal in the input up to {signal:.0f} Å"
    counts = f"{own[0]['particles_noise']['particles']} particles; noise alone: {own[0]['particles_noise']['invented']}"
    lines = [
        f"## {CONDITIONS[name].title}", "",
        f"Seeds {', '.join(str(row['seed']) for row in own)}; {reach}; {counts} invented.", "", *header("CPU-min"),
    ]  # fmt: skip
    for null in own[0]["nulls"]:
        lines.append(line(null_title(null), [row["nulls"][null] for row in own], ""))
    for variant in ("default", "scratch", "unet"):
        for minutes in CONDITIONS[name].minutes:
            made = [row["checkpoints"][f"{minutes:g}"] for row in of(rows, name, variant)]
            if made:
                title = f"{VARIANTS[variant].title}, {minutes:g} min ({_mean(made, 'steps'):.0f} steps)"
                cpu = f"{_mean(made, 'cpu_seconds') / 60:.1f}"
                lines.append(line(title, [checkpoint["scores"] for checkpoint in made], cpu))
    nothing = [row["nothing"] for row in own if "nothing" in row]
    if nothing:
        noise, phases = (100 * _mean(nothing, key) for key in ("noise_wedge", "phases_wedge"))
        lines += ["", f"Power in the wedge from noise of that spectrum {noise:.2f} %, random phases {phases:.1f} %."]
    return [*lines, ""]


def header(*more: str) -> list[str]:
    names = ["", *SHOWN.values(), "power", *COUNTED.values(), *more]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def line(title: str, scores: Rows, *more: str) -> str:
    cells = [number(_mean(scores, key)) for key in SHOWN]
    cells += [number(_mean(scores, "excess"), 2), *(number(_mean(scores, key), 0) for key in COUNTED), *more]
    return f"| {title} | {' | '.join(cells)} |"


def _mean(scores: Rows, key: str) -> float:
    values = [s[key] for s in scores if s.get(key) is not None]
    return statistics.fmean(values) if values else math.nan


def ablation_section(rows: Rows) -> list[str]:
    made = {variant: [final(row) for row in of(rows, "small", variant)] for variant in ABLATED}
    if not any(made.values()):
        return []
    lines = [f"## {CONDITIONS['small'].title}, {CONDITIONS['small'].minutes[-1]:g} minutes", "", *header("seeds")]
    default = of(rows, "small")
    if default:
        lines.append(line("Best null of each column", [best(nulls(row)) for row in default], f"{len(default)}"))
    lines += [line(VARIANTS[v].title, scores, f"{len(scores)}") for v, scores in made.items() if scores]
    spread = [f"{SHOWN[key]} {_spread(made['default'], key):.3f}" for key in SHOWN if len(made["default"]) > 1]
    return [*lines, "", *([f"Range of the default over its seeds: {', '.join(spread)}.", ""] if spread else [])]


def best(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The best of several in every column by itself."""
    better = dict.fromkeys(SHOWN, max) | {"excess": min, "lost": min, "invented": min}
    values = {key: [s[key] for s in scores.values() if s[key] is not None] for key in better}
    return {key: pick(values[key], default=None) for key, pick in better.items()}


def _spread(scores: Rows, key: str) -> float:
    values = [s[key] for s in scores]
    return max(values) - min(values)


def other_tools_section(rows: Rows) -> list[str]:
    """What other tools reached on the same data and about the same CPU-seconds, with the settings they were given."""
    others = [row for row in rows if "tool" in row]
    if not others:
        return []
    lines = ["## Other tools, about 24 CPU-minutes", "", *header("CPU-min")]
    for row in others:
        title = f"{row['tool']}, {CONDITIONS[row['condition']].title}, seed {row['seed']}"
        lines.append(line(title, [row["scores"]], f"{row['cpu_seconds'] / 60:.0f}"))
    for row in others:
        given = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row["settings"].items())
        lines += ["", f"{row['tool']}, {row['date']}: {given}. {row['note']}"]
    return [*lines, ""]


def earlier_section(rows: Rows) -> list[str]:
    """What earlier versions reached, when budgets were time on the wall; the first one of phantom A landed first."""
    earlier = [row for row in rows if "earlier" in row]
    if not earlier:
        return []
    about = "Eleven minutes on the wall and a restoration, two shared cores."
    lines = ["## Earlier versions", "", about, "", *header("started")]
    for row in earlier:
        title = f"{row['condition']}, {row['note'].rstrip('.')}"
        lines.append(line(title, [row["scores"]], row["started"][:10]))
    noise = ", ".join(f"{100 * row['nothing']['noise_wedge']:.2f} %" for row in earlier)
    return [*lines, "", f"Power in the wedge from pure noise of the same spectrum: {noise}.", ""]


# -- figure ------------------------------------------------------------------------------------------


def drawn(rows: Rows) -> dict[str, Any]:
    """Numbers of the figure: in-wedge correlation by condition, and correlation by shell of the first condition."""
    wedge = {}
    for name, condition in CONDITIONS.items():
        own = of(rows, name)
        if name != "small" and own:
            points = {"Best null": statistics.fmean(max(s["wedge"] for s in nulls(row).values()) for row in own)}
            for minutes in condition.minutes:
                at = [row["checkpoints"][f"{minutes:g}"]["scores"] for row in own]
                points[f"{minutes:g} minutes"] = _mean(at, "wedge")
            wedge[condition.title] = points
    first = next(row for name in CONDITIONS for row in of(rows, name))
    shells = {
        "Input, measured region": first["nulls"]["zero_fill"]["fsc_seen"],
        "Restored, measured region": final(first)["fsc_seen"],
        "Restored, wedge": final(first)["fsc_wedge"],
    }
    return {"wedge": wedge, "shells": shells, "title": CONDITIONS[first["condition"]].title}


def digest(rows: Rows) -> str:
    """Of the figure's numbers; it stands in the PNG, so that a test can tell which rows it was drawn from."""
    return hashlib.sha256(json.dumps(drawn(rows)).encode()).hexdigest()


def figure(rows: Rows) -> bytes:
    """The page's figure as PNG; at least one run must have been made."""
    numbers = drawn(rows)
    figure_ = new_figure(11, 4.2)
    left, right = figure_.subplots(1, 2, width_ratios=(3, 2))
    plain_axes(left)
    plain_axes(right)
    for place, points in enumerate(numbers["wedge"].values()):
        for colour, (name, value) in zip((COLOURS[6], COLOURS[4], COLOURS[0]), points.items(), strict=True):
            left.plot(value, -place, "o", color=colour, markersize=8, label=name if place == 0 else None)
    left.set_yticks([-i for i in range(len(numbers["wedge"]))], list(numbers["wedge"]))
    left.set_xlabel("correlation with the truth in the wedge, 0.01–0.3 cycles a voxel")
    for colour, (name, curve) in zip((COLOURS[6], COLOURS[0], COLOURS[5]), numbers["shells"].items(), strict=True):
        right.plot(shell_centres(curve), [math.nan if v is None else v for v in curve], color=colour, label=name)
    right.set_xlabel("cycles a voxel")
    right.set_ylabel("correlation by shell")
    right.set_title(numbers["title"], fontsize=10)
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure_.savefig(buffer, format="png", metadata={"Software": None, "Rows": digest(rows)})
    return buffer.getvalue()
