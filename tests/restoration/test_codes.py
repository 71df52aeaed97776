"""A volumetric autoencoder from files to files: it restores, maps what is unusual, and draws patches from its prior."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae import fit, restore
from cryoaae.cli import run
from cryoaae.errors import InputError
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.matching.code_distance import CodeDistance
from cryoaae.matching.frozen import load_energy
from cryoaae.metrics.fsc import correlation
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge

SIZE, VOXEL = 40, 10.0
WEDGE = (-60.0, 60.0)
SETTINGS = FitSettings.from_spectrum(
    network="autoencoder", code_patch=8, code_dim=16, widths=(8, 16), latent_prior="mmd", patch_size=16,
    block_size=36, blocks=2, renew_every=5, batch_size=4, working_bin=1, minutes=None, steps=30, warm_up_steps=5,
    learning_rate=4e-3, evaluations=3, refills=0, presence=False, ema_decay=0.9,
)  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    folder: Path
    truth: torch.Tensor

    @property
    def halves(self) -> dict[str, Path]:
        return {half: self.folder / f"{half}.mrc" for half in ("even", "odd")}

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Round blobs all over, fitted."""
    folder = tmp_path_factory.mktemp("codes")
    generator = torch.Generator().manual_seed(0)
    field = band_limit(torch.randn((SIZE,) * 3, generator=generator), 0.06, 0.1)
    truth = (field / field.std() - 0.8).clamp(min=0) * 3
    for half in ("even", "odd"):
        noisy = MissingWedge(WEDGE).measured(truth + torch.randn((SIZE,) * 3, generator=generator))
        write_volume(folder / f"{half}.mrc", noisy.numpy(), voxel_size_angstrom=VOXEL)
    made = Fitted(folder, truth)
    fit([], made.run, **made.halves, tilt_range=WEDGE, settings=SETTINGS, device="cpu")
    return made


def test_it_restores_from_codes_alone_and_says_what_they_are_worth(fitted: Fitted) -> None:
    restore([], fitted.folder / "restored.mrc", model=fitted.run, **fitted.halves, device="cpu")
    restored = torch.from_numpy(np.array(open_volume(fitted.folder / "restored.mrc").numpy()))
    assert correlation(restored, fitted.truth) > 0.3
    found = json.loads((fitted.run / "codes.json").read_text())
    assert found["use"] > 0.5
    assert not found["unused"]
    assert found["power"] > 0


def test_what_the_fit_never_saw_is_farther_by_its_code(fitted: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    """A lattice of sheets among blobs: high in the map where it is, and there alone."""
    volume = fitted.truth.clone()
    inside = slice(SIZE // 2 - 8, SIZE // 2 + 8)
    rows = torch.arange(16)
    sheets = torch.where((rows % 4 < 2)[:, None, None], 8.0, -8.0).expand(16, 16, 16)
    volume[inside, inside, inside] = sheets
    for name, density in (("usual", fitted.truth), ("strange", volume)):
        write_volume(fitted.folder / f"{name}.mrc", density.numpy(), voxel_size_angstrom=VOXEL)
        words = [
            "energy", fitted.folder / f"{name}.mrc", "--even", fitted.halves["even"], "--odd", fitted.halves["odd"],
            "--model", fitted.run, "-o", fitted.folder / f"{name}_map.mrc", "--turns", "2", "--step", "12", "--quiet",
            "--device", "cpu",
        ]  # fmt: skip
        assert run(list(map(str, words))) == 0
    usual, strange = (np.array(open_volume(fitted.folder / f"{name}_map.mrc").numpy()) for name in ("usual", "strange"))
    centre = SIZE // 2
    corner = np.s_[:6, :6, :6]
    assert strange[centre, centre, centre] > usual[centre, centre, centre] + 1
    assert strange[centre, centre, centre] > strange[corner].mean() + 1
    words = ["energy", fitted.folder / "usual.mrc", "--even", fitted.halves["even"], "--odd", fitted.halves["odd"],
             "--model", fitted.run, "-o", fitted.folder / "none.mrc", "--by", "prior"]  # fmt: skip
    assert run(list(map(str, words))) == 2
    assert "holds no prior on structure" in capsys.readouterr().err


def test_codes_of_a_run_are_measured_in_its_own_frame(fitted: Fitted) -> None:
    matcher, spec = load_energy(fitted.run)
    assert (spec["kind"], spec["patch"], spec["block"]) == ("code", SETTINGS.prior_patch, SETTINGS.patch_size)
    assert isinstance(matcher, CodeDistance)
    with pytest.raises(ValueError, match="no encoder"):
        matcher.energies(torch.zeros(1, 1, 8, 8, 8))
    with pytest.raises(InputError, match="--by"):
        load_energy(fitted.run, "codes")


def test_patches_are_drawn_from_the_prior_and_the_same_again(
    fitted: Fitted, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        words = ["generate", str(fitted.run), "-o", str(fitted.folder / name), "--count", "3", "--quiet"]
        assert run(words) == 0
    one, two = (sorted((fitted.folder / name / "volumes").glob("*.mrc")) for name in ("one", "two"))
    assert [path.name for path in one] == ["patch_001.mrc", "patch_002.mrc", "patch_003.mrc"]
    volumes = [open_volume(path) for path in one]
    assert volumes[0].shape == (8, 8, 8)
    assert volumes[0].voxel_size_angstrom == VOXEL
    arrays = [np.array(volume.numpy()) for volume in volumes]
    assert not np.allclose(arrays[0], arrays[1])
    assert all(np.array_equal(a, open_volume(path).numpy()) for a, path in zip(arrays, two, strict=True))
    assert run(["generate", str(fitted.run), "-o", str(fitted.folder / "three"), "--class", "1"]) == 2
    assert "no classes" in capsys.readouterr().err
