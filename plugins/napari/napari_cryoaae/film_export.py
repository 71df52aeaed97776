"""Pictures as a film: GIF by Pillow, MP4 by the ffmpeg that imageio-ffmpeg brings along."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.atomic import atomic_path

FFMPEG = "imageio_ffmpeg"

Picture = NDArray[np.uint8]  # (y, x, rgb)
SUFFIXES = (".gif", ".mp4")
# Of the MP4 encoder (0: worst, 10: best), whose pictures must have even edges.
QUALITY, EVEN = 8, 2
# Pictures from which a GIF's one palette is taken: with one each, colours would flicker.
OF_PALETTE = 8
# A GIF counts hundredths of a second, and viewers slow down what is faster than 50 a second.
GIF_TICK_MS, FASTEST_GIF_MS = 10, 20


def check_film(path: Path) -> None:
    """Refuse a film that could not be written, before its pictures are taken.

    Raises
    ------
    InputError
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(path, "is no film", f"give a name that ends in {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".mp4":
        _check_encoder(path)
    if not path.parent.is_dir():
        raise InputError(path.parent, "no such folder", "make it first")


def _check_encoder(path: Path) -> None:
    if find_spec(FFMPEG) is None:
        raise InputError(path, "MP4 needs imageio-ffmpeg", "pip install 'cryoaae[gui]', or write a GIF")
    try:
        import_module(FFMPEG).get_ffmpeg_exe()
    except RuntimeError as error:  # its wheels for rare machines come without
        raise InputError(path, "there is no ffmpeg to write MP4 with", "install ffmpeg, or write a GIF") from error


def write_film(path: Path, pictures: Sequence[Picture], frames_per_second: float) -> Path:
    """Write pictures (y, x, rgb) of one size as a film that starts over at its end.

    Raises
    ------
    InputError
    """
    check_film(path)
    with atomic_path(path) as part:
        write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
        write(part, pictures, frames_per_second)
    return path


def _write_gif(part: Path, pictures: Sequence[Picture], frames_per_second: float) -> None:
    from PIL import Image

    some = np.unique(np.linspace(0, len(pictures) - 1, OF_PALETTE).round().astype(int))
    palette = Image.fromarray(np.concatenate([pictures[i] for i in some])).quantize()
    first, *others = [Image.fromarray(picture).quantize(palette=palette, dither=0) for picture in pictures]
    duration = max(FASTEST_GIF_MS, round(1000 / frames_per_second / GIF_TICK_MS) * GIF_TICK_MS)
    # Pillow drops a picture that equals the one before it, and shows that one for longer.
    first.save(part, format="GIF", save_all=True, append_images=others, duration=duration, loop=0, disposal=1)


def _write_mp4(part: Path, pictures: Sequence[Picture], frames_per_second: float) -> None:
    height, width = (n - n % EVEN for n in pictures[0].shape[:2])
    writer = import_module(FFMPEG).write_frames(
        str(part), (width, height), fps=frames_per_second, quality=QUALITY, macro_block_size=EVEN,
        output_params=["-f", "mp4"],  # which the name of an unfinished file does not say
    )  # fmt: skip
    writer.send(None)
    for picture in pictures:
        writer.send(np.ascontiguousarray(picture[:height, :width]))
    writer.close()
