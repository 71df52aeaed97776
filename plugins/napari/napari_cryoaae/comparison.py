"""Which layers are volumes of one tomogram, and what can be shown of them side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

from napari_cryoaae.facts import LayerFacts, Role, StatedWedge, facts_of
from napari_cryoaae.sources import Source, difference, mean_of
from napari_cryoaae.tilt_file import wedge_beside

ORDER = (
    Role.INPUT, Role.EVEN, Role.ODD, Role.RESTORED, Role.RESTORED_HALF, Role.PREVIEW, Role.STD, Role.MODE, Role.DRAW,
    Role.MEASURED, Role.FILLED,
)  # fmt: skip
# Shown at first, as far as there are such.
FIRST = ("input", "restored", "residual")


class Kind(StrEnum):
    """What the numbers of an entry are, which decides its grey levels."""

    DENSITY = "density"
    DIFFERENCE = "difference"
    SPREAD = "spread"


KINDS = {Role.STD: Kind.SPREAD, Role.MODE: Kind.DIFFERENCE}


class Part(StrEnum):
    """Which part of a volume is shown."""

    BOTH = "both"
    MEASURED = "measured only"
    FILLED = "filled in only"


@dataclass(frozen=True)
class Entry:
    """One volume that can be shown, with the layers it is made of; the first of them has its grey levels."""

    source: Source
    layers: tuple[Any, ...]
    kind: Kind = Kind.DENSITY
    draw: int | None = None

    @property
    def title(self) -> str:
        return self.source.title

    @property
    def whole(self) -> bool:
        """Whether it is the whole volume, not a piece of it."""
        return facts_of(self.layers[0]).role is not Role.PREVIEW

    def levels(self, part: Part = Part.BOTH) -> tuple[float, float]:
        """Grey levels; those of differences, and of what was filled in, lie around zero."""
        low, high = (float(v) for v in self.layers[0].contrast_limits)
        if self.kind is Kind.DIFFERENCE or (self.kind is Kind.DENSITY and part is Part.FILLED):
            return (low - high) / 2, (high - low) / 2
        return low, high


def refusal(layer: Any) -> str:
    """Why a layer is no volume that can be compared; empty where it is one."""
    if type(layer).__name__ != "Image":
        return f"{layer.name} is a {type(layer).__name__.lower()} layer, not a volume"
    if layer.rgb:
        return f"{layer.name} has colour channels; a volume has one number a voxel"
    if layer.multiscale:
        return f"{layer.name} has several resolutions; open one of them"
    if layer.ndim != 3:
        return f"{layer.name} has {layer.ndim} axes; a volume has three (z, y, x)"
    return ""


def tomograms(layers: Iterable[Any]) -> dict[str, list[Any]]:
    """Layers that are volumes, by the tomogram they belong to."""
    found: dict[str, list[Any]] = {}
    for layer in layers:
        if not refusal(layer) and facts_of(layer).role in ORDER:
            found.setdefault(facts_of(layer).tomogram, []).append(layer)
    return found


def entries_of(layers: Sequence[Any]) -> tuple[list[Entry], list[str]]:
    """What can be shown of one tomogram, and sentences about layers that cannot stand beside the others."""
    known = sorted(((layer, facts_of(layer)) for layer in layers), key=lambda pair: ORDER.index(pair[1].role))
    wholes = [(layer, facts) for layer, facts in known if facts.role is not Role.PREVIEW] or known
    reference = next((layer for layer, facts in wholes if facts.role is Role.RESTORED), wholes[0][0])
    fits = {id(layer): f.role is Role.PREVIEW or layer.data.shape == reference.data.shape for layer, f in known}
    fitting = [(layer, facts) for layer, facts in known if fits[id(layer)]]
    set_aside = [
        f"{layer.name} has another size than {reference.name} and is not shown"
        for layer, _ in known
        if not fits[id(layer)]
    ]
    entries = [_plain_entry(layer, facts, fitting) for layer, facts in fitting]
    return _with_derived(entries, fitting), set_aside


def wedge_of(layers: Iterable[Any]) -> StatedWedge | None:
    """The first wedge that the layers of a tomogram know, else that of a tilt file beside one of them."""
    known = [facts_of(layer) for layer in layers]
    beside = (wedge_beside(facts.source) for facts in known if facts.source is not None)
    return next((wedge for wedge in chain((facts.wedge for facts in known), beside) if wedge is not None), None)


def folders_of(layers: Iterable[Any]) -> list[Path]:
    """Folders that belong to some layers: those of their records, and their runs."""
    known = [facts_of(layer) for layer in layers]
    return list(dict.fromkeys([f.record.parent for f in known if f.record] + [f.run for f in known if f.run]))


def first_choice(entries: Sequence[Entry]) -> list[str]:
    """Titles shown at first."""
    chosen = [entry.title for entry in entries if entry.title in FIRST]
    return chosen or [entry.title for entry in entries[: len(FIRST)]]


def _plain_entry(layer: Any, facts: LayerFacts, all_: Sequence[tuple[Any, LayerFacts]]) -> Entry:
    alone = sum((other.role, other.draw) == (facts.role, facts.draw) for _, other in all_) == 1
    title = str(facts.role) if facts.draw is None else f"{facts.role} {facts.draw}"
    source = Source(title if alone else layer.name, ((1.0, layer.data),), facts.offset_zyx)
    return Entry(source, (layer,), KINDS.get(facts.role, Kind.DENSITY), facts.draw)


def _with_derived(entries: list[Entry], known: Sequence[tuple[Any, LayerFacts]]) -> list[Entry]:
    """Add the mean of the halves where no input stands, and what restoring took away."""
    by_role = {facts.role: layer for layer, facts in reversed(known)}
    halves = [by_role[role] for role in (Role.EVEN, Role.ODD) if role in by_role]
    if Role.INPUT not in by_role and len(halves) == 2:
        entries = [Entry(mean_of("input", [half.data for half in halves]), tuple(halves)), *entries]
    first = next((e for e in entries if e.title == "input" or e.layers[0] is by_role.get(Role.INPUT)), None)
    restored = by_role.get(Role.RESTORED)
    if first is None or restored is None:
        return entries
    place = next(i for i, entry in enumerate(entries) if entry.layers == (restored,))
    left = difference("residual", first.source, entries[place].source)
    residual = Entry(left, (*first.layers, restored), Kind.DIFFERENCE)
    return [*entries[: place + 1], residual, *entries[place + 1 :]]
