"""Codes of particles: each is seen in fixed other poses, and what it is said to be is averaged.

A particle is not asked for its class as it lies, where its wedge shows in what direction the beam went: it is turned,
what its wedge left empty is filled with noise, and it is turned on by the 24 quarter turns and seen through its wedge
again. The turn and the noise are the same for every particle, so that a code depends on nothing but the particle:
neither on the order of a store nor on its neighbours. Under the references of an alignment alone a particle is aligned
instead (`reference_model`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.io.atomic import atomic_path
from cryoaae.io.store import SubtomogramStore
from cryoaae.models.categorical import class_of
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.rotation import quarter_turned, quarter_turns, random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads
from cryoaae.subtomograms.copies import Measured, as_it_is, completed, fine_grid, in_reference_frame, turned_particle
from cryoaae.subtomograms.model_files import FittedModel, check_apart
from cryoaae.subtomograms.reference_model import ReferenceModel, assign_stores, holds_only_references
from cryoaae.subtomograms.standard import Particles, matching_standard, open_stores

CODES = "codes.npz"
BATCH = 32
# The same for every particle of every run.
POSE_SEED = 0


@dataclass(frozen=True)
class Embedding:
    """Codes of n particles.

    Parameters
    ----------
    views : (views, n, classes)
        Class probabilities in each pose, none of which is the particle's own.
    features : (n, units)
        What the encoder reads codes from, mean over the poses.
    style : (n, dim)
        Style in the particle's own pose.
    error : (n,)
        Reconstruction error in its own pose, or that of its reference where the model makes it so (NaN where the store
        has no poses): 1/2 where all that is left is noise.
    """

    views: Tensor
    features: Tensor
    style: Tensor
    error: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Share of the poses in which a particle is taken for each class, (n, classes).

        Not the mean of what the encoder gives in each pose: how sure it is depends on what the particle's wedge hides,
        and tells it, the more clearly the more poses are averaged (decision 0031).
        """
        return torch.nn.functional.one_hot(self.views.argmax(dim=-1), self.views.shape[-1]).float().mean(dim=0)

    @property
    def columns(self) -> dict[str, NDArray[np.generic]]:
        """What ``codes.npz`` holds of it."""
        return {
            "class_probabilities": self.probabilities.numpy(), "features": self.features.numpy(),
            "style": self.style.numpy(), "error": self.error.numpy(),
        }  # fmt: skip


