"""Averages by known poses: the wedge is filled, noise falls, and halves of nothing do not agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoaae.physics.fourier import rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.average import average, class_averages
from cryoaae.subtomograms.standard import Particles, measure_standard, open_stores

BOX, WEDGE = 16, MissingWedge((-60.0, 60.0))


def opened(path) -> Particles:
    stores = open_stores([path])
    return Particles(stores, measure_standard(stores, BOX))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_an_average_has_no_wedge_and_less_noise_than_a_particle(tmp_path, store_maker):
    path = store_maker(tmp_path / "s.h5", 60, noise=2.0)
    clean = opened(store_maker(tmp_path / "clean.h5", 1, noise=0.02))
    particles = opened(path)
    rods = [i for i in range(120) if i % 2]
    found = average(particles, rods)
    # The rod as it lies in its reference, from the clean particle's own average.
    wanted = torch.from_numpy(average(clean, [1]).volume)
    seen = torch.from_numpy(found.volume)
    single = particles.standard.unwhitened(torch.from_numpy(np.asarray(particles.stores[0].volume(1))))
    assert correlation(seen, wanted) > 0.8
    assert correlation(seen, wanted) > correlation(single, wanted) + 0.2
    power = rfft(seen).abs() ** 2
    low = (slice(0, 4), slice(0, 4), slice(0, 4))
    hidden = ~WEDGE.support((BOX,) * 3)
    share = float((power[low] * hidden[low]).sum() / power[low].sum())
    assert share > 0.005  # of a particle as it was measured it is exactly nothing
    assert found.fsc[1:3].min() > 0.8
    assert found.particles == 60


def test_halves_of_noise_do_not_agree(tmp_path, store_writer):
    noise = np.random.default_rng(0).normal(size=(40, BOX, BOX, BOX)).astype(np.float32)
    turns = Rotation.random(40, rng=np.random.default_rng(1)).as_matrix()
    volumes = [WEDGE.measured(torch.from_numpy(v)).numpy() for v in noise]
    path = store_writer(
        tmp_path / "n.h5", volumes, classes=[""] * 40, turns=turns, wedges=[WEDGE] * 40,
        half_sets=[1 + i % 2 for i in range(40)],
    )  # fmt: skip
    assert np.abs(average(opened(path), range(40)).fsc[3:]).max() < 0.35


def test_half_sets_of_the_store_are_the_halves(tmp_path, store_writer, store_maker):
    """Particles of one half set that are all the same, of the other all their negative: halves disagree."""
    one = opened(store_maker(tmp_path / "s.h5", 1, noise=0.1)).stores[0].volume(1)
    volumes = [one if i < 5 else -one for i in range(10)]
    turns = np.stack([np.eye(3)] * 10)
    path = store_writer(
        tmp_path / "h.h5", volumes, classes=[""] * 10, turns=turns, wedges=[WEDGE] * 10, half_sets=[1] * 5 + [2] * 5
    )
    assert average(opened(path), range(10)).fsc[1] == pytest.approx(-1.0, abs=0.01)


def test_lists_without_angles_have_no_poses_and_one_such_store_is_enough(tmp_path, store_maker, store_writer):
    posed = store_maker(tmp_path / "posed.h5", 2)
    volumes = [open_stores([posed])[0].volume(i) for i in range(4)]
    plain = store_writer(
        tmp_path / "plain.h5", volumes, classes=[""] * 4, turns=np.stack([np.eye(3)] * 4), wedges=[WEDGE] * 4
    )
    standard = measure_standard(open_stores([posed]), BOX)
    assert Particles(open_stores([posed]), standard).posed
    assert not Particles(open_stores([plain]), standard).posed
    assert not Particles(open_stores([posed, plain]), standard).posed


def test_class_averages_are_the_averages_that_are_written_but_whitened(tmp_path, store_maker):
    particles = opened(store_maker(tmp_path / "s.h5", 6))
    classes = torch.tensor([0, 1] * 5 + [-1, -1])
    found = class_averages(particles, classes, 3)
    written = torch.from_numpy(average(particles, [1, 3, 5, 7, 9]).volume)
    seen = particles.standard.unwhitened(found[1])
    inside = written.abs() > 0.2 * written.abs().max()
    assert correlation(seen[inside], written[inside]) > 0.999
    assert not found[2].any()
