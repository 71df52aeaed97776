"""One interactive HTML file of how codes come to follow their prior, for runs side by side.

Everything is inside the file: it needs no network, no library and no server.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from cryoaae.reports.latent_curves import is_share, linear_below, reference_meaning
from cryoaae.reports.latent_marks import CLASS_MARKERS, class_colour, class_marker, class_name
from cryoaae.reports.latent_packing import (
    BEYOND,
    EVEN,
    FIELD_SIDE,
    HOLE,
    MISSING,
    SCALE,
    packed,
    packed_fields,
    quantised,
    sprite,
    thinned,
)

TEMPLATE = "latent_page.html.j2"


@dataclass(frozen=True)
class LatentFrame:
    """Codes at one step of training.

    Parameters
    ----------
    step : int
        When.
    codes : (n, 2)
        Where the same n inputs lie; NaN: not drawn.
    boundary : (g, g), optional
        A discriminator's probability that a code is a draw of the prior, row 0 lowest, at the middles of
        the cells of the plane (`latent_figures.plane_codes`).
    """

    step: int
    codes: NDArray[Any]
    boundary: NDArray[Any] | None = None


@dataclass(frozen=True)
class LatentHistory:
    """What is shown of one run.

    Parameters
    ----------
    title : str
        Name of the run.
    frames : sequence of LatentFrame
        In the order of their steps.
    labels : (n,) int
        Class of each code; -1: unlabelled.
    prior : (m, 2)
        Draws of the prior.
    extent : float
        The plane shown is [-extent, extent] on both axes; codes beyond are drawn at its edge.
    curves : mapping of title to (steps, values)
        What was measured over training; NaN where it was not.
    references : mapping of title to float
        Line of reference of a curve; one without a curve is not drawn.
    note : str
        A sentence below.

    Raises
    ------
    ValueError
        If there is no frame, steps fall, or shapes do not agree.
    """

    title: str
    frames: Sequence[LatentFrame]
    labels: NDArray[Any]
    prior: NDArray[Any]
    extent: float
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    references: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        steps = [frame.step for frame in self.frames]
        if not steps or steps[0] < 0 or any(b <= a for a, b in itertools.pairwise(steps)):
            raise ValueError(f"'{self.title}' needs frames of rising steps, not {steps}")
        if not (math.isfinite(self.extent) and self.extent > 0):
            raise ValueError(f"'{self.title}' has a plane of extent {self.extent}")
        for frame in self.frames:
            if frame.codes.shape != (len(self.labels), 2):
                raise ValueError(f"'{self.title}': codes {frame.codes.shape} for {len(self.labels)} labels")
            b = frame.boundary
            if b is not None and (b.ndim != 2 or b.shape[0] != b.shape[1]):
                raise ValueError(f"'{self.title}': a boundary of shape {b.shape} over a square plane")
        if self.prior.ndim != 2 or self.prior.shape[1] != 2:
            raise ValueError(f"'{self.title}': draws of the prior of shape {self.prior.shape}, not (m, 2)")
        for title, (x, y) in self.curves.items():
            if len(x) != len(y):
                raise ValueError(f"'{self.title}': {len(x)} steps for {len(y)} values of '{title}'")


def latent_page(
    histories: Sequence[LatentHistory],
    *,
    title: str,
    lead: str = "",
    thumbnails: NDArray[Any] | None = None,
    class_names: Sequence[str] = (),
) -> str:
    """HTML of an interactive page with one slider over the training of all runs.

    Parameters
    ----------
    histories : sequence of LatentHistory
        Runs, side by side; the slider moves all by the same share of their training.
    title, lead : str
        Heading and first sentence.
    thumbnails : (n, h, w), optional
        Input i of every run as an image from 0 to 1, shown at its code.
    class_names : sequence of str
        Name of class 0, 1, ...; numbers where it ends.

    Raises
    ------
    ValueError
        If there is no run, or thumbnails are not as many as codes.
    """
    if not histories:
        raise ValueError("a page of no runs")
    if thumbnails is not None and (thumbnails.ndim != 3 or any(len(thumbnails) != len(h.labels) for h in histories)):
        raise ValueError(f"thumbnails of shape {thumbnails.shape} for {[len(h.labels) for h in histories]} codes")
    labels = sorted({int(label) for history in histories for label in history.labels})
    shares = timeline(histories)
    curves = list(dict.fromkeys(title for history in histories for title in history.curves))
    data = {
        "packing": {"scale": SCALE, "beyond": BEYOND, "missing": MISSING, "even": EVEN, "hole": HOLE},
        "shares": shares,
        "classes": [_class(label, class_names) for label in labels],
        "axes": [_axis(curve, histories) for curve in curves],
        "runs": [_run(history, shares, labels, curves) for history in histories],
        # The same inputs in every run: pointing at one code shows it in all.
        "linked": thumbnails is not None or all(np.array_equal(h.labels, histories[0].labels) for h in histories),
        "thumbnails": None if thumbnails is None else sprite(thumbnails),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("cryoaae.reports").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        title=title,
        lead=lead,
        histories=histories,
        classes=data["classes"],
        curves=curves,
        positions=len(shares),
        fields=any(frame.boundary is not None for history in histories for frame in history.frames),
        beyond=any((np.abs(frame.codes) > history.extent).any() for history in histories for frame in history.frames),
        data=data,
    )


def timeline(histories: Sequence[LatentHistory]) -> list[float]:
    """Positions of the slider: every share of training at which a run has a frame."""
    return sorted({round(_share(history, frame), 6) for history in histories for frame in history.frames})


def _share(history: LatentHistory, frame: LatentFrame) -> float:
    last = history.frames[-1].step
    return frame.step / last if last > 0 else 1.0


def _frame_at(history: LatentHistory, share: float) -> int:
    """The last frame recorded up to a share of training; the first before there is one."""
    past = [i for i, frame in enumerate(history.frames) if round(_share(history, frame), 6) <= share]
    return past[-1] if past else 0


def _class(label: int, class_names: Sequence[str]) -> dict[str, Any]:
    shape = -1 if label < 0 else CLASS_MARKERS.index(class_marker(label))
    # No colour of its own: unlabelled codes take the ink of the page, light or dark.
    colour = "" if label < 0 else class_colour(label)
    return {"name": class_name(label, class_names), "colour": colour, "shape": shape}


def _run(
    history: LatentHistory, shares: Sequence[float], labels: Sequence[int], curves: Sequence[str]
) -> dict[str, Any]:
    fields = [frame.boundary for frame in history.frames if frame.boundary is not None]
    index = np.searchsorted(labels, np.asarray(history.labels, dtype=np.int64))
    prior = quantised(history.prior, history.extent)
    # A draw of the prior beyond the plane is no finding: it is left out.
    prior[(np.abs(prior) == BEYOND).any(axis=-1)] = MISSING
    numbers = iter(range(len(fields)))
    return {
        "extent": float(history.extent),
        "steps": [int(frame.step) for frame in history.frames],
        "frameAt": [_frame_at(history, share) for share in shares],
        "codes": packed(np.stack([quantised(frame.codes, history.extent) for frame in history.frames])),
        "labels": packed(index.astype(np.int16)),
        "prior": packed(prior),
        "side": min([FIELD_SIDE, *(len(f) for f in fields)]) if fields else 0,
        "fieldAt": [-1 if frame.boundary is None else next(numbers) for frame in history.frames],
        "fields": packed_fields(fields),
        "curves": [_curve(history, title) for title in curves],
    }


def _curve(history: LatentHistory, title: str) -> dict[str, Any] | None:
    if title not in history.curves:
        return None
    x, y = (np.asarray(values, dtype=np.float64) for values in history.curves[title])
    known = np.isfinite(x) & np.isfinite(y)
    points = thinned(np.stack([x[known], y[known]]))
    return {
        "steps": packed(points[0].astype(np.float32)),
        "values": packed(points[1].astype(np.float32)),
        "reference": _reference(history, title),
    }


def _reference(history: LatentHistory, title: str) -> float | None:
    value = float(history.references.get(title, math.nan))
    return value if math.isfinite(value) else None


def _axis(title: str, histories: Sequence[LatentHistory]) -> dict[str, Any]:
    """Vertical axis of a curve: one for all runs, so that their heights can be compared."""
    shown = [h for h in histories if title in h.curves]
    references = [r for r in (_reference(h, title) for h in shown) if r is not None]
    values = np.concatenate([np.asarray(h.curves[title][1], dtype=np.float64) for h in shown])
    values = values[np.isfinite(values)]
    bend = linear_below(values, max(references, default=None))
    reach = np.append(values, references)
    return {
        "title": title,
        "low": float(reach.min()) if reach.size else 0.0,
        "high": float(reach.max()) if reach.size else 1.0,
        "bend": bend,
        "percent": is_share(title),
        "meaning": reference_meaning(title),
    }
