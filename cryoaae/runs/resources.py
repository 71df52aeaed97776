"""Devices, threads, memory and disk: asked for by name, checked before work starts."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cryoaae.errors import InputError, ResourceError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("cryoaae")

# What is tried to learn whether half precision is faster, how often, and by how much it must be.
PROBE_CHANNELS, PROBE_VOXELS, PROBES, PAYS = 32, 24, 4, 1.3


def choose_device(name: str = "auto") -> torch.device:
    """Return the device asked for: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.

    Raises
    ------
    InputError
        If it is unknown or not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("--device", f"'{name}' is not a device", "use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available():
            raise InputError("--device", f"'{name}' asked for, but no GPU is usable here", "use --device auto or cpu")
        if device.index is not None and device.index >= count:
            raise InputError("--device", f"'{name}' asked for, but there are {count} GPUs", "use a lower index")
    elif device.type != "cpu":
        raise InputError("--device", f"'{name}' is not supported", "use auto, cpu, cuda or cuda:0")
    return device


def choose_precision(name: str = "float32") -> torch.dtype:
    """Return the precision of a network's layers asked for: ``float32`` or ``bfloat16``.

    Raises
    ------
    InputError
        If it is neither.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise InputError("--precision", f"'{name}' is not a precision", f"use {' or '.join(known)}")
    return known[name]


@cache
def bfloat16_pays(device: torch.device) -> bool:
    """Whether convolutions at half precision are clearly faster there: on a CPU they are tried, for a moment.

    No public function tells; with matrix instructions for it (AMX) they take two fifths of the time, without any
    they take three times as long.
    """
    import torch

    if device.type != "cpu":
        return False  # not measured
    box = torch.ones(1, PROBE_CHANNELS, PROBE_VOXELS, PROBE_VOXELS, PROBE_VOXELS)
    box = box.contiguous(memory_format=torch.channels_last_3d)
    filters = torch.ones(PROBE_CHANNELS, PROBE_CHANNELS, 3, 3, 3)
    taken: dict[torch.dtype, float] = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            image, weight = box.to(dtype), filters.to(dtype)
            times = []
            for _ in range(PROBES):
                started = time.perf_counter()
                torch.nn.functional.conv3d(image, weight, padding=1)
                times.append(time.perf_counter() - started)
            taken[dtype] = min(times)
    return taken[torch.float32] > PAYS * taken[torch.bfloat16]


def set_threads(count: int | None) -> int:
    """Set the CPU threads of torch (None: leave its choice); return their number."""
    import torch

    if count is not None:
        if count < 1:
            raise InputError("--threads", f"{count} is not a number of threads", "give 1 or more")
        torch.set_num_threads(count)
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Let the process keep the memory that tensors give back, where the C library can be told to.

    Every step asks for the same large tensors again. glibc returns them to the system, and a fresh page
    costs more than the number written to it: a tenth to a fifth of a step.
    """
    mmap_threshold, trim_threshold, most = -3, -1, 2**31 - 1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, most)


def available_memory_bytes() -> int:
    """Memory that can be taken without swapping; respects a container's limit where it is told."""
    try:
        import psutil

        free = int(psutil.virtual_memory().available)
    except ImportError:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        # Files that were read count as used, but the system drops them when memory is asked for.
        taken = int(used.read_text()) - _reclaimable_bytes(limit.with_name("memory.stat"))
        free = min(free, max(0, int(text) - taken))
    return free


def _reclaimable_bytes(statistics: Path) -> int:
    """Bytes of cached files that a container may drop."""
    if not statistics.exists():
        return 0
    lines = (line.split() for line in statistics.read_text().splitlines())
    return sum(int(count) for name, count in lines if name in ("inactive_file", "slab_reclaimable"))


def preflight(memory_bytes: float, disk_bytes: float, folder: Path) -> None:
    """Refuse work that cannot fit.

    Raises
    ------
    ResourceError
        Naming what is needed and what there is.
    """
    free = available_memory_bytes()
    if memory_bytes > free:
        raise ResourceError(
            f"needs {memory_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
            "close other programs, use smaller tiles, or fewer tomograms together"
        )
    there = folder
    while not there.exists():
        there = there.parent
    disk = shutil.disk_usage(there).free
    if disk_bytes > disk:
        raise ResourceError(
            f"{folder}: needs {disk_bytes / 1e9:.1f} GB of disk, {disk / 1e9:.1f} GB are free; "
            "free some space or write elsewhere"
        )