@torch.no_grad()
def embed_particles(
    fitted: FittedModel,
    particles: Particles,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Embedding:
    """Embed all particles, a batch at a time."""
    progress = progress or NullProgress()
    generator = torch.Generator().manual_seed(POSE_SEED)
    rotation = random_rotations(1, generator=generator)[0]
    noise = torch.randn((particles.box,) * 3, generator=generator)
    parts: list[tuple[Tensor, ...]] = []
    progress.start("embedding", float(len(particles)), "particle")
    for start in range(0, len(particles), BATCH):
        chosen = range(start, min(start + BATCH, len(particles)))
        parts.append(tuple(part.cpu() for part in _embedded(fitted, particles, chosen, rotation, noise, device)))
        progress.advance(len(chosen))
        progress.check()
    progress.finish()
    classes, features, style, error = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Embedding(classes.movedim(1, 0).contiguous(), features, style, error)


def _embedded(
    fitted: FittedModel,
    particles: Particles,
    chosen: range,
    rotation: Tensor,
    noise: Tensor,
    device: torch.device | str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes (n, views, classes), features, style and error of some particles."""
    model, own = fitted.model, [as_it_is(particles, i) for i in chosen]
    spectra, measured = (torch.stack(t) for t in zip(*((m.spectrum, m.seen) for m in own), strict=True))
    copies = torch.stack([_turned(m, particles.wedge(i), rotation, noise) for i, m in zip(chosen, own, strict=True)])
    poses = [
        model.encoder.trunk(model.inputs((rfft(quarter_turned(copies, quarter)) * measured).to(device)))
        for quarter in quarter_turns()
    ]
    classes = torch.stack([class_of(model.encoder.read(features)) for features in poses], dim=1)
    code = model.encoder(model.inputs(spectra.to(device)))
    in_reference = fitted.settings.frame == "reference"
    targets = [in_reference_frame(particles, i) for i in chosen] if in_reference and particles.posed else own
    target, seen = (torch.stack(t).to(device) for t in zip(*((m.spectrum, m.seen) for m in targets), strict=True))
    error = model.error(model.decode(model.decoder_input(code, None)), target, seen)
    if in_reference and not particles.posed:
        error = torch.full_like(error, torch.nan)
    return classes, torch.stack(poses).mean(dim=0), code.style, error


def _turned(own: Measured, wedge: MissingWedge, rotation: Tensor, noise: Tensor) -> Tensor:
    """A particle in another pose, what its wedge hides filled with noise, (z, y, x)."""
    return irfft(turned_particle(fine_grid(completed(own, noise)), wedge, rotation)[1], noise.shape)


def write_codes(path: Path, particles: Particles, **columns: NDArray[np.generic]) -> None:
    """Write columns of n rows as an .npz file of named arrays, atomically.

    Every row says which particle it is by `store` (file name), `index` (in that store) and `row` (in its list). Poses
    that were found are written, too.
    """
    poses: dict[str, NDArray[np.generic]] = {}
    if particles.found:
        found = particles.poses
        poses = {"rotation": found.rotations.numpy(), "shift_zyx": found.shifts_zyx.numpy()}
    places = [particles.place(i) for i in range(len(particles))]
    stores = [store.path.name for store in particles.stores]
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(
            file, store=np.array([stores[s] for s, _ in places]), index=np.array([i for _, i in places]),
            row=np.array([int(particles.stores[s].facts.rows[i]) for s, i in places]),
            **columns, **poses,  # type: ignore[arg-type]
        )  # fmt: skip


def embed(
    store: Path | str,
    output: Path | str,
    *,
    model: Path | str,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the codes of a store's particles under a fitted model: an autoencoder, or references of an alignment.

    Parameters
    ----------
    store : path
        A store of subtomograms.
    output : path
        Folder to make: ``codes.npz`` and ``run.json``.
    model : path
        Run folder of `cluster`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        When store and model do not fit together, or the folder holds something else.
    """
    set_threads(threads)
    keep_freed_memory()
    chosen, folder, progress = choose_device(device), Path(output), progress or NullProgress()
    check_apart(folder, model)
    stores, inputs = open_stores([store]), [Path(store)]
    embedding = _by_references if holds_only_references(model) else _by_autoencoder
    digest, columns = embedding(stores, model, chosen, progress)
    config = {"store": str(store), "model": str(model), "digest": digest}
    if dry_run:
        RunFolder.check(folder, config, inputs=inputs, overwrite=overwrite)
        return folder
    with RunFolder.create(folder, "embed", config, inputs=inputs, overwrite=overwrite):
        particles, codes = columns()
        write_codes(folder / CODES, particles, **codes)
    return folder


# The digest of a model, and a function that embeds the particles: what may be refused is refused before it is called.
_Prepared = tuple[str, Callable[[], tuple[Particles, dict[str, NDArray[np.generic]]]]]


def _by_autoencoder(
    stores: list[SubtomogramStore], model: Path | str, device: torch.device, progress: Progress
) -> _Prepared:
    fitted = FittedModel.load(model, device)
    particles = Particles(stores, matching_standard(stores, fitted.standard))
    return fitted.digest, lambda: (
        particles, embed_particles(fitted, particles, device=device, progress=progress).columns
    )


def _by_references(
    stores: list[SubtomogramStore], model: Path | str, device: torch.device, progress: Progress
) -> _Prepared:
    references = ReferenceModel.load(model)
    references.check(stores)

    def columns() -> tuple[Particles, dict[str, NDArray[np.generic]]]:
        aligned = assign_stores(stores, references, progress=progress, device=device)
        return aligned.particles(stores), aligned.columns

    return references.digest, columns
