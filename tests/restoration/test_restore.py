"""Restoring: no seams, exact where it must be, in the input's units, and the same when memory is short."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError, InterruptedRunError, ResourceError
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.patches.tiling import PaddedAxis
from cryoaae.physics.fourier import rfft
from cryoaae.physics.resample import from_working_grid, to_working_grid
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.engine import FACE_PAD
from cryoaae.restoration.restore import restore as restore_files
from cryoaae.restoration.restore import restore_array
from cryoaae.runs.progress import NullProgress

VOXEL = 10.0


class Convolutions(torch.nn.Module):
    """Random weights, a receptive field of 6 voxels and pooling: a seam would show."""

    multiple = 2

    def __init__(self, working_bin: int = 2, halo: int = 8) -> None:
        super().__init__()
        self.spec = SimpleNamespace(working_bin=working_bin, voxel_size_angstrom=VOXEL)
        self.halo = halo
        self.one = torch.nn.Conv3d(1, 4, 3, padding=1)
        self.two = torch.nn.Conv3d(4, 4, 3, padding=1)
        self.three = torch.nn.Conv3d(8, 1, 3, padding=1)
        generator = torch.Generator().manual_seed(3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.calls: list[tuple[int, ...]] = []

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(y.shape))
        fine = torch.relu(self.one(y))
        coarse = torch.relu(self.two(torch.nn.functional.avg_pool3d(fine, 2)))
        up = torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        out: torch.Tensor = self.three(torch.cat([fine, up], dim=1))
        return out


class Identity(torch.nn.Module):
    halo, multiple = 0, 1

    def __init__(self, working_bin: int = 2) -> None:
        super().__init__()
        self.spec = SimpleNamespace(working_bin=working_bin, voxel_size_angstrom=VOXEL)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y.clone()


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tomogram(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Noise with strong low frequencies and a gradient, so that faces do not match."""
    ramp = sum(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return (noise(shape, seed) + 2 * ramp).astype(np.float32)


def restore(even, odd=None, model=None, wedge=None, **keywords):
    return restore_array(even, odd, model or Identity(), wedge, voxel_size_angstrom=VOXEL, **keywords)


@pytest.mark.parametrize(("shape", "working_bin"), [((24, 20, 31), 1), ((40, 56, 64), 2), ((33, 47, 38), 2)])
def test_grids_shifted_by_half_a_tile_agree_everywhere(shape, working_bin):
    data, model = tomogram(shape), Convolutions(working_bin)
    one = restore(data, model=model, tile=(8, 16, 16))
    two = restore(data, model=model, tile=(8, 16, 16), tile_shift=4)
    assert len(set(model.calls)) > 1
    assert np.abs(one - two).max() < 0.01 * one.std()
    # The check has teeth: with too small a halo the grids differ.
    short = Convolutions(working_bin, halo=0)
    seams = restore(data, model=short, tile=(8, 16, 16)) - restore(data, model=short, tile=(8, 16, 16), tile_shift=4)
    assert np.abs(seams).max() > 0.05 * one.std()


def tile_peak(volume: np.ndarray, period: int) -> float:
    """Power at the harmonics of the tile frequency along x, over that at their neighbours."""
    power = (np.abs(np.fft.rfft(volume - volume.mean(), axis=2)) ** 2).mean(axis=(0, 1))
    n = volume.shape[2]
    at = [k * n // period for k in range(1, period // 4)]
    near = [k + d for k in at for d in (-2, 2)]
    return float(power[at].mean() / power[near].mean())


def test_no_spectral_peak_at_the_tile_frequency():
    data = noise((32, 64, 192))
    good, bad = (tile_peak(restore(data, model=Convolutions(2, h), tile=(16, 16, 16)), 32) for h in (8, 0))
    one_tile = tile_peak(restore(data, model=Convolutions(2), tile=(1024, 1024, 1024)), 32)
    assert abs(good - one_tile) < 1e-3
    assert abs(good - 1) < 0.2
    assert bad > 1.5  # with too small a halo the peak is there


@pytest.mark.parametrize("working_bin", [1, 2, 3])
@pytest.mark.parametrize("shape", [(40, 51, 37), (3, 60, 1), (2, 5, 7)])
def test_identity_network_reproduces_the_band_limited_input(shape, working_bin):
    """Also for odd sizes and tomograms smaller than a tile or than the padding (row 46)."""
    data = tomogram(shape)
    restored = restore(data, model=Identity(working_bin), tile=(8, 8, 8))
    assert restored.shape == shape
    axes = [PaddedAxis.plan(n, working_bin=working_bin, multiple=1, pad=FACE_PAD) for n in shape]
    whole = data - data.mean()
    for axis, padded in enumerate(axes):
        whole = padded.extend(whole, axis)
    limited = from_working_grid(to_working_grid(torch.from_numpy(whole), working_bin), working_bin).numpy()
    core = tuple(slice(a.before, a.before + a.size) for a in axes)
    assert np.abs(restored - data.mean() - limited[core]).max() < 1e-4 * data.std()


def test_identity_keeps_a_smooth_volume_and_its_units():
    z, y, x = np.meshgrid(*(np.arange(n) for n in (48, 52, 56)), indexing="ij")
    data = 5000 + 40 * np.cos(0.31 * z) * np.cos(0.22 * y + 1) * np.cos(0.4 * x)
    restored = restore(data.astype(np.float32))
    inner = (slice(12, -12),) * 3
    assert np.abs(restored - data)[inner].max() < 0.04 * data.std()
    # At the faces reflection bends the slope; it stays small.
    assert np.abs(restored - data).max() < 0.5 * data.std()


def test_units_follow_the_input():
    data, model = tomogram((24, 32, 28)), Convolutions()
    one, other = restore(data, model=model), restore(-250 + 1e-3 * data, model=model)
    assert np.abs(other - (-250 + 1e-3 * one)).max() < 1e-4


def test_mean_of_halves():
    even, odd, model = tomogram((24, 32, 28), 1), tomogram((24, 32, 28), 2), Convolutions()
    halves = restore(even, odd, model, halves=True)
    assert halves.shape == (2, 24, 32, 28)
    assert np.allclose(restore(even, odd, model), halves.mean(axis=0), atol=1e-3)
    assert np.abs(halves[0] - halves[1]).max() > 0.1
    swapped = restore(odd, even, model, halves=True)
    assert np.allclose(halves, swapped[::-1], atol=1e-3)


def test_symmetries_make_half_turns_commute():
    data, model = noise((24, 24, 24)), Convolutions()

    def error(axes: tuple[int, int], **keywords) -> float:
        turned = restore(np.flip(data, axes).copy(), model=model, **keywords)
        return float(np.abs(turned - np.flip(restore(data, model=model, **keywords), axes))[(slice(9, 15),) * 3].max())

    # The voxel grid of an even size turns onto itself shifted by a voxel: bin 1 avoids half voxels.
    model = Convolutions(working_bin=1)
    for axes in ((0, 1), (0, 2), (1, 2)):
        assert error(axes, symmetries=True, wedge=MissingWedge((-60.0, 60.0))) < 1e-4
        assert error(axes) > 1e-2


@pytest.mark.parametrize(
    "wedge", [MissingWedge((-40.0, 60.0)), MissingWedge.from_tilts(range(-60, 61, 6), tilt_axis_deg=20.0)]
)
def test_keep_measured_is_exact_and_leaves_the_rest_to_the_network(wedge):
    shape = (40, 48, 37)
    even, odd = 3000 + tomogram(shape, 1), 3000 + tomogram(shape, 2)
    plain = restore(even, odd, Convolutions())
    kept = restore(even, odd, Convolutions(), wedge, keep_measured=True)
    support = wedge.support(shape)
    spectra = [rfft(torch.from_numpy(v).double()) for v in (kept, (even.astype(float) + odd) / 2, plain)]
    noise_level = float(spectra[1][1:].abs().square().mean().sqrt())
    assert float((spectra[0] - spectra[1])[support].abs().max()) < 1e-3 * noise_level
    assert float((spectra[0] - spectra[2])[~support].abs().max()) < 1e-3 * noise_level
    assert float((spectra[1] - spectra[2])[support].abs().mean()) > 0.1 * noise_level
    if wedge.tilts_deg:
        between = wedge.solid().support(shape) & ~support
        assert between.sum() > 1000  # tested above as part of ~support


def test_keep_measured_needs_a_wedge():
    with pytest.raises(InputError, match="wedge"):
        restore(noise((12, 12, 12)), keep_measured=True)


@pytest.mark.parametrize("limit", [13_000, 9_000])
def test_out_of_memory_halves_the_tile_and_changes_nothing(limit):
    data = tomogram((40, 40, 40))
    whole = restore(data, model=Convolutions())

    class Small(Convolutions):
        failures = 0

        def forward(self, y: torch.Tensor) -> torch.Tensor:
            if y.numel() > limit:
                Small.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(y)

    assert np.abs(restore(data, model=Small(), tile=(32, 32, 32)) - whole).max() < 1e-5 * whole.std()
    assert Small.failures > 0


def test_layers_at_half_precision_change_little_and_files_know(tmp_path):
    data = tomogram((24, 28, 32))
    whole, half = (restore(data, model=Convolutions(), precision=name) for name in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert 1e-5 < np.sqrt(np.mean((half - whole) ** 2)) / whole.std() < 1e-2
    with pytest.raises(InputError, match="--precision: 'float8' is not a precision"):
        restore(data, precision="float8")
    even, odd = write_halves(tmp_path)
    given = {"output": tmp_path / "out.mrc", "even": even, "odd": odd, "model": Convolutions(), "tilt_range": (-60, 60)}
    restore_files(**given, device="cpu", precision="bfloat16")
    assert restore_files(**given, device="cpu", precision="bfloat16")[0].skipped
    with pytest.raises(InputError, match="exists"):
        restore_files(**given, device="cpu")
    with pytest.raises(InputError, match="draws are those of a restoration in float32"):
        restore_files(**given, device="cpu", precision="bfloat16", uncertainty=2, overwrite=True)


def test_hopeless_memory_is_a_resource_error():
    class None_(Convolutions):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            if y.shape[-1] == 16:  # the probe
                return super().forward(y)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(ResourceError, match="does not fit"):
        restore(noise((12, 12, 12)), model=None_(), tile=(4, 4, 4))


def test_other_errors_pass_through():
    class Broken(Convolutions):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        restore(noise((12, 12, 12)), model=Broken())


@pytest.mark.parametrize("voxel", [8.9, 11.1, 20.0])
def test_voxel_size_more_than_ten_percent_off_is_refused(voxel):
    with pytest.raises(InputError, match="fitted at 10"):
        restore_array(noise((12, 12, 12)), None, Identity(), voxel_size_angstrom=voxel)


@pytest.mark.parametrize(("voxel", "allow"), [(9.1, False), (10.9, False), (20.0, True)])
def test_voxel_size_within_ten_percent_is_accepted(voxel, allow):
    data = noise((12, 12, 12))
    assert restore_array(data, None, Identity(), voxel_size_angstrom=voxel, allow_scale=allow).std() > 0


def test_halves_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="one shape"):
        restore(noise((12, 12, 12)), noise((12, 12, 13)))


def test_progress_adds_up_and_stops_the_work():
    class Counting(NullProgress):
        def __init__(self, stop_after: float) -> None:
            self.total, self.done, self.stop_after = 0.0, 0.0, stop_after

        def start(self, task: str, total: float | None, unit: str) -> None:
            self.total = total or 0.0

        def advance(self, amount: float = 1, **facts: object) -> None:
            assert facts["voxels_per_second"] > 0
            self.done += amount

        def cancelled(self) -> bool:
            return self.done >= self.stop_after

    data = noise((24, 24, 24))
    told = Counting(np.inf)
    restore(data, data[::-1], tile=(8, 8, 8), progress=told)
    assert told.total == 24**3
    assert abs(told.done - told.total) < 1e-6 * told.total
    stopped = Counting(1000.0)
    with pytest.raises(InterruptedRunError):
        restore(data, tile=(8, 8, 8), progress=stopped)
    assert stopped.done < 0.5 * 24**3


# -- from files to files -----------------------------------------------------------------------


def write_halves(folder: Path, shape: tuple[int, int, int] = (20, 24, 30)) -> tuple[Path, Path]:
    for seed, name in ((1, "t_EVN.mrc"), (2, "t_ODD.mrc")):
        write_volume(folder / name, tomogram(shape, seed), voxel_size_angstrom=VOXEL)
    return folder / "t_EVN.mrc", folder / "t_ODD.mrc"


@pytest.mark.parametrize("keep", [False, True])
def test_files_hold_what_the_arrays_hold(tmp_path, keep):
    even, odd = write_halves(tmp_path)
    model = Convolutions()
    out = tmp_path / "out.mrc"
    (result,) = restore_files(
        output=out, even=even, odd=odd, model=model, halves=True, keep_measured=keep, device="cpu", tilt_range=(-50, 60)
    )
    assert result.paths == (out, tmp_path / "out_even.mrc", tmp_path / "out_odd.mrc")
    volumes = [open_volume(p).numpy() for p in (even, odd)]
    wedge = MissingWedge((-50.0, 60.0))
    halves = restore(*volumes, model, wedge, halves=True, keep_measured=keep)
    for path, half in zip(result.paths, [halves.mean(axis=0), *halves], strict=True):
        written = open_volume(path)
        assert written.voxel_size_angstrom == pytest.approx(VOXEL)
        assert np.abs(written.numpy() - half).max() < 1e-4 * half.std()
    assert result.voxels_per_second > 0
    assert 0 < result.network_share < 1
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]


def test_folder_of_single_volumes(tmp_path):
    paths = [path.rename(tmp_path / f"{name}.mrc") for path, name in zip(write_halves(tmp_path), "ab", strict=True)]
    results = restore_files(paths, tmp_path / "new", model=Identity(), device="cpu", tilt_range=(-60, 60))
    assert sorted(p.name for p in (tmp_path / "new").glob("*.mrc")) == ["a_restored.mrc", "b_restored.mrc"]
    assert [r.paths[0].name for r in results] == ["a_restored.mrc", "b_restored.mrc"]


def test_existing_output_and_input_as_output_are_refused(tmp_path):
    even, odd = write_halves(tmp_path)
    before = even.read_bytes()
    out = tmp_path / "out.mrc"
    out.write_bytes(b"old")
    with pytest.raises(InputError, match="exists"):
        restore_files(output=out, even=even, odd=odd, model=Identity(), device="cpu", tilt_range=(-60, 60))
    with pytest.raises(InputError, match="also an input"):
        restore_files(
            output=even, even=even, odd=odd, model=Identity(), device="cpu", tilt_range=(-60, 60), overwrite=True
        )
    link = tmp_path / "link.mrc"
    link.symlink_to(even)
    with pytest.raises(InputError, match="also an input"):
        restore_files(
            output=link, even=even, odd=odd, model=Identity(), device="cpu", tilt_range=(-60, 60), overwrite=True
        )
    assert even.read_bytes() == before
    assert out.read_bytes() == b"old"


def test_failure_keeps_the_old_output(tmp_path):
    even, odd = write_halves(tmp_path)
    out = tmp_path / "out.mrc"
    out.write_bytes(b"old")

    class Broken(Identity):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            if y.shape[-1] == 16:  # the probe
                return y.clone()
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        restore_files(
            output=out, even=even, odd=odd, model=Broken(), device="cpu", tilt_range=(-60, 60), overwrite=True
        )
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mrc", "t_EVN.mrc", "t_ODD.mrc"]


def test_wrong_voxel_size_names_the_file(tmp_path):
    even, odd = write_halves(tmp_path)
    with pytest.raises(InputError, match=r"t_EVN\.mrc.*fitted at 10") as caught:
        restore_files(
            output=tmp_path / "out.mrc",
            even=even,
            odd=odd,
            model=Identity(),
            device="cpu",
            voxel_size_angstrom=13.6,
            tilt_range=(-60, 60),
        )
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out.mrc").exists()
