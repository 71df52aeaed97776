"""What `fit` refuses, it refuses before a folder is made or an old run cleared."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoaae.errors import InputError
from cryoaae.fitting.settings import FitSettings
from cryoaae.restoration.fit import fit


def old_run(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    for name in ("run.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("fault", ["empty half", "no such weights to start from"])
def test_a_refused_fit_leaves_the_old_run_and_no_new_one(fault: str, tiny: Path, tmp_path: Path) -> None:
    before = old_run(tmp_path / "old")
    even, init = tiny / "t_EVN.mrc", None
    if fault == "empty half":
        even = tmp_path / "t_EVN.mrc"
        even.write_bytes(b"")
    else:
        init = tmp_path / "nowhere"
    given = {"even": even, "odd": tiny / "t_ODD.mrc", "tilt_range": (-60, 60), "init": init}
    with pytest.raises(InputError, match="0 bytes|nowhere"):
        fit([], tmp_path / "old", settings=FitSettings(steps=1), overwrite=True, **given)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    with pytest.raises(InputError):
        fit([], tmp_path / "new", settings=FitSettings(steps=1), **given)
    assert not (tmp_path / "new").exists()
