"""Run a command of cryoaae until the first tile is restored, and print how long that took since the process began.

    first_tile.py restore ...

Used by benchmark_speed.py; loads nothing that the command would not load.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import psutil

from cryoaae.cli import main
from cryoaae.restoration import network


def added(*_arguments: Any) -> None:
    """In place of adding a tile to the result, all its turns done."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"monai", "lightning", "lightning_fabric"})
    seconds = {"seconds": time.time() - psutil.Process().create_time(), "cpu_seconds": used.ru_utime + used.ru_stime}
    print(json.dumps({**seconds, "loaded": loaded}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    network._add = added
    main()
