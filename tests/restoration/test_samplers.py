"""What every sampler must keep to: the mean unharmed, draws by their numbers, stopped and gone on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shrinking import VOXEL, Gain

from cryoaae.errors import InterruptedRunError
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports import sampling_figures
from cryoaae.restoration import langevin_draws, weighted_draws
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.posterior import sample
from cryoaae.restoration.restore import restore
from cryoaae.restoration.samplers import SAMPLERS
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.runs.progress import NullProgress
from cryoaae.volume import Volume

SHAPE = (14, 18, 16)


class StopsAfterTheFirst(NullProgress):
    """A user who stops the work once a draw stands."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.first = folder / "working" / "draw_001.mrc"

    def check(self) -> None:
        if self.first.exists():
            self.cancel()
        super().check()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, generator = tmp_path_factory.mktemp("halves"), torch.Generator().manual_seed(1)
    signal, wedge = band_limit(torch.randn(SHAPE, generator=generator), 0.1, 0.15) * 5, MissingWedge((-60.0, 60.0))
    paths = [folder / "t_EVN.mrc", folder / "t_ODD.mrc"]
    for path in paths:
        noisy = wedge.measured(signal + 0.5 * torch.randn(SHAPE, generator=generator))
        write_volume(path, noisy.numpy(), voxel_size_angstrom=VOXEL)
    return {"model": Gain(), "even": paths[0], "odd": paths[1], "tilt_range": (-60, 60)}


@pytest.fixture(autouse=True)
def less_to_do() -> Iterator[None]:
    """No figures, and of what costly samplers do once only a little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weighted_draws, "CANDIDATES", 16)
        patch.setattr(weighted_draws, "STEP", 3)
        patch.setattr(langevin_draws, "BURN_IN", 4)
        patch.setattr(langevin_draws, "STRETCH", 2)
        nothing = dict.fromkeys(("slices", "spread", "reliability", "modes"), b"png")
        patch.setattr(sampling_figures, "sampling_figures", lambda *_: nothing)
        yield


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_keeps_the_mean_and_draws_by_number(name: str, given: dict[str, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {**given, "sampler": name, "modes": 1, "calibrate": False, "options": None}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    sample((), whole, draws=3, **options)
    with pytest.raises(InterruptedRunError):
        sample((), parts, draws=2, **options, progress=StopsAfterTheFirst(parts))
    sample((), parts, draws=3, **options)
    restore((), tmp_path / "x.mrc", **given)
    names = sorted(path.name for path in whole.glob("*.mrc"))
    assert len(names) == 6 and all((whole / n).read_bytes() == (parts / n).read_bytes() for n in names)
    mean = open_volume(whole / "mean.mrc").numpy()
    np.testing.assert_array_equal(mean, open_volume(tmp_path / "x.mrc").numpy())
    one, two = ((open_volume(whole / f"draw_00{n}.mrc").numpy() - mean).ravel() for n in (1, 2))
    assert min(one.std(), two.std()) > 0.01 * mean.std()
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.9


def test_what_the_other_half_does_not_hear_is_the_learned_samplers_own() -> None:
    """Pieces of many candidates would have lost the power that each had over longer ways than a place."""
    shape, generator, wedge = (24, 24, 24), torch.Generator().manual_seed(2), MissingWedge((-50.0, 50.0))
    signal = band_limit(torch.randn(shape, generator=generator), 0.1, 0.2) * 5
    halves = [wedge.measured(signal + torch.randn(shape, generator=generator)) for _ in range(2)]
    volumes = [Volume(half.numpy(), VOXEL) for half in halves]
    tomogram = WorkingTomogram.of(volumes, wedge, Gain(), options=RestoreOptions())
    estimate = torch.stack(tomogram.restore_each(tomogram.halves)).mean(dim=0)
    weighted, own = (SAMPLERS[name](tomogram, estimate, seed=0, turns="any") for name in ("importance", "learned"))
    depth = wedge.solid().depth(shape, object_zyx=shape)
    shares: dict[str, list[float]] = {"wedge": [], "measured": []}
    for number in (1, 2, 3):
        one, other = rfft(weighted.deviation(number)), rfft(own.deviation(number))
        for name, where in (("wedge", depth > 2), ("measured", (depth < -2) & (radius(shape) > 0.12))):
            apart = (one - other)[where].abs().square().sum() / other[where].abs().square().sum()
            shares[name].append(float(apart))
    assert max(shares["wedge"]) < 0.4, "what leaks over the faces"
    assert min(shares["measured"]) > 0.6
