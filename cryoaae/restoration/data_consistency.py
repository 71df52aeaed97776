"""Where the data speak for themselves the network has no say: its residual is damped there.

A restorer writes L + R, a linear estimate and what a network adds to it. Where nothing was measured R is all there is.
Where the signal was measured far above the noise, L errs by a share 1 - w of the signal's power (w = S / (S + N), the
Wiener filter), which is soon less than the error that R itself brings. So coefficients become

    L + (1 - m w^p) R

with m = 1 where something was measured, else 0 (`docs/decisions/0042-the-network-yields-to-the-data.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.patches.spectra import interpolate
from cryoaae.physics.streamed import radius_of_rows
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import Check, Response, filter_in_place

# p: chosen on simulations of structures and seeds that are not reported on.
POWER = 10.0
# Coefficients less deep in the measured region, in Fourier voxels of the tomogram, are left to the network.
MEASURED_DEPTH = -1.0
SHELLS = 256

Estimator = Callable[[Tensor], Tensor]


def estimator(model: Any, halves: int) -> tuple[Estimator, Tensor | None]:
    """What tiles are restored by, and the Wiener filter of its linear part.

    Parameters
    ----------
    model : Restorer or callable
    halves : int
        How many volumes are restored and averaged.

    Returns
    -------
    callable
        (b, 1, z, y, x) -> (b, 2, z, y, x), linear part and residual; or (b, 1, z, y, x), the estimate whole.
    (k, k, k), optional
        Kernel of the filter; None where the estimate is whole.
    """
    # The mean of two halves is less noisy than a half, and the model may know by how much.
    mean = halves == 2
    if getattr(getattr(model, "network", None), "adds_to_linear", False):
        return (model.mean_in_parts, model.wiener_mean) if mean else (model.in_parts, model.wiener)
    return (model.restore if mean and hasattr(model, "restore") else model), None


def wiener_curve(kernel: Tensor) -> Tensor:
    """Wiener filter by shell up to Nyquist, (shells,) float64 in [0, 1], of a radial kernel (k, k, k)."""
    line = kernel.detach().double().cpu().sum(dim=(0, 1))
    place = torch.arange(len(line), dtype=torch.float64) - len(line) // 2
    freq = (torch.arange(SHELLS, dtype=torch.float64) + 0.5) / SHELLS / 2
    return (torch.cos(2 * torch.pi * freq[:, None] * place) @ line).clamp(0, 1)


def kept_share(
    wiener: Tensor,
    wedge: MissingWedge,
    shape_zyx: Sequence[int],
    *,
    object_zyx: Sequence[int] | None = None,
    hidden: Tensor | None = None,
) -> Response:
    """Share of the residual that stays, 1 - m w^p, by rows.

    Parameters
    ----------
    wiener : (k, k, k)
        Kernel of the Wiener filter w.
    wedge : MissingWedge
        What lies between its tilts counts as measured.
    shape_zyx, object_zyx : sequence of int
        Box, and tomogram in it, as for `MissingWedge.depth`.
    hidden : (z, y, x // 2 + 1) bool, optional
        Coefficients that count as not measured.
    """
    stays, solid = wiener_curve(wiener) ** POWER, wedge.solid()

    def of_rows(rows: slice) -> Tensor:
        freq = radius_of_rows(shape_zyx, rows.start, rows.stop - rows.start)
        measured = solid.depth(shape_zyx, object_zyx=object_zyx, rows=rows) < MEASURED_DEPTH
        if hidden is not None:
            measured &= ~hidden[:, rows]
        return 1 - measured * interpolate(stays, (freq * 2).double().clamp(max=1.0)).float()

    return of_rows


def put_together(
    parts: Sequence[NDArray[np.float32]], share: Response | None, *, scratch: Scratch, check: Check
) -> NDArray[np.float32]:
    """The estimate of its parts (z, y, x), each on a periodic grid; they are used up.

    Parameters
    ----------
    parts : sequence of (z, y, x)
        Linear part and residual, or the estimate alone.
    share : callable, optional
        Of `kept_share`; without one the residual stays as it is.
    """
    estimate, *residuals = parts
    for residual in residuals:
        if share is not None:
            filter_in_place(residual, share, scratch=scratch, check=check)
        for z in range(len(estimate)):
            estimate[z] += residual[z]
    return estimate
