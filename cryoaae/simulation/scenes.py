"""Scenes: simulated tomograms to learn a general restorer from, with signal, noise and truth apart.

Back-projection is linear, and transfer functions, noise levels and noise colours commute with it as far as they
are radial. So one scene, imaged once without contrast transfer and with unit noise, stands for a whole family of
tomograms: `fitting.scene_feed` filters and mixes its parts anew whenever it is drawn.

    tomogram = h * signal + a c * noise      target = h * truth      (* : a radial filter)
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_bytes
from cryoaae.simulation.dataset import build_specimen, image_specimen, load_species, procedural_species
from cryoaae.simulation.relatives import relative_of
from cryoaae.simulation.specimen import Species, Specimen
from cryoaae.simulation.tilt_series import tilt_angles_deg

Density = NDArray[np.float32]

# Drawn evenly between these; the limits are what the model card promises.
VOXEL_ANGSTROM = (14.0, 30.0)
TILT_END_DEG = (40.0, 70.0)
TILT_STEPS_DEG = (2.0, 3.0, 3.0, 4.0, 5.0)
ALIKE_SHARE = 0.6  # of the scenes, whose tilts end alike on both sides but for a few degrees
FULL_SHARE = 0.5  # of the scenes that fill the volume; the others are thinner, down to this many voxels
THINNEST = 36
MAPS_A_SCENE, ASSEMBLIES_A_SCENE = (3, 7), (4, 12)
RELATIVES_SHARE = 0.85  # of the maps, which are changed so that no two scenes hold the same; the others are as they are
BACKGROUND = (0.2, 1.5)
PARTS = ("signal", "even", "odd", "truth")


@dataclass(frozen=True)
class Scene:
    """A simulated tomogram in parts.

    Parameters
    ----------
    signal, truth : (z, y, x)
        Reconstruction without noise, and the density itself.
    even, odd : (z, y, x)
        Reconstructions of noise alone, independent; as loud, in the projections, as the signal.
    voxel_size_angstrom : float
    tilt_range_deg : (float, float)
    tilt_step_deg : float
    """

    signal: Density
    even: Density
    odd: Density
    truth: Density
    voxel_size_angstrom: float
    tilt_range_deg: tuple[float, float]
    tilt_step_deg: float

    def save(self, path: Path) -> None:
        """Write the scene (.npz, half precision), atomically."""
        buffer = io.BytesIO()
        parts = {name: getattr(self, name).astype(np.float16) for name in PARTS}
        numbers = np.array([self.voxel_size_angstrom, *self.tilt_range_deg, self.tilt_step_deg])
        np.savez(buffer, allow_pickle=False, numbers=numbers, **parts)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Scene:
        """Read a scene that `save` wrote.

        Raises
        ------
        InputError
            If the file is damaged or something else.
        """
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                parts = {name: file[name].astype(np.float32) for name in PARTS}
                voxel, low, high, step = (float(value) for value in file["numbers"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(path, f"not a scene ({error})", "delete it and make it again") from error
        return cls(**parts, voxel_size_angstrom=voxel, tilt_range_deg=(low, high), tilt_step_deg=step)


def draw_scene(rng: np.random.Generator, maps: Sequence[Path], edge: int) -> Scene:
    """Draw what is seen and how, build it and image it.

    Parameters
    ----------
    maps : sequence of paths
        Density maps to draw from, most of them changed (`relatives`); procedural assemblies are added.
    edge : int
        Size of the tomogram in voxels.
    """
    voxel = float(rng.uniform(*VOXEL_ANGSTROM))
    tilt_range, step = draw_tilts(rng)
    tilts = tilt_angles_deg(tilt_range, step)
    thickness = edge if rng.random() < FULL_SHARE else int(rng.integers(THINNEST, edge))
    objects = {
        "membranes": int(rng.integers(0, 4)),
        "filaments": int(rng.integers(0, 5)),
        "gold_beads": int(rng.random() < 0.15),
    }
    species = _draw_species(rng, maps, voxel)
    specimen = build_specimen(rng, species, (thickness, edge, edge), voxel, tilts, _count(rng, species, edge), objects)
    specimen.background *= rng.uniform(*BACKGROUND)
    _embed(specimen, edge, int(rng.integers(0, edge - thickness + 1)))
    volumes = image_specimen(specimen, rng, tilts, snr=1.0).volumes
    noiseless = volumes["noiseless"]
    even, odd = volumes["even"] - noiseless, volumes["odd"] - noiseless
    return Scene(noiseless, even, odd, volumes["truth"], voxel, tilt_range, step)


def draw_tilts(rng: np.random.Generator) -> tuple[tuple[float, float], float]:
    """Tilt range and step in degrees; most ranges are nearly symmetric."""
    low, high = (float(end) for end in rng.uniform(*TILT_END_DEG, 2))
    if rng.random() < ALIKE_SHARE:
        low = float(np.clip(high + rng.normal(0, 3), *TILT_END_DEG))
    step = float(rng.choice(TILT_STEPS_DEG))
    first, last = round(-low / step) * step, round(high / step) * step
    return (first, last), step


def _draw_species(rng: np.random.Generator, maps: Sequence[Path], voxel: float) -> list[Species]:
    """A few of the maps, or relatives of them, and a few procedural assemblies, other ones in every scene."""

    def changed(density: Density) -> Density:
        return relative_of(density, rng) if rng.random() < RELATIVES_SHARE else density

    count = min(len(maps), int(rng.integers(*MAPS_A_SCENE, endpoint=True)))
    chosen = [maps[int(i)] for i in rng.permutation(len(maps))[:count]]
    assemblies = procedural_species(rng, voxel)
    wanted = int(rng.integers(*ASSEMBLIES_A_SCENE, endpoint=True))
    kept = [assemblies[int(i)] for i in rng.permutation(len(assemblies))[:wanted]]
    return load_species(chosen, (), voxel, change=changed) + kept


def _count(rng: np.random.Generator, species: Sequence[Species], edge: int) -> int | None:
    """Number of particles: as crowded as cytosol in half of the scenes, sparser in the others."""
    if rng.random() < 0.5:
        return None
    crowded = 0.12 * edge**3 / float(np.mean([s.density.sum() for s in species]))
    return max(4, round(crowded * rng.uniform(0.1, 0.9)))


def _embed(specimen: Specimen, edge: int, above: int) -> None:
    """Put vacuum above and below a specimen, so that it is `edge` voxels thick."""
    room = ((above, edge - above - specimen.structure.shape[0]), (0, 0), (0, 0))
    specimen.structure = np.pad(specimen.structure, room)
    specimen.background = np.pad(specimen.background, room)
