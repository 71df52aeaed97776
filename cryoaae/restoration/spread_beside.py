"""The spread of a restoration, written beside it by `restore --uncertainty`, and whether it is calibrated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from cryoaae.io.atomic import check_output, write_text
from cryoaae.io.project import TomogramInput
from cryoaae.restoration.calibrated_draws import calibrate, said_of
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.sample_report import FORMAT
from cryoaae.restoration.sampler_weights import said_of_weights
from cryoaae.restoration.tomogram_draws import SampleOptions, TomogramDraws
from cryoaae.runs.progress import Progress
from cryoaae.runs.resources import preflight


def spread_path(mean: Path) -> Path:
    """Where the spread of a restoration is written."""
    return mean.with_name(f"{mean.stem}_std{mean.suffix}")


class SpreadBeside:
    """The spread of a restoration, written beside it: X_std.mrc, and X_std.json of what it was made from.

    Parameters
    ----------
    item : TomogramInput
    mean : Path
        The restoration, X.mrc.
    model : Restorer
    options : SampleOptions
    opening : dict
        Keywords of `io.project.open_tomogram`.
    overwrite : bool
    """

    def __init__(
        self,
        item: TomogramInput,
        mean: Path,
        model: Any,
        options: SampleOptions,
        opening: dict[str, Any],
        *,
        overwrite: bool,
    ) -> None:
        self.path, self.overwrite = spread_path(mean), overwrite
        self.sampling = TomogramDraws(item, self.path.with_suffix(".draws"), model, options, opening)
        self.record: dict[str, Any] = {
            "format": FORMAT, "made_from": self.sampling.made_from, "draws": options.draws,
            "calibrate": options.calibrate,
        }  # fmt: skip

    @property
    def record_path(self) -> Path:
        return self.path.with_suffix(".json")

    def done(self) -> bool:
        try:
            found = json.loads(self.record_path.read_text())
            same = all(found[key] == value for key, value in self.record.items())
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return same and not self.overwrite and self.path.is_file()

    def check(self) -> None:
        """Refuse to replace what is not this; call before any work.

        Raises
        ------
        InputError
        """
        if self.done():
            return
        for path in (self.path, self.record_path):
            check_output(path, self.sampling.item.paths, overwrite=self.overwrite or self.sampling.store.ours())
        self.sampling.store.check(overwrite=self.overwrite)

    def describe(self) -> str:
        """What would be done, and what it takes."""
        if self.done():
            return f"{self.sampling.item.name}: done already -> {self.path}"
        sampling = self.sampling
        drawn = f"{sampling.options.draws} draws{said_of_weights(sampling.options.weights)}"
        return f"{sampling.item.name}: {drawn}, {sampling.cost(files=1)} -> {self.path}"

    def write(self, told: Progress) -> None:
        """Make the draws, write their spread, remove the draws; nothing if it was done before."""
        store = self.sampling.store
        if self.done():
            if store.ours():  # stopped just before they were removed
                store.remove()
            return
        preflight(*self.sampling.bytes_needed(files=1), self.path.parent)
        self.sampling.open_store(overwrite=self.overwrite)
        volumes, calibration = calibrate(self.sampling.draw(told), self.sampling, told)
        self.record_path.unlink(missing_ok=True)
        label = f"uncertainty, model {self.sampling.made_from['model'][:16]}"
        volumes.write_spread(self.sampling.options.draws, self.path, label=label)
        write_text(self.record_path, json.dumps({**self.record, "calibration": calibration}, indent=1) + "\n")
        store.remove()
        told.finish()
        drawn = said_of_weights(self.sampling.options.weights)
        told.message(f"{self.path}: spread{drawn}, {said_of(calibration)}")


def spreads_beside(
    means: Mapping[Path, TomogramInput],
    model: Any,
    options: RestoreOptions,
    *,
    draws: int,
    seed: int,
    calibrate_spread: bool,
    opening: dict[str, Any],
    overwrite: bool,
    weights: Path | None = None,
) -> dict[Path, SpreadBeside]:
    """What writes the spread of each restoration, by its path, none with 0 draws; checked before any work.

    Parameters
    ----------
    means : mapping
        Restorations that are to be written, and what they are made from.
    model : Restorer
    options : RestoreOptions
        Of the restorations.
    draws, seed : int
    calibrate_spread : bool
    opening : dict
        Keywords of `io.project.open_tomogram`.
    overwrite : bool
    weights : path, optional
        Of a sampler that was fitted on the model's halves.

    Raises
    ------
    InputError
    """
    if not draws:
        return {}
    if options.keep_measured:
        raise InputError(
            "--uncertainty", "says nothing of coefficients that are put back as they were measured",
            "leave --keep-measured out",
        )  # fmt: skip
    chosen = SampleOptions(
        draws=draws, modes=0, seed=seed, calibrate=calibrate_spread, symmetries=options.symmetries,
        device=options.device, allow_scale=options.allow_scale, contrast_transfer=options.contrast_transfer,
        weights=weights,
    )  # fmt: skip
    spreads = {
        mean: SpreadBeside(item, mean, model, chosen, opening, overwrite=overwrite) for mean, item in means.items()
    }
    for mean, spread in spreads.items():
        if mean.parent.exists():  # else it is made, and empty
            spread.check()
    return spreads
