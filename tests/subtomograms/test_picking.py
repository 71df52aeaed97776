"""Proposals: balls of the right size are found where they are, and the stated limits hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from cryoaae.errors import InputError
from cryoaae.subtomograms.picking import blob_response, pick_particles
from cryoaae.volume import Volume

SHAPE, VOXEL, DIAMETER = (40, 72, 72), 10.0, 10.0
CENTRES = np.array([(z, y, x) for z in (12, 28) for y in (12, 36, 60) for x in (14, 34, 56)], dtype=float)


def tomogram(noise: float, sign: float = 1.0, centres: np.ndarray = CENTRES) -> Volume:
    grid = np.indices(SHAPE)
    data = np.random.default_rng(0).normal(size=SHAPE) * noise + 30.0
    for centre in centres:
        data += sign * (((grid - centre[:, None, None, None]) ** 2).sum(axis=0) <= (DIAMETER / 2) ** 2)
    return Volume(data.astype(np.float32), VOXEL)


@pytest.mark.parametrize(("sign", "dark"), [(1.0, False), (-1.0, True)])
def test_balls_are_found_where_they_are(sign, dark):
    picked, scores = pick_particles(tomogram(0.5, sign), DIAMETER * VOXEL, dark=dark, count=len(CENTRES))
    distance, which = cKDTree(CENTRES).query(picked.points_zyx)
    assert sorted(which) == list(range(len(CENTRES)))
    assert distance.max() <= 1.5
    assert (np.diff(scores) <= 0).all()


def test_the_other_sign_is_not_picked():
    """Around a ball of the other sign lies a faint ring; nothing in the balls is proposed."""
    try:
        points = pick_particles(tomogram(0.2, -1.0), DIAMETER * VOXEL)[0].points_zyx
    except InputError:
        return
    assert cKDTree(CENTRES).query(points)[0].min() > DIAMETER / 2


def test_picks_keep_their_distance_and_off_the_border():
    picked, _ = pick_particles(tomogram(1.0), DIAMETER * VOXEL, distance_angstrom=150.0, border=10)
    points = picked.points_zyx
    assert len(points) >= len(CENTRES)
    assert cKDTree(points).query(points, k=2)[0][:, 1].min() > 15.0
    assert (points >= 10).all()
    assert (points < np.array(SHAPE) - 10).all()


def test_a_ball_answers_most_at_its_own_diameter():
    data = tomogram(0.0, centres=np.array([[20.0, 36.0, 36.0]])).data
    answers = {d: float(blob_response(data, d)[20, 36, 36]) for d in (4.0, 7.0, 10.0, 14.0, 20.0)}
    assert max(answers, key=lambda d: answers[d]) == 10.0


def test_what_cannot_be_picked_is_refused():
    with pytest.raises(InputError, match="--diameter"):
        pick_particles(tomogram(0.5), 20.0)
    with pytest.raises(InputError, match="--diameter"):
        pick_particles(tomogram(0.5), 500.0)
    flat = Volume(np.zeros(SHAPE, dtype=np.float32), VOXEL)
    with pytest.raises(InputError, match="nothing of this diameter stands out"):
        pick_particles(flat, DIAMETER * VOXEL)
