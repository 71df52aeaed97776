"""Fit a restorer on the halves of one tomogram: fit_restorer.py EVEN ODD TILTS RUN [MINUTES]."""

import sys
from pathlib import Path

import cryoaae
from cryoaae.fitting.settings import FitSettings
from cryoaae.runs.progress import ConsoleProgress


def main(even: str, odd: str, tilts: str, run: str, minutes: str = "10") -> None:
    settings = FitSettings(minutes=float(minutes))
    folder = cryoaae.fit([], run, even=even, odd=odd, tilts=tilts, settings=settings, progress=ConsoleProgress())
    print(f"wrote {Path(folder) / 'model.safetensors'}")


if __name__ == "__main__":
    if not 5 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
