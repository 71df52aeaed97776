"""Labelled images for the two-dimensional models: scikit-learn's digits, or a folder of IDX files."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.idx import read_idx

DIGITS = "digits"
DIGITS_TRAIN, DIGITS_VALIDATION = 1000, 297
# Of a training file, the last part is for validation: of MNIST's 60,000 the last 10,000.
VALIDATION_PART = 6
IMAGE_AXES = (3, 4)
INTEGER_TYPES = (0x08, 0x09, 0x0B, 0x0C)
MAX_LABEL = 255


@dataclass(frozen=True)
class Images:
    """Images and their labels.

    Parameters
    ----------
    pixels : (n, channels * rows * columns) float32
        From 0 to 1.
    labels : (n,) int64
    shape : (channels, rows, columns)
        Of one image, in the order of its pixels.
    """

    pixels: Tensor
    labels: Tensor
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSplit:
    """Images to learn from, to choose settings by, and to report on once."""

    train: Images
    validation: Images
    test: Images

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return 1 + max(int(part.labels.max()) for part in (self.train, self.validation, self.test))


def load_images(source: Path | str) -> ImageSplit:
    """Read labelled images and split them, always in the same way.

    Parameters
    ----------
    source : path or str
        "digits": the 1,797 images of 8 x 8 pixels that come with scikit-learn, shuffled by a fixed permutation
        and split into 1,000 / 297 / 500. Otherwise a folder with the four IDX files of MNIST or of a set like it,
        ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-...`` and ``t10k-labels-...``, plain
        or gzipped, with a dot or a dash before ``idx``. ``idx4`` are images with channels, (n, rows, columns, 3)
        or (n, 3, rows, columns). The last sixth of the training file is the validation set.

    Returns
    -------
    ImageSplit

    Raises
    ------
    InputError
        Naming the file, what is wrong with it, and what to do.
    """
    if source == DIGITS:
        return _digits()
    folder = Path(source)
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(
            source, f"not a folder that can be read ({error.strerror})", f"give a folder of IDX files, or '{DIGITS}'"
        ) from error
    known, test = (_read_set(folder, names, stem) for stem in ("train", "t10k"))
    if known.shape != test.shape:
        raise InputError(
            folder, f"training images are {known.shape}, test images {test.shape}", "give files of one set"
        )
    held_out = len(known) // VALIDATION_PART
    if not held_out:
        raise InputError(folder, f"{len(known)} training image(s) cannot be split", f"give {VALIDATION_PART} or more")
    cut = len(known) - held_out
    return ImageSplit(_rows(known, slice(cut)), _rows(known, slice(cut, None)), test)


def choose_labelled(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """Choose as many images of every class, at random, to be the labelled ones.

    Parameters
    ----------
    labels : (n,) int
    per_class : int
        How many of each.
    generator : torch.Generator

    Returns
    -------
    (classes * per_class,) int64
        Indices into `labels`, class after class.

    Raises
    ------
    InputError
        If a class has fewer.
    """
    if per_class < 1:
        raise InputError("labels per class", f"{per_class} leaves nothing labelled", "give 1 or more")
    chosen = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < per_class:
            raise InputError(
                "labels per class", f"class {label} has {len(members)} images, not {per_class}", "ask for fewer"
            )
        order = torch.randperm(len(members), generator=generator, device=generator.device)
        chosen.append(members[order[:per_class].to(members.device)])
    return torch.cat(chosen)


def _digits() -> ImageSplit:
    from sklearn.datasets import load_digits

    found = load_digits()
    # The permutation is that of hashes: no generator's version can change it.
    order = sorted(range(len(found.target)), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    pixels = torch.from_numpy(found.data[order] / 16).float()
    whole = Images(pixels, torch.from_numpy(found.target[order]).long(), (1, 8, 8))
    seen = DIGITS_TRAIN + DIGITS_VALIDATION
    return ImageSplit(
        _rows(whole, slice(DIGITS_TRAIN)), _rows(whole, slice(DIGITS_TRAIN, seen)), _rows(whole, slice(seen, None))
    )


def _rows(images: Images, rows: slice) -> Images:
    return Images(images.pixels[rows], images.labels[rows], images.shape)


def _read_set(folder: Path, names: list[str], stem: str) -> Images:
    pictures = _find(folder, names, f"{stem}-images", IMAGE_AXES)
    named = _find(folder, names, f"{stem}-labels", (1,))
    images = _channels_first(pictures, read_idx(pictures, axes=IMAGE_AXES))
    labels = read_idx(named, axes=(1,), types=INTEGER_TYPES).astype(np.int64)
    if len(images) != len(labels):
        raise InputError(named, f"{len(labels)} labels for {len(images)} images of {pictures.name}", "give its own")
    beyond = labels[(labels < 0) | (labels > MAX_LABEL)]
    if len(beyond):
        raise InputError(named, f"label {beyond[0]} is not in 0 ... {MAX_LABEL}", "number the classes from 0")
    _, channels, rows, columns = images.shape
    pixels = torch.from_numpy(np.ascontiguousarray(images)).reshape(len(images), -1).float().div_(255)
    return Images(pixels, torch.from_numpy(labels), (channels, rows, columns))


def _find(folder: Path, names: list[str], stem: str, axes: tuple[int, ...]) -> Path:
    """Return the file of a stem; plain before gzipped."""
    spelt = {f"{stem}{joint}idx{n}-ubyte{end}": n for end in ("", ".gz") for joint in "-." for n in axes}
    found = [name for name in spelt if name in names]
    if len({spelt[name] for name in found}) > 1:
        raise InputError(folder, f"holds {' and '.join(found)}", "leave only those of one set in the folder")
    if found:
        return folder / found[0]
    near = difflib.get_close_matches(next(iter(spelt)), names, n=1)
    there = f"the nearest name there is {near[0]}" if near else "it holds no IDX file"
    raise InputError(folder, f"{stem}-idx{axes[0]}-ubyte[.gz] is missing", f"add or rename it: {there}")


def _channels_first(path: Path, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (n, channels, rows, columns)."""
    if images.ndim == 3:
        return images[:, None]
    if images.shape[3] == 3:
        return images.transpose(0, 3, 1, 2)
    if images.shape[1] == 3:
        return images
    raise InputError(
        path, f"images of {' x '.join(map(str, images.shape[1:]))} have no axis of three colours", "give RGB images"
    )
