"""A part of a tomogram restored alone, against the same part of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import open_volume
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.part import restore_part
from cryoaae.restoration.restore import restore_array
from cryoaae.restoration.working import normalisation_of
from cryoaae.runs.progress import NullProgress

WEDGE = MissingWedge((-60.0, 60.0))


def restorer(working_bin: int) -> Restorer:
    """A small network that does something, at random."""
    torch.manual_seed(0)
    model = Restorer(RestorerSpec(working_bin, 10.0, {"widths": [4, 8], "convolutions": 1})).eval()
    torch.nn.init.normal_(model.network.last.weight, std=0.1)
    return model


@pytest.mark.parametrize("working_bin", [1, 2])
@pytest.mark.parametrize("single", [False, True])
def test_a_part_is_restored_as_in_the_whole(tiny: Path, working_bin: int, single: bool) -> None:
    volumes = [open_volume(tiny / f"t_{half}.mrc") for half in ("EVN", "ODD")][: 1 if single else 2]
    model = restorer(working_bin)
    arrays = [volume.numpy() for volume in volumes]
    odd = None if single else arrays[1]
    whole = restore_array(arrays[0], odd, model, WEDGE, voxel_size_angstrom=10.0, device="cpu")
    box = (slice(17, 25), slice(9, 30), slice(20, None))
    part = restore_part(volumes, box, model, WEDGE)
    expected = whole[box]
    assert part.shape == expected.shape
    assert np.std(part - expected) < 0.05 * expected.std()
    assert abs(part.mean() - expected.mean()) < 0.05 * expected.std()


def test_the_whole_as_its_own_part_is_the_same(tiny: Path) -> None:
    volumes = [open_volume(tiny / f"t_{half}.mrc") for half in ("EVN", "ODD")]
    model = restorer(1)
    whole = restore_array(*(v.numpy() for v in volumes), model, WEDGE, voxel_size_angstrom=10.0, device="cpu")
    part = restore_part(volumes, (slice(None),) * 3, model, WEDGE, normalisation=normalisation_of(volumes, model))
    assert np.abs(part - whole).max() < 1e-4 * whole.std()


def test_an_empty_box_is_refused_and_the_work_can_be_stopped(tiny: Path) -> None:
    volumes = [open_volume(tiny / "t_EVN.mrc")]
    with pytest.raises(InputError, match="no voxel"):
        restore_part(volumes, (slice(50, 60), slice(None), slice(None)), restorer(1), WEDGE)
    stopped = NullProgress()
    stopped.cancel()
    with pytest.raises(InterruptedRunError):
        restore_part(volumes, (slice(0, 4),) * 3, restorer(1), WEDGE, progress=stopped)
