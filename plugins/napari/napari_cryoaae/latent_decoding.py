"""A run of `cryoaae cluster` as something to look through: codes in, volumes out, by the library's own decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from napari_cryoaae.film import Film
from napari_cryoaae.latent_map import LatentMap, is_latent_folder, read_latent_map
from napari_cryoaae.run_folder import WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

    from cryoaae.runs.progress import Progress
    from cryoaae.subtomograms.code_paths import CodeModes
    from cryoaae.subtomograms.generate import Clusters
    from cryoaae.subtomograms.model_files import FittedModel


@dataclass(frozen=True)
class Code:
    """What the decoder makes a volume of.

    Parameters
    ----------
    classes : (classes,)
        Of the model; they add up to 1.
    style : (dim,)
    """

    classes: Tensor
    style: Tensor

    def with_style(self, style: Tensor) -> Code:
        """The same classes with another style."""
        return Code(self.classes, style)


@dataclass(frozen=True)
class Directions:
    """What a style is moved along: its own axes, or principal modes; places are in standard deviations.

    Parameters
    ----------
    names : tuple of str
    modes : CodeModes
    """

    names: tuple[str, ...]
    modes: CodeModes

    def places(self, code: Code) -> list[float]:
        """Where a code is along each."""
        return [float(place) for place in self.modes.coordinates(code.style)]

    def moved(self, code: Code, index: int, place: float) -> Code:
        """A code moved along one of them, to a place."""
        return code.with_style(self.modes.moved(code.style, index, place))

    def walk(self, code: Code, index: int, count: int) -> tuple[list[Code], list[str]]:
        """Codes along one of them as far as `cryoaae generate --traverse` goes, and what each is."""
        from cryoaae.subtomograms.generate import WALK

        places = np.linspace(-WALK, WALK, count).tolist()
        labels = [f"{self.names[index]}: {place:+.2f} standard deviations" for place in places]
        return [self.moved(code, index, place) for place in places], labels


@dataclass(frozen=True)
class StructureModel:
    """A fitted model, the clusters that were found with it, and the codes of its particles.

    Parameters
    ----------
    run : Path
    fitted : FittedModel
    clusters : Clusters
    latent : LatentMap
    """

    run: Path
    fitted: FittedModel
    clusters: Clusters
    latent: LatentMap

    @classmethod
    def load(cls, run: Path, progress: Progress) -> StructureModel:
        """Read a run folder of `cryoaae cluster`.

        Raises
        ------
        InputError
            When it is none, or is not finished.
        """
        from cryoaae.subtomograms.generate import Clusters
        from cryoaae.subtomograms.model_files import FittedModel

        folder = run if run.is_dir() else run.parent
        if is_latent_folder(folder) and not (folder / WEIGHTS).is_file():
            latent = read_latent_map(folder, progress)
            if latent.by_alignment:
                problem = "was clustered by alignment, which fits no model: no sliders, no draws of a class"
                raise InputError(folder, problem, "see its classes under Latent, or cluster again with --by both")
        fitted, clusters = FittedModel.load(folder), Clusters.of_run(folder)
        latent = read_latent_map(folder, progress)
        if "cluster" not in latent.codes:
            raise InputError(folder, "its codes were made by cryoaae embed", "give the run folder of cryoaae cluster")
        return cls(folder, fitted, clusters, latent)

    # -- what there is -------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        return self.clusters.names

    @property
    def dim(self) -> int:
        """Length of a style."""
        return int(self.fitted.settings.style_dim)

    @property
    def scale(self) -> float:
        """Standard deviation of the prior of styles."""
        return float(self.fitted.model.prior.scale)

    @property
    def voxel_size_angstrom(self) -> float:
        return float(self.fitted.standard.working_voxel_angstrom)

    @property
    def box(self) -> int:
        """Edge of a volume, voxels."""
        return int(self.fitted.standard.working_box)

    @property
    def assigned(self) -> NDArray[np.int64]:
        """Cluster of each particle, (n,)."""
        return np.asarray(self.latent.codes["cluster"], np.int64)

    def __len__(self) -> int:
        return len(self.latent)

    # -- codes ---------------------------------------------------------------------------------------

    def cluster_code(self, cluster: int) -> Code:
        """A cluster's likeliest class, and the mean of the prior as its style."""
        import torch

        from cryoaae.subtomograms.generate import class_code

        members = self.clusters.class_to_cluster == cluster
        return Code(class_code(self.fitted, members), torch.zeros(self.dim))

    def particle_code(self, number: int) -> Code:
        """The code of a particle, counted from 1.

        Raises
        ------
        InputError
        """
        import torch

        if not 1 <= number <= len(self):
            raise InputError("particle", f"there is no particle {number}", f"give 1 to {len(self)}")
        chosen = (self.latent.codes[name][number - 1] for name in ("class_probabilities", "style"))
        return Code(*(torch.from_numpy(np.asarray(values, np.float32)) for values in chosen))

    def axes(self) -> Directions:
        """The style's own axes, in standard deviations of its prior."""
        import torch

        from cryoaae.subtomograms.code_paths import CodeModes

        dim = self.dim
        own = CodeModes(torch.zeros(dim), self.scale * torch.eye(dim), torch.full((dim,), 1 / dim))
        return Directions(tuple(f"axis {index + 1}" for index in range(dim)), own)

    def modes(self, cluster: int) -> Directions:
        """Principal modes of the styles of a cluster's particles; of all particles, where it has none."""
        import torch

        from cryoaae.subtomograms.code_paths import code_modes

        styles, mine = np.asarray(self.latent.codes["style"], np.float32), self.assigned == cluster
        found = code_modes(torch.from_numpy(styles[mine] if mine.any() else styles))
        names = (f"mode {index + 1} ({100 * share:.0f} %)" for index, share in enumerate(found.shares.tolist()))
        return Directions(tuple(names), found)

    def drawn(self, cluster: int, count: int, seed: int) -> list[Code]:
        """Draws of the prior in a cluster."""
        import torch

        from cryoaae.subtomograms.generate import drawn_codes

        generator = torch.Generator().manual_seed(seed)
        classes, styles = drawn_codes(self.fitted, self.clusters, cluster, count, generator)
        return [Code(*pair) for pair in zip(classes, styles, strict=True)]

    def between(self, first: int, second: int, count: int) -> list[Code]:
        """Codes from one particle, counted from 1, to another, both included.

        Classes are mixed in a straight line: half-way between two of them lies no class that the decoder knows.

        Raises
        ------
        InputError
        """
        import torch

        from cryoaae.subtomograms.code_paths import between

        one, other = self.particle_code(first), self.particle_code(second)
        styles = between(one.style, other.style, count)
        shares = torch.linspace(0, 1, count)
        return [
            Code((1 - t) * one.classes + t * other.classes, style) for t, style in zip(shares, styles, strict=True)
        ]

    # -- volumes -------------------------------------------------------------------------------------

    def volume(self, code: Code) -> NDArray[np.float32]:
        """Density (z, y, x) of a code, in units of the particles' background noise."""
        from cryoaae.subtomograms.generate import decode_volumes

        return np.asarray(decode_volumes(self.fitted, code.classes[None], code.style[None])[0])

    def film(self, title: str, codes: Sequence[Code], labels: Sequence[str], progress: Progress) -> Film:
        """Decode codes, a frame each."""
        volumes = []
        progress.start("decoding", float(len(codes)), "volume")
        for code in codes:
            volumes.append(self.volume(code))
            progress.advance()
            progress.check()
        progress.finish()
        return Film(title, tuple(labels), volumes.__getitem__, self.voxel_size_angstrom)
