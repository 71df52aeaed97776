"""Judge a restoration: against a truth beside every null, or against the other raw half."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_bytes, write_text
from cryoaae.io.particle_files import read_particles
from cryoaae.io.particles import voxel_points_zyx
from cryoaae.metrics.cross_half import cross_half_scores
from cryoaae.metrics.fsc import BANDS, Scorer, shell_count
from cryoaae.metrics.nulls import NullInput, available_nulls
from cryoaae.metrics.particles import ParticleScorer
from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.evaluation import evaluation_figures, evaluation_report
from cryoaae.restoration.plain import plain
from cryoaae.restoration.scored_volumes import Block, ScoredVolumes, Source, as_volume, read_scored
from cryoaae.restoration.scored_words import best_null, particle_sentence, verdict
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.volume import DENSITY_SIGN

# Draws the structureless density that particles' thresholds are read from: the same for every evaluation.
PARTICLE_SEED = 0
TITLES = {
    "restored": "Restored",
    "oracle": "Noise-free, wedge empty (oracle)",
}


def evaluate(
    restored: Source,
    *,
    wedge: MissingWedge,
    truth: Source | None = None,
    even: Source | None = None,
    odd: Source | None = None,
    single: Source | None = None,
    halves: tuple[Source, Source] | None = None,
    truth_structure: Source | None = None,
    truth_background: Source | None = None,
    noiseless: Source | None = None,
    particles: Path | str | None = None,
    baselines: bool = True,
    density: str = "auto",
    voxel_size_angstrom: float | None = None,
    block_zyx: Block | None = None,
    output: Path | str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a restoration and, with `output`, write evaluation.json, report.html and PNGs there.

    Parameters
    ----------
    restored : path, Volume or array (z, y, x)
        The restoration. For a path X.mrc, restored halves X_even.mrc and X_odd.mrc are found beside it.
    wedge : MissingWedge
        What was measured; regions follow the ends of its range.
    truth : path, Volume or array, optional
        The true density. Beside a file truth.mrc the files truth_structure.mrc, truth_background.mrc
        and noiseless.mrc are found.
    even, odd, single : path, Volume or array, optional
        What the restoration was made from: the raw halves, or the single tomogram.
    halves : pair, optional
        The restorations of the even and of the odd half.
    truth_structure, truth_background : optional
        Parts of the truth, each scored as well: a random background cannot be predicted in the wedge.
    noiseless : optional
        The noise-free reconstruction with its wedge, for the oracle's row.
    particles : path, optional
        List of the truth's particles (STAR, Dynamo table or CSV): counts those that were lost, and
        peaks where the truth is empty (`metrics.particles`).
    baselines : bool
        Whether to compute the nulls (clip and put back takes longest).
    density : str
        "bright", "dark" or "auto": whether structure is brighter than the background (for the clip).
    voxel_size_angstrom : float, optional
        Overrides what the files say.
    block_zyx : three slices, optional
        Part of the volume to score, for instance a slab that was kept out of fitting.
    output : path, optional
        Folder to write to; made if needed.
    progress : Progress, optional
        Told of every volume scored.

    Returns
    -------
    dict
        Plain data. "rows": restored first, nulls, oracle last (see `metrics.fsc.Scorer.score`);
        "structure", "background": the same rows against these parts; "halves": restored half against
        the other raw half with its ceiling; "particles": what was fixed before particles were counted
        (each row has its counts under the same name); "beats_best_null_in_wedge": bool, or None without a
        truth or nulls; "verdict", "sentences": for people.

    Raises
    ------
    InputError
        A file cannot be read, shapes or voxel sizes disagree, or there is nothing to compare with.
    """
    if density not in DENSITY_SIGN:
        raise InputError("--density", f"{density!r} is none of {', '.join(DENSITY_SIGN)}")
    if particles is not None and truth is None:
        raise InputError("--particles", "particles are looked for in a truth, and there is none", "give --truth")
    sources: dict[str, Source | None] = {
        "truth": truth, "even": even, "odd": odd, "single": single,
        "structure": truth_structure, "background": truth_background, "oracle": noiseless,
    }  # fmt: skip
    volumes = read_scored(restored, sources, halves, voxel_size_angstrom=voxel_size_angstrom, block_zyx=block_zyx)
    result = _header(volumes, wedge, restored)
    progress = progress or NullProgress()
    if "truth" in volumes.others:
        counter = None
        if particles is not None:
            whole_zyx = as_volume(restored, voxel_size_angstrom).shape
            # As for the nulls: the skewness tells the contrast if nobody does.
            sign = NullInput(volumes.others["truth"], wedge, density_sign=DENSITY_SIGN[density]).sign
            counter = _particle_scorer(volumes, particles, whole_zyx, block_zyx, sign)
            result["particles"] = counter.facts
        result |= _against_truth(volumes, wedge, baselines, DENSITY_SIGN[density], counter, progress)
    if {"restored_even", "restored_odd", "even", "odd"} <= volumes.others.keys():
        result["halves"] = _against_other_half(volumes, wedge, block_zyx is not None)
    result["verdict"] = verdict(result)
    if output is not None:
        _write(result, volumes, wedge, Path(output))
    return plain(result)


