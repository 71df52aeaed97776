"""What a user asks the library to restore, checked and carried out by the library's own functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoaae.errors import InputError
from cryoaae.io.names import match_name
from napari_cryoaae.comparison import refusal
from napari_cryoaae.facts import Role, StatedWedge, facts_of
from napari_cryoaae.general_model import GENERAL, bundled_general, general_in
from napari_cryoaae.readers import LayerData, facts_of_file, read_volume
from napari_cryoaae.run_folder import WEIGHTS
from napari_cryoaae.weights_header import is_general, read_weights_header

if TYPE_CHECKING:
    from cryoaae.runs.progress import Progress

# What the library calls the restorer that comes with it.


@dataclass(frozen=True)
class Restored:
    """The files of a restoration, the mean first; `kept`: they were there already, made from the same."""

    paths: tuple[Path, ...]
    kept: bool


@dataclass(frozen=True)
class RestoreRequest:
    """One restoration, from files to files.

    Parameters
    ----------
    model : Path
        Run folder or weights; `GENERAL`: the general restorer that comes with the package.
    first : Path
        The even half, or the single volume.
    odd : Path, optional
        The odd half.
    output : Path
    wedge : StatedWedge, optional
        None: as the model knows it.
    halves, keep_measured, symmetries : bool
        As for `cryoaae restore`.
    device : str
    voxel_size_angstrom : float, optional
        Overrules the files.
    overwrite : bool
    draws : int
        Of which the spread is made that is written beside the restoration; 0: none.
    defocus_um : float, optional
        Underfocus in micrometres, of which the contrast transfer is undone; None: it is left as it is.
    phase_flipped : bool
        Whether the signs of the contrast transfer were corrected in the tomogram.
    density : {"bright", "dark"}, optional
        What structures are; None: the data tell.
    """

    model: Path
    first: Path
    odd: Path | None
    output: Path
    wedge: StatedWedge | None = None
    halves: bool = False
    keep_measured: bool = False
    symmetries: bool = True
    device: str = "auto"
    voxel_size_angstrom: float | None = None
    overwrite: bool = False
    draws: int = 0
    defocus_um: float | None = None
    phase_flipped: bool = True
    density: str | None = None

    @property
    def opening(self) -> dict[str, Any]:
        """How volumes are opened, as the library takes it."""
        said = {} if self.density is None else {"density": self.density}
        return {"voxel_size_angstrom": self.voxel_size_angstrom, **said}

    def plan(self, progress: Progress) -> list[str]:
        """What would be done and what it needs, a line each; writes nothing.

        Raises
        ------
        InputError
        """
        from cryoaae.restoration.restore import plan_restore
        from cryoaae.runs.resources import available_memory_bytes

        progress.start("checking", None, "")
        lines = plan_restore(**self._what(), opening=self.opening, options=self.options())
        return [*lines, f"{available_memory_bytes() / 1e9:.1f} GB of memory are free"]

    def run(self, progress: Progress) -> Restored:
        """Restore, or find that it was done before from the same.

        Raises
        ------
        InputError, ResourceError, InterruptedRunError
        """
        from cryoaae.restoration.restore import restore

        (result,) = restore(**self._what(), opening=self.opening, progress=progress, options=self.options())
        spread = () if result.spread is None else (result.spread,)
        return Restored((*result.paths, *spread), result.skipped)

    def inputs(self) -> dict[str, Any]:
        """The volumes, with their wedge where one is stated, as the library takes them."""
        if self.wedge is not None:
            from cryoaae.io.project import TomogramInput

            even, single = (self.first, None) if self.odd else (None, self.first)
            return {"inputs": TomogramInput(match_name(self.first), even, self.odd, single, self.wedge.build())}
        return {"even": self.first, "odd": self.odd} if self.odd else {"inputs": [self.first]}

    def _what(self) -> dict[str, Any]:
        """Inputs, output and model, as `restore` and `plan_restore` take them."""
        return {
            **self.inputs(), "output": self.output, "model": self.model, "overwrite": self.overwrite,
            "uncertainty": self.draws,
        }  # fmt: skip

    def options(self) -> Any:
        """How to restore, as the library takes it."""
        from cryoaae.restoration.engine import RestoreOptions

        return RestoreOptions(
            halves=self.halves, keep_measured=self.keep_measured, symmetries=self.symmetries, device=self.device,
            contrast_transfer=self._transfer(),
        )  # fmt: skip

    def _transfer(self) -> Any:
        if self.defocus_um is None:
            return None
        from cryoaae.physics.ctf import ContrastTransfer

        return ContrastTransfer((self.defocus_um,), phase_flipped=self.phase_flipped)


@dataclass(frozen=True)
class Candidate:
    """A layer whose file can be restored."""

    name: str
    path: Path
    role: Role


def candidates(layers: Iterable[Any]) -> list[Candidate]:
    """Volumes that were read from a file that still stands, and are not restorations themselves."""
    found = []
    for layer in layers:
        facts = facts_of(layer)
        raw = facts.role in (Role.INPUT, Role.EVEN, Role.ODD) and not refusal(layer)
        if raw and facts.source is not None and facts.source.is_file():
            found.append(Candidate(layer.name, facts.source, facts.role))
    return found


def default_output(first: Path) -> Path:
    """Where the restoration goes if nobody says: beside its input."""
    return first.with_name(f"{match_name(first)}_restored.mrc")


def describe_model(path: Path) -> str:
    """One sentence on a run folder or weights; no torch is loaded.

    Raises
    ------
    InputError
        When there is no restorer.
    """
    if path == GENERAL:
        digest = bundled_general().digest
        return f"no fit needed: trained on simulated tomograms, not on yours; digest {digest[:12]}"
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise InputError(path, "holds no fitted model", "give a run folder of `cryoaae fit`")
    digest, spec = read_weights_header(file)
    if is_general(spec):
        return f"a general restorer, trained on simulated tomograms; digest {digest[:12]}"
    names = ", ".join(str(tomogram["name"]) for tomogram in spec.get("tomograms", [])) or "unnamed tomograms"
    return f"fitted on {names} at {float(spec['voxel_size_angstrom']):.4g} Å; digest {digest[:12]}"


def weights_of(model: Path) -> Path | None:
    """The run folder of a model, or the weights of a general one."""
    if model == GENERAL:
        return bundled_general().weights
    return model if model.is_dir() or general_in(model) is not None else model.parent


def restored_layers(paths: list[Path], model: Path) -> list[LayerData]:
    """The outputs as layers that know what they were made with."""
    return [read_volume(path, replace(facts_of_file(path), run=weights_of(model))) for path in paths]
