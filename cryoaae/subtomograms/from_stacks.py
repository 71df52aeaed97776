"""Particles from stacks of 2-D tilt images, which are all that RELION 5 and WarpTools write.

Each stack holds the images of one particle at the tilts it is visible in, or at all tilts. Where the images looked,
and their CTF, is in the tomogram STAR file; `physics.insertion` makes the volume. Defocus changes with depth:

    d(particle) = d(tomogram) + hand * b . (x - centre),        b the beam's direction      (RELION's convention)
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from cryoaae.io.particles import ANGSTROM, Particles
from cryoaae.io.tilt_series_star import TiltSeries
from cryoaae.physics.ctf import ctf_2d
from cryoaae.physics.insertion import padded_size, reconstruct_from_slices
from cryoaae.physics.shift import fourier_shift
from cryoaae.subtomograms.from_files import image_path, image_shifts_voxels
from cryoaae.subtomograms.source import Source, one_voxel_size, particle_facts

VISIBLE = "rlnTomoVisibleFrames"
NOISE_TO_SIGNAL = 0.3


def stack_source(
    particles: Particles,
    series: dict[str, TiltSeries],
    files: tuple[Path, ...],
    box: int,
    *,
    noise_to_signal: float = NOISE_TO_SIGNAL,
) -> Source:
    """Reconstruct every particle of a list from its stack.

    Parameters
    ----------
    particles : Particles
        With images that are stacks of tilt images.
    series : dict
        Tilt series by name of the tomogram.
    files : tuple of Path
        Where the tilt series were read.
    box : int
        Edge in voxels, at most that of the images.
    noise_to_signal : float
        Wiener term of `physics.insertion`.

    Raises
    ------
    InputError
        When a tomogram, image or pixel size is missing, or images and tilts differ in number.
    """
    unknown = sorted(set(particles.tomograms) - set(series))
    if unknown:
        raise InputError(particles.source, f"tilt series of {unknown[0] or 'no tomogram'} not given", "give its STAR")
    if not np.isfinite(particles.image_pixel_angstrom).all():
        raise InputError(particles.source, "states no rlnImagePixelSize", "write the particles again")
    voxel = one_voxel_size({f"row {i + 1}": float(p) for i, p in enumerate(particles.image_pixel_angstrom)})
    paths = [image_path(particles, row) for row in range(len(particles))]
    frames = [_visible_frames(particles, row, series[name]) for row, name in enumerate(particles.tomograms)]
    wedges = {key: series[key[0]].wedge(np.array(key[1])) for key in dict.fromkeys(_keys(particles, frames))}
    facts = particle_facts(
        particles, np.arange(len(particles)), _positions_voxels(particles, series, voxel),
        [wedges[key] for key in _keys(particles, frames)],
    )  # fmt: skip
    shifts = image_shifts_voxels(particles, voxel)

    def cut(index: int) -> NDArray[np.float32]:
        own = series[particles.tomograms[index]]
        images = _read_stack(paths[index], voxel, frames[index], len(own.scale), box)
        defocus = _depth_angstrom(particles, index, own)[frames[index]]
        volume = _reconstruct(images, own, frames[index], defocus, voxel, particles.premultiplied, noise_to_signal)
        if shifts[index].any():
            volume = fourier_shift(volume, torch.from_numpy(-shifts[index]))
        low = images.shape[-1] // 2 - box // 2
        inside = slice(low, low + box)
        return np.ascontiguousarray(volume[inside, inside, inside].numpy())

    return Source("stacks of tilt images", voxel, facts, {}, files, cut)


def _keys(particles: Particles, frames: list[NDArray[np.int64]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(own.tolist())) for name, own in zip(particles.tomograms, frames, strict=True)]


def _visible_frames(particles: Particles, row: int, series: TiltSeries) -> NDArray[np.int64]:
    """Images of the series in which the particle is seen: all, unless the list says otherwise."""
    total = len(series.scale)
    if particles.table is None or VISIBLE not in particles.table:
        return np.arange(total)
    text = particles.table[VISIBLE].iloc[row]
    try:
        flags = np.array([float(flag) for flag in ast.literal_eval(text)])
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(particles.source, f"row {row + 1}: {VISIBLE} is {text[:40]!r}", "correct the row") from error
    if len(flags) != total:
        what = f"row {row + 1}: {VISIBLE} has {len(flags)} entries for {total} tilts of {series.name}"
        raise InputError(particles.source, what, "give the tomogram STAR the particles were made with")
    seen = np.flatnonzero(flags)
    if len(seen) < 2:
        raise InputError(particles.source, f"row {row + 1}: visible in {len(seen)} tilts", "leave the particle out")
    return seen


def _positions_voxels(particles: Particles, series: dict[str, TiltSeries], voxel: float) -> NDArray[np.float64]:
    """Centres (n, 3) in voxels from the first voxel of the tomogram; NaN where its size is not stated."""
    if not particles.centred:
        return particles.points_zyx / (voxel if particles.units == ANGSTROM else 1.0)
    middles = np.array([series[name].size_angstrom_zyx / 2 for name in particles.tomograms])
    return np.asarray((particles.points_zyx + middles) / voxel)


def _depth_angstrom(particles: Particles, row: int, series: TiltSeries) -> NDArray[np.float64]:
    """Defocus of a particle over that of the tomogram's centre, (t,); 0 where its place is not known."""
    middle = np.zeros(3) if particles.centred else series.size_angstrom_zyx / 2
    if particles.units != ANGSTROM or not np.isfinite(middle).all():
        return np.zeros(len(series.scale))
    return np.asarray(series.hand * series.projections[:, 0] @ (particles.points_zyx[row] - middle))


def _read_stack(path: Path, voxel: float, frames: NDArray[np.int64], total: int, box: int) -> torch.Tensor:
    """Visible images (t, y, x) of a stack that holds these, or all, images of a series."""
    stack = open_volume(path, voxel_size_angstrom=voxel).data
    count, y, x = stack.shape
    if y != x or x < box:
        raise InputError(path, f"images of {x} x {y} pixels for a box of {box}", "use a smaller --box")
    if count not in (total, len(frames)):
        what = f"{count} images for {len(frames)} visible of {total} tilts"
        raise InputError(path, what, "give the tomogram STAR the particles were made with")
    chosen = stack[frames] if count == total else stack
    return torch.from_numpy(np.array(chosen, dtype=np.float32))


def _reconstruct(
    images: torch.Tensor,
    series: TiltSeries,
    frames: NDArray[np.int64],
    depth: NDArray[np.float64],
    voxel: float,
    premultiplied: bool,
    noise_to_signal: float,
) -> torch.Tensor:
    def chosen(values: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[frames]))

    depths = torch.from_numpy(depth)
    transfer = ctf_2d(
        (padded_size(images.shape[-1]),) * 2, voxel, chosen(series.defocus_u_angstrom) + depths,
        chosen(series.defocus_v_angstrom) + depths, chosen(series.astigmatism_deg), voltage_kv=series.voltage_kv,
        cs_mm=series.cs_mm, amplitude_contrast=series.amplitude_contrast,
    )  # fmt: skip
    return reconstruct_from_slices(
        images, chosen(series.projections), transfer, weights=chosen(series.scale), premultiplied=premultiplied,
        noise_to_signal=noise_to_signal,
    )  # fmt: skip
