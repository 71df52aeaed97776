"""Particles cut from tomograms at the places a list states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.particles import Particles, inside_volume, voxel_points_zyx
from cryoaae.io.project import Tomogram, TomogramInput, open_tomogram
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.crop import box_fits, cut_box
from cryoaae.subtomograms.source import Source, one_voxel_size, particle_facts

BORDERS = ("skip", "pad", "refuse")
# Particles of one tomogram nearer than this many voxels to each other are one.
SAME_PLACE = 0.01


def tomogram_source(
    items: Sequence[TomogramInput],
    particles: Particles,
    box: int,
    *,
    border: str = "skip",
    voxel_size_angstrom: float | None = None,
) -> Source:
    """Find the particles in their tomograms.

    Parameters
    ----------
    items : sequence of TomogramInput
        Of halves, the mean is cut.
    particles : Particles
    box : int
        Edge in voxels.
    border : "skip", "pad" or "refuse"
        What becomes of particles whose box reaches out of the tomogram; "pad" puts the tomogram's mean there.
    voxel_size_angstrom : float, optional
        Overrules the files'.

    Raises
    ------
    InputError
        When no particle belongs to a given tomogram, coordinates do not fit, or voxel sizes differ.
    """
    counts = dict.fromkeys(("of tomograms not given", "outside", "twice", "at the border"), 0)
    chosen = _by_tomogram(items, particles, counts)
    tomograms = {item.name: open_tomogram(item, voxel_size_angstrom=voxel_size_angstrom) for item, _ in chosen}
    sizes = {name: tomogram.volumes[0].voxel_size_angstrom for name, tomogram in tomograms.items()}
    voxel = one_voxel_size(sizes)
    rows: list[int] = []
    points: list[NDArray[np.float64]] = []
    wedges: list[MissingWedge] = []
    homes: list[Tomogram] = []
    for item, own in chosen:
        tomogram = tomograms[item.name]
        shape = tomogram.volumes[0].shape
        found = voxel_points_zyx(particles, own, shape, voxel, item.name)
        kept = _kept(found, box, shape, border, counts)
        if border == "refuse" and counts["at the border"]:
            raise InputError(
                particles.source, f"{counts['at the border']} boxes of {box} voxels reach out of {item.name}",
                "choose --border skip or pad, or a smaller box",
            )  # fmt: skip
        rows += own[kept].tolist()
        points += list(found[kept])
        wedges += [item.wedge] * len(kept)
        homes += [tomogram] * len(kept)
    if not rows:
        said = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise InputError(particles.source, f"no particle is left ({said})", "see --border, or a smaller box")
    facts = particle_facts(particles, np.array(rows, dtype=np.int64), np.array(points), wedges)
    facts = replace(facts, tomograms=tuple(home.name for home in homes))  # a list need not name the only one

    def cut(index: int) -> NDArray[np.float32]:
        volumes = homes[index].volumes
        return cut_box(volumes, facts.positions_zyx[index], box, _mean_density(homes[index]))

    files = tuple(path for item, _ in chosen for path in item.paths)
    return Source("tomograms", voxel, facts, counts, files, cut)


def _by_tomogram(
    items: Sequence[TomogramInput], particles: Particles, counts: dict[str, int]
) -> list[tuple[TomogramInput, NDArray[np.int64]]]:
    """Rows of each tomogram that has any; a list without names belongs to the only tomogram."""
    if not any(particles.tomograms) and len(items) == 1:
        return [(items[0], np.arange(len(particles)))]
    found = [(item, particles.rows_of(item.name)) for item in items]
    chosen = [(item, rows) for item, rows in found if len(rows)]
    if not chosen:
        names = sorted(set(particles.tomograms))
        raise InputError(
            particles.source, f"its tomograms ({', '.join(names[:3]) or 'unnamed'}{', ...' * (len(names) > 3)}) are "
            f"none of the given ({', '.join(item.name for item in items[:3])}{', ...' * (len(items) > 3)})",
            "rename the files, or give the tomograms it names",
        )  # fmt: skip
    counts["of tomograms not given"] = len(particles) - sum(len(rows) for _, rows in chosen)
    return chosen


def _kept(
    points: NDArray[np.float64], box: int, shape: tuple[int, int, int], border: str, counts: dict[str, int]
) -> NDArray[np.int64]:
    """Indices of the particles to cut; counts the others."""
    inside = inside_volume(points, shape)
    first = np.zeros(len(points), dtype=bool)
    first[np.unique(np.round(points / SAME_PLACE), axis=0, return_index=True)[1]] = True
    fits = np.array([box_fits(point, box, shape) for point in points], dtype=bool)
    counts["outside"] += int((~inside).sum())
    counts["twice"] += int((inside & ~first).sum())
    counts["at the border"] += int((inside & first & ~fits).sum())
    return np.flatnonzero(inside & first & (fits | (border == "pad")))


def _mean_density(tomogram: Tomogram) -> float:
    return float(np.mean([volume.header["statistics"].mean for volume in tomogram.volumes]))
