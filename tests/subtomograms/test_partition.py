"""Joining classes: what poses mix up becomes one, what they keep apart stays apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.metrics.clustering import adjusted_rand_index
from cryoaae.subtomograms.partition import choose_level, compare, confusion, levels, pose_agreement


def split_views(views: int = 4, each: int = 60, confused: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Three kinds seen as six classes: each kind's pose decides which of its two classes it falls into."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(3).repeat_interleave(each)
    second = torch.rand(views, len(kinds), generator=generator) < confused
    hard = torch.nn.functional.one_hot(2 * kinds + second, 6).float()
    return 0.94 * hard + 0.01, kinds


def test_classes_that_poses_mix_up_are_joined_and_their_number_is_found():
    views, kinds = split_views()
    found = levels(views)
    assert [level.clusters for level in found] == [6, 5, 4, 3, 2, 1]
    chosen = choose_level(found, None)
    assert chosen.clusters == 3
    assigned = chosen.probabilities(views.mean(dim=0)).argmax(dim=1)
    assert adjusted_rand_index(assigned, kinds) == 1.0
    assert chosen.kappa == 1.0
    assert found[0].kappa < 0.6
    assert choose_level(found, 5).clusters == 5
    with pytest.raises(ValueError, match="6 classes, fewer than 7"):
        choose_level(found, 7)


def test_confusion_is_a_law_of_pairs():
    views, _ = split_views(views=3)
    table = confusion(views)
    assert float(table.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(table, table.T)
    torch.testing.assert_close(table.sum(dim=1), views.double().mean(dim=(0, 1)))
    by_hand = torch.stack(
        [a.double().T @ b.double() for i, a in enumerate(views) for j, b in enumerate(views) if i != j]
    ).sum(dim=0)
    torch.testing.assert_close(table, by_hand / by_hand.sum())


def test_agreement_is_corrected_for_chance():
    same = torch.arange(4).repeat(25).expand(3, -1)
    assert pose_agreement(same, 4) == (1.0, 1.0)
    by_chance = torch.randint(4, (3, 4000), generator=torch.Generator().manual_seed(0))
    agreement, kappa = pose_agreement(by_chance, 4)
    assert agreement == pytest.approx(0.25, abs=0.02)
    assert kappa == pytest.approx(0.0, abs=0.02)
    assert pose_agreement(torch.zeros(2, 9, dtype=torch.long), 2) == (1.0, 0.0)


def test_where_poses_agree_on_nothing_the_best_is_taken():
    views = torch.softmax(torch.randn(3, 200, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = levels(views)
    chosen = choose_level(found, None)
    assert chosen.clusters > 1
    assert chosen.kappa == max(level.kappa for level in found if level.clusters > 1)
    assert chosen.kappa < 0.2


def test_the_largest_cluster_comes_first_and_classes_nobody_uses_with_it():
    generator = torch.Generator().manual_seed(0)
    kinds = (torch.rand(300, generator=generator) < 0.8).long() + 1
    views = torch.nn.functional.one_hot(kinds, 4).float().expand(2, -1, -1)
    level = levels(views)[0]
    assert level.cluster_of_class.tolist() == [0, 1, 0, 0]


def test_groups_are_numbered_by_the_particles_that_end_up_in_them():
    """Sure particles of one class, many unsure ones of another: the unsure are more, though less likely in sum."""
    sure = torch.tensor([[1.0, 0.0, 0.0]]).repeat(45, 1)
    unsure = torch.tensor([[0.3, 0.4, 0.3]]).repeat(55, 1)
    views = torch.cat([sure, unsure]).expand(2, -1, -1)
    level = levels(views)[0]
    sizes = torch.bincount(level.probabilities(views[0]).argmax(dim=1), minlength=2).tolist()
    assert sizes == sorted(sizes, reverse=True)


def test_as_few_particles_as_are_let_in_can_be_compared():
    features = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = compare(features, 2, 12)
    assert all(len(assigned) == 4 for assigned in found.assigned.values())
    assert sorted(found.curve) == [2, 3]


def test_a_cluster_that_the_sample_misses_leaves_the_silhouette_at_nothing(monkeypatch):
    monkeypatch.setattr("cryoaae.subtomograms.partition.SILHOUETTE_SAMPLE", 20)
    features = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) * 1e-3
    features[17] = 100.0  # alone, and not among the twenty
    assert compare(features, 2, 2).curve[2]["silhouette"] == 0.0


def test_comparison_finds_what_is_there_and_who_does_not_belong():
    rng = np.random.default_rng(0)
    kinds = torch.arange(3).repeat_interleave(50)
    middles = 8 * rng.normal(size=(3, 12))
    features = torch.from_numpy(middles[kinds.numpy()] + rng.normal(size=(150, 12)))
    features[149] = torch.from_numpy(middles.mean(axis=0))  # between all of them
    found = compare(features, 3, 6)
    for name, assigned in found.assigned.items():
        kept = torch.from_numpy(assigned >= 0)
        assert kept[:149].double().mean() > 0.6, name
        assert adjusted_rand_index(torch.from_numpy(assigned)[:149][kept[:149]], kinds[:149][kept[:149]]) > 0.9, name
    assert int(found.outlier_score.argmax()) == 149
    assert max(found.curve, key=lambda k: found.curve[k]["silhouette"]) == 3
    assert min(found.curve, key=lambda k: found.curve[k]["bic"]) == 3
