"""Small fits: of blobs seen through a wedge, as large as the test's module says (`SIZE`), run whole or stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cryoaae.fitting.loop import Loop, run
from cryoaae.fitting.session import prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.project import Tomogram
from cryoaae.models.general import GeneralRestorer
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume


@pytest.fixture
def tomogram(request: pytest.FixtureRequest) -> Callable[..., Tomogram]:
    """Makes two halves with independent noise, or one volume."""
    shape = (request.module.SIZE,) * 3

    def made(seed: int = 0, *, single: bool = False) -> Tomogram:
        generator = torch.Generator().manual_seed(seed)
        wedge = MissingWedge((-60.0, 60.0))
        # Clipped, so not Gaussian: a stationary Gaussian's wedge cannot be predicted from the rest.
        field = band_limit(torch.randn(shape, generator=generator), 0.08, 0.12)
        signal = (field / field.std() - 1.2).clamp(min=0) * 6
        even, odd = (
            Volume(wedge.measured(signal + torch.randn(shape, generator=generator)).numpy(), 10.0) for _ in range(2)
        )
        return Tomogram("t", None, None, even, wedge) if single else Tomogram("t", even, odd, None, wedge)

    return made


@pytest.fixture
def loop(tomogram: Callable[..., Tomogram], tmp_path: Path) -> Callable[..., Loop]:
    """Prepares a fit of that."""

    def made(settings: FitSettings, *, single: bool = False, init: GeneralRestorer | None = None) -> Loop:
        data, scratch = [tomogram(single=single)], tmp_path / "scratch"
        return prepare(data, settings, device=torch.device("cpu"), scratch=scratch, init=init).loop

    return made


@pytest.fixture
def go() -> Callable[..., None]:
    """Runs a fit to its end, or until it has made so many steps."""

    def ran(fit: Loop, until: int | None = None) -> None:
        def stop() -> None:
            if until is not None and fit.budget.step >= until:
                raise InterruptedError

        try:
            run(fit, on_step=lambda _: None, on_evaluation=lambda _: None, on_time=stop)
        except InterruptedError:
            return

    return ran
