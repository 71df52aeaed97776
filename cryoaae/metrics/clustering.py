"""How well clusters found without labels agree with labels."""

from __future__ import annotations

import torch
from torch import Tensor

UNMAPPED = -1


def majority_error(assigned: Tensor, labels: Tensor, reference_assigned: Tensor, reference_labels: Tensor) -> float:
    """Share of examples whose cluster's majority label is not their own.

    Parameters
    ----------
    assigned, labels : (n,) int
        Clusters and labels to score.
    reference_assigned, reference_labels : (m,) int
        Those that give each cluster its label: its most frequent one, the least of equally frequent ones.
        A cluster without a member here has no label, and all its examples count as errors.

    Returns
    -------
    float
        From 0 to 1.
    """
    names = majority_labels(reference_assigned, reference_labels, clusters=int(assigned.max()) + 1)
    return _share_wrong(names[assigned], labels)


def majority_labels(assigned: Tensor, labels: Tensor, *, clusters: int = 0) -> Tensor:
    """Most frequent label of each cluster, the least of equals; -1 (UNMAPPED) where a cluster has no member.

    Parameters
    ----------
    assigned, labels : (n,) int
    clusters : int
        Number of clusters, where it is more than appear.

    Returns
    -------
    (clusters,) int64
    """
    _check_pairs(assigned, labels)
    rows, columns = max(clusters, int(assigned.max()) + 1), int(labels.max()) + 1
    counts = (assigned * columns + labels).bincount(minlength=rows * columns).reshape(rows, columns)
    # argmax promises no order among equals.
    most = counts.max(dim=1, keepdim=True).values
    first = torch.where(counts == most, torch.arange(columns, device=counts.device), columns).min(dim=1).values
    return torch.where(most[:, 0] > 0, first, UNMAPPED)


def held_out_majority_error(assigned: Tensor, labels: Tensor) -> float:
    """Error of clusters named by the majority of the first half of the examples, on the second half."""
    half = len(assigned) // 2
    return majority_error(assigned[half:], labels[half:], assigned[:half], labels[:half])


def confident_error(
    probabilities_validation: Tensor, labels_validation: Tensor, probabilities_test: Tensor, labels_test: Tensor
) -> float:
    """Share of test examples whose cluster's label, that of its most confident example, is not their own.

    Parameters
    ----------
    probabilities_validation : (n, clusters)
        q(y | x). Each cluster i takes the label of the example with the largest q(y_i | x), the first of equals,
        so every cluster has a label.
    labels_validation : (n,) int
    probabilities_test : (m, clusters)
        Each example belongs to the cluster with the largest q(y | x).
    labels_test : (m,) int

    Returns
    -------
    float
        From 0 to 1.

    Notes
    -----
    The protocol of Makhzani et al. 2016, section 6.
    """
    if probabilities_validation.shape[0] != len(labels_validation) or not len(labels_validation):
        raise ValueError(f"{len(labels_validation)} labels for {len(probabilities_validation)} examples")
    names = labels_validation[probabilities_validation.argmax(dim=0)]
    return _share_wrong(names[probabilities_test.argmax(dim=1)], labels_test)


def normalised_mutual_information(assigned: Tensor, labels: Tensor) -> float:
    """Mutual information of clusters and labels, over the mean of their entropies: 0 to 1.

    Parameters
    ----------
    assigned, labels : (n,) int
    """
    from sklearn.metrics import normalized_mutual_info_score

    _check_pairs(assigned, labels)
    return float(normalized_mutual_info_score(labels.cpu().numpy(), assigned.cpu().numpy()))


def adjusted_rand_index(assigned: Tensor, labels: Tensor) -> float:
    """Share of pairs on which clusters and labels agree, corrected for chance: 0 by chance, 1 at best.

    Parameters
    ----------
    assigned, labels : (n,) int
    """
    from sklearn.metrics import adjusted_rand_score

    _check_pairs(assigned, labels)
    return float(adjusted_rand_score(labels.cpu().numpy(), assigned.cpu().numpy()))


def clusters_used(assigned: Tensor, clusters: int) -> int:
    """How many of `clusters` have a member among `assigned`, (n,)."""
    return int((assigned.bincount(minlength=clusters) > 0).sum())


def _share_wrong(found: Tensor, labels: Tensor) -> float:
    _check_pairs(found, labels)
    return float((found != labels).double().mean())


def _check_pairs(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dim() != 1 or not len(first):
        raise ValueError(f"{tuple(first.shape)} and {tuple(second.shape)} are not two lists of one length")
