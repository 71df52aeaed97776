from __future__ import annotations

import math

import pytest
import torch

from cryoaae.metrics.clustering import (
    adjusted_rand_index,
    clusters_used,
    confident_error,
    majority_error,
    majority_labels,
    normalised_mutual_information,
)


def drawn(high, n=500, seed=0):
    return torch.randint(0, high, (n,), generator=torch.Generator().manual_seed(seed))


def test_clusters_that_are_classes_have_no_error_whatever_they_are_called():
    labels = drawn(5)
    names = torch.tensor([7, 3, 0, 9, 4])
    assert majority_error(names[labels], labels, names[labels], labels) == 0
    # Two clusters a class as well: 16 clusters for 10 digits.
    split = 2 * labels + drawn(2, seed=1)
    assert majority_error(split, labels, split, labels) == 0


def test_one_cluster_errs_on_all_but_the_commonest_label():
    labels, one = torch.tensor([2, 2, 2, 0, 1]), torch.zeros(5, dtype=torch.long)
    assert majority_error(one, labels, one, labels) == pytest.approx(2 / 5)


def test_the_reference_names_clusters_and_the_others_are_scored():
    reference, known = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([4, 4, 1, 2, 2])
    assert majority_labels(reference, known).tolist() == [4, 2]
    assert majority_error(torch.tensor([0, 0, 1, 1]), torch.tensor([4, 1, 2, 4]), reference, known) == 0.5


def test_clusters_without_a_reference_are_errors_and_have_no_name():
    reference, known = torch.tensor([0, 3]), torch.tensor([0, 1])
    assert majority_labels(reference, known, clusters=6).tolist() == [0, -1, -1, 1, -1, -1]
    assigned, labels = torch.tensor([0, 1, 2, 3, 5]), torch.tensor([0, 0, 1, 1, 0])
    assert majority_error(assigned, labels, reference, known) == pytest.approx(3 / 5)


def test_of_equally_frequent_labels_the_least_is_taken():
    assert majority_labels(torch.zeros(6, dtype=torch.long), torch.tensor([3, 1, 3, 1, 2, 0])).tolist() == [1]


def test_majority_error_is_that_of_counting():
    assigned, labels, reference, known = drawn(6, seed=1), drawn(4, seed=2), drawn(6, seed=3), drawn(4, seed=4)
    wrong = 0
    for cluster, label in zip(assigned.tolist(), labels.tolist(), strict=True):
        members = known[reference == cluster].tolist()
        wrong += max(range(4), key=members.count) != label
    assert majority_error(assigned, labels, reference, known) == pytest.approx(wrong / 500)


def test_the_most_confident_example_names_its_cluster_against_the_majority():
    validation = torch.tensor([[0.60, 0.40], [0.70, 0.30], [0.95, 0.05], [0.20, 0.80]])
    known = torch.tensor([1, 1, 2, 0])
    test, labels = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]]), torch.tensor([2, 1, 0])
    assert confident_error(validation, known, test, labels) == pytest.approx(1 / 3)
    assert majority_error(test.argmax(1), labels, validation.argmax(1), known) == pytest.approx(1 / 3)
    assert confident_error(validation, known, test, torch.tensor([2, 2, 0])) == 0


def test_a_cluster_nobody_is_assigned_to_has_its_most_confident_example_s_name_too():
    validation = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    assert confident_error(validation, torch.tensor([5, 3]), torch.tensor([[0.2, 0.8]]), torch.tensor([3])) == 0


def test_information_and_rand_index_of_equal_independent_and_half_told_clusters():
    labels = torch.arange(4).repeat(1000)
    for score in (normalised_mutual_information, adjusted_rand_index):
        assert score((labels + 1) % 4, labels) == pytest.approx(1)
        assert score(drawn(4, 4000), labels) == pytest.approx(0, abs=5e-3)
    # Two clusters of two classes each: log 2 of information; entropies log 2 and log 4.
    assert normalised_mutual_information(labels // 2, labels) == pytest.approx(math.log(2) / (1.5 * math.log(2)))
    # Pairs within classes, clusters and both: p = C(1000, 2) * 4 ~ n^2 / 8, n^2 / 4, n^2 / 8 of n^2 / 2.
    index, chance, most = 1 / 8, (1 / 8) * (1 / 4) * 2, (1 / 8 + 1 / 4) / 2
    assert adjusted_rand_index(labels // 2, labels) == pytest.approx((index - chance) / (most - chance), abs=2e-3)


def test_used_clusters_are_counted_once():
    assert clusters_used(torch.tensor([0, 2, 2, 2, 5]), 16) == 3


def test_lists_of_two_lengths_or_none_are_refused():
    one, two, none = drawn(2, 3), drawn(2, 4), drawn(2, 0)
    for call in (
        lambda: majority_error(one, two, one, one),
        lambda: majority_error(one, one, one, two),
        lambda: confident_error(torch.rand(3, 2), two, torch.rand(3, 2), one),
        lambda: confident_error(torch.rand(3, 2), one, torch.rand(3, 2), two),
        lambda: normalised_mutual_information(one, two),
        lambda: adjusted_rand_index(none, none),
    ):
        with pytest.raises(ValueError, match=r"lists of one length|labels for"):
            call()
