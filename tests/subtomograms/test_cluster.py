"""`cluster` from end to end: it finds two shapes at any pose, says so in a STAR file, and goes on where it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cryoaae.cli import run as command
from cryoaae.config import load_cluster_config, presets
from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.particle_files import read_particles, write_particles
from cryoaae.io.star import read_star
from cryoaae.io.store import SubtomogramStore
from cryoaae.io.weights import load_weights
from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.runs.progress import NullProgress
from cryoaae.subtomograms.cluster import cluster
from cryoaae.subtomograms.clustering import clustered
from cryoaae.subtomograms.embed import Embedding
from cryoaae.subtomograms.labels import Labels, read_labels
from cryoaae.subtomograms.settings import ClusterSettings


class StopAfter(NullProgress):
    """Asks for a stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def advance(self, amount: float = 1.0, **facts: object) -> None:
        self.left -= 1
        if not self.left:
            self.cancel()


def truth(store) -> torch.Tensor:
    return torch.tensor([int(name == "rod") for name in SubtomogramStore(store).facts.classes])


def test_two_shapes_at_any_pose_are_told_apart_without_labels(shapes_store, shapes_run):
    codes = np.load(shapes_run / "codes.npz")
    assert adjusted_rand_index(torch.from_numpy(codes["cluster"]), truth(shapes_store)) >= 0.8
    found = json.loads((shapes_run / "clusters.json").read_text())
    assert found["clusters"] == 2
    assert found["pose_agreement"] >= 0.75  # of single views, after seconds of fitting; their mean is surer
    assert sum(found["sizes"]) == 96
    # The curve reaches from all classes in use to one, and one cluster agrees for no reason.
    numbers = [level["clusters"] for level in found["curve"]]
    assert numbers == list(range(numbers[0], 0, -1))
    assert found["curve"][-1]["kappa"] == 0
    assert codes["class_probabilities"].sum(axis=1) == pytest.approx(np.ones(96), abs=1e-5)


def test_the_run_folder_holds_what_it_says(shapes_run):
    assert json.loads((shapes_run / "run.json").read_text())["state"] == "done"
    assert "stay in their cluster" in (shapes_run / "report.html").read_text()
    assert len((shapes_run / "metrics.csv").read_text().splitlines()) == 1 + 4
    assert sorted(p.name for p in (shapes_run / "classes").iterdir()) == ["average_01.mrc", "average_02.mrc"]


def test_the_star_file_keeps_everything_and_adds_the_classes(shapes_store, shapes_run):
    path = shapes_run / "particles" / "shapes.star"
    star, codes = read_star(path), np.load(shapes_run / "codes.npz")
    assert star.blocks["optics"]["rlnImagePixelSize"].tolist() == ["12.0"]
    table = star.blocks["particles"]
    assert table["myColumn"].tolist() == [f"kept{i}" for i in range(96)]
    assert table["rlnCoordinateX"].tolist() == [f"{10 * i}.5" for i in range(96)]
    assert [int(v) for v in table["rlnClassNumber"]] == (codes["cluster"] + 1).tolist()
    again = read_particles(path)
    assert again.classes == tuple(str(c + 1) for c in codes["cluster"])
    assert table["cryoaaeClassProbability"].astype(float).between(0.5, 1.0).all()


