"""What the Variability panel makes of a run of `cryoaae cluster`, without Qt: the library's decoder and no other."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryoaae.draws import Draws
from cryoaae.errors import InputError
from cryoaae.patches.spectra import Spectra
from cryoaae.runs.progress import NullProgress
from cryoaae.subtomograms.generate import WALK, Clusters, decode_volumes, decoded
from cryoaae.subtomograms.model_files import FittedModel, build_model
from cryoaae.subtomograms.settings import ClusterSettings
from cryoaae.subtomograms.standard import Standard
from napari_cryoaae.latent_decoding import StructureModel
from napari_cryoaae.sample_data import SAMPLE


@pytest.fixture(scope="module")
def model() -> StructureModel:
    return StructureModel.load(SAMPLE / "clusters", NullProgress())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the sample's run."""
    return Path(shutil.copytree(SAMPLE / "clusters", tmp_path / "run"))


def test_a_class_and_a_particle_are_decoded_as_the_library_does(model: StructureModel) -> None:
    fitted, clusters = FittedModel.load(SAMPLE / "clusters"), Clusters.of_run(SAMPLE / "clusters")
    for k in range(len(model.names)):
        assert np.array_equal(model.volume(model.cluster_code(k)), decoded(fitted, clusters.class_to_cluster == k))
    codes = np.load(SAMPLE / "clusters" / "codes.npz")
    for number in (1, len(model)):
        classes, style = (torch.from_numpy(codes[name][number - 1]) for name in ("class_probabilities", "style"))
        expected = decode_volumes(fitted, classes[None], style[None])[0]
        assert np.array_equal(model.volume(model.particle_code(number)), expected)


def test_the_classes_are_not_decoded_alike(model: StructureModel) -> None:
    first, second = (model.volume(model.cluster_code(k)) for k in (0, 1))
    assert np.abs(first - second).max() > 0.2 * np.abs(first).max()


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_a_particle_that_is_not_there_is_refused(model: StructureModel, number: int) -> None:
    with pytest.raises(InputError, match="there is no particle"):
        model.particle_code(number)


def test_the_way_between_particles_ends_at_both_and_is_a_mixture_of_their_classes(model: StructureModel) -> None:
    way, ends = model.between(1, 5, 5), [model.particle_code(number) for number in (1, 5)]
    for code, end in zip((way[0], way[-1]), ends, strict=True):
        assert torch.allclose(code.style, end.style, atol=1e-5)
        assert torch.allclose(code.classes, end.classes)
    assert torch.allclose(way[2].classes, (ends[0].classes + ends[1].classes) / 2)
    assert [float(code.classes.sum()) for code in way] == pytest.approx([1.0] * 5, abs=1e-5)


@pytest.mark.parametrize("kind", ["axes", "modes"])
def test_a_slider_moves_its_own_place_and_no_other(model: StructureModel, kind: str) -> None:
    directions = model.axes() if kind == "axes" else model.modes(0)
    code = model.particle_code(2)
    expected = directions.places(code)
    expected[1] = 1.25
    assert directions.places(directions.moved(code, 1, 1.25)) == pytest.approx(expected, abs=1e-4)


def test_a_walk_is_the_one_of_generate(model: StructureModel) -> None:
    codes, labels = model.axes().walk(model.cluster_code(0), 2, 5)
    styles = torch.stack([code.style for code in codes])
    assert torch.allclose(styles[:, 2], model.scale * torch.linspace(-WALK, WALK, 5))
    assert not styles[:, [0, 1, 3]].any()
    assert labels[0] == "axis 3: -2.00 standard deviations"


def test_modes_are_those_of_the_classs_own_particles(model: StructureModel) -> None:
    styles = model.latent.codes["style"]
    for k in range(len(model.names)):
        found = model.modes(k)
        assert np.allclose(found.modes.mean, styles[model.assigned == k].mean(axis=0), atol=1e-5)
        assert found.names[0] == f"mode 1 ({100 * float(found.modes.shares[0]):.0f} %)"


