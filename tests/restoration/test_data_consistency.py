"""Where the signal is measured far above the noise, a restoration is its linear part; elsewhere the network's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.patches.spectra import Spectra, kernel_response
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.data_consistency import POWER, estimator, kept_share, put_together, wiener_curve
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.restore import restore_array
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

WEDGE = MissingWedge((-60.0, 50.0))
SHAPE = (24, 40, 36)
ALL = slice(0, SHAPE[1])


def loud(signal_over_noise: float) -> Restorer:
    """A restorer of one half, with a network that has learned something (at random)."""
    noise = torch.ones(32, dtype=torch.float64)
    made = Restorer(
        RestorerSpec(1, 10.0, {"widths": [4, 8]}), Spectra(noise * signal_over_noise, noise), halves=1
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weights in made.network.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
    return made.eval()


def measured() -> torch.Tensor:
    return WEDGE.depth(SHAPE) < -1


@pytest.mark.parametrize("signal_over_noise", [0.1, 3.0, 50.0])
def test_share_is_one_in_the_wedge_and_falls_with_the_wiener_filter_where_measured(signal_over_noise: float) -> None:
    share = kept_share(loud(signal_over_noise).wiener, WEDGE, SHAPE)(ALL)
    wiener = signal_over_noise / (1 + signal_over_noise)
    inner = radius(SHAPE) < 0.4
    assert torch.all(share[~measured()] == 1)
    torch.testing.assert_close(
        share[measured() & inner], torch.tensor(1 - wiener**POWER).float().expand(int((measured() & inner).sum())),
        atol=2e-3, rtol=0,
    )  # fmt: skip


def test_wiener_curve_is_what_the_kernel_does_to_waves() -> None:
    shells = torch.linspace(1, 0.1, 64, dtype=torch.float64)
    made = Restorer(RestorerSpec(1, 10.0, {"widths": [4, 8]}), Spectra(shells, 1.1 - shells), halves=1)
    along_x = kernel_response(made.wiener, (16, 16, 512))[0, 0].real.double()
    between = (along_x[:-1] + along_x[1:]) / 2
    torch.testing.assert_close(wiener_curve(made.wiener), between, atol=1e-3, rtol=0)


def test_what_was_hidden_and_rows_of_it_are_left_to_the_network() -> None:
    hidden = torch.zeros(SHAPE[0], SHAPE[1], SHAPE[2] // 2 + 1, dtype=torch.bool)
    hidden[:, 5:9] = True
    kernel = loud(50.0).wiener
    share, whole = (kept_share(kernel, WEDGE, SHAPE, hidden=h) for h in (hidden, None))
    assert torch.all(share(slice(5, 9)) == 1)
    torch.testing.assert_close(share(slice(9, 17)), whole(ALL)[:, 9:17])
    assert float(whole(slice(5, 9)).min()) < 0.3


def test_parts_put_together_are_filtered_as_a_whole_volume_is() -> None:
    generator = torch.Generator().manual_seed(0)
    linear, residual = torch.randn(2, *SHAPE, generator=generator)
    share = kept_share(loud(5.0).wiener, WEDGE, SHAPE)
    spectrum = rfft(residual)
    spectrum[:, SHAPE[1] // 2], spectrum[..., -1] = 0, 0  # Nyquist
    wanted = linear + irfft(spectrum * share(ALL), SHAPE)
    made = put_together([linear.numpy().copy(), residual.numpy().copy()], share, scratch=Scratch(None), check=int)
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)


def test_parts_add_up_to_the_estimate() -> None:
    restorer, y = loud(2.0), torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    for halves, whole in ((1, restorer), (2, restorer.restore)):
        function, kernel = estimator(restorer, halves)
        assert kernel is (restorer.wiener if halves == 1 else restorer.wiener_mean)
        torch.testing.assert_close(function(y).sum(dim=1, keepdim=True), whole(y))


def test_a_restoration_is_linear_where_the_data_are_sure_and_the_networks_in_the_wedge() -> None:
    density = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)).numpy()
    told = {"voxel_size_angstrom": 10.0, "options": RestoreOptions(device="cpu")}
    restorer = loud(1e4)
    blind = loud(1e4)
    with torch.no_grad():
        for weights in blind.network.parameters():
            weights.zero_()
    restored, linear, without = (
        rfft(torch.from_numpy(restore_array(density, None, model, wedge, **told)))
        for model, wedge in ((restorer, WEDGE), (blind, WEDGE), (restorer, None))
    )
    inner = radius(SHAPE) < 0.4
    # Twice as deep: a restoration is made on a continued grid, whose Fourier voxels lie elsewhere.
    sure, wedge = (WEDGE.depth(SHAPE) < -3) & inner, (WEDGE.depth(SHAPE) > 3) & inner

    def apart(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> float:
        return float((a - b)[where].abs().square().mean() / (without - linear)[where].abs().square().mean())

    assert apart(restored, linear, sure) < 0.05
    assert apart(restored, without, wedge) < 0.05
    assert apart(restored, linear, wedge) > 0.9


def test_of_an_array_the_model_was_fitted_on_the_wedge_is_known() -> None:
    density = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)).numpy()
    restorer, told = loud(50.0), {"voxel_size_angstrom": 10.0, "options": RestoreOptions(device="cpu")}
    stated, unknown = (restore_array(density, None, restorer, wedge, **told) for wedge in (WEDGE, None))
    known = {"name": "x", "digests": [Volume(density, 10.0).digest()], **WEDGE.facts()}
    restorer.spec = replace(restorer.spec, tomograms=[known])
    assert np.array_equal(restore_array(density, None, restorer, **told), stated)
    assert not np.allclose(unknown, stated, atol=1e-2)
    other = np.ascontiguousarray(density[::-1])
    assert not np.allclose(restore_array(other, None, restorer, **told), stated[::-1], atol=1e-2)


def test_checks_and_draws_see_the_restoration_that_is_written() -> None:
    density = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)).numpy()
    restorer, options = loud(20.0), RestoreOptions(device="cpu")
    written = restore_array(density, None, restorer, WEDGE, voxel_size_angstrom=10.0, options=options)
    tomogram = WorkingTomogram.of([Volume(density, 10.0)], WEDGE, restorer, options=options)
    own = tomogram.restore(tomogram.halves)[tomogram.core].numpy() * density.std() + density.mean()
    assert np.corrcoef(own.ravel(), written.ravel())[0, 1] > 0.9999
