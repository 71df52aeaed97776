"""Every variant from the command line to its figures, and images in colour."""

from __future__ import annotations

import csv
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cryoaae.autoencoding import evaluate as evaluate_module
from cryoaae.autoencoding import judge as judge_module
from cryoaae.autoencoding.settings import VARIANTS, WITH_CLASSES
from cryoaae.cli import run as cli
from cryoaae.io.images import load_images
from cryoaae.io.weights import load_weights

# Of every variant: its figures beside those that all have, and what its result must speak of.
FIGURES = {
    "aae": {"latent", "manifold", "density_ratio"}, "vae": {"latent", "manifold", "density_ratio"},
    "wae": {"latent", "manifold", "density_ratio"}, "sinkhorn": {"latent", "manifold", "density_ratio"},
    "evia": {"latent", "manifold", "density_ratio"}, "labelled": {"latent", "density_ratio"},
    "supervised": {"styles"}, "semisupervised": {"styles", "clusters"}, "clustering": {"styles", "clusters"},
    "dimension-reduction": {"styles", "clusters", "latent", "density_ratio"},
}  # fmt: skip
METRICS = {
    "labelled": "own_component_percent", "supervised": "style_leak_percent", "semisupervised": "test_error_percent",
    "clustering": "majority_error_percent", "dimension-reduction": "knn_accuracy_percent", "evia": "mmd2",
}  # fmt: skip
SIDE = 32


@pytest.fixture(autouse=True)
def quick_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """What judges a finished run takes longer than a small fit."""
    monkeypatch.setattr(judge_module, "STEPS", 40)
    monkeypatch.setattr(evaluate_module, "FLOOR_REPEATS", 4)
    monkeypatch.setattr(evaluate_module, "PARZEN_SAMPLES", 1000)


def shows_something(path: Path) -> bool:
    """Whether a picture has more than one value."""
    return bool(np.ptp(np.asarray(Image.open(path).convert("L"))) > 100)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_runs_from_the_command_line_to_its_page(variant: str, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    arguments = ["aae", variant, "--data", "digits", "-o", str(folder), "--epochs", "3", "--set", "hidden=[32]"]
    assert cli([*arguments, "--set", "evaluations=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(folder)
    result = json.loads((folder / "result.json").read_text())
    assert json.loads((folder / "run.json").read_text())["state"] == "done"
    assert all(math.isfinite(value) for value in result["metrics"].values())
    assert METRICS.get(variant, "parzen_nats") in result["metrics"]
    assert result["steps"] == 30
    made = {path.stem for path in folder.glob("*.png")}
    assert made == {"curves", "reconstructions"} | FIGURES[variant]
    assert all(shows_something(path) for path in folder.glob("*.png"))
    page = (folder / "latent.html").read_text()
    assert "<canvas" in page
    assert ("first two of" in page) == (variant in (*WITH_CLASSES, "supervised") and variant != "dimension-reduction")


@pytest.mark.parametrize(
    "prior",
    [
        "{name: uniform, dim: 2}", "{name: swiss_roll}", "{name: mixture}", "{name: categorical, classes: 4}",
        "{name: product, parts: [{name: categorical, classes: 3}, {name: gaussian, dim: 2}]}",
    ],
)  # fmt: skip
def test_an_adversarial_autoencoder_takes_every_prior(prior: str, tmp_path: Path) -> None:
    """60 epochs bring the codes at least twice as near to it as they were."""
    folder = tmp_path / "run"
    arguments = ["aae", "aae", "--data", "digits", "-o", str(folder), "-q", "--epochs", "60", "--set", "hidden=[32]"]
    assert cli([*arguments, "--set", f"prior={prior}", "--set", "evaluations=4"]) == 0
    with (folder / "metrics.csv").open(newline="") as file:
        read = [float(row["mmd2_seed0"]) for row in csv.DictReader(file)]
    assert read[-1] < 0.5 * read[0]


def write_idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX files of 32 x 32 images: an orange or a blue disc on grey, wherever it may be."""
    folder = tmp_path_factory.mktemp("discs")
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for stem, n in (("train", 480), ("t10k", 60)):
        labels = random.integers(2, size=n).astype(np.uint8)
        at = random.uniform(8, SIDE - 8, (n, 2, 1, 1))
        disc = ((y - at[:, 0]) ** 2 + (x - at[:, 1]) ** 2 < 36)[..., None]
        colour = np.array([[255, 160, 0], [0, 90, 255]])[labels][:, None, None]
        write_idx(folder / f"{stem}-images-idx4-ubyte", np.where(disc, colour, 60).astype(np.uint8))
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels)
    return folder


@pytest.mark.slow
def test_images_in_colour_are_coded_by_their_preset(discs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = ["hidden=[8,16,32,64]", "prior.dim=6", "batch_size=20", "evaluations=3"]
    smaller = ["--epochs", "45", *(word for setting in small for word in ("--set", setting))]
    assert cli(["aae", "aae", "--preset", "colour", "--data", str(discs), "-o", str(folder), "-q", *smaller]) == 0
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    test = load_images(discs).test
    assert test.shape == (3, SIDE, SIDE)
    blank = float(test.pixels.var(dim=0, correction=0).sum()) / 2
    # .4 to .6 of what a blank page leaves, by processor: the referee's game turns roundings into paths of their own.
    assert metrics["half_squared_error"] < 0.75 * blank
    decoded = np.asarray(Image.open(folder / "reconstructions.png").convert("RGB")).astype(float)
    # Below the middle lie the decoded images; orange and blue are as far apart there as colours can be.
    leaning = (decoded[..., 0] - decoded[..., 2])[len(decoded) // 2 :]
    assert leaning.max() > 100
    assert leaning.min() < -100
    weights, _ = load_weights(folder / "model.safetensors")
    assert any(value.dim() == 4 for value in weights.values()), "it is a convolutional net"
    assert (folder / "latent.html").exists()
