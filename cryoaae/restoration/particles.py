"""Restores the particles of a store, each by itself in its own wedge, into a store of the same particles.

What a tomogram tells of itself, all particles of a store tell together: mean and scale of the density, and the spectra
of signal and noise (`restoration.particle_density`). By itself a box of noise would be taken for as loud as one with a
particle in it. The density goes on beyond the faces of a box by reflection, as that of a tomogram does.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.atomic import check_output
from cryoaae.io.names import STORE_SUFFIXES
from cryoaae.io.store import PROVENANCE, StoreWriter, SubtomogramStore, other_facts, partial_path
from cryoaae.io.weights import digest
from cryoaae.models.general import GeneralRestorer, load_any
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.wedge import IDENTITY
from cryoaae.restoration.done import OF_NO_MATTER
from cryoaae.restoration.engine import Outputs, Plan, RestoreOptions, plan_restoration, restore_volumes
from cryoaae.restoration.fitted_on import check_voxel_size
from cryoaae.restoration.general import PARTICLES_LIKE, caveats
from cryoaae.restoration.particle_density import ParticleDensity
from cryoaae.restoration.scratch import Scratch
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.provenance import file_facts, versions
from cryoaae.runs.resources import keep_freed_memory, preflight, set_threads
from cryoaae.volume import Volume

# Working voxels shown beyond each face of a box: reflected density, which holds no particle.
FACE_PAD = 4
# Models kept, one for each wedge; particles of a tomogram come together.
KEPT_MODELS = 16
RESTORED = "restored"


@dataclass(frozen=True)
class RestoredStore:
    """A store that was made, or found made from the same before.

    Parameters
    ----------
    path : Path
    particles : int
    seconds : float
    skipped : bool
    general : bool
        Whether a general restorer made it, which was fitted on no tomogram.
    """

    path: Path
    particles: int
    seconds: float = 0.0
    skipped: bool = False
    general: bool = False


def restore_store(
    store: Path | str,
    output: Path | str,
    *,
    model: Any = None,
    options: RestoreOptions | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **keywords: Any,
) -> RestoredStore:
    """Restore subtomograms from store to store; of an interrupted run what is done is kept.

    Parameters
    ----------
    store : path
        Of `extract`.
    output : path
        The store to make, with the same particles, poses, classes and wedges.
    model : Restorer, GeneralRestorer or path, optional
        Default: the general restorer that comes with the package.
    options : RestoreOptions, optional
    threads : int, optional
    overwrite : bool
        Replace an existing or interrupted store.
    progress : Progress, optional
        Told of the progress, asked whether to stop.
    **keywords
        Fields of `RestoreOptions`.

    Returns
    -------
    RestoredStore

    Raises
    ------
    InputError
        Before any work, when store, output or model do not fit together.
    InterruptedRunError
        When `progress` says so; the same again goes on.
    ResourceError
        When memory or disk is too small.
    """
    work = _prepared(store, output, model, options, threads=threads, overwrite=overwrite, **keywords)
    return work.done() or work.run(progress or NullProgress())


def plan_restore_store(store: Path | str, output: Path | str, **keywords: Any) -> list[str]:
    """Check everything `restore_store` would, and say in lines what it would do; writes nothing.

    Raises
    ------
    InputError
    """
    work = _prepared(store, output, keywords.pop("model", None), keywords.pop("options", None), **keywords)
    return work.describe()


def _prepared(
    store: Path | str,
    output: Path | str,
    model: Any,
    options: RestoreOptions | None,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    **keywords: Any,
) -> _Restoration:
    """The work, checked.

    Raises
    ------
    InputError
    """
    set_threads(threads)
    keep_freed_memory()
    chosen = replace(options or RestoreOptions(), **keywords)
    given, path = SubtomogramStore(store), Path(output)
    if path.suffix.lower() not in STORE_SUFFIXES:
        raise InputError(path, "restored subtomograms go into a store", "give a name that ends in .h5")
    for option, used in (("--halves", chosen.halves), ("--defocus", chosen.contrast_transfer is not None)):
        if used:
            raise InputError(option, "is for tomograms; a store has neither halves nor defocus", "leave it out")
    if not len(given):
        raise InputError(given.path, "holds no particles", "extract some")
    if any(wedge.rotation != IDENTITY for wedge in given.facts.wedges):
        what = "its particles were turned after they were measured, and a restorer knows the beam along z"
        raise InputError(given.path, what, "extract them from the tomograms or stacks")
    check_output(path, [given.path], overwrite=True)
    restorer = load_any(model) if model is None or isinstance(model, str | Path) else model
    work = _Restoration(given, path, restorer, chosen, overwrite)
    work.check()
    return work


@dataclass
class _Restoration:
    """The restoration of one store."""

    store: SubtomogramStore
    path: Path
    general: Any
    options: RestoreOptions
    overwrite: bool
    _models: dict[int, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse an output of something else, or a model of another voxel size.

        Raises
        ------
        InputError
        """
        remedy = "give --overwrite or another name"
        if self.path.exists() and not self.overwrite and not partial_path(self.path).exists():
            if other_facts(SubtomogramStore(self.path).about, self.about):
                raise InputError(self.path, "was made from other inputs or settings", remedy)
        elif self.path.exists() and not self.overwrite:
            raise InputError(self.path, "exists already", remedy)
        check_voxel_size(
            self.store.voxel_size_angstrom, self.model(0), self.store.path, allow_scale=self.options.allow_scale
        )

    def done(self) -> RestoredStore | None:
        """What stands already, made from the same."""
        if self.overwrite or not self.path.exists():
            return None
        return RestoredStore(self.path, len(self.store), skipped=True, general=self._is_general)

    def describe(self) -> list[str]:
        """What would be done, and what a user should know of it."""
        if self.done():
            return [f"{self.store.path.name}: done already -> {self.path}"]
        box, count = self.store.box, len(self.store)
        memory = self.plan(0).memory_bytes / 1e9
        line = f"{count} particles of {box}^3 voxels -> {self.path}; needs {memory:.1f} GB of memory"
        return [f"{self.store.path.name}: {words}" for words in (line, *self.caveats())]

    def caveats(self) -> list[str]:
        """What a user should know of the model, once for all wedges."""
        model, loud = self.model(0), self._noise_to_signal()
        lines = (caveats(self.general, model, wedge, noise_to_signal=loud) for wedge in self.store.facts.wedges)
        return list(dict.fromkeys(words for some in lines for words in some))

    def _told_spectra(self) -> Spectra:
        """By poses only for a restorer that was fitted on simulations with such spectra.

        One that was trained on tomograms makes no more of them (docs/decisions/0037).
        """
        like_these = PARTICLES_LIKE in self.general.spec.training
        return self.density.spectra if like_these else self.density.by_background

    def _noise_to_signal(self) -> float:
        """On the working grid; 0 for a restorer that was fitted, which is not told."""
        if not self._is_general:
            return 0.0
        return self.density.spectra.on_working_grid(self.density.working_bin, 1.0).noise_to_signal

    def run(self, progress: Progress) -> RestoredStore:
        """Restore every particle that is not restored yet.

        Raises
        ------
        InterruptedRunError, ResourceError
        """
        start, count, box = time.perf_counter(), len(self.store), self.store.box
        preflight(self.plan(0).memory_bytes, 4.0 * count * box**3, self.path.resolve().parent)
        for words in self.caveats():
            progress.message(f"{self.store.path.name}: {words}")
        facts, source = self.store.facts, self.store.source_file()
        with StoreWriter(self.path, facts, self.about, source, resume=not self.overwrite) as made:
            missing = made.missing()
            progress.start("restoring particles", float(len(missing)), "particle")
            try:
                for index in missing:
                    progress.check()
                    made.write(index, self.restored(index))
                    progress.advance()
            except InterruptedRunError as error:
                said = f"stopped after {count - len(made.missing())} of {count} particles; the same again goes on"
                raise InterruptedRunError(said, error.exit_code - 128) from error
            finally:
                progress.finish()
            made.finish()
        return RestoredStore(self.path, count, time.perf_counter() - start, general=self._is_general)

    def restored(self, index: int) -> NDArray[np.float32]:
        """One particle, (z, y, x) in the units of the store."""
        number, store = int(self.store.facts.wedge_index[index]), self.store
        particle = Volume(store.volume(index), store.voxel_size_angstrom)
        out = Outputs(np.empty(particle.shape, np.float32))
        restore_volumes(
            [particle], out, self.model(number), self.plan(number), self.options,
            wedge=store.facts.wedges[number], scratch=Scratch(None), progress=NullProgress(),
            normalisation=self.normalisation,
        )  # fmt: skip
        return np.asarray(out.mean, np.float32)

    # -- what decides the result -------------------------------------------------------------------

    @property
    def _is_general(self) -> bool:
        return isinstance(self.general, GeneralRestorer)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Facts of the restored store: those of the given one, and what was done to it."""
        fact, about = file_facts(self.store.path), self.store.about
        used = {key: value for key, value in asdict(self.options).items() if key not in OF_NO_MATTER}
        return {
            **about,
            RESTORED: {"model": digest(dict(self.general.state_dict())), "options": used, "sha256": fact["sha256"]},
            PROVENANCE: {"paths": [fact["path"]], "versions": versions(), "before": about.get(PROVENANCE)},
        }

    def model(self, number: int) -> Any:
        """The restorer of particles with one of the wedges."""
        if not self._is_general:
            return self.general
        if number not in self._models:
            if len(self._models) >= KEPT_MODELS:
                self._models.clear()
            scale, factor, spectra = self.normalisation.scale, self.density.working_bin, self._told_spectra()
            self._models[number] = self.general.restorer(
                spectra.on_working_grid(factor, scale), self.store.facts.wedges[number],
                fine=spectra.normalised(scale), working_bin=factor,
                voxel_size_angstrom=self.store.voxel_size_angstrom, halves=1,
            )  # fmt: skip
        return self._models[number]

    def plan(self, number: int) -> Plan:
        """How a particle goes through the network; the same for all, but for the model."""
        return plan_restoration((self.store.box,) * 3, self.model(number), self.options, face_pad=FACE_PAD)

    @cached_property
    def density(self) -> ParticleDensity:
        """What the particles tell together."""
        return ParticleDensity(self.store, None if self._is_general else int(self.general.spec.working_bin))

    @cached_property
    def normalisation(self) -> Normalisation:
        """Mean and scale over the store; negative where structures were dark in what a restorer was fitted on."""
        found = self.density.normalisation
        dark = not self._is_general and self.store.about.get("density_of_input") == "dark"
        return Normalisation(found.mean, -found.scale) if dark else found
