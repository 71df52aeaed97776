"""What was done to the spread of draws, and whether it held on blocks that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryoaae.reports.evaluation import number
from cryoaae.reports.html import ReportFigure, ReportRow, ReportSection, ReportTable, Verdict
from cryoaae.reports.validation_numbers import centres, degree, listed, range_text, values

# Stated over found within this of 1, on the blocks left out, is said to hold.
HOLDS = 0.25
NOT_CALIBRATED = (
    "This spread is not calibrated: {why}. It has not been compared with data held out from the network. Read it as "
    "where the restoration is less certain than elsewhere, not as an interval that holds the truth with a stated "
    "probability."
)
CALIBRATED = (
    "The size of this spread is calibrated, shell by shell: where data were measured by the two halves, in the missing "
    "wedge by tilts that were hidden."
)
PLACES_FORETOLD = (
    "Where in the tomogram errors lie is foretold from what the restoration looks like, as far as the two halves "
    "confirm it."
)
PLACES_DRAWN = "Where in the tomogram errors lie is what the sampler learned on simulations."
REGIONS = {"measured": "where data were measured", "hidden": "hidden tilts"}
FACTORS_OF = {
    "measured": "where data were measured", "edge": "at the edge of the wedge", "wedge": "in the missing wedge"
}  # fmt: skip
ERRORS = {"measured": "the error where data were measured", "hidden": "that of hidden tilts"}


def calibration_verdict(calibration: Mapping[str, Any], fault: str) -> Verdict:
    """The sentences to read first.

    Parameters
    ----------
    calibration : mapping
        As in calibration.json.
    fault : str
        What is wrong with the sampler's spread as it is.
    """
    if not calibration["calibrated"]:
        return Verdict(f"{NOT_CALIBRATED.format(why=calibration['why'])} {fault}".strip())
    check = calibration["check"]
    drawn = calibration["places"]["told_by"] == "draws"
    said = f"{CALIBRATED} {PLACES_DRAWN if drawn else PLACES_FORETOLD}"
    ratios = {REGIONS[name]: found["after"] for name, found in (check or {"whole": {}})["whole"].items()}
    unknown = [name for name, ratio in ratios.items() if ratio is None]
    if check is None or unknown:
        where = f": {listed(unknown)}" if unknown else ""
        return Verdict(f"{said} Too little was left for a check on blocks of its own{where}.")
    failed = listed([name for name, ratio in ratios.items() if not holds(ratio)])
    if not failed:
        return Verdict(f"{said} On blocks left out of the fit it is the error's within {HOLDS:.0%}.", "good")
    return Verdict(f"{said} On blocks left out of the fit that did not hold: {failed}.", "bad")


def holds(ratio: float) -> bool:
    """Whether a spread is near enough to the error."""
    return abs(ratio - 1) <= HOLDS


def calibration_section(calibration: Mapping[str, Any], reliability: bytes) -> ReportSection:
    """Reliability before and after, and the factors."""
    check, shares = calibration["check"], calibration["shares"]
    turns = listed([degree(angle) for angle in calibration["hidden_by_turns_deg"]])
    sentences = [
        f"Deviations of the draws were multiplied in Fourier space so that their power is that of the errors: found "
        f"from the two halves, and from tilts hidden by turns of {turns} both ways. "
        f"{calibration['draws']} draws were measured.",
        _extrapolated(shares),
    ]
    if shares["added"] or shares["added_measured"]:
        sentences.append(
            "Where the sampler had no spread to scale, independent error was added: "
            f"{_percent(shares['added'])} of the spread's power in the wedge and {_percent(shares['added_measured'])} "
            "where data were measured. It has the right size and no structure."
        )
    sentences += [*_centred(calibration["centre"]), *place_sentences(calibration["places"])]
    tables = [_places(calibration["places"]), _factors(calibration, "Factors of the spread.")]
    figures = []
    if check is not None:
        sentences += _checked(check)
        tables.insert(0, _reliability(check))
        caption = (
            "Stated spread over the error found, root mean squares, on blocks that the factors were not fitted on: 1 "
            "is right. Bars: what the noise of the halves leaves open."
        )
        figures = [ReportFigure(reliability, caption, "stated spread over error found by resolution")]
    return ReportSection("Whether the spread is that of the errors", sentences, figures, tables)


def stated_section(calibration: Mapping[str, Any] | None) -> ReportSection:
    """What spread the errors of a restoration call for, and whether it holds; of a validation, without draws.

    Parameters
    ----------
    calibration : mapping, optional
        From `restoration.stated_spread`; None where there is too little for it.
    """
    title = "Calibration: how far off the restoration is, and whether that can be foretold"
    if calibration is None:
        return ReportSection(title, ["Too little was measured, or there is one volume only: nothing can be checked."])
    check = calibration["check"]
    sentences = [
        "The error that the halves and the hidden tilts show is the spread that `cryoaae sample` gives its draws. Here "
        "it is stated without draws, from one half of the blocks, and compared with the error found in the other half.",
        _extrapolated(calibration["shares"]), *place_sentences(calibration["places"]),
    ]
    tables = [_places(calibration["places"])]
    if check is not None:
        sentences += _checked(check, before=False)
        tables = [_second_moments(check), _coverages(check), *tables]
    tables.append(_factors(calibration, "Error over structure, root mean squares: 1 means nothing is known."))
    return ReportSection(title, sentences, (), tables)


def _centred(centre: Mapping[str, Any] | None) -> list[str]:
    """What draws are spread about, if that is not the restoration itself."""
    if centre is None:
        return []
    regions = (("measured", "where data were measured"), ("border", "at the edge of the wedge"), ("wedge", "in it"))
    ranges = ", ".join(
        f"{number(min(centre[name]['slope']), 2)} to {number(max(centre[name]['slope']), 2)} {where}"
        for name, where in regions
    )
    left = ", ".join(f"{number(centre['check'][name], 2)} {where}" for name, where in regions)
    return [
        "Draws are spread about the restoration as loud as the structure is by the halves and the hidden tilts: its "
        f"resolutions times {ranges}. The mean itself stays. On blocks left out the power of the error about that is "
        f"{left} times that about the mean."
    ]


def place_sentences(places: Mapping[str, Any]) -> list[str]:
    """What the halves say of the places at which errors were foretold."""
    low, high = places["interval"]
    if places["found"] is None or low is None:
        return ["Whether errors are larger at some places than at others could not be checked."]
    return [
        "Errors are larger at some places than at others; how much larger is told from the restoration's looks by what "
        f"was learned on simulations. Of these differences the halves confirm {_percent(places['found'])} (95 % "
        f"interval {_percent(low)} to {_percent(high)}); {_percent(places['applied'])} were applied."
    ]


def _places(places: Mapping[str, Any]) -> ReportTable:
    names = ("quietest third", "middle third", "loudest third")
    rows = []
    for name, group in zip(names, places["check"]["groups"], strict=True):
        low, high = (number(end, 2) for end in group["interval"])
        rows.append(ReportRow([name, number(group["stated"], 2), f"{number(group['found'], 2)} [{low}, {high}]"]))
    return ReportTable(
        ["places by stated spread", "stated", "found"], rows,
        "Squared error relative to the mean of all places, where data were measured, on blocks left out.",
    )  # fmt: skip


def _second_moments(check: Mapping[str, Any]) -> ReportTable:
    rows = []
    for region, cells in (("measured", check["measured"]), ("hidden", check["hidden_cells"])):
        for cell in cells:
            low, high = (number(end, 2) for end in cell["interval"])
            distance = "" if region == "measured" else _distance(cell)
            shown = [REGIONS[region], range_text(cell), distance, number(cell["after"], 2), f"[{low}, {high}]"]
            rows.append(ReportRow(shown))
    header = ["", "resolution", "distance to measured data (1/Å)", "stated over found", "95 %"]
    return ReportTable(header, rows, "Stated spread over the error found, on blocks left out: 1 is right.")


def _coverages(check: Mapping[str, Any]) -> ReportTable:
    rows = []
    for shell in check["measured"]:
        covered = [_percent(share) for share in shell["coverage_after"].values()]
        rows.append(ReportRow([range_text(shell), *covered, _percent(shell["spread_share"])]))
    levels = [f"{level} %" for level in check["measured"][0]["coverage_after"]] if check["measured"] else []
    return ReportTable(
        ["resolution", *levels, "spread's share"], rows,
        "Share of the raw halves within intervals of spread and noise together, on blocks left out. Where the spread's "
        "share of that variance is small it says little.",
    )  # fmt: skip


def _distance(cell: Mapping[str, Any]) -> str:
    return f"{cell['distance_low_per_angstrom']:.4f}–{cell['distance_high_per_angstrom']:.4f}"


def _extrapolated(shares: Mapping[str, Any]) -> str:
    if not shares["extrapolated"]:
        return "Hidden tilts reached as deep and as fine as the wedge itself."
    return (
        f"{_percent(shares['extrapolated'])} of the spread's power in the wedge is extrapolated: deeper in the wedge, "
        "or at other resolutions, than hidden tilts reached."
    )


def _checked(check: Mapping[str, Any], *, before: bool = True) -> list[str]:
    parts = [
        f"{_times(found['after'])} {ERRORS[name]}" + (f" (before: {_times(found['before'])})" if before else "")
        for name, found in check["whole"].items()
    ]
    sentences = [f"Fitted on one half of the blocks and checked on the other, the spread is {listed(parts)}."]
    covered = check["coverage"]
    if covered is None:
        return [*sentences, "Coverage says nothing here: in every shell noise hides the spread."]
    levels = listed([f"{_percent(v)} for {k} %" for k, v in covered["coverage_after"].items()])
    return [
        *sentences,
        f"Intervals of draw and noise together hold the raw halves in {levels}, in shells where the spread is a "
        "part of what is seen.",
    ]


def _reliability(check: Mapping[str, Any]) -> ReportTable:
    rows = []
    for region, name in REGIONS.items():
        for shell in check[region]:
            low, high = (number(end, 2) for end in shell["interval"])
            after = f"{number(shell['after'], 2)} [{low}, {high}]"
            cells = [name, range_text(shell), number(shell["before"], 2), after]
            for when in ("coverage_before", "coverage_after"):
                cells.append(_percent(shell[when]["90"]) if when in shell else "–")
            cells.append(_percent(shell.get("spread_share")))
            rows.append(ReportRow(cells))
    header = ["", "resolution", "before", "after", "90 % before", "90 % after", "spread's share"]
    note = (
        "Stated spread over error found, on blocks left out of the fit. 90 %: share of the raw halves within the "
        "90 % interval of spread and noise together; where the spread's share of that variance is small it says little."
    )
    return ReportTable(header, rows, note)


def _factors(calibration: Mapping[str, Any], said: str) -> ReportTable:
    rows = [_factor_row(region, cell) for region in FACTORS_OF for cell in calibration[region]]
    header = ["", "resolution", "distance to measured data (1/Å)", "factor", ""]
    return ReportTable(header, rows, said)


def _factor_row(region: str, cell: Mapping[str, Any]) -> ReportRow:
    low, high = (number(end, 2) for end in cell["interval"])
    distance = _distance(cell) if region == "wedge" else ""
    marks = {
        "extrapolated": bool(cell.get("extrapolated")), "by its neighbours": cell["pooled"],
        "error added": cell["added_power"] > 0,
    }  # fmt: skip
    said = ", ".join(mark for mark, is_so in marks.items() if is_so)
    cells = [FACTORS_OF[region], range_text(cell), distance, f"{number(cell['gain'], 2)} [{low}, {high}]", said]
    return ReportRow(cells, "quiet" if marks["extrapolated"] else "")


def reliability_curves(check: Mapping[str, Any]) -> dict[str, Any]:
    """What the figure shows: by region, frequencies, before, after and its interval."""
    curves = {}
    for region in REGIONS:
        rows = check[region]
        ends = [[end if end is not None else float("nan") for end in row["interval"]] for row in rows]
        curves[region] = {
            "sfreq": centres(rows), "before": values(rows, "before"), "after": values(rows, "after"),
            "low": [e[0] for e in ends], "high": [e[1] for e in ends],
        }  # fmt: skip
    return curves


def _times(ratio: float | None) -> str:
    return "an unknown multiple of" if ratio is None else f"{number(ratio, 2)} times"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{number(100 * share, 0 if share >= 0.0995 or share == 0 else 1)} %"
