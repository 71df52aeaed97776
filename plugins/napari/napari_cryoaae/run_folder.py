"""What a run folder, and the record beside an output, say about themselves; read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from napari_cryoaae.facts import Role, StatedWedge
from napari_cryoaae.weights_header import is_general, read_weights_header

RECORD, CONFIG, WEIGHTS = "run.json", "config.yaml", "model.safetensors"
SAFETENSORS = "*.safetensors"
RESTORATION, VALIDATION = "cryoaae restoration", "cryoaae validation"


@dataclass(frozen=True)
class Run:
    """A run folder of `cryoaae fit`.

    Parameters
    ----------
    path : Path
    record : dict
        Of ``run.json``.
    settings : dict
        Of ``config.yaml``.
    digest : str
        Of the weights; empty while there are none.
    spec : dict
        What fitting and restoring must agree on.
    """

    path: Path
    record: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def tomograms(self) -> list[dict[str, Any]]:
        return list(self.spec.get("tomograms", []))

    def files(self) -> Iterator[tuple[Path, Role, str, StatedWedge | None]]:
        """Input files that can be found: path, what they are, name and wedge of their tomogram."""
        facts = iter(self.record.get("inputs", []))
        for tomogram in self.tomograms:
            count = len(tomogram["digests"])
            roles = (Role.EVEN, Role.ODD) if count == 2 else (Role.INPUT,)
            for role, fact in zip(roles, facts, strict=False):
                path = self._find(fact)
                if path is not None:
                    yield path, role, str(tomogram["name"]), StatedWedge.of(tomogram)

    def _find(self, fact: dict[str, Any]) -> Path | None:
        """An input where it lay, or beside the run folder if both were moved together."""
        stated = Path(fact["path"])
        beside = self.path.parent
        for path in (stated, beside / stated.name, beside / stated.parent.name / stated.name):
            if path.is_file() and path.stat().st_size == fact["bytes"]:
                return path
        return None

    def restorations(self) -> list[Restoration]:
        """Outputs of this model in the run folder and beside it."""
        found = []
        for file in sorted([*self.path.glob("*.json"), *self.path.parent.glob("*.json")]):
            made = read_restoration(file)
            if made is not None and self.digest and made.model == self.digest:
                found.append(made)
        return found


@dataclass(frozen=True)
class Restoration:
    """The record that `cryoaae restore` leaves beside its output."""

    file: Path
    record: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.record["settings"]["model"])

    @property
    def by_general(self) -> bool:
        """Whether the record says that a general restorer made it."""
        return bool(self.record["result"].get("general"))

    @property
    def tomogram(self) -> str:
        return str(self.record["result"]["name"])

    @property
    def wedge(self) -> StatedWedge:
        return StatedWedge.of(self.record["settings"]["wedge"])

    def run(self) -> Path | None:
        """The run folder of its model, or weights of a general one, in the output's folder or in one within it."""
        here = self.file.parent
        for weights in sorted([*here.glob(SAFETENSORS), *here.glob(f"*/{SAFETENSORS}")]):
            with suppress(InputError):
                digest, spec = read_weights_header(weights)
                if digest == self.model and (is_general(spec) or weights.name == WEIGHTS):
                    return weights if is_general(spec) else weights.parent
        return None

    def outputs(self) -> Iterator[tuple[Path, Role]]:
        """The files that stand, the mean first."""
        for index, name in enumerate(self.record["outputs"]):
            path = self.file.with_name(name)
            if path.is_file():
                yield path, Role.RESTORED_HALF if index else Role.RESTORED


def is_run_folder(path: Path) -> bool:
    """Whether a folder holds a run of `cryoaae fit`; never raises."""
    record = read_json(path / RECORD)
    return record is not None and record.get("command") == "fit"


def read_run(path: Path) -> Run:
    """Read a run folder, or the one that weights lie in.

    Raises
    ------
    InputError
        When it is none of `cryoaae fit`, or its weights are not ours.
    """
    folder = path if path.is_dir() else path.parent
    record = read_json(folder / RECORD)
    if record is None or record.get("command") != "fit":
        raise InputError(path, "is not a run folder", "give the folder that `cryoaae fit` made")
    digest, spec = read_weights_header(folder / WEIGHTS) if (folder / WEIGHTS).exists() else ("", {})
    return Run(folder, record, read_yaml(folder / CONFIG), digest, spec)


def read_restoration(path: Path) -> Restoration | None:
    """The record of a restoration, or None where a JSON file is something else."""
    record = read_json(path)
    if record is None or not str(record.get("format", "")).startswith(RESTORATION):
        return None
    whole = {"inputs", "settings", "outputs", "result"} <= record.keys()
    return Restoration(path, record) if whole else None


def restoration_of(volume: Path) -> Restoration | None:
    """The record that names a volume as its output: beside it, or beside the mean of its halves."""
    stems = {volume.stem, volume.stem.removesuffix("_even").removesuffix("_odd")}
    for stem in sorted(stems, key=len, reverse=True):
        made = read_restoration(volume.with_name(f"{stem}.json"))
        if made is not None and volume.name in made.record["outputs"]:
            return made
    return None


def read_validation(path: Path) -> dict[str, Any]:
    """The numbers of `cryoaae validate`, from its folder or its report.json.

    Raises
    ------
    InputError
    """
    file = path / "report.json" if path.is_dir() else path
    report = read_json(file)
    if report is None or not str(report.get("format", "")).startswith(VALIDATION):
        raise InputError(file, "is not a report of `cryoaae validate`", "give the folder that it wrote")
    return report


def validation_near(places: Sequence[Path]) -> Path | None:
    """The folder of a validation in, or beside, one of some folders."""
    for place in places:
        for folder in (place, place / "validation", place.parent / "validation"):
            with suppress(InputError):
                read_validation(folder)
                return folder
    return None


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, if that is a mapping; None where it is no such file."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file holds, if that is a mapping; else nothing."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
