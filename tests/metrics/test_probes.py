from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cryoaae.io.images import load_images
from cryoaae.metrics.clustering import majority_error
from cryoaae.metrics.probes import kmeans_assign, knn_accuracy, probe_accuracy

KINDS = ("mlp", "linear", "knn")


def quadrants(n, seed):
    """Points of the plane, labelled by whether their coordinates have one sign: no line parts them."""
    codes = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return codes, (codes[:, 0] * codes[:, 1] > 0).long()


def blobs(n, seed, classes=4):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    return 8 * torch.eye(classes)[labels] + torch.randn(n, classes, generator=g), labels


@pytest.mark.parametrize("kind", KINDS)
def test_parted_classes_are_read_and_random_labels_are_not(kind):
    (codes, labels), (test, truth) = blobs(600, 0), blobs(400, 1)
    assert probe_accuracy(codes, labels, test, truth, seed=0, kind=kind) > 0.99
    noise = torch.randn(1000, 3, generator=torch.Generator().manual_seed(2)).split([600, 400])
    assert probe_accuracy(noise[0], labels, noise[1], truth, seed=0, kind=kind) == pytest.approx(0.25, abs=0.08)


def test_only_curved_probes_read_what_no_line_parts():
    (codes, labels), (test, truth) = quadrants(1500, 0), quadrants(1000, 1)
    found = {kind: probe_accuracy(codes, labels, test, truth, seed=0, kind=kind) for kind in KINDS}
    assert found["linear"] < 0.65
    assert min(found["mlp"], found["knn"]) > 0.93


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_units_of_a_coordinate_do_not_matter_and_a_constant_one_does_no_harm(kind):
    (codes, labels), (test, truth) = blobs(400, 0), blobs(400, 1)
    units = torch.tensor([1e-3, 1.0, 1e4, 1.0])
    wide = [torch.cat([x * units + 7, torch.full((400, 1), 3.0)], dim=1) for x in (codes, test)]
    assert probe_accuracy(wide[0], labels, wide[1], truth, seed=0, kind=kind) > 0.98


def test_a_probe_is_its_seed_s():
    train, test = quadrants(300, 0), quadrants(300, 1)
    state = torch.get_rng_state()
    first, again = (probe_accuracy(*train, *test, seed=3) for _ in range(2))
    assert first == again and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_one_is_no_obstacle(kind):
    codes, labels = blobs(12, 0)
    labels = torch.cat([labels, torch.tensor([4])])
    codes = torch.cat([codes, torch.full((1, 4), -5.0)])
    assert 0 <= probe_accuracy(codes, labels, codes, labels, seed=0, kind=kind) <= 1


def test_neighbours_vote():
    train = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1]])
    labels, test = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([[0.0], [5.0]])
    assert knn_accuracy(train, labels, test, torch.tensor([0, 2]), k=1) == 1
    assert knn_accuracy(train, labels, test, torch.tensor([1, 2]), k=3) == 1
    # More neighbours than codes are all of them.
    assert knn_accuracy(train[:3], labels[:3], test, torch.tensor([1, 1]), k=15) == 1


def test_unknown_probes_and_codes_of_two_spaces_are_refused():
    codes, labels = blobs(20, 0)
    with pytest.raises(ValueError, match="mlp, linear or knn"):
        probe_accuracy(codes, labels, codes, labels, seed=0, kind="svm")
    with pytest.raises(ValueError, match="one space"):
        probe_accuracy(codes, labels, codes[:, :2], labels, seed=0)


def test_k_means_finds_blobs_under_whatever_names_and_repeats_itself():
    (train, labels), (test, truth) = blobs(400, 0), blobs(300, 1)
    first, again = (kmeans_assign(train, test, 4, seed=2) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert majority_error(first[1], truth, first[0], labels) < 0.01
    # One principal component does not part four corners of a simplex.
    known, found = kmeans_assign(train, test, 4, components=1)
    assert majority_error(found, truth, known, labels) > 0.1


@pytest.mark.data
def test_k_means_on_mnist_has_the_error_that_models_must_beat():
    folder = Path(os.environ["CRYOAAE_DATA"]) / "mnist"
    if not folder.is_dir():
        pytest.skip("CRYOAAE_DATA holds no mnist")
    images = load_images(folder)
    train, test = kmeans_assign(images.train.pixels, images.test.pixels, 16, seed=0)
    error = majority_error(test, images.test.labels, train, images.train.labels)
    assert 0.27 < error < 0.36
