"""A fit that a user asks for, checked and carried out by the library's own functions, and the restoration after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoaae.errors import InputError
from cryoaae.io.atomic import check_output
from napari_cryoaae.restore_request import Restored, RestoreRequest
from napari_cryoaae.run_folder import RECORD, read_json

if TYPE_CHECKING:
    from cryoaae.runs.progress import Progress

ADAPT, ADAPT_MINUTES = "adapt", 3.0


@dataclass(frozen=True)
class FitRequest:
    """Fit on what a restoration names, then restore it.

    Parameters
    ----------
    run_folder : Path
        Run folder to make, or one of a fit that was stopped: it goes on.
    preset : str
        One of `cryoaae fit`; `ADAPT`: the general restorer is fitted further, as by ``cryoaae restore --adapt``.
    restoring : RestoreRequest
        Its model is not there yet, so its wedge must be stated.
    minutes : float, optional
        None: as the preset says.
    overrides : tuple of str
        ``key=value``, as for ``cryoaae fit --set``.
    """

    run_folder: Path
    preset: str
    restoring: RestoreRequest
    minutes: float | None = None
    overrides: tuple[str, ...] = ()

    @property
    def resumes(self) -> bool:
        """Whether a fit in the folder was stopped and goes on."""
        record = read_json(self.run_folder / RECORD) or {}
        return record.get("command") == "fit" and record.get("state") in ("interrupted", "running")

    def plan(self, progress: Progress) -> list[str]:
        """What would be done and what it needs, a line each; writes nothing.

        Raises
        ------
        InputError
        """
        from cryoaae.fitting.session import check_tomogram
        from cryoaae.io.project import open_tomogram
        from cryoaae.restoration.fit import as_items
        from cryoaae.runs.folder import RunFolder
        from cryoaae.runs.resources import available_memory_bytes, choose_device

        progress.start("checking", None, "")
        settings, (item,) = self._settings(), as_items(**self._inputs())
        device = choose_device(self.restoring.device)
        before = item.paths if self.resumes else ()
        RunFolder.check(self.run_folder, asdict(settings), inputs=before, resume=self.resumes)
        tomogram = open_tomogram(item, voxel_size_angstrom=self.restoring.voxel_size_angstrom)
        check_tomogram(tomogram, settings)
        check_output(self.restoring.output, item.paths, overwrite=self.restoring.overwrite)
        size = " x ".join(map(str, tomogram.volumes[0].shape))
        kind = "two halves" if item.has_halves else "a single volume: denoising is weaker, and cannot be checked"
        limit = f"{settings.minutes:g} minutes" if settings.steps is None else f"{settings.steps} steps"
        return [
            f"{item.name}: {kind}, {size} voxels of {tomogram.volumes[0].voxel_size_angstrom:.4g} Å",
            f"{'goes on with' if self.resumes else 'fits'} {self.run_folder} on {device}: {limit} at most, "
            f"less if it stops getting better; then restores -> {self.restoring.output}",
            f"{available_memory_bytes() / 1e9:.1f} GB of memory are free",
        ]

    def run(self, progress: Progress) -> Restored:
        """Fit, or go on with a fit that was stopped, then restore.

        Raises
        ------
        InputError, ResourceError, FittingDivergedError, InterruptedRunError
        """
        from cryoaae.restoration.fit import as_items, fit

        self.plan(progress)  # so that a wrong output is not found out after an hour
        items = as_items(**self._inputs())
        run = fit(
            items, self.run_folder, settings=self._settings(), resume=self.resumes, device=self.restoring.device,
            voxel_size_angstrom=self.restoring.voxel_size_angstrom, progress=progress,
        )  # fmt: skip
        progress.check()
        return replace(self.restoring, model=run).run(progress)

    def _settings(self) -> Any:
        from cryoaae.config import load_fit_config

        density = self.restoring.density
        if self.preset != ADAPT:
            return load_fit_config(
                preset=self.preset, overrides=self.overrides, minutes=self.minutes, density=density
            )
        return load_fit_config(overrides=self.overrides, minutes=self.minutes or ADAPT_MINUTES, density=density)

    def _inputs(self) -> dict[str, Any]:
        if self.restoring.wedge is None:
            raise InputError("tilts", "not stated, and there is no model yet to know them", "type their range")
        return self.restoring.inputs()


def default_run(first: Path, name: str) -> Path:
    """Where a model goes if nobody says: beside its input, in a folder that is not there yet or was stopped."""
    wished = first.with_name(f"{name}_run")
    numbered = (wished, *(wished.with_name(f"{wished.name}_{n}") for n in range(2, 100)))
    return next((path for path in numbered if not (path / RECORD).exists() or _stopped(path)), wished)


def _stopped(run: Path) -> bool:
    return (read_json(run / RECORD) or {}).get("state") == "interrupted"
