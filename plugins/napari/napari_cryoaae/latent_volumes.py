"""Volumes of chosen particles: their average, a gallery of them, what the model makes of their class.

All of it is the library's: particles are whitened and averaged as `cryoaae cluster` does it, so that the average of a
whole cluster is the one that the run wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.runs.progress import Progress
from napari_cryoaae.latent_map import LatentMap

if TYPE_CHECKING:
    from cryoaae.subtomograms.model_files import FittedModel
    from cryoaae.subtomograms.standard import ParticlePoses, Particles

# Particles in a gallery; of more, some are left out evenly.
MOST_SHOWN = 36
# Voxels between two particles of a gallery.
GAP = 1


@dataclass(frozen=True)
class ParticleVolume:
    """Something made of particles, (z, y, x), what is to be said of it, and its file, where it was read from one."""

    kind: str
    data: NDArray[np.float32]
    voxel_size_angstrom: float
    remark: str = ""
    source: Path | None = None


class ParticleVolumes:
    """Makes volumes of the particles of a latent map. Stores and model are opened when they are first needed.

    Parameters
    ----------
    latent : LatentMap
    """

    def __init__(self, latent: LatentMap) -> None:
        self.latent = latent

    def average(self, members: NDArray[np.int64], progress: Progress) -> ParticleVolume:
        """Average particles by the poses of their stores, or, where they have none, as they lie.

        Raises
        ------
        InputError, InterruptedRunError
        """
        from cryoaae.subtomograms.average import average

        found = average(self._particles, self._told("averaging", members, progress))
        return ParticleVolume("average", found.volume, self._voxel_angstrom, self._doubt(members))

    def _doubt(self, members: NDArray[np.int64]) -> str:
        """Why the average of particles may be none; empty for no reason."""
        if not self._particles.posed:
            return "no poses are known: averaged as they lie"
        classes = self.latent.codes.get("cluster")
        if self._found_poses is not None and classes is not None and len(np.unique(classes[members])) > 1:
            return "of several classes, each aligned in a frame of its own: average one at a time"
        return ""

    def written(self, progress: Progress) -> list[ParticleVolume]:
        """The averages that the run wrote, a class each; no store is needed.

        Raises
        ------
        InputError, InterruptedRunError
        """
        from cryoaae.io.mrc import open_volume

        read = []
        progress.start("reading averages", float(len(self.latent.averages)), "average")
        for name, file in self.latent.averages.items():
            progress.check()
            volume = open_volume(file)
            size = int(np.sum(self.latent.found.assigned == self.latent.found.names.index(name)))
            kind = f"average of class {name} as written"
            read.append(
                ParticleVolume(kind, volume.numpy(), volume.voxel_size_angstrom, f"{size:,} particles", source=file)
            )
            progress.advance()
        progress.finish()
        return read

    def gallery(self, members: NDArray[np.int64], progress: Progress) -> ParticleVolume:
        """Particles side by side, filtered as the network sees them.

        Raises
        ------
        InputError, InterruptedRunError
        """
        from cryoaae.patches.particle_spectra import sphere
        from cryoaae.physics.fourier import irfft

        chosen = members[np.unique(np.linspace(0, len(members) - 1, MOST_SHOWN).round().astype(int))]
        particles, box = self._particles, self._particles.box
        shape, seen = (box,) * 3, particles.standard.filter()
        shown = [
            (irfft(particles.spectrum(i) * seen, shape) * sphere(box)).numpy()
            for i in self._told("reading particles", chosen, progress)
        ]
        remark = f"{len(chosen)} of {len(members)} particles" if len(chosen) < len(members) else ""
        return ParticleVolume("gallery", montage(shown), self._voxel_angstrom, remark)

    def decoded(self, members: NDArray[np.int64], progress: Progress) -> ParticleVolume:
        """What the decoder makes of the class that most of the particles are of, its style at the prior's mean.

        Raises
        ------
        InputError
            When the model is not there.
        """
        from cryoaae.subtomograms.generate import decoded

        progress.start("decoding", None, "")
        classes = self.latent.codes["class_probabilities"][members].mean(axis=0)
        own = np.arange(len(classes)) == classes.argmax()
        standard = self._fitted.standard
        return ParticleVolume("decoded class", decoded(self._fitted, own), standard.working_voxel_angstrom)

    @property
    def _voxel_angstrom(self) -> float:
        return self._particles.standard.working_voxel_angstrom

    @cached_property
    def _fitted(self) -> FittedModel:
        from cryoaae.subtomograms.model_files import FittedModel

        if self.latent.by_alignment:
            raise InputError(self.latent.folder, "was clustered by alignment", "cluster again with --by both")
        if self.latent.model is None:
            raise InputError(self.latent.folder, "its model is not where it was", "put its run folder beside it")
        return FittedModel.load(self.latent.model)

    @cached_property
    def _particles(self) -> Particles:
        """The particles of all stores as the model sees them; without a model, as a fit of them would."""
        from cryoaae.subtomograms.standard import Particles, matching_standard, measure_standard, open_stores

        names = self.latent.store_names
        missing = [name for name in names if name not in self.latent.stores]
        if missing:
            raise InputError(missing[0], "the store is not there", "put it beside the folder of the run")
        stores = open_stores([self.latent.stores[name] for name in names])
        if self.latent.model is not None:
            return Particles(stores, matching_standard(stores, self._fitted.standard), self._found_poses)
        from cryoaae.subtomograms.alignment_settings import ALIGNMENT_BOX
        from cryoaae.subtomograms.cluster import WORKING_BOX

        edge = min(WORKING_BOX if self._found_poses is None else ALIGNMENT_BOX, stores[0].box)
        return Particles(stores, measure_standard(stores, edge - edge % 2), self._found_poses)

    @cached_property
    def _found_poses(self) -> ParticlePoses | None:
        """Poses that the run found, in the order of the stores; None where it sought none."""
        import torch

        from cryoaae.subtomograms.standard import ParticlePoses

        codes = self.latent.codes
        if "rotation" not in codes:
            return None
        found = np.concatenate([self.latent.of_store(name)[0] for name in self.latent.store_names])
        rotations, shifts = (torch.from_numpy(codes[name][found]) for name in ("rotation", "shift_zyx"))
        return ParticlePoses(rotations.float(), shifts.float())

    def _told(self, task: str, members: NDArray[np.int64], progress: Progress) -> Iterator[int]:
        """Numbers of particles in their stores, one at a time, so that work on them is told of and can be stopped."""
        starts = np.cumsum([0, *(len(store) for store in self._particles.stores)])
        names = self.latent.store_names
        progress.start(task, float(len(members)), "particle")
        for store, index in zip(self.latent.codes["store"][members], self.latent.codes["index"][members], strict=True):
            progress.check()
            yield int(starts[names.index(str(store))] + index)
            progress.advance()
        progress.finish()


def montage(volumes: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Cubes (z, y, x) side by side in y and x, in rows as many as columns; what is left empty is 0."""
    box, columns = len(volumes[0]), math.ceil(math.sqrt(len(volumes)))
    rows, step = math.ceil(len(volumes) / columns), box + GAP
    out = np.zeros((box, rows * step - GAP, columns * step - GAP), np.float32)
    for number, volume in enumerate(volumes):
        y, x = (step * place for place in divmod(number, columns))
        out[:, y : y + box, x : x + box] = volume
    return out
