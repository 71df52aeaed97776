"""What draws say, as plain data, and the report that says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoaae.io.atomic import write_bytes, write_text
from cryoaae.nets.error_size import smoothed
from cryoaae.patches.normalise import Normalisation
from cryoaae.physics.fourier import multiplicity, rfft
from cryoaae.restoration.draw_store import principal_modes, root_mean_square, weighted_sum
from cryoaae.restoration.draw_volumes import DrawVolumes
from cryoaae.restoration.held_out import SHELL_EDGES, SHELLS, sums_by_shell
from cryoaae.restoration.null_tests import REGIONS, regions
from cryoaae.restoration.placement import WINDOW_SIGMA
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

FORMAT = "cryoaae sample 1"
# Modes that the report shows.
SHOWN = 3


def facts_of_draws(volumes: DrawVolumes, count: int, mean: Volume) -> dict[str, Any]:
    """Spread of the first `count` draws: over all, by region, and by region and shell."""
    from cryoaae import __version__

    tomogram, like = volumes.tomogram, volumes.like
    draws = volumes.store.read_all(count)
    power = torch.zeros(())
    for draw in draws:
        power = power + rfft(volumes.continued(draw)).abs().square().double() / count
    spread = _by_region(tomogram, power)
    restored = _by_region(tomogram, rfft(volumes.estimate).abs().square().double())
    whole = float(spread["all"].sum())
    rms = float(np.sqrt(np.mean([np.mean(np.square(d, dtype=np.float64)) for d in draws])))
    return {
        "version": __version__,
        "shape_zyx": list(like.shape),
        "voxel_size_angstrom": like.voxel_size_angstrom,
        "working_voxel_angstrom": tomogram.voxel_size_angstrom,
        "wedge": tomogram.wedge.facts(),
        "spread_rms": rms * tomogram.normalisation.scale,
        "finer_share": _finer_share(volumes, mean),
        "regions": {
            name: {
                "share_of_spread": float(spread[name].sum()) / whole if whole > 0 else float("nan"),
                "over_restoration": _ratio(float(spread[name].sum()), float(restored[name].sum())),
            }
            for name in REGIONS
        },
        "shells": [
            {
                "low_per_angstrom": SHELL_EDGES[i] / tomogram.voxel_size_angstrom,
                "high_per_angstrom": SHELL_EDGES[i + 1] / tomogram.voxel_size_angstrom,
                **{name: _ratio(float(spread[name][i]), float(restored[name][i])) for name in REGIONS},
            }
            for i in range(SHELLS)
        ],
    }


def _ratio(spread: float, restored: float) -> float:
    """Root mean square of the spread over that of the restoration."""
    return (spread / restored) ** 0.5 if restored > 0 else float("nan")


def _by_region(tomogram: WorkingTomogram, power: Tensor) -> dict[str, Tensor]:
    """Sums by shell, (SHELLS,) each, where measured, in the wedge, and of everything."""
    masks = regions(tomogram)
    masks["all"] = torch.ones_like(masks[REGIONS[0]])
    weighted = power * multiplicity(tomogram.shape)
    return {name: sums_by_shell(weighted, mask, tomogram.shape) for name, mask in masks.items()}


def _finer_share(volumes: DrawVolumes, mean: Volume) -> float:
    """Share of the restoration's variance that the working grid, and so the draws, know nothing of."""
    scale = Normalisation(0.0, volumes.tomogram.normalisation.scale)
    coarse = volumes.own_grid(volumes.estimate, scale)
    level = float(np.mean(mean.data, dtype=np.float64))
    finer = total = offset = 0.0
    for z, plane in enumerate(coarse):
        restored = mean.data[z].astype(np.float64) - level
        rest = restored - plane
        finer, total, offset = finer + (rest**2).sum(), total + (restored**2).sum(), offset + rest.sum()
    # Of the rest the constant belongs to the two levels, not to detail.
    return float((finer - offset**2 / coarse.size) / total) if total > 0 else 0.0


def write_report(result: dict[str, Any], volumes: DrawVolumes, folder: Path) -> dict[str, Any]:
    """Write report.html, its figures and, last, report.json; return the result."""
    from cryoaae.reports.sampling_figures import sampling_figures
    from cryoaae.reports.sampling_page import sampling_report

    draws = volumes.store.read_all(result["draws"])
    figures = sampling_figures(result, panels(volumes, result["draws"]), mode_panels(draws, len(result["modes"])))
    for name, data in figures.items():
        write_bytes(folder / f"{name}.png", data)
    write_text(folder / "report.html", sampling_report(result, figures).render())
    write_text(folder / "report.json", json.dumps(result, indent=1) + "\n")
    return result


def panels(volumes: DrawVolumes, count: int) -> list[tuple[str, Any]]:
    """Measured only, filled in only, restored, spread: working voxels in the tomogram."""
    tomogram = volumes.tomogram
    measured = tomogram.wedge.solid().measured(volumes.estimate)
    spread = smoothed(volumes.continued(root_mean_square(volumes.store.read_all(count))).square(), WINDOW_SIGMA)
    shown = (
        ("Measured only", measured), ("Filled in only", volumes.estimate - measured),
        ("Restored", volumes.estimate), ("Spread", spread.clamp(min=0.0).sqrt()),
    )  # fmt: skip
    return [(title, volume[tomogram.core].numpy()) for title, volume in shown]


def mode_panels(draws: list[Any], count: int) -> list[tuple[str, Any]]:
    """The strongest modes on the working grid."""
    shares, weights = principal_modes(draws)
    return [
        (f"Mode {i + 1} ({100 * shares[i]:.0f} %)", weighted_sum(draws, weights[i])) for i in range(min(count, SHOWN))
    ]
