"""Small oracles: a plane, and a cube that turns in space."""

from __future__ import annotations

import pytest

from cryoaae.sampling.oracle import Oracle


@pytest.fixture(scope="session", params=[1.0, 3.0], ids=["white", "coloured"])
def plane(request: pytest.FixtureRequest) -> Oracle:
    """8 x 1 x 8 voxels, 45 coordinates, noise white or three times as strong at Nyquist."""
    return Oracle.build((8, 1, 8), window_floor=0.3, noise_rise=request.param)


@pytest.fixture(scope="session")
def cube() -> Oracle:
    """6^3 voxels, 93 coordinates."""
    return Oracle.build((6, 6, 6))