def _header(volumes: ScoredVolumes, wedge: MissingWedge, restored: Source) -> dict[str, Any]:
    try:
        ours = version("cryoaae")
    except PackageNotFoundError:  # a source tree on the path, not installed
        ours = "unknown"
    return {
        "format": "cryoaae evaluation 1",
        "version": ours,
        "name": volumes.name,
        "restored": str(restored) if isinstance(restored, (str, Path)) else None,
        "shape_zyx": list(volumes.restored.shape),
        "voxel_size_angstrom": volumes.voxel_size_angstrom,
        "wedge": {
            "tilt_range_deg": list(wedge.tilt_range_deg),
            "tilt_axis_deg": wedge.tilt_axis_deg,
            "flipped": wedge.flipped,
            "tilts": len(wedge.tilts_deg or ()),
        },
        "bands_cycles_per_voxel": {name: list(band) for name, band in BANDS.items()},
        "beats_best_null_in_wedge": None,
        "best_null_in_wedge": None,
        "sentences": [],
        "sfreq_per_angstrom": [
            (i + 0.5) * 0.5 / shells / volumes.voxel_size_angstrom
            for shells in [shell_count(_shape(volumes.restored))]
            for i in range(shells)
        ],
    }


def _shape(volume: Tensor) -> tuple[int, int, int]:
    z, y, x = volume.shape
    return int(z), int(y), int(x)


# -- with a truth ---------------------------------------------------------------------------------


def _candidates(
    volumes: ScoredVolumes, wedge: MissingWedge, baselines: bool, sign: float
) -> Iterator[tuple[str, str, str, Tensor]]:
    """Yield (kind, name, title, volume) of every row of the table, one volume at a time."""
    yield "restored", "restored", TITLES["restored"], volumes.restored
    before = volumes.before
    if baselines and before is not None:
        inputs = NullInput(before, wedge, volumes.get("even"), volumes.get("odd"), sign)
        for null in available_nulls(inputs):
            yield "null", null.name, null.title, null.compute(inputs)
    oracle = volumes.get("oracle")
    if oracle is not None:
        yield "oracle", "oracle", TITLES["oracle"], oracle


def _particle_scorer(
    volumes: ScoredVolumes, path: Path | str, whole_zyx: tuple[int, int, int], block: Block | None, sign: float
) -> ParticleScorer:
    """Read a list of particles of the whole volume and prepare to count those in the part that is scored."""
    listed = read_particles(path)
    rows = np.arange(len(listed))
    points = voxel_points_zyx(listed, rows, whole_zyx, volumes.voxel_size_angstrom, "the truth")
    start = [s.indices(n)[0] for s, n in zip(block or (slice(None),) * 3, whole_zyx, strict=True)]
    generator = torch.Generator().manual_seed(PARTICLE_SEED)
    try:
        return ParticleScorer(
            volumes.others["truth"], points - start, listed.classes, generator=generator, sign=sign
        )
    except ValueError as error:
        raise InputError(path, str(error), "give the list of this tomogram") from error


def _against_truth(
    volumes: ScoredVolumes,
    wedge: MissingWedge,
    baselines: bool,
    sign: float,
    counter: ParticleScorer | None,
    progress: Progress,
) -> dict[str, Any]:
    parts = {"rows": "truth", "structure": "structure", "background": "background"}
    scorers = {
        table: Scorer(volumes.others[key], wedge, volumes.voxel_size_angstrom)
        for table, key in parts.items()
        if key in volumes.others
    }
    tables: dict[str, Any] = {table: [] for table in scorers}
    progress.start("evaluating", None, "volumes")
    try:
        for kind, name, title, volume in _candidates(volumes, wedge, baselines, sign):
            progress.check()
            for table, scorer in scorers.items():
                tables[table].append({"kind": kind, "name": name, "title": title, **scorer.score(volume)})
            if counter is not None:
                tables["rows"][-1]["particles"] = counter.score(volume)
            progress.advance(1, scored=title)
    finally:
        progress.finish()
    best = best_null(tables["rows"])
    if counter is not None:
        best["sentences"].append(particle_sentence(tables["rows"], counter.facts))
    return tables | best


# -- without a truth ------------------------------------------------------------------------------


def _against_other_half(volumes: ScoredVolumes, wedge: MissingWedge, is_block: bool) -> dict[str, Any]:
    all_of = volumes.others
    raw, restored = (all_of["even"], all_of["odd"]), (all_of["restored_even"], all_of["restored_odd"])
    scores = cross_half_scores(raw, restored, wedge)
    share = sum(band["share_of_ceiling"] for band in scores["bands"]) / 2
    where = "a block that was scored apart" if is_block else "the whole volume"
    estimate = (
        f"Measured over {where}: estimated correlation of a restored half with the structure {share:.3f}, "
        "in the measured region only."
    )
    caution = (
        "A network fitted on this very volume has seen both halves: for an honest number score a block "
        "that was kept out of fitting. What lies in the missing wedge cannot be judged this way."
    )
    return {**scores, "sentences": [estimate, caution]}


def _write(result: dict[str, Any], volumes: ScoredVolumes, wedge: MissingWedge, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    panels = [("Before", volumes.before), ("Restored", volumes.restored), ("Truth", volumes.get("truth"))]
    figures = evaluation_figures(result, [(t, v.numpy()) for t, v in panels if v is not None], wedge)
    for name, content in figures.items():
        write_bytes(folder / f"{name}.png", content)
    write_text(folder / "report.html", evaluation_report(result, figures).render())
    write_text(folder / "evaluation.json", json.dumps(plain(result), indent=1, allow_nan=False) + "\n")
