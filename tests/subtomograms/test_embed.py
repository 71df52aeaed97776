"""Codes depend on the particle alone, and hardly on its pose."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cryoaae.cli import run as command
from cryoaae.errors import InputError
from cryoaae.io.store import SubtomogramStore
from cryoaae.subtomograms.embed import Embedding, embed


def test_codes_do_not_depend_on_the_order_of_the_store(shapes_store, shapes_run, tmp_path, store_writer):
    store, n = SubtomogramStore(shapes_store), 96
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    turned_round = store_writer(
        tmp_path / "other.h5", [store.volume(i) for i in order], classes=[store.facts.classes[i] for i in order],
        turns=store.facts.rotations[order], wedges=[store[i].wedge for i in order],
    )  # fmt: skip
    stores = {"as_it_is": shapes_store, "turned_round": turned_round}
    first, second = (
        np.load(embed(path, tmp_path / name, model=shapes_run) / "codes.npz") for name, path in stores.items()
    )
    for name in ("class_probabilities", "features", "style", "error"):
        assert np.allclose(first[name][order], second[name], atol=1e-3), name
    assert second["row"].tolist() == list(range(n))


def test_particles_in_poses_that_the_model_never_saw_keep_their_class(shapes_run, tmp_path, store_maker):
    """Other particles, other poses, other noise: the class is that of their shape."""
    new = store_maker(tmp_path / "new.h5", 20, seed=9)
    found = np.load(embed(new, tmp_path / "codes", model=shapes_run) / "codes.npz")
    cluster_of_class = np.array(json.loads((shapes_run / "clusters.json").read_text())["class_to_cluster"])
    assigned = cluster_of_class[found["class_probabilities"].argmax(axis=1)]
    rods = np.array([name == "rod" for name in SubtomogramStore(new).facts.classes])
    agreement = (assigned == rods).mean()
    assert max(agreement, 1 - agreement) >= 0.9


def test_a_code_is_the_share_of_poses_that_say_a_class_however_sure_they_are():
    views = torch.tensor([[[0.6, 0.4, 0.0]], [[0.5, 0.3, 0.2]], [[0.0, 0.1, 0.9]], [[0.99, 0.01, 0.0]]])
    nothing = torch.zeros(1, 2)
    found = Embedding(views, nothing, nothing, nothing[0]).probabilities
    assert found.tolist() == [[0.75, 0.0, 0.25]]


def test_the_run_folder_of_a_model_is_not_overwritten_by_what_is_made_with_it(shapes_store, shapes_run, capsys):
    before = (shapes_run / "model.safetensors").read_bytes()
    for words in (
        ["embed", str(shapes_store), "--model", str(shapes_run)],
        ["cluster", str(shapes_store), "--model", str(shapes_run / "model.safetensors")],
        ["generate", str(shapes_run)],
    ):
        assert command([*words, "-o", str(shapes_run), "--overwrite"]) == 2
        assert "is the run folder of the model" in capsys.readouterr().err
    assert (shapes_run / "model.safetensors").read_bytes() == before


def test_what_does_not_fit_is_refused(shapes_store, shapes_run, tmp_path, store_maker, capsys):
    with pytest.raises(InputError, match="extract boxes of 16 voxels"):
        embed(store_maker(tmp_path / "small.h5", 2, box=12), tmp_path / "codes", model=shapes_run)
    assert not (tmp_path / "codes").exists()
    words = ["embed", str(shapes_store), "--model", str(shapes_run), "-o", str(tmp_path / "codes")]
    assert command([*words, "--dry-run"]) == 0
    assert not (tmp_path / "codes").exists()
    assert command(["embed", str(shapes_run / "codes.npz"), *words[2:]]) == 2
    assert "not an HDF5 file" in capsys.readouterr().err
    assert command([*words[:3], str(tmp_path), *words[4:]]) == 2
    assert "no such file" in capsys.readouterr().err
