"""General restorers: the one that comes along, and others, known by what their weights say, not by which they are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from napari_cryoaae.weights_header import is_general, read_weights_header

# What the library takes for the one that comes along, as the name of a model.
GENERAL = Path("general")


@dataclass(frozen=True)
class GeneralModel:
    """A general restorer.

    Parameters
    ----------
    digest : str
        Of the weights.
    spec : dict
        What they say of themselves; empty where they were not found.
    weights : Path, optional
        Their file, where it was found.
    """

    digest: str
    spec: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    @property
    def comes_along(self) -> bool:
        """Whether it is the one that the package brings now."""
        return self.digest == bundled_general().digest

    def option(self) -> list[str]:
        """The option that names it; none for the one that comes along, which is used where none is named."""
        if self.comes_along:
            return []
        return ["--model", "GENERAL.safetensors" if self.weights is None else str(self.weights)]

    def lines(self) -> list[tuple[str, str]]:
        """What is known of it, for people."""
        which = "the general restorer that comes along" if self.comes_along else "a general restorer, not the one here"
        lines = [("is", f"{which}; it was not fitted on this tomogram"), ("digest", self.digest)]
        if self.weights is not None and not self.comes_along:
            lines.append(("weights", str(self.weights)))
        if not self.spec:
            return [*lines, ("weights", "were not found")]
        (low, high), training = self.spec["voxel_size_angstrom"], self.spec.get("training", {})
        return [
            *lines,
            ("voxel size", f"works on voxels of {low:g} to {high:g} Å"),
            ("normalisation", "mean 0, scale 1, the standard deviation; signal and noise measured on each tomogram"),
            ("trained on", f"{training.get('scenes', 'an unknown number of')} simulated scenes"),
        ]


@cache
def bundled_general() -> GeneralModel:
    """The one that comes with the package."""
    with as_file(files("cryoaae") / "weights" / "general.safetensors") as path:
        return GeneralModel(*read_weights_header(path), path)


def general_in(weights: Path | None) -> GeneralModel | None:
    """The general restorer that a file holds; None where it is something else."""
    with suppress(InputError):
        if weights is not None and weights.is_file():
            digest, spec = read_weights_header(weights)
            return GeneralModel(digest, spec, weights) if is_general(spec) else None
    return None


def general_of(digest: str, place: Path | None, *, stated: bool) -> GeneralModel | None:
    """The general restorer that made something; None where none did.

    Parameters
    ----------
    digest : str
        Of the weights that made it, as a record says; empty where there is no record.
    place : Path, optional
        Weights that may have.
    stated : bool
        Whether the record says that they were of a general restorer.
    """
    there = general_in(place)
    if not digest:
        return there
    known = next((model for model in (there, bundled_general()) if model is not None and model.digest == digest), None)
    return GeneralModel(digest) if known is None and stated else known
