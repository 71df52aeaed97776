"""Labelled images: what is read is what was written, and no fault passes."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoaae.errors import InputError
from cryoaae.io import idx
from cryoaae.io.images import choose_labelled, load_images

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D}


def packed(array):
    array = np.asarray(array)
    head = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def arrays(train=12, test=4, pixel=(3, 5)):
    rng = np.random.default_rng(0)
    return [
        values
        for n in (train, test)
        for values in (rng.integers(0, 256, (n, *pixel), np.uint8), rng.integers(0, 4, n, np.uint8))
    ]


def write(folder: Path, contents=None, names=NAMES):
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, contents or arrays(), strict=True):
        raw = content if isinstance(content, bytes) else packed(content)
        (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name,
        lambda name: name + ".gz",
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx") + ".gz",
    ],
)
def test_every_spelling_of_the_names_gives_the_pixels_and_the_split(tmp_path, spell):
    contents = arrays()
    split = load_images(str(write(tmp_path, contents, [spell(n) for n in NAMES])))
    pixels = torch.from_numpy(contents[0]).reshape(12, 15) / 255
    assert torch.equal(torch.cat([split.train.pixels, split.validation.pixels]), pixels)
    assert split.train.pixels.dtype == torch.float32
    assert (len(split.train), len(split.validation), len(split.test)) == (10, 2, 4)
    assert split.validation.labels.tolist() == contents[1][10:].tolist()
    assert split.test.labels.tolist() == contents[3].tolist()
    assert torch.equal(split.test.pixels, torch.from_numpy(contents[2]).reshape(4, 15) / 255)
    assert split.test.shape == (1, 3, 5) and split.classes == 4


def test_a_file_is_known_by_its_content_where_a_browser_unpacked_it_or_a_name_lost_its_end(tmp_path):
    plain = load_images(write(tmp_path / "plain"))
    mixed = write(tmp_path / "mixed", [gzip.compress(packed(a)) for a in arrays()])
    assert torch.equal(load_images(mixed).test.pixels, plain.test.pixels)
    for name in NAMES:
        (mixed / name).rename(mixed / f"{name}.gz")
        (mixed / f"{name}.gz").write_bytes((tmp_path / "plain" / name).read_bytes())
    assert torch.equal(load_images(mixed).test.pixels, plain.test.pixels)


def test_colours_come_first_however_they_were_stored(tmp_path):
    last = arrays(pixel=(32, 32, 3))
    first = [a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for a in last]
    names = [n.replace("idx3", "idx4") for n in NAMES]
    one, two = (load_images(write(tmp_path / k, c, names)) for k, c in (("last", last), ("first", first)))
    assert one.train.shape == (3, 32, 32)
    assert torch.equal(one.train.pixels, two.train.pixels)
    image = one.test.pixels[2].reshape(one.test.shape)
    assert torch.equal(image[1], torch.from_numpy(last[2][2, :, :, 1]) / 255)


def test_labels_of_wider_integers_are_read(tmp_path):
    contents = arrays()
    contents[1] = np.arange(12, dtype=np.int32) * 20
    assert load_images(write(tmp_path, contents)).train.labels.tolist() == (np.arange(10) * 20).tolist()


def replaced(index, content):
    def spoil(folder):
        (folder / NAMES[index]).write_bytes(content)

    return spoil


IMAGES, LABELS, TEST_IMAGES, _ = (packed(a) for a in arrays())


def swapped(folder):
    (folder / NAMES[0]).write_bytes(LABELS)


def twice(folder):
    (folder / NAMES[0].replace("idx3", "idx4")).write_bytes(IMAGES)


def renamed(folder):
    (folder / NAMES[1]).rename(folder / "train-label-idx1-ubyte")


def emptied(folder):
    for name in NAMES:
        (folder / name).unlink()


def a_folder(folder):
    (folder / NAMES[0]).unlink()
    (folder / NAMES[0]).mkdir()


FAULTS = {
    "missing": (renamed, "", "train-labels-idx1-ubyte.*train-label-idx1-ubyte"),
    "no files": (emptied, "", "it holds no IDX file"),
    "two sets": (twice, "", "train-images-idx3-ubyte and train-images-idx4-ubyte"),
    "a folder": (a_folder, NAMES[0], "cannot be read .*irectory"),
    "zero bytes": (replaced(0, b""), NAMES[0], "empty"),
    "cut in the magic": (replaced(0, IMAGES[:3]), NAMES[0], "not an IDX file"),
    "cut in the header": (replaced(0, IMAGES[:9]), NAMES[0], "within its header of 16 bytes"),
    "cut by a byte": (replaced(0, IMAGES[:-1]), NAMES[0], "truncated: 179 of 180 bytes"),
    "a byte more": (replaced(0, IMAGES + b"\0"), NAMES[0], "more than the 180 bytes"),
    "wrong magic": (replaced(2, b"\x89PNG" + IMAGES[4:]), NAMES[2], "89 50 4e 47"),
    "unknown type": (replaced(0, b"\0\0\x0a\3" + IMAGES[4:]), NAMES[0], "not an IDX file"),
    "images of floats": (replaced(0, packed(np.ones((12, 3, 5), np.float32))), NAMES[0], "type 0d, not 08"),
    "labels of floats": (replaced(1, packed(np.ones(12, np.float32))), NAMES[1], "type 0d"),
    "labels for images": (swapped, NAMES[0], "1 axes, not 3 or 4"),
    "images for labels": (replaced(1, IMAGES), NAMES[1], "3 axes, not 1"),
    "count": (replaced(1, packed(np.zeros(11, np.uint8))), NAMES[1], "11 labels for 12 images"),
    "negative label": (replaced(1, packed(np.full(12, -1, np.int8))), NAMES[1], "label -1 "),
    "large label": (replaced(1, packed(np.full(12, 256, np.int16))), NAMES[1], "label 256 "),
    "no images": (replaced(0, packed(np.zeros((0, 3, 5), np.uint8))), NAMES[0], "empty: .* 0 x 3 x 5"),
    "no pixels": (replaced(0, packed(np.zeros((12, 0, 5), np.uint8))), NAMES[0], "empty: .* 12 x 0 x 5"),
    "a bomb": (replaced(0, IMAGES[:4] + b"\xff" * 12), NAMES[0], "claims 792\\d+ bytes, more than 4000000000"),
    "a packed bomb": (replaced(0, gzip.compress(IMAGES[:4] + b"\x7f" * 12)), NAMES[0], "more than 4000000000"),
    "claims too much": (replaced(0, IMAGES[:4] + struct.pack(">3I", 10**6, 30, 100)), NAMES[0], "truncated: 0 of"),
    "gzip cut": (replaced(0, gzip.compress(IMAGES)[:-20]), NAMES[0], "damaged gzip"),
    "gzip checksum": (replaced(0, gzip.compress(IMAGES)[:-8] + bytes(8)), NAMES[0], "damaged gzip"),
    "gzip rubbish": (replaced(0, b"\x1f\x8b" + b"\x55" * 50), NAMES[0], "damaged gzip"),
    "gzip tail": (replaced(0, gzip.compress(IMAGES) + b"tail"), NAMES[0], "damaged gzip"),
    "other test images": (replaced(2, packed(np.zeros((4, 3, 6), np.uint8))), "", r"\(1, 3, 5\), test .* \(1, 3, 6\)"),
    "no colours": (replaced(0, packed(np.zeros((12, 3, 5, 4), np.uint8)[:, :2])), NAMES[0], "2 x 5 x 4 .* colours"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_file_what_is_wrong_and_what_to_do(tmp_path, fault):
    spoil, name, message = FAULTS[fault]
    spoil(write(tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        load_images(tmp_path)
    assert caught.value.source == str(tmp_path / name)
    assert caught.value.remedy


def test_too_few_to_split_are_refused(tmp_path):
    with pytest.raises(InputError, match="5 training image"):
        load_images(write(tmp_path, arrays(train=5)))


@pytest.mark.parametrize("source", ["digit", "nowhere/at/all"])
def test_what_is_no_folder_is_answered_with_what_can_be_given(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="digits"):
        load_images(source)
    file = tmp_path / "file"
    file.write_bytes(IMAGES)
    with pytest.raises(InputError, match="not a folder"):
        load_images(file)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), zipped=st.booleans())
def test_whatever_happens_to_a_file_it_is_read_right_or_refused(tmp_path, data, zipped):
    raw = bytearray(gzip.compress(IMAGES, mtime=0) if zipped else IMAGES)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, min(40, len(raw) - 1)))] = data.draw(st.integers(0, 255))
    file = tmp_path / "images"
    file.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        found = idx.read_idx(file, axes=(3, 4))
    except InputError:
        return
    content = file.read_bytes()
    assert packed(found) == (gzip.decompress(content) if content[:2] == idx.GZIP_MAGIC else content)


def test_digits_are_split_once_and_for_all():
    from sklearn.datasets import load_digits

    split, again = load_images("digits"), load_images("digits")
    parts = (split.train, split.validation, split.test)
    assert [len(p) for p in parts] == [1000, 297, 500]
    assert torch.equal(split.test.pixels, again.test.pixels)
    pixels, labels = torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts])
    assert float(pixels.min()) == 0 and float(pixels.max()) == 1
    found = load_digits()

    def sorted_rows(values, own):
        return sorted((int(label), *row) for label, row in zip(own, values.tolist(), strict=True))

    assert sorted_rows((pixels * 16).round().double(), labels) == sorted_rows(found.data, found.target)
    # Their order in the file runs 0 ... 9, 0 ... 9: shuffled, every part has its share of each class.
    for part in parts:
        assert int(part.labels.bincount(minlength=10).min()) >= 0.06 * len(part)
    assert split.train.labels[:10].tolist() == [0, 4, 0, 7, 5, 5, 5, 7, 9, 7]


def test_labelled_images_are_balanced_distinct_and_the_generator_s():
    labels = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(0)) * 2
    first, again, other = (choose_labelled(labels, 7, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first.unique()) == 35
    assert torch.equal(labels[first].bincount(minlength=9), torch.tensor([7, 0, 7, 0, 7, 0, 7, 0, 7]))
    # Any member of a class can be chosen.
    often = torch.stack([choose_labelled(labels, 7, torch.Generator().manual_seed(s)) for s in range(200)])
    assert len(often.unique()) == 400


def test_a_class_with_too_few_is_named():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(InputError, match="class 1 has 2 images, not 3"):
        choose_labelled(labels, 3, torch.Generator())
    with pytest.raises(InputError, match="give 1 or more"):
        choose_labelled(labels, 0, torch.Generator())


@pytest.mark.data
def test_mnist_is_split_into_fifty_ten_and_ten_thousand():
    folder = Path(os.environ["CRYOAAE_DATA"]) / "mnist"
    if not folder.is_dir():
        pytest.skip("CRYOAAE_DATA holds no mnist")
    split = load_images(folder)
    assert [len(p) for p in (split.train, split.validation, split.test)] == [50_000, 10_000, 10_000]
    assert split.train.shape == (1, 28, 28) and split.classes == 10
    # The first labels of the training and of the test file, as published.
    assert split.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert split.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    # Mean and standard deviation of the 60,000, as everyone normalises them.
    pixels = torch.cat([split.train.pixels, split.validation.pixels])
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=1e-4)
