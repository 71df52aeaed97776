"""The network over a working grid of any size: tiles, batches, symmetries and running out of memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoaae.errors import ResourceError
from cryoaae.patches.tiling import Tile, TileGrid
from cryoaae.runs.resources import available_memory_bytes

CPU_SHARE, GPU_SHARE = 1 / 3, 0.5
# Large enough that halos cost a third, and not so large that others on the machine starve.
CPU_MOST, CPU_LEAST = 4 << 30, 512 << 20
MAX_BATCH = 8
# Input, output, and what is done to them outside the layers (a convolution by FFT), a voxel.
OTHER_BYTES = 80.0


def activation_bytes(model: nn.Module, *, multiple: int, device: torch.device) -> float:
    """Bytes per input voxel of one pass: what the model says, else the outputs of all layers together, and some."""
    stated: Any = getattr(model, "voxel_bytes", None)
    if stated is not None:
        return float(stated)
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
    share = min(CPU_MOST, max(CPU_LEAST, CPU_SHARE * available_memory_bytes()))
    # A power of two, so that the tiles, and with them the last digits, seldom depend on what else is running.
    return 2.0 ** math.floor(math.log2(share))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextmanager
def watched(model: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before every layer, so that what it raises stops a tile, which may take minutes, halfway."""
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, _inputs: check())
        for layer in model.modules()
        if not list(layer.children())
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class TileRunner:
    """Applies a network to a working grid, tile by tile.

    Parameters
    ----------
    function : callable
        (b, 1, z, y, x) -> (b, c, z, y, x).
    grid : TileGrid
    device : torch.device
    turns : tuple of axes to flip
        Half turns to average over, the identity among them; see `MissingWedge.half_turns`.
    advance : callable
        Called with the number of working voxels done, after each turn of a batch; may raise to stop.
    precision : torch.dtype
        Of the layers; at ``bfloat16`` results depend on tiles by some thousandths of the density's deviation.

    Notes
    -----
    While the network sees one batch, a thread reads the next and another adds the last to the result. When memory
    runs out, the batch is halved, then the tile; the result stays the same.
    """

    function: Callable[[Tensor], Tensor]
    grid: TileGrid
    device: torch.device
    turns: tuple[tuple[int, ...], ...]
    advance: Callable[[float], None]
    precision: torch.dtype = torch.float32
    seconds: float = field(default=0.0, init=False)

    def run(
        self,
        source: NDArray[np.float32],
        targets: Sequence[NDArray[np.float32]],
        tiles: list[Tile],
        *,
        batch: int,
        weight: float,
    ) -> None:
        """Add `weight` times the channels of the network's output to as many `targets` (z, y, x)."""
        alike = [list(group) for _, group in groupby(tiles, key=lambda tile: tile.read_shape)]
        batches = [group[start : start + batch] for group in alike for start in range(0, len(group), batch)]
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            ahead = reader.submit(self._read, source, batches[0])
            behind: Future[None] | None = None
            for index, some in enumerate(batches):
                stack = ahead.result()
                if index + 1 < len(batches):
                    ahead = reader.submit(self._read, source, batches[index + 1])
                for part, outputs in self._made(source, some, stack):
                    if behind is not None:
                        behind.result()
                    behind = writer.submit(_add, targets, part, outputs, weight)
            if behind is not None:
                behind.result()

    def _read(self, source: NDArray[np.float32], tiles: Sequence[Tile]) -> Tensor:
        """What tiles read, (b, 1, z, y, x), on the host."""
        stack = torch.from_numpy(np.stack([source[tile.read_slices] for tile in tiles])[:, None])
        return stack.pin_memory() if self.device.type == "cuda" else stack

    def _made(
        self, source: NDArray[np.float32], tiles: list[Tile], stack: Tensor
    ) -> Iterator[tuple[list[Tile], NDArray[np.float32]]]:
        """Tiles and what the network makes of them, in smaller parts where memory runs out."""
        try:
            outputs = self._forward(stack, sum(tile.core_voxels for tile in tiles))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            outputs = None  # leave the handler first: its traceback keeps the tensors alive
        if outputs is not None:
            yield tiles, outputs
            return
        del stack
        for part in self._smaller(tiles):
            yield from self._made(source, part, self._read(source, part))

    def _smaller(self, tiles: list[Tile]) -> list[list[Tile]]:
        """Half the batch, or the tile cut in two."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(tiles) // 2
        parts = [tiles[:half], tiles[half:]] if half else [[part] for part in self.grid.split(tiles[0])]
        if len(parts) == 1:
            raise ResourceError(f"a tile of {tiles[0].read_shape} working voxels does not fit in memory")
        return parts

    def _forward(self, stack: Tensor, core_voxels: int) -> NDArray[np.float32]:
        start = time.perf_counter()
        lower = torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)
        with torch.inference_mode(), lower:
            batch, total = stack.to(self.device, non_blocking=True), torch.zeros((), device=self.device)
            for axes in self.turns:
                total = total + (self.function(batch.flip(axes)).flip(axes) if axes else self.function(batch))
                self.advance(core_voxels / len(self.turns))
            out: NDArray[np.float32] = (total / len(self.turns)).float().cpu().numpy()
        self.seconds += time.perf_counter() - start
        return out


def _add(
    targets: Sequence[NDArray[np.float32]], tiles: list[Tile], outputs: NDArray[np.float32], weight: float
) -> None:
    """Add the cores of tiles to the results."""
    for tile, channels in zip(tiles, outputs, strict=True):
        for target, output in zip(targets, channels, strict=True):
            target[tile.core_slices] += weight * output[tile.inner_slices]
