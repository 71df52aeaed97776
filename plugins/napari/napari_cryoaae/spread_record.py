"""What `cryoaae sample`, and `cryoaae restore --uncertainty`, left beside their volumes; read without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_cryoaae.facts import Role, StatedWedge
from napari_cryoaae.run_folder import read_json, read_restoration

FORMAT = "cryoaae sample"
REPORT = "report.json"
# Named by a record instead of a path.
COMES_ALONG = "the general restorer"
DRAW, MODE, STD, MEAN = "draw_", "mode_", "std", "mean"


@dataclass(frozen=True)
class SpreadRecord:
    """The report of a folder of draws, or the record beside a spread, X_std.json."""

    file: Path
    record: dict[str, Any]

    @property
    def whole_folder(self) -> bool:
        """Whether it speaks of a folder with draws, not of a spread alone."""
        return self.file.name == REPORT

    @property
    def model(self) -> str:
        """Digest of the weights."""
        return str(self.record["made_from"]["model"])

    @property
    def by_general(self) -> bool:
        """Whether the record says that the general restorer of then made it."""
        return self.record.get("model") == COMES_ALONG

    @property
    def weights(self) -> Path | None:
        """What the record names as the model, a file or a folder; None where that is no path."""
        named = self.record.get("model")
        return None if named in (None, COMES_ALONG) else Path(str(named))

    @property
    def wedge(self) -> StatedWedge:
        return StatedWedge.of(self.record["made_from"]["wedge"])

    @property
    def calibration(self) -> dict[str, Any]:
        """What was found out when the spread was held against errors; empty in records of before there was such."""
        return dict(self.record.get("calibration") or {})

    @property
    def calibrated(self) -> bool:
        return bool(self.calibration.get("calibrated", False))

    def calibration_text(self) -> str:
        """Whether the spread was brought to the errors that its tomogram shows, in words."""
        if not self.calibrated:
            why = self.calibration.get("why") or "it tells where the error is larger, not how large"
            return f"none: {why}"
        text, whole = "by two halves and hidden tilts", (self.calibration.get("check") or {}).get("whole") or {}
        for name, where in (("measured", "where data were measured"), ("hidden", "in hidden tilts")):
            ratio = (whole.get(name) or {}).get("after")
            text += f"; {ratio:.2f} times the error {where}" if ratio is not None else ""
        extrapolated = (self.calibration.get("shares") or {}).get("extrapolated")
        return text + (f"; {extrapolated:.0%} of it in the wedge is extrapolated" if extrapolated else "")

    @property
    def beside(self) -> Path:
        """Record of the restoration that the spread is about."""
        stem = MEAN if self.whole_folder else self.file.stem.removesuffix(f"_{STD}")
        return self.file.with_name(f"{stem}.json")

    @property
    def tomogram(self) -> str:
        made = read_restoration(self.beside)
        return str(self.record.get("name") or (made.tomogram if made else self.beside.stem))

    def outputs(self) -> Iterator[tuple[Path, Role]]:
        """The volumes that stand; the mean is not among them, it has a record of its own."""
        names = self.record["outputs"] if self.whole_folder else [f"{self.file.stem}.mrc"]
        kinds = ((DRAW, Role.DRAW), (MODE, Role.MODE), (STD, Role.STD))
        for path in map(self.file.with_name, names):
            role = next((role for start, role in kinds if path.stem.startswith(start)), None)
            role = Role.STD if path.stem.endswith(f"_{STD}") else role
            if role is not None and path.is_file():
                yield path, role


def draw_number(path: Path) -> int | None:
    """The number of a draw's file, draw_003.mrc."""
    tail = path.stem.removeprefix(DRAW)
    return int(tail) if path.stem.startswith(DRAW) and tail.isdigit() else None


def read_spread(path: Path) -> SpreadRecord | None:
    """The record of a spread, from its file or the folder of its draws; None where there is none."""
    file = path / REPORT if path.is_dir() else path
    record = read_json(file)
    if record is None or not str(record.get("format", "")).startswith(FORMAT):
        return None
    made_from = record.get("made_from")
    whole = isinstance(made_from, dict) and {"model", "wedge"} <= made_from.keys()
    whole &= file.name != REPORT or "outputs" in record
    return SpreadRecord(file, record) if whole else None


def spread_of(volume: Path) -> SpreadRecord | None:
    """The record that names a volume as its output: its own, or the report of its folder."""
    for file in (volume.with_suffix(".json"), volume.with_name(REPORT)):
        found = read_spread(file)
        if found is not None and volume.name in {path.name for path, _ in found.outputs()}:
            return found
    return None


def spreads_near(folder: Path, model: str) -> list[SpreadRecord]:
    """Spreads and folders of draws in and beside a run, made with its model (digest)."""
    found = []
    for place in (folder, folder.parent):
        for file in sorted([*place.glob(f"*_{STD}.json"), *place.glob(f"*/{REPORT}")]):
            record = read_spread(file)
            if record is not None and model and record.model == model:
                found.append(record)
    return found
