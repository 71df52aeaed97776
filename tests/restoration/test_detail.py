"""Detail beyond the working grid: kept where measured, not filled, not doubled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import detail
from cryoaae.restoration.restore import restore_array
from cryoaae.volume import Volume

N = 80


def everything_passes() -> Restorer:
    """A restorer with noise-free spectra: the Wiener filters are the identity."""
    flat = Spectra(torch.ones(32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64))
    spec = RestorerSpec(working_bin=2, voxel_size_angstrom=10.0, network={"widths": [2, 2]})
    return Restorer(spec, flat, fine=flat).eval()


def test_with_clean_data_all_frequencies_come_back_once() -> None:
    data = torch.randn(N, N, N, generator=torch.Generator().manual_seed(0)).numpy()
    out = restore_array(data, data, everything_passes(), voxel_size_angstrom=10.0, symmetries=False)
    inner = (slice(16, -16),) * 3
    a, b = rfft(torch.from_numpy(data[inner].copy())), rfft(torch.from_numpy(out[inner].copy()))
    k = radius((*a.shape[:2], N - 32))
    for low in np.arange(0.04, 0.46, 0.06):
        band = (k >= low) & (k < low + 0.06)
        gain = float((a * b.conj()).real[band].sum() / (a.abs() ** 2)[band].sum())
        assert gain == pytest.approx(1.0, abs=0.08)


def test_detail_is_blind_to_the_band_of_the_network() -> None:
    kernel = detail.detail_kernel(torch.ones(32), 2)
    assert kernel is not None
    padded = torch.zeros(96, 96, 96)
    padded[:33, :33, :33] = kernel
    response, k = rfft(padded).abs() * 96**1.5, radius((96, 96, 96))
    assert float(response[k < 0.16].max()) < 0.05
    assert float(response[(k > 0.29) & (k < 0.45)].min()) > 0.93


def test_tiles_agree_and_the_wedge_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    wedge = MissingWedge((-60.0, 60.0))
    data = wedge.measured(torch.randn(N, N, N, generator=torch.Generator().manual_seed(0))).numpy()
    kernel = detail.detail_kernel(torch.ones(32), 2)
    assert kernel is not None
    results = []
    for tile in (128, 48):
        monkeypatch.setattr(detail, "TILE", tile)
        mean = np.zeros((N, N, N), np.float32)
        detail.add_detail(mean, [], [Volume(data, 10.0)], kernel, check=lambda: None)
        results.append(mean)
    assert np.abs(results[0] - results[1]).max() < 1e-3 * results[0].std()
    power = rfft(torch.from_numpy(results[0])).abs() ** 2
    deep = wedge.depth((N, N, N)) > 4
    assert float(power[deep].mean()) < 0.01 * float(power.mean())


def test_nothing_to_add_costs_nothing() -> None:
    assert detail.detail_kernel(torch.ones(32), 1) is None
    assert detail.detail_kernel(torch.zeros(32), 2) is None
