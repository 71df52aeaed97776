"""Simulate a labelled store of single particles.

simulate_subtomograms.py STORE.h5 --maps GLOB ... [--count 150 ...]
"""

from __future__ import annotations

import argparse
import sys
from glob import glob

from cryoaae.errors import CryoaaeError
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.simulation.subtomograms import ImagingSettings
from cryoaae.subtomograms.from_simulation import simulate_store


def main() -> int:
    default = ImagingSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--maps", nargs="*", default=[], help="density maps, a class each; quoted globs")
    parser.add_argument("--atoms", nargs="*", default=[], help="atomic models, a class each; quoted globs")
    parser.add_argument("--count", nargs="+", type=int, default=[150], help="particles a class: one number, or each")
    parser.add_argument("--box", type=int, default=default.box)
    parser.add_argument("--voxel-size", type=float, default=default.voxel_size_angstrom)
    parser.add_argument("--tilt-range", type=float, nargs=2, default=default.tilt_range_deg, metavar=("LO", "HI"))
    parser.add_argument("--tilt-step", type=float, default=default.tilt_step_deg)
    parser.add_argument("--snr", type=float, default=default.snr, help="of each subtomogram")
    parser.add_argument("--shift", type=float, default=default.shift_voxels, help="largest, voxels")
    parser.add_argument("--defocus", type=float, nargs=2, default=default.defocus_range_um, metavar=("LO", "HI"))
    parser.add_argument("--white-noise", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args()
    settings = ImagingSettings(
        given.box, given.voxel_size, tuple(given.tilt_range), given.tilt_step, given.snr, given.shift,
        tuple(given.defocus), given.white_noise,
    )  # fmt: skip
    found = simulate_store(
        given.output, maps=_found(given.maps), atoms=_found(given.atoms), counts=given.count, settings=settings,
        seed=given.seed, resume=given.resume, overwrite=given.overwrite, progress=ConsoleProgress(),
    )  # fmt: skip
    print(f"wrote {found}")
    return 0


def _found(patterns: list[str]) -> list[str]:
    return [name for pattern in patterns for name in (sorted(glob(pattern)) or [pattern])]  # noqa: PTH207


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CryoaaeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
