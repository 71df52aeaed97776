"""Laws of the contrast transfer function, and its zeros in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.physics.ctf import ContrastTransfer, ctf_2d, ctf_radial, wavelength_angstrom

N, PIXEL = 128, 3.0
OPTICS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.07}


def ctf(u: float, v: float | None = None, along_deg: float = 0.0, **optics: float) -> torch.Tensor:
    values = (torch.tensor([x]) for x in (u, u if v is None else v, along_deg))
    return ctf_2d((N, N), PIXEL, *values, **(OPTICS | optics))[0]


@pytest.mark.parametrize(("kilovolt", "published"), [(100, 0.037014), (200, 0.025079), (300, 0.019687)])
def test_wavelength(kilovolt, published):
    assert wavelength_angstrom(kilovolt) == pytest.approx(published, abs=2e-6)


def test_at_the_origin_stands_the_amplitude_contrast():
    assert float(ctf(2e4)[0, 0]) == pytest.approx(0.07, abs=1e-6)


def test_zeros_lie_where_the_phase_is_whole():
    """Without aberration: pi lambda k^2 d + asin A = n pi."""
    defocus, wavelength = 2.5e4, wavelength_angstrom(300.0)
    line = ctf(defocus, cs_mm=0.0)[0].double()
    k = torch.fft.rfftfreq(N, dtype=torch.float64) / PIXEL
    crossings = torch.nonzero(line[:-1] * line[1:] < 0)[:, 0]
    found = k[crossings] + (k[1] - k[0]) * (line[crossings] / (line[crossings] - line[crossings + 1]))
    expected = [math.sqrt((n * math.pi - math.asin(0.07)) / (math.pi * wavelength * defocus)) for n in range(1, 4)]
    assert found[:3].tolist() == pytest.approx(expected, rel=0.01)


def test_aberration_enters_with_the_fourth_power():
    """Chi is zero again where d = Cs lambda^2 k^2 / 2: there the CTF is that of the origin."""
    wavelength = wavelength_angstrom(300.0)
    k = 20 / (N * PIXEL)
    defocus = 0.5 * 2.7e7 * wavelength**2 * k**2
    assert float(ctf(defocus)[0, 20]) == pytest.approx(0.07, abs=1e-5)


def test_underfocus_makes_low_frequencies_positive_and_overfocus_negative():
    assert bool((ctf(1e4)[0, 1:12] > 0).all())
    assert bool((ctf(-3e4)[0, 4:8] < 0).all())


def test_astigmatism_is_a_turn_of_the_pattern():
    u, v = 2.4e4, 2.0e4
    along_x, along_y = ctf(u, v, 0.0), ctf(u, v, 90.0)
    assert torch.allclose(along_x[0], ctf(u)[0], atol=1e-5)  # along x the underfocus is u
    assert torch.allclose(along_x[: N // 2 + 1, 0], ctf(v)[: N // 2 + 1, 0], atol=1e-5)
    assert torch.allclose(along_y, ctf(v, u, 0.0), atol=1e-5)
    assert torch.allclose(ctf(u, v, 30.0), ctf(u, v, 210.0), atol=1e-5)
    # From x towards y: at 45 degrees the first quadrant's diagonal has u.
    k = torch.arange(1, N // 2)
    assert torch.allclose(ctf(u, v, 45.0)[k, k], ctf(u)[k, k], atol=1e-5)


def test_images_do_not_mix():
    u = torch.tensor([1e4, 2e4, 3e4])
    together = ctf_2d((32, 32), PIXEL, u, u, torch.zeros(3), **OPTICS)
    alone = ctf_2d((32, 32), PIXEL, u[1:2], u[1:2], torch.zeros(1), **OPTICS)
    assert torch.equal(together[1], alone[0])


# -- radial ------------------------------------------------------------------------------------------------

SFREQ = torch.linspace(0, 0.1, 4001, dtype=torch.float64)  # per angstrom


def test_the_radial_one_is_a_line_of_the_image_without_astigmatism():
    line = ctf_radial(torch.fft.rfftfreq(N, dtype=torch.float64) / PIXEL, torch.tensor([2e4, 3e4]), **OPTICS)
    assert torch.allclose(line[0].float(), ctf(2e4)[0], atol=1e-6)
    assert torch.allclose(line[1].float(), ctf(3e4)[0], atol=1e-6)


@pytest.mark.parametrize("defocus_um", [1.5, 4.0])
def test_what_is_left_after_flipping_is_positive_with_the_same_zeros(defocus_um):
    mean, square = ContrastTransfer((defocus_um,), **OPTICS).at(SFREQ)
    raw, raw_square = ContrastTransfer((defocus_um,), **OPTICS, phase_flipped=False).at(SFREQ)
    assert torch.allclose(raw, ctf_radial(SFREQ, torch.tensor([1e4 * defocus_um]), **OPTICS)[0])
    assert torch.allclose(mean, raw.abs())
    assert torch.allclose(square, raw.square())
    assert torch.allclose(raw_square, raw.square())
    assert float(mean[0]) == pytest.approx(0.07)
    # The second zero of sin chi, aberration left out: its share of chi is below one in a hundred here.
    zero = math.sqrt((math.pi - math.asin(0.07)) / (math.pi * wavelength_angstrom(300.0) * 1e4 * defocus_um))
    assert float(mean[(SFREQ - zero).abs() < 5e-4].min()) < 0.02


def test_several_tilts_are_averaged():
    one, two = (ContrastTransfer((d,), **OPTICS).at(SFREQ) for d in (2.0, 2.6))
    both = ContrastTransfer((2.0, 2.6), **OPTICS).at(SFREQ)
    for k in (0, 1):
        assert torch.allclose(both[k], (one[k] + two[k]) / 2)
    assert bool((both[1] >= both[0] ** 2 - 1e-12).all())
    # Where the one vanishes the other does not.
    assert float(both[0][100:].min()) > 0.02 > float(one[0][100:].min())


@pytest.mark.parametrize("flipped", [True, False])
def test_beyond_what_the_defocus_is_known_for_the_sign_is_anybodys_guess(flipped):
    """With s = pi lambda k^2 d e the mean of sin falls as exp(-s^2 / 2), its mean square goes to a half."""
    error, defocus_um = 0.1, 4.0
    transfer = ContrastTransfer((defocus_um,), **OPTICS, phase_flipped=flipped)
    (exact, _), (mean, square) = transfer.at(SFREQ), transfer.at(SFREQ, defocus_error=error)
    spread = math.pi * wavelength_angstrom(300.0) * SFREQ**2 * 1e4 * defocus_um * error
    assert torch.allclose(mean, exact * torch.exp(-(spread**2) / 2), atol=0.06)
    assert float(spread[-1]) > 2
    assert float(mean[spread > 2].abs().max()) < 0.2 < 0.9 < float(exact[spread > 2].abs().max())
    assert float((square[spread > 1.5] - 0.5).abs().max()) < 0.1


WRONG = {
    "--defocus": [{"defocus_um": (-2.0,)}, {"defocus_um": (0.0,)}, {"defocus_um": (40000.0,)}, {"defocus_um": ()},
                  {"defocus_um": (2.0, math.nan)}],
    "--voltage": [{"voltage_kv": 300_000.0}, {"voltage_kv": 0.0}, {"voltage_kv": math.nan}],
    "--cs": [{"cs_mm": -1.0}, {"cs_mm": 2.7e7}],
    "--amplitude-contrast": [{"amplitude_contrast": 7.0}, {"amplitude_contrast": -0.1}],
}  # fmt: skip


@pytest.mark.parametrize(("option", "values"), [(o, v) for o, each in WRONG.items() for v in each])
def test_numbers_that_cannot_be_meant_are_refused(option, values):
    with pytest.raises(InputError, match=option):
        ContrastTransfer(**{"defocus_um": (2.0,), **values})
