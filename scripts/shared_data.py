"""Where benchmarks find the public data: a folder that an option names, or the one that CRYOAAE_DATA does."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def shared(parser: argparse.ArgumentParser, option: str, given: Path | None, below: str = "") -> Path:
    """What was given for an option, or else `below` of the shared folder; an error where neither is known."""
    if given is None and "CRYOAAE_DATA" not in os.environ:
        parser.error(f"{option} FOLDER is needed where CRYOAAE_DATA is not set")
    return given or Path(os.environ["CRYOAAE_DATA"]) / below
