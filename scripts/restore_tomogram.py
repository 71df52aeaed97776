"""Restore the halves of one tomogram: restore_tomogram.py EVEN ODD TILTS RUN OUTPUT.mrc."""

import sys

import cryoaae
from cryoaae.runs.progress import ConsoleProgress


def main(even: str, odd: str, tilts: str, run: str, output: str) -> None:
    results = cryoaae.restore(
        [], output, model=run, even=even, odd=odd, tilts=tilts, symmetries=True, progress=ConsoleProgress()
    )
    for result in results:
        print(f"wrote {result.paths[0]} in {result.seconds:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
