"""The work of restoring one tomogram: planned first, then done from arrays to arrays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.patches.contrast import Gain, gain_on_grid
from cryoaae.patches.normalise import Normalisation, shared_normalisation
from cryoaae.patches.tiling import TileGrid
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.contrast import Transfers, Undoing, transfer_of
from cryoaae.restoration.data_consistency import estimator, kept_share, put_together
from cryoaae.restoration.detail import add_detail, detail_kernel
from cryoaae.restoration.keep_measured import keep_measured_bytes, keep_measured_in_place
from cryoaae.restoration.network import (
    MAX_BATCH,
    TileRunner,
    activation_bytes,
    memory_budget,
    watched,
)
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import Frame, from_working, mean_into_first, to_working
from cryoaae.runs.progress import Progress
from cryoaae.runs.resources import choose_device, choose_precision
from cryoaae.volume import Volume

# Density shown to the network beyond each face of the volume, at least, in working voxels.
FACE_PAD = 12
# Interpreter, libraries, and the chunks that the passes hold.
FIXED_BYTES = 500 << 20


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore; what matters for the result first, then how the work is done.

    Parameters
    ----------
    halves : bool
        Keep the two restored halves as well as their mean.
    keep_measured : bool
        Put the measured Fourier coefficients of the input back.
    symmetries : bool
        Mean over the half turns that keep the wedge (up to four, and as many times the work).
    contrast_transfer : ContrastTransfer or mapping, optional
        What the microscope did to the contrast, to be undone; where it differs, by the tomogram's name.
    allow_scale : bool
        Accept a voxel size that differs from the one the model was fitted on.
    precision : str
        Of the network's layers: ``float32``, or ``bfloat16``, which some processors are much faster at; the result
        differs by some thousandths of its deviation (`docs/speed.md`).
    device : str
        ``auto``, ``cpu`` or ``cuda[:i]``.
    tile : (z, y, x), optional
        Core of a tile in working voxels; multiples of the model's. Default: by memory.
    tile_shift : int
        Shift of the tile grid in working voxels; the result must not depend on it.
    memory_bytes : float, optional
        What one batch of tiles may take. Default: by device.
    """

    halves: bool = False
    keep_measured: bool = False
    symmetries: bool = False
    contrast_transfer: Transfers | None = None
    allow_scale: bool = False
    precision: str = "float32"
    device: str = "auto"
    tile: tuple[int, int, int] | None = None
    tile_shift: int = 0
    memory_bytes: float | None = None


@dataclass
class Outputs:
    """Where the densities go, each (z, y, x): the mean, and the halves where asked for."""

    mean: NDArray[Any]
    halves: list[NDArray[Any]] = field(default_factory=list)


class _Reporter:
    """Translates working voxels of all passes into voxels of the tomogram, and cancels."""

    def __init__(self, progress: Progress, voxels: int, working_voxels: int) -> None:
        self.progress, self.factor, self.done = progress, voxels / working_voxels, 0.0
        self.start = time.perf_counter()

    def check(self) -> None:
        if self.progress.cancelled():
            raise InterruptedRunError("restoring was stopped; nothing was written")

    def advance(self, working_voxels: float) -> None:
        self.check()
        amount = working_voxels * self.factor
        self.done += amount
        self.progress.advance(amount, voxels_per_second=self.done / (time.perf_counter() - self.start))


@dataclass(frozen=True)
class Plan:
    """A restoration worked out before it starts: geometry, tiles and what it needs.

    Parameters
    ----------
    memory_bytes, disk_bytes : float
        What it will take, outputs not counted.
    voxel_budget : float
        Most working voxels that one pass of the network may see.
    """

    frame: Frame
    grid: TileGrid
    tile: tuple[int, int, int]
    batch: int
    device: torch.device
    memory_bytes: float
    disk_bytes: float
    voxel_budget: float
    precision: torch.dtype


