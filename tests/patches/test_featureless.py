"""What has no structure has the spectrum it claims."""

from __future__ import annotations

import numpy as np
import torch

from cryoaae.patches.featureless import gaussian_twin, noise_block
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.source import prepare_source
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

BOX = (48, 48, 48)


def kurtosis(x: torch.Tensor) -> float:
    z = (x - x.mean()) / x.std()
    return float((z**4).mean() - 3)


def test_a_twin_keeps_every_amplitude_and_loses_the_structure() -> None:
    generator = torch.Generator().manual_seed(0)
    field = irfft(rfft(torch.randn(BOX, generator=generator)) * (radius(BOX) < 0.15), BOX)
    structure = MissingWedge((-50.0, 60.0)).measured((field / field.std() - 1).clamp(min=0))
    twin = gaussian_twin(structure, generator)
    # Coefficients on the axes of symmetry are real: their phases stay real too.
    assert torch.allclose(rfft(twin).abs(), rfft(structure).abs(), atol=1e-4)
    assert kurtosis(structure) > 2
    assert abs(kurtosis(twin)) < 0.5
    assert not torch.allclose(twin, gaussian_twin(structure, generator), atol=0.1)


def test_noise_is_as_loud_as_measured_and_empty_in_the_wedge() -> None:
    generator = torch.Generator().manual_seed(0)
    wedge = MissingWedge((-50.0, 60.0))
    law = 1.0 + 2.0 * torch.arange(32, dtype=torch.float64) / 32
    volume = Volume(np.asarray(torch.randn(BOX, generator=generator)), 10.0)
    source = prepare_source(
        "t", [volume], wedge, Normalisation(0.0, 1.0), working_bin=1, held_out=torch.zeros(0, 2, 3), noise=law
    )
    power = torch.stack(
        [rfft(noise_block(source, 48, slab_voxels=48, generator=generator)).abs() ** 2 for _ in range(8)]
    ).mean(dim=0)
    support, k = wedge.support(BOX), radius(BOX)
    assert float(power[~support].max()) < 1e-8
    for low in (0.1, 0.2, 0.3):
        here = support & (k >= low) & (k < low + 0.05)
        expected = float((1.0 + 4.0 * k[here]).mean())
        assert abs(float(power[here].mean()) / expected - 1) < 0.05
