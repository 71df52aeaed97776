"""The network over a working grid of any size: tiles, batches, symmetries and running out of memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoaae.errors import ResourceError
from cryoaae.patches.tiling import Tile, TileGrid

CPU_BYTES = 600 << 20
GPU_SHARE = 0.5
MAX_BATCH = 8
# Input, output, and what is done to them outside the layers (a convolution by FFT), a voxel.
OTHER_BYTES = 80.0


def activation_bytes(model: nn.Module, *, multiple: int, device: torch.device) -> float:
    """Bytes per input voxel of one pass: the outputs of all layers together, and some."""
    total = 0

    def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    edge = multiple * math.ceil(16 / multiple)
    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 1, edge, edge, edge, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return OTHER_BYTES + total / edge**3


def memory_budget(device: torch.device) -> float:
    """Bytes that one batch of tiles may take on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return GPU_SHARE * free
    return float(CPU_BYTES)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@dataclass
class TileRunner:
    """Applies a network to a working grid, tile by tile.

    Parameters
    ----------
    function : callable
        (b, 1, z, y, x) -> the same shape.
    grid : TileGrid
    device : torch.device
    turns : tuple of axes to flip
        Half turns to average over, the identity among them; see `MissingWedge.half_turns`.
    advance : callable
        Called with the number of working voxels done, after each batch; may raise to stop.

    Notes
    -----
    When memory runs out, the batch is halved, then the tile; the result stays the same.
    """

    function: Callable[[Tensor], Tensor]
    grid: TileGrid
    device: torch.device
    turns: tuple[tuple[int, ...], ...]
    advance: Callable[[int], None]
    seconds: float = field(default=0.0, init=False)

    def run(
        self,
        source: NDArray[np.float32],
        target: NDArray[np.float32],
        tiles: list[Tile],
        *,
        batch: int,
        weight: float,
    ) -> None:
        """Add `weight` times the network's output to `target` (z, y, x)."""
        for _, group in groupby(tiles, key=lambda tile: tile.read_shape):
            alike = list(group)
            for start in range(0, len(alike), batch):
                self._batch(source, target, alike[start : start + batch], weight)

    def _batch(
        self, source: NDArray[np.float32], target: NDArray[np.float32], tiles: list[Tile], weight: float
    ) -> None:
        try:
            outputs = self._forward(source, tiles)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            outputs = None  # leave the handler first: its traceback keeps the tensors alive
        if outputs is None:
            self._smaller(source, target, tiles, weight)
            return
        for tile, output in zip(tiles, outputs, strict=True):
            target[tile.core_slices] += weight * output[tile.inner_slices]
        self.advance(sum(tile.core_voxels for tile in tiles))

    def _smaller(
        self, source: NDArray[np.float32], target: NDArray[np.float32], tiles: list[Tile], weight: float
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(tiles) // 2
        parts = [tiles[:half], tiles[half:]] if half else [[part] for part in self.grid.split(tiles[0])]
        if len(parts) == 1:
            raise ResourceError(f"a tile of {tiles[0].read_shape} working voxels does not fit in memory")
        for part in parts:
            self._batch(source, target, part, weight)

    def _forward(self, source: NDArray[np.float32], tiles: list[Tile]) -> NDArray[np.float32]:
        start = time.perf_counter()
        stack = np.stack([source[tile.read_slices] for tile in tiles])[:, None]
        with torch.inference_mode():
            batch = torch.from_numpy(stack).to(self.device)
            total = torch.zeros_like(batch)
            for axes in self.turns:
                total += self.function(batch.flip(axes)).flip(axes) if axes else self.function(batch)
            out: NDArray[np.float32] = (total / len(self.turns))[:, 0].float().cpu().numpy()
        self.seconds += time.perf_counter() - start
        return out
