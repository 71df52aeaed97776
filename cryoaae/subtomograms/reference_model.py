"""References of an alignment as a model: saved, and other particles assigned to them, in any pose, by alignment alone.

The references stay as they are. Other particles differ from those they were made of in brightness, in noise and in what
the microscope did to each frequency, so these are estimated anew (`Mixture.adapt`): from the corners of the boxes at
first, then from what the references leave, a few times. Estimated over all particles of a set, they make what is found
of one particle depend, a little, on the others.

A tomogram may be the mirror image of its specimen: that depends on how the sign of the tilts was read. So the mirror
images of the references are tried, too, and the hand under which all particles together are likelier is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.store import SubtomogramStore
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.runs.progress import Progress
from cryoaae.subtomograms.align_stores import AlignedStores, only_classes
from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.band import BandedParticles, particles_of_stores
from cryoaae.subtomograms.mixture import ANY, Mixture, Stages
from cryoaae.subtomograms.model_files import WEIGHTS
from cryoaae.subtomograms.multi_reference import pose_all, search_stages
from cryoaae.subtomograms.references import References
from cryoaae.subtomograms.standard import ParticlePoses, check_length

KIND, REFERENCES = "references", "references.safetensors"
# How often contrast and noise of other particles are estimated.
ROUNDS = 3


@dataclass(frozen=True)
class ReferenceModel:
    """References of k classes with all that assigning particles to them needs.

    Parameters
    ----------
    grid : (k, points) complex64
        Spectra, as `References` holds them.
    power : (k, shells)
    proportions : (k,)
    settings : AlignmentSettings
        Of the alignment that made them.
    box : int
        Edge of the particles it was made of, voxels.
    voxel_size_angstrom : float
    names : tuple of str
        Of the classes.
    digest : str
        Of the tensors; empty before they are written.
    """

    grid: Tensor
    power: Tensor
    proportions: Tensor
    settings: AlignmentSettings
    box: int
    voxel_size_angstrom: float
    names: tuple[str, ...]
    digest: str = ""

    @classmethod
    def of(
        cls, aligned: AlignedStores, settings: AlignmentSettings, stores: Sequence[SubtomogramStore]
    ) -> ReferenceModel:
        """What an alignment of stores found."""
        kept, references = aligned.order.tolist(), aligned.mixture.references
        return cls(
            references.grid[kept].cpu(), references.power[kept].cpu(), aligned.alignment.proportions, settings,
            stores[0].box, stores[0].voxel_size_angstrom, aligned.class_names,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write ``references.safetensors`` into a run folder."""
        tensors = {"grid": torch.view_as_real(self.grid), "power": self.power, "proportions": self.proportions}
        facts = {
            "kind": KIND, "settings": asdict(self.settings), "box": self.box,
            "voxel_size_angstrom": self.voxel_size_angstrom, "names": list(self.names),
        }  # fmt: skip
        save_weights(folder / REFERENCES, tensors, facts)

    @classmethod
    def load(cls, path: Path | str) -> ReferenceModel:
        """Read a run folder, or the file in it.

        Raises
        ------
        InputError
            When there are no references, or they cannot be read.
        """
        path = Path(path)
        file = path / REFERENCES if path.is_dir() else path
        if path.is_dir() and not file.exists():
            raise InputError(path, "holds no references of an alignment", "give the run folder of cryoaae cluster")
        tensors, facts = load_weights(file)
        try:
            if facts["kind"] != KIND:
                raise InputError(file, "holds no references of an alignment", "leave out --by alignment")
            return cls(
                torch.view_as_complex(tensors["grid"]), tensors["power"], tensors["proportions"],
                AlignmentSettings(**facts["settings"]), facts["box"], facts["voxel_size_angstrom"],
                tuple(facts["names"]), facts["digest"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(file, "was written by another version of cryoaae", "cluster again") from error

    def mirrored(self) -> ReferenceModel:
        """The mirror images of the references: z turned over."""
        size = round(self.grid.shape[1] ** (1 / 3))
        cubes = self.grid.reshape(-1, size, size, size)
        return replace(self, grid=torch.roll(torch.flip(cubes, (1,)), 1, 1).reshape(len(cubes), -1))

    @property
    def working_box(self) -> int:
        """Edge of the grid on which particles are aligned."""
        return self.settings.grid(self.box)

    def check(self, stores: Sequence[SubtomogramStore]) -> None:
        """Refuse particles that cannot be assigned.

        Raises
        ------
        InputError
        """
        check_length(stores, self.box * self.voxel_size_angstrom)
        least = int(2 * self.settings.freq_max * self.working_box) + 2
        if stores[0].box < least:
            raise InputError(stores[0].path, f"boxes of {stores[0].box} voxels", f"extract boxes of {least} or more")

    def mixture(self, particles: BandedParticles) -> Mixture:
        """The references with particles that they were not made of; their contrast is a first guess.

        Raises
        ------
        InputError
            When the particles' wedges leave another band.
        """
        device = particles.coefficients.device
        references = References(particles.band, len(self.grid), torch.ones(particles.band.shell_count), device)
        if references.grid.shape != self.grid.shape:
            raise InputError("particles", "measure another band than the references hold", "align them by themselves")
        references.grid, references.power = self.grid.to(device), self.power.to(device)
        proportions = self.proportions.to(device).float()
        mixture = Mixture(
            particles, references, proportions.log(), particles.noise_power.clone(), proportions @ references.power,
            torch.full((len(self.grid),), ANY, device=device),
        )  # fmt: skip
        mixture.match_brightness()
        return mixture


def holds_only_references(path: Path | str) -> bool:
    """Whether a run folder, or a file, is of an alignment alone."""
    path = Path(path)
    if path.is_dir():
        return (path / REFERENCES).exists() and not (path / WEIGHTS).exists()
    return path.name == REFERENCES


def assign_stores(
    stores: Sequence[SubtomogramStore],
    model: ReferenceModel,
    *,
    progress: Progress,
    device: torch.device | str = "cpu",
) -> AlignedStores:
    """Find class and pose of all particles under references that stay as they are, but for their hand.

    Classes are those of the model, in its order, also where no particle is of them.

    Raises
    ------
    InputError, InterruptedRunError
    """
    model.check(stores)
    progress.start("reading particles", None, "")
    particles = particles_of_stores(stores, model.settings.freq_max, working_box=model.working_box, device=device)
    stages = search_stages(particles, model.settings)
    progress.start("assigning", float(2 * ROUNDS + 1), "round")
    try:
        hands = [_adapted(one.mixture(particles), stages, progress) for one in (model, model.mirrored())]
        mirrored = hands[1].history[-1] > hands[0].history[-1]
        mixture = hands[int(mirrored)]
        found = pose_all(mixture, stages, (), progress)
    finally:
        progress.finish()
    if mirrored:
        progress.message("the mirror images of the references explain these particles better: poses are theirs")
    order = torch.arange(len(model.grid), device=particles.coefficients.device)
    poses = ParticlePoses(found.rotations.cpu(), found.shifts_zyx.cpu() * (stores[0].box / model.working_box))
    return AlignedStores(only_classes(found, order), poses, mixture, stages, order, model.names, mirrored)


def _adapted(mixture: Mixture, stages: Stages, progress: Progress) -> Mixture:
    """The same with contrast and noise estimated, and with the likelihood before the last time."""
    for _ in range(ROUNDS):
        progress.check()
        poses, turned, _ = mixture.fine_poses(stages)
        mixture.note(poses, 1.0, stages.fine.count)
        mixture.adapt(poses, turned, stages.fine)
        progress.advance()
    return mixture
