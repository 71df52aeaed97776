"""A restored half against the other raw half: what can be said without a truth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cryoaae.metrics.fsc import grouped_sums, region_masks, shell_count
from cryoaae.metrics.sectors import tapered
from cryoaae.physics.fourier import multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge


def cross_half_scores(
    raw: tuple[Tensor, Tensor], restored: tuple[Tensor, Tensor], wedge: MissingWedge
) -> dict[str, Any]:
    """Compare each restored half with the other raw half in the measured region.

    Parameters
    ----------
    raw, restored : pair of (z, y, x)
        Even and odd half, as measured and as restored.
    wedge : MissingWedge
        What was measured.

    Returns
    -------
    dict
        "curves": FSC by title; "ceiling": the square root of the raw half-map FSC, per shell;
        "bands": correlation up to Nyquist and its share of the ceiling.

    Notes
    -----
    With independent noise the correlation of f(even) with the raw odd half is that of f(even) with
    the structure, times the square root of the raw half-map FSC: its ceiling. Over many shells the
    structure's power is the cross power of the raw halves, so the share of the ceiling,
    ``<f, odd> / sqrt(<f, f> <even, odd>)``, estimates the correlation with the structure.
    """
    z, y, x = raw[0].shape
    shape = (int(z), int(y), int(x))
    shells = shell_count(shape)
    shell = (radius(shape, dtype=torch.float64) * 2 * shells).long().clamp(max=shells)
    group = torch.where(region_masks(shape, wedge)["seen"], shell, shells)
    weight = multiplicity(shape).double()
    spectra = [rfft(tapered(volume)) for volume in raw]
    between = grouped_sums(spectra[0], spectra[1], group, shells, weight)
    # Noise makes single shells negative; they say that nothing is common there.
    signal = float(between.cross.clamp(min=0).sum())
    curves: dict[str, list[float]] = {}
    bands = []
    for mine, (title, estimate) in enumerate(zip(("even", "odd"), restored, strict=True)):
        title = f"restored {title} half against raw {('odd', 'even')[mine]} half"
        sums = grouped_sums(rfft(tapered(estimate)), spectra[1 - mine], group, shells, weight)
        curves[title] = sums.correlation.tolist()
        cross, power = float(sums.cross.sum()), float(sums.power_a.sum())
        other = float(sums.power_b.sum())
        bands.append(
            {
                "title": title,
                "correlation": cross / math.sqrt(power * other) if power * other else math.nan,
                "share_of_ceiling": cross / math.sqrt(power * signal) if power * signal else math.nan,
            }
        )
    return {"curves": curves, "ceiling": between.correlation.clamp(min=0).sqrt().tolist(), "bands": bands}