def plan_restoration(
    shape_zyx: tuple[int, int, int], model: Any, options: RestoreOptions, *, face_pad: int = FACE_PAD
) -> Plan:
    """Choose tiles by the memory at hand and add up what restoring a (z, y, x) tomogram takes."""
    device, precision = choose_device(options.device), choose_precision(options.precision)
    model.to(device).eval()
    multiple = int(model.multiple)
    frame = Frame.plan(shape_zyx, working_bin=int(model.spec.working_bin), multiple=multiple, pad=face_pad)
    grid = TileGrid(frame.working_zyx, int(model.halo), multiple)
    budget = options.memory_bytes or memory_budget(device)
    voxel_bytes = activation_bytes(model, multiple=multiple, device=device)
    tile = options.tile or grid.choose_core(budget / voxel_bytes)
    batch = (
        1
        if device.type == "cpu"
        else max(1, min(MAX_BATCH, int(budget / voxel_bytes / grid.read_voxels(tile))))
    )
    on_host = voxel_bytes * grid.read_voxels(tile) if device.type == "cpu" else 0.0
    merge = keep_measured_bytes(shape_zyx) if options.keep_measured else 0
    memory = FIXED_BYTES + max(on_host, merge)
    disk = frame.scratch_bytes(4 if options.halves else 2)
    return Plan(frame, grid, tile, batch, device, memory, disk, budget / voxel_bytes, precision)


def restore_volumes(
    volumes: Sequence[Volume],
    outputs: Outputs,
    model: Any,
    plan: Plan,
    options: RestoreOptions,
    *,
    wedge: MissingWedge | None,
    scratch: Scratch,
    progress: Progress,
    normalisation: Normalisation | None = None,
) -> tuple[float, float]:
    """Restore the halves (or the single volume) of one tomogram into arrays.

    The normalisation is measured on them, unless one is given.

    Returns
    -------
    (float, float)
        Seconds in all and seconds in the network.
    """
    start = time.perf_counter()
    working = int(np.prod(plan.frame.working_zyx)) * len(volumes)
    reporter = _Reporter(progress, int(np.prod(volumes[0].shape)), working)
    if normalisation is None:
        share = float(getattr(getattr(model, "spec", None), "noise_share", 0.0))
        normalisation = shared_normalisation(volumes, plan.frame.working_bin, noise_share=share)
    tiles = plan.grid.tiles(plan.tile, shift=options.tile_shift)
    function, wiener = estimator(model, len(volumes))
    turns = wedge.half_turns() if options.symmetries and wedge is not None else ((),)
    runner = TileRunner(function, plan.grid, plan.device, turns, reporter.advance, plan.precision)
    keep = bool(outputs.halves)
    channels = 1 if wiener is None else 2
    parts = [
        [scratch.array(plan.frame.working_zyx) for _ in range(channels)] for _ in (volumes if keep else volumes[:1])
    ]
    transfer, voxel = transfer_of(options.contrast_transfer, volumes[0].name), volumes[0].voxel_size_angstrom
    undoing = Undoing.of(transfer, model, plan.frame.working_bin * voxel)
    for index, volume in enumerate(volumes):
        source = to_working(volume, plan.frame, normalisation, scratch=scratch, check=reporter.check)
        if undoing is not None:
            undoing.before(source, scratch=scratch, check=reporter.check)
        targets, weight = (parts[index], 1.0) if keep else (parts[0], 1.0 / len(volumes))
        with watched(model, reporter.check):
            runner.run(source, targets, tiles, batch=plan.batch, weight=weight)
        del source
    stays = None
    if wiener is not None and wedge is not None:
        stays = kept_share(wiener, wedge, plan.frame.working_zyx, object_zyx=plan.frame.object_zyx)
    estimates = [put_together(own, stays, scratch=scratch, check=reporter.check) for own in parts]
    if undoing is not None:
        for estimate in estimates:
            undoing.after(estimate, scratch=scratch, check=reporter.check)
    for estimate, output in zip(estimates, outputs.halves, strict=False):
        from_working(estimate, output, plan.frame, normalisation, scratch=scratch, check=reporter.check)
    if keep:
        mean_into_first(estimates)
    from_working(estimates[0], outputs.mean, plan.frame, normalisation, scratch=scratch, check=reporter.check)
    gain = None if transfer is None else gain_on_grid(transfer, voxel)
    fine = getattr(model, "fine", None)
    kernel = None if fine is None else detail_kernel(fine, plan.frame.working_bin, gain)
    if kernel is not None:
        add_detail(outputs.mean, outputs.halves, volumes, kernel, check=reporter.check)
    if options.keep_measured:
        _put_back(outputs, volumes, wedge, gain)
    return time.perf_counter() - start, runner.seconds


def _put_back(
    outputs: Outputs, volumes: Sequence[Volume], wedge: MissingWedge | None, gain: Gain | None
) -> None:
    """Put the measured coefficients back, in the contrast of the outputs."""
    if wedge is None:
        raise InputError("keep_measured", "needs the wedge", "give the tilts or the tilt range")
    keep_measured_in_place(outputs.mean, volumes, wedge, gain)
    for output, volume in zip(outputs.halves, volumes, strict=False):
        keep_measured_in_place(output, [volume], wedge, gain)
