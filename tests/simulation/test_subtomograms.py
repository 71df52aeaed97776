"""Simulated subtomograms: what they claim of noise, wedge, CTF, pose and place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.metrics.fsc import correlation
from cryoaae.physics.ctf import wavelength_angstrom
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.specimen import SOFTNESS_VOXEL, Species
from cryoaae.simulation.subtomograms import ImagingSettings, SubtomogramSimulator, radius_voxels

# Blobs (z, y, x in voxels from the centre, height) whose centre of mass is the centre.
BLOBS = np.array([[-3.0, 0, 0, 1.0], [3, 2, 0, 1.0], [0, -2, 4, 1.0], [0, 0, -4, 1.0]])
SIGMA = 1.2


def drawn(shape: tuple[int, ...], centre: np.ndarray, turn: np.ndarray, sigma: float) -> np.ndarray:
    """The blobs turned by a matrix on (z, y, x) about a centre; their integrals do not depend on sigma."""
    grid = np.indices(shape)
    out = np.zeros(shape)
    for *point, height in BLOBS:
        place = centre + turn @ np.array(point)
        distance2 = ((grid - place[:, None, None, None]) ** 2).sum(axis=0)
        out += height * (SIGMA / sigma) ** 3 * np.exp(-distance2 / 2 / sigma**2)
    return out


def species(name: str = "blobs") -> Species:
    shape = (15, 15, 15)
    return Species(name, drawn(shape, np.full(3, 7.0), np.eye(3), SIGMA).astype(np.float32))


def simulator(count: int = 3, seed: int = 5, **settings: object) -> SubtomogramSimulator:
    chosen = {"box": 24, "tilt_step_deg": 4.0, "defocus_range_um": (0.0, 0.0), **settings}
    return SubtomogramSimulator([species()], [count], ImagingSettings(**chosen), seed=seed)


@pytest.mark.parametrize("white", [False, True])
def test_signal_and_noise_have_the_variances_that_the_snr_says(white: bool) -> None:
    made = simulator(count=6, snr=0.07, white_noise=white)
    noise = np.stack([made.noise(i) for i in range(6)])
    for i in range(6):
        assert made.signal(i).var() == pytest.approx(0.07, rel=1e-4)
        assert np.array_equal(made[i], made.signal(i) + noise[i])
    # The law is one for all; its scale was measured on other draws.
    assert noise.var() == pytest.approx(1, rel=0.04)


@pytest.mark.parametrize("tilt_range", [(-60.0, 60.0), (-40.0, 56.0)])
def test_nothing_lies_where_no_tilt_was(tilt_range: tuple[float, float]) -> None:
    made = simulator(tilt_range_deg=tilt_range)
    wedge = MissingWedge.from_tilts(made.tilts_deg)
    depth = wedge.solid().depth((24, 24, 24))
    r = radius((24, 24, 24)) * 24
    band = (r > 4) & (r < 9)
    for part in (made.signal(0), made.noise(0)):
        power = rfft(torch.from_numpy(part)).abs().square()
        assert float(power[band & (depth > 2)].mean()) < 0.05 * float(power[band & (depth < -1)].mean())


def test_a_particle_is_turned_and_moved_as_it_says() -> None:
    made = simulator(shift_voxels=2.0)
    wedge = MissingWedge.from_tilts(made.tilts_deg)
    for i, true in enumerate(made.truth):
        turn = true.rotation.as_matrix()[::-1, ::-1]
        wide = math.hypot(SIGMA, SOFTNESS_VOXEL)
        signal = torch.from_numpy(made.signal(i))

        def found(place: np.ndarray, pose: np.ndarray, signal: torch.Tensor = signal, wide: float = wide) -> float:
            return correlation(signal, wedge.measured(torch.from_numpy(drawn((24,) * 3, place, pose, wide))))

        right = found(12 + true.shift_zyx, turn)
        assert right > 0.9
        assert found(12 - true.shift_zyx, turn) < right - 0.05
        assert found(12 + true.shift_zyx, turn.T) < right - 0.05
        assert np.linalg.norm(true.shift_zyx) <= 2


def test_the_ctf_acts_as_optics_says() -> None:
    plain = simulator(count=1, voxel_size_angstrom=13.5)
    with_ctf = simulator(count=1, voxel_size_angstrom=13.5, defocus_range_um=(4.0, 4.0))
    assert np.array_equal(plain.truth[0].shift_zyx, with_ctf.truth[0].shift_zyx)
    shape = (24, 24, 24)
    r = radius(shape) * 24
    seen = MissingWedge.from_tilts(plain.tilts_deg).support(shape)
    before, after = (rfft(torch.from_numpy(one.signal(0))).abs() for one in (plain, with_ctf))
    gain = [float((after[at] * before[at]).sum() / before[at].square().sum())
            for at in (seen & ((r - s).abs() < 0.5) for s in (2, 4, 6, 8))]  # fmt: skip

    def law(s: int) -> float:  # without Cs, which does not show at this resolution
        k = s / 24 / 13.5
        return abs(math.sin(math.pi * wavelength_angstrom(300.0) * k**2 * 4e4 + math.asin(0.1)))

    expected = [law(s) for s in (2, 4, 6, 8)]
    scale = gain[2] / expected[2]  # both are scaled to one SNR
    assert [g / scale for g in gain] == pytest.approx(expected, abs=0.08)


def test_a_seed_says_all_and_particles_do_not_depend_on_each_other() -> None:
    first, again, other = simulator(), simulator(), simulator(seed=6)
    assert np.array_equal(first[2], again[2])
    assert not np.array_equal(first[2], other[2])
    assert not np.array_equal(first[1], first[2])


def test_classes_come_as_often_as_asked_for() -> None:
    made = SubtomogramSimulator([species("a"), species("b")], [7, 2], ImagingSettings(box=24), seed=0)
    assert sorted(true.name for true in made.truth) == ["a"] * 7 + ["b"] * 2


def test_a_particle_that_does_not_fit_names_the_box_that_would_do() -> None:
    reach = radius_voxels(species()) + 2
    needed = 2 * math.ceil(reach)
    with pytest.raises(InputError, match=f"blobs: reaches {reach:.1f} voxels .* use --box {needed}"):
        SubtomogramSimulator([species()], [1], ImagingSettings(box=needed - 2), seed=0)
    SubtomogramSimulator([species()], [1], ImagingSettings(box=needed), seed=0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"box": 4}, "--box"), ({"voxel_size_angstrom": 0.0}, "--voxel-size"),
        ({"tilt_range_deg": (60.0, -60.0)}, "--tilt-range"), ({"tilt_step_deg": 0.0}, "--tilt-step"),
        ({"tilt_step_deg": 200.0}, "--tilt-step"), ({"snr": 0.0}, "--snr"), ({"snr": math.inf}, "--snr"),
        ({"shift_voxels": -1.0}, "--shift"), ({"defocus_range_um": (5.0, 3.0)}, "--defocus"),
    ],
)  # fmt: skip
def test_settings_that_make_no_subtomogram_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ImagingSettings(**wrong)


@pytest.mark.parametrize("counts", [[], [0], [-1], [3, 3]])
def test_counts_must_fit_the_classes(counts: list[int]) -> None:
    with pytest.raises(InputError, match="--count"):
        SubtomogramSimulator([species()], counts, ImagingSettings(box=24), seed=0)


def test_the_density_is_what_the_signal_shows_but_for_the_wedge() -> None:
    made = simulator(count=1, tilt_range_deg=(-86.0, 86.0), tilt_step_deg=2.0)
    true = made.truth[0]
    turn = true.rotation.as_matrix()[::-1, ::-1]
    wanted = drawn((24,) * 3, 12 + true.shift_zyx, turn, math.hypot(SIGMA, SOFTNESS_VOXEL))
    assert correlation(torch.from_numpy(made.density(0)), torch.from_numpy(wanted)) > 0.99
    assert correlation(torch.from_numpy(made.signal(0)), torch.from_numpy(made.density(0))) > 0.9