def test_draws_are_of_their_class_and_of_their_seed(model: StructureModel) -> None:
    members = torch.from_numpy(model.clusters.class_to_cluster == 1)
    drawn = model.drawn(1, 300, 7)
    assert all(float(code.classes[members].sum()) == 1.0 for code in drawn)
    styles = torch.stack([code.style for code in drawn])
    assert torch.allclose(styles.std(dim=0), torch.full((model.dim,), model.scale), atol=0.2 * model.scale)
    again, other = (torch.stack([c.style for c in model.drawn(1, 300, seed)]) for seed in (7, 8))
    assert torch.equal(styles, again)
    assert not torch.equal(styles, other)


def test_a_film_has_a_frame_a_code(model: StructureModel) -> None:
    codes = model.between(1, 2, 3)
    film = model.film("a way", codes, ["a", "b", "c"], NullProgress())
    assert film.labels == ("a", "b", "c")
    assert film.voxel_size_angstrom == pytest.approx(model.voxel_size_angstrom)
    assert all(np.array_equal(film.frame(i), model.volume(code)) for i, code in enumerate(codes))


def _without(name: str):
    return lambda run: (run / name).unlink()


def _embedded(run: Path) -> None:
    codes = dict(np.load(run / "codes.npz"))
    del codes["cluster"]
    np.savez(run / "codes.npz", **codes)


def _flipped(run: Path) -> None:
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "model.safetensors").write_bytes(weights)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_without("model.safetensors"), "no such file|fits no model"),
        (_without("clusters.json"), "no finished clustering"),
        (_without("codes.npz"), "no codes"), (_embedded, "cryoaae embed"), (_flipped, "damaged"),
        (lambda run: shutil.copy(SAMPLE / "run" / "model.safetensors", run), "no model of subtomograms|not weights"),
    ],
    ids=["no model", "not finished", "no codes", "embedded", "flipped bit", "a restorer"],
)  # fmt: skip
def test_a_run_that_cannot_be_looked_through_is_refused(run: Path, spoil, problem: str) -> None:
    spoil(run)
    with pytest.raises(InputError, match=problem):
        StructureModel.load(run, NullProgress())


def test_a_volume_of_box_32_takes_less_than_a_fifth_of_a_second(model: StructureModel) -> None:
    """Of the processor, so that other work on the machine does not count; the network is that of the `full` preset."""
    flat = Spectra(torch.ones(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64))
    settings = ClusterSettings(working_box=32, widths=(24, 48, 96), classes=20)
    standard = Standard(32, 32, 10.0, flat)
    fitted = FittedModel(build_model(settings, standard, Draws.seeded(0)).eval(), standard, settings)
    clusters = SimpleNamespace(names=("1",), class_to_cluster=np.zeros(20, np.int64))
    large = StructureModel(model.run, fitted, clusters, model.latent)  # type: ignore[arg-type]
    code, spent = large.cluster_code(0), []
    for _ in range(6):
        started = time.process_time()
        assert large.volume(code).shape == (32, 32, 32)
        spent.append(time.process_time() - started)
    assert min(spent) < 0.2


def test_the_sample_says_what_it_is() -> None:
    """All of its files are whole, open, and name no folder of another machine; together they are below 1 MB."""
    from cryoaae.io.store import SubtomogramStore
    from napari_cryoaae.readers import read_points, read_run_folder

    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    for path in files:
        if path.suffix == ".json":
            text = path.read_text()
            stated = [fact["path"] for fact in json.loads(text).get("inputs", []) if isinstance(fact, dict)]
            assert not any(Path(name).is_absolute() for name in stated), path
    store = SubtomogramStore(SAMPLE / "particles.h5")
    assert len(store) >= 20
    assert all(np.isfinite(store.volume(i)).all() for i in range(len(store)))  # the checksums hold
    names = {look["name"] for _, look, _ in read_run_folder(SAMPLE / "run")}
    assert {"TS_01_EVN", "TS_01_ODD", "TS_01_restored", "std"} <= names
    ((points, look, _),) = read_points(SAMPLE / "TS_01.star")
    assert len(points) >= 20
    assert look["name"] == "TS_01 particles"
