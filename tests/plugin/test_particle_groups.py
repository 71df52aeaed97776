"""Editing classes: laws of partitions, and of going back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError
from napari_cryoaae.particle_groups import History, ParticleGroups

GROUPS = ParticleGroups(("ball", "rod", "rest"), np.array([0, 0, 1, 1, 1, 2, 0, 1]))
CODES = np.array([[0.0], [10.0], [0.1], [10.1], [0.2], [10.2], [0.3], [10.3]])


def partition(groups: ParticleGroups) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups.assigned == k).tolist()) for k in range(len(groups.names))}


def test_merging_joins_members_under_the_name_of_the_largest() -> None:
    merged = GROUPS.merged([0, 1])
    assert partition(merged) == {frozenset({0, 1, 2, 3, 4, 6, 7}), frozenset({5})}
    assert merged.names == ("rod", "rest")
    assert merged.sizes == [7, 1]


def test_merging_the_parts_of_a_split_gives_the_class_back() -> None:
    members = np.flatnonzero(GROUPS.assigned == 1)
    split = GROUPS.split(members, CODES[members], 2)
    assert frozenset({2, 4}) in partition(split)
    assert frozenset({3, 7}) in partition(split)
    parts = [k for k, name in enumerate(split.names) if name.startswith("rod-")]
    assert partition(split.merged(parts)) == partition(GROUPS)


def test_split_of_a_whole_class_moves_no_other_and_of_a_part_leaves_the_rest() -> None:
    whole = GROUPS.split(np.array([2, 3, 4, 7]), CODES[[2, 3, 4, 7]], 2)
    assert whole.names == ("ball", "rod-1", "rest", "rod-2")
    others = [0, 1, 5, 6]
    assert np.array_equal(whole.assigned[others], GROUPS.assigned[others])
    part = GROUPS.split(np.array([0, 3]), CODES[[0, 3]], 1)
    assert part.names == ("ball", "rod", "rest", "selection-1")
    assert partition(part) == {frozenset({1, 6}), frozenset({2, 4, 7}), frozenset({5}), frozenset({0, 3})}


def test_largest_part_comes_first_and_names_stay_different() -> None:
    members = np.arange(8)
    codes = np.array([[0.0]] * 2 + [[9.0]] * 6) + CODES / 1e3
    once = GROUPS.split(members, codes, 2)
    assert once.sizes == [6, 2]
    again = ParticleGroups(("a", "a-1"), np.array([0, 0, 1])).split(np.array([0, 1]), CODES[:2], 1)
    assert len(set(again.names)) == len(again.names)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [(("1", "2", "4"), [1, 2, 4]), (("1", "02", "4"), [1, 2, 3]), (("rod", "2", "4"), [1, 2, 3]), (("0", "1"), [1, 2])],
)
def test_names_that_are_numbers_are_the_numbers(names: tuple[str, ...], numbers: list[int]) -> None:
    assert ParticleGroups(names, np.arange(len(names))).numbers == numbers


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda g: g.merged([1]), "two classes or more"),
        (lambda g: g.merged([1, 1]), "two classes or more"),
        (lambda g: g.renamed(0, "rod"), "another class"),
        (lambda g: g.renamed(0, "  "), "empty"),
        (lambda g: g.split(np.array([0, 1]), CODES[:2], 3), "3 parts of 2"),
        (lambda g: g.split(np.array([0, 1]), CODES[[0, 0]], 2), "2 parts of 2"),
        (lambda g: g.split(np.array([0, 1]), CODES[:2] * np.nan, 2), "no code"),
        (lambda g: g.split(np.array([], int), CODES[:0], 1), "1 parts of 0"),
    ],
)
def test_edits_that_cannot_be_meant_are_refused(edit: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        edit(GROUPS)


def test_going_back_and_forth_and_another_way() -> None:
    history = History(GROUPS)
    merged, renamed = GROUPS.merged([0, 1]), GROUPS.renamed(0, "sphere")
    history.push(merged)
    history.push(merged.renamed(0, "all"))
    history.undo()
    assert history.state is merged
    history.undo()
    history.undo()  # there is no more
    assert history.state is GROUPS
    assert not history.can_undo
    history.redo()
    assert history.state is merged
    history.undo()
    history.push(renamed)
    assert not history.can_redo
    history.redo()
    assert history.state is renamed
    assert GROUPS.names == ("ball", "rod", "rest")  # no state was changed by another