def test_a_fitted_model_clusters_the_same_particles_alike_and_fits_nothing(shapes_store, shapes_run, tmp_path):
    again = cluster(shapes_store, tmp_path / "again", clusters=2, model=shapes_run)
    first, second = (np.load(folder / "codes.npz") for folder in (shapes_run, again))
    assert np.array_equal(first["cluster"], second["cluster"])
    assert np.allclose(first["class_probabilities"], second["class_probabilities"], atol=1e-5)
    assert not (again / "metrics.csv").exists()
    digests = [load_weights(folder / "model.safetensors")[1]["digest"] for folder in (shapes_run, again)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("changed", [{}, {"frame": "reference"}, {"structure_weight": 1.0}])
def test_an_interrupted_fit_goes_on_bit_for_bit(changed, tmp_path, store_maker, tiny):
    store = store_maker(tmp_path / "few.h5", 5, box=12)
    settings = ClusterSettings(**{**tiny, "steps": 4, "batch_size": 4, **changed})
    whole = cluster(store, tmp_path / "whole", by="autoencoder", settings=settings)
    with pytest.raises(InterruptedRunError):
        cluster(store, tmp_path / "parts", by="autoencoder", settings=settings, progress=StopAfter(2))
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["state"] == "interrupted"
    parts = cluster(store, tmp_path / "parts", by="autoencoder", settings=settings, resume=True)
    (a, _), (b, _) = (load_weights(folder / "model.safetensors") for folder in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    first, second = (np.load(folder / "codes.npz")["class_probabilities"] for folder in (whole, parts))
    assert np.array_equal(first, second)


def labelled_list(store, path, known: dict[int, str]):
    listed = SubtomogramStore(store).particles()
    column = [known.get(i, "0") for i in range(len(listed))]
    write_particles(path, listed, columns={"rlnClassNumber": column})
    return path


def test_labels_are_read_where_they_are_known(tmp_path, store_maker):
    store = store_maker(tmp_path / "s.h5", 3)
    path = labelled_list(store, tmp_path / "l.star", {0: "7", 3: "2", 4: "7"})
    labels = read_labels([path], [SubtomogramStore(store)])
    assert labels.names == ("2", "7")
    assert labels.classes.tolist() == [1, -1, -1, 0, 1, -1]
    assert Labels.none(3).classes.tolist() == [-1] * 3
    with pytest.raises(InputError, match="labels no particle"):
        read_labels([labelled_list(store, tmp_path / "none.star", {})], [SubtomogramStore(store)])
    other = store_maker(tmp_path / "o.h5", 2)
    with pytest.raises(InputError, match=r"6 particles, the list of o\.h5 has 4"):
        read_labels([path], [SubtomogramStore(other)])
    moved = tmp_path / "moved.star"
    moved.write_text(path.read_text().replace("10.5", "77.5"))
    with pytest.raises(InputError, match="particle 2 is not where"):
        read_labels([moved], [SubtomogramStore(store)])
    with pytest.raises(InputError, match="1 lists for 2 stores"):
        read_labels([path], [SubtomogramStore(store)] * 2)


def test_labels_name_the_clusters_and_teach_the_class(tmp_path, store_maker, tiny):
    store = store_maker(tmp_path / "s.h5", 16, noise=0.5)
    true = ["ball" if i % 2 == 0 else "rod" for i in range(32)]
    path = labelled_list(store, tmp_path / "l.star", {i: str(7 + i % 2) for i in range(12)})
    settings = ClusterSettings(**{**tiny, "steps": 30, "supervised_weight": 3.0})
    folder = cluster(store, tmp_path / "run", by="autoencoder", labels=path, settings=settings)
    with pytest.raises(InputError, match="2 clusters of 3 labels"):
        three = labelled_list(store, tmp_path / "three.star", {0: "7", 1: "8", 2: "9"})
        cluster(store, tmp_path / "none", clusters=2, labels=three, settings=settings)
    names = json.loads((folder / "clusters.json").read_text())["names"]
    assert set(names) <= {"7", "8"}
    assigned = np.load(folder / "codes.npz")["cluster"]
    said = ["ball" if names[k] == "7" else "rod" for k in assigned]
    assert np.mean([a == b for a, b in zip(said[12:], true[12:], strict=True)]) >= 0.8  # those without a label


def test_a_cluster_has_the_label_of_the_class_that_its_particles_are_of():
    """Classes that no particle is of count with a cluster, and give it no name."""
    views = torch.nn.functional.one_hot(1 + 2 * (torch.arange(40) % 4 == 0).long(), 5).float().expand(3, -1, -1)
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    embedding = Embedding(views, features, torch.zeros(40, 2), torch.zeros(40))
    assert clustered(embedding, None, ("a", "b", "c")).names == ("b", "unlabelled 2")
    assert clustered(embedding, None).names == ("1", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clusters", "1"], "not a number of clusters"),
        (["--clusters", "some"], "not a number of clusters"),
        (["--clusters", "\u00b2"], "not a number of clusters"),
        (["--clusters", "200"], "200 clusters of 96 particles"),
        (["--set", "clases=4"], "did you mean 'classes'"),
        (["--set", "classes=1"], "classes"),
        (["--set", "divergence={name: kl}"], "no law for kl"),
        (["--by", "autoencoder", "--set", "divergence={name: adversarail}"], "did you mean 'adversarial'"),
        (["--by", "autoencoder", "--set", "widths=[4,4,4,4,4]"], "leave nothing"),
        (["--by", "guessing"], "'guessing' is not known"),
        (["--by", "both", "--model", "."], "--model is fitted"),
        (["--by", "alignment", "--labels", "absent.star"], "no such file"),
        (["--steps", "9"], "is for the autoencoder"),
        (["--set", "classes=4"], "is for the autoencoder"),
        (["--set", "alignment.over=0"], "over: '0.0' cannot be used"),
        (["--set", "alignment.overt=2"], "alignment.overt"),
        (["--clusters", "60"], "96 particles for 120 references"),
        (["--labels", "absent.star"], "no such file"),
        (["--model", "absent"], "no such file"),
        (["--model", ".", "--steps", "3"], "--model is fitted"),
        (["--preset", "best"], "'best' is none of fast, full"),
    ],
)
def test_what_a_user_can_do_wrong_is_said_in_one_line_and_nothing_is_written(
    options, message, shapes_store, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command(["cluster", str(shapes_store), "-o", "run", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_two_stores_of_one_name_are_refused(tmp_path, store_maker):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(store_maker(tmp_path / folder / "s.h5", 2))
    with pytest.raises(InputError, match="two stores of one name"):
        cluster(paths, tmp_path / "run")
    with pytest.raises(InputError, match="too few to cluster"):
        cluster(store_maker(tmp_path / "few.h5", 1), tmp_path / "run")


def test_a_dry_run_says_what_it_would_do_and_does_nothing(shapes_store, tmp_path, capsys):
    words = ["cluster", str(shapes_store), "-o", str(tmp_path / "run"), "--dry-run", "--json"]
    assert command([*words, "--by", "both", "--steps", "9"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["steps"] == 9
    assert command(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["by"], said["particles"]) == ("alignment", 96)
    assert 0 < said["memory_gb"] < 3
    assert said["minutes"] > 0
    assert not (tmp_path / "run").exists()


def test_every_preset_is_settings():
    for name in presets("cluster"):
        settings = load_cluster_config(preset=name)
        assert settings.minutes
        assert load_cluster_config(preset=name, steps=7).steps == 7
