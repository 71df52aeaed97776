"""Undoing the contrast transfer: the best multiple, exact on whole volumes, the same filter on all that is written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import cryoaae
from cryoaae.cli import run
from cryoaae.errors import InputError
from cryoaae.fitting.session import prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.io.project import Tomogram
from cryoaae.metrics.fsc import correlation
from cryoaae.metrics.nulls import gaussian
from cryoaae.models.general import GeneralRestorer
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.patches import contrast
from cryoaae.patches.contrast import gain, gain_on_grid
from cryoaae.patches.spectra import Spectra, interpolate, measure_spectra
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.fourier import irfft, radius, rfft, taper
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import stream
from cryoaae.restoration.contrast import read_transfers, transfer_of, undo_contrast
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.general import settled
from cryoaae.restoration.placement import WINDOW_SIGMA
from cryoaae.restoration.posterior import sample
from cryoaae.restoration.restore import restore, restore_array
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

VOXEL = 10.0
SFREQ = torch.linspace(0, 0.08, 2001, dtype=torch.float64)
RAW = ContrastTransfer((4.0,), phase_flipped=False)
FLIPPED = ContrastTransfer((4.0,))
WEDGE = MissingWedge((-60.0, 60.0))
WHOLE = (96, 96, 96)  # a tile


class Shrinking(torch.nn.Module):
    """A restorer that only shrinks, and remembers what it was shown."""

    halo, multiple = 0, 2

    def __init__(self, working_bin: int = 1, *, any_contrast: bool = False) -> None:
        super().__init__()
        self.any_contrast, self.shown = any_contrast, []
        self.factor = torch.nn.Parameter(torch.tensor(0.7))
        self.spec = SimpleNamespace(working_bin=working_bin, voxel_size_angstrom=VOXEL, tomograms=[])

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        self.shown.append(y.clone())
        return self.factor * y

    restore = forward

    @property
    def volumes(self) -> list[torch.Tensor]:
        """Whole volumes that it was shown, (z, y, x); how much memory it takes is found on less."""
        return [y[0, 0] for y in self.shown if y.numel() == max(seen.numel() for seen in self.shown)]


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filtered(volume: torch.Tensor, transfer: ContrastTransfer = FLIPPED) -> torch.Tensor:
    """The whole volume at once."""
    response = gain_on_grid(transfer, VOXEL)(radius(volume.shape))
    return irfft(rfft(volume) * response, volume.shape)


# -- the gain ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", [FLIPPED, RAW, ContrastTransfer((3.8, 4.0, 4.3), amplitude_contrast=0.0)])
def test_the_gain_is_bounded_and_leaves_the_mean(transfer: ContrastTransfer) -> None:
    g = gain(transfer, SFREQ)
    assert float(g[0]) == 1.0
    assert float(g.abs().max()) <= 0.5 / contrast.FLOOR + 1e-9
    assert bool((g > 0).all()) == transfer.phase_flipped


@pytest.mark.parametrize("transfer", [FLIPPED, RAW])
def test_without_a_floor_and_well_known_it_is_one_over_the_transfer(transfer, monkeypatch) -> None:
    monkeypatch.setattr(contrast, "DEFOCUS_ERROR", 0.0)
    left, _ = transfer.at(SFREQ)
    clear = (left.abs() > 0.05) & SFREQ.gt(1 / contrast.LONG_ANGSTROM[1])
    assert torch.allclose((gain(transfer, SFREQ, floor=0.0) * left)[clear], torch.ones(()).double())
    assert bool((gain(transfer, SFREQ)[clear].sign() == left[clear].sign()).all())


def test_no_other_multiple_of_the_restoration_is_nearer_to_the_structure() -> None:
    """Structure of power 1, its defocus drawn anew, beside it anything else of amplitude f: regression finds g."""
    generator, draws = torch.Generator().manual_seed(0), 60_000
    sfreq = torch.tensor([1 / 250.0, 1 / 60.0, 1 / 29.0, 1 / 24.0, 1 / 20.0], dtype=torch.float64)
    defocus_um = 4.0 * (1 + contrast.DEFOCUS_ERROR * torch.randn(draws, generator=generator))
    true = torch.stack([ContrastTransfer((float(d),), phase_flipped=False).at(sfreq)[0] for d in defocus_um[:2000]])
    true = true.repeat(draws // 2000, 1)  # (draws, k)
    x, other = torch.randn(2, *true.shape, generator=generator, dtype=torch.float64)
    m = true * x + contrast.FLOOR * other
    slope = (x * m).mean(dim=0) / m.square().mean(dim=0)
    assert slope.tolist() == pytest.approx(gain(RAW, sfreq).tolist(), abs=0.1)


# -- whole volumes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 30, 36), (15, 22, 27)])
def test_planes_and_rows_at_a_time_make_the_filter_of_the_whole(shape, monkeypatch) -> None:
    data = noise(shape) + 3.0
    largest = []

    def response(freq: torch.Tensor) -> torch.Tensor:
        largest.append(freq.numel())
        return gain_on_grid(FLIPPED, VOXEL)(freq)

    monkeypatch.setattr(stream, "CHUNK_VALUES", 2000)
    out = data.numpy().copy()
    stream.filter_in_place(out, stream.radial(response, out.shape), scratch=Scratch(None), check=lambda: None)
    # Nyquist, which is left empty, aside.
    k = [torch.fft.fftfreq(n).abs() < 0.5 for n in shape[:2]] + [torch.fft.rfftfreq(shape[2]) < 0.5]
    inside = k[1][None, :, None] & k[2][None, None]
    wanted = irfft(rfft(filtered(data)) * inside, shape)
    assert float((torch.from_numpy(out) - wanted).abs().max()) < 1e-5 * float(wanted.std())
    assert float(out.mean()) == pytest.approx(float(data.mean()), rel=1e-5)
    assert max(largest) <= 2000  # what is held at once does not grow with the volume
    assert sum(largest) == shape[0] * shape[1] * (shape[2] // 2 + 1)


def test_scratch_on_disk_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    outs = []
    for scratch, limit in ((Scratch(None), 1 << 20), (Scratch(tmp_path), 0)):
        monkeypatch.setattr("cryoaae.restoration.scratch.IN_MEMORY_BYTES", limit)
        out = noise((20, 24, 28)).numpy()
        undo_contrast(out, gain_on_grid(FLIPPED, VOXEL), scratch=scratch, check=lambda: None)
        outs.append(out)
    assert np.array_equal(*outs)
    assert not list(tmp_path.iterdir())


# -- restoring -----------------------------------------------------------------------------------------


def everything_passes(working_bin: int) -> Restorer:
    flat = Spectra(torch.ones(32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64))
    spec = RestorerSpec(working_bin=working_bin, voxel_size_angstrom=VOXEL, network={"widths": [2, 2]})
    return Restorer(spec, flat, fine=flat).eval()


@pytest.mark.parametrize("transfer", [FLIPPED, RAW])
@pytest.mark.parametrize("working_bin", [1, 2])
def test_all_frequencies_come_back_with_the_gain(working_bin: int, transfer: ContrastTransfer) -> None:
    """Working grid and finer detail together, at the frequencies on either side of where they meet."""
    n = 72
    data = noise((n, n, n)).numpy()
    out = restore_array(
        data, data, everything_passes(working_bin), voxel_size_angstrom=VOXEL, contrast_transfer=transfer
    )
    inner, window = (slice(8, -8),) * 3, taper((n - 16,) * 3, share=0.5)
    a, b = (rfft(torch.from_numpy(v[inner].copy()) * window) for v in (data, out))
    k, checked = radius(window.shape), 0
    for low in np.arange(0.06, 0.42, 0.03):
        band = (k >= low) & (k < low + 0.03)
        wanted = gain_on_grid(transfer, VOXEL)(k[band])
        if float(wanted.max() - wanted.min()) > 0.4 * float(wanted.mean().abs()):
            continue  # near a zero one number does not stand for a band
        checked += 1
        found = float((a * b.conj()).real[band].sum() / (a.abs() ** 2)[band].sum())
        assert found == pytest.approx(float(wanted.mean()), abs=0.12), f"{low:.2f}"
    assert checked >= 6


def test_a_structure_comes_back_from_behind_the_transfer() -> None:
    """Balls under |CTF|: the division gives them back."""
    z, y, x = np.indices((64, 64, 64))
    truth = np.zeros(z.shape, np.float32)
    for centre in ((20, 20, 24), (40, 44, 36), (22, 46, 44)):
        truth += sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) <= 16
    truth = gaussian(torch.from_numpy(truth), 1.5)
    left, _ = FLIPPED.at(radius(truth.shape).double().flatten() / VOXEL)
    seen = irfft(rfft(truth) * left.reshape(64, 64, -1).float(), truth.shape)
    plain, undone = (
        torch.from_numpy(restore_array(seen.numpy(), None, Shrinking(), voxel_size_angstrom=VOXEL, **k))
        for k in ({}, {"contrast_transfer": FLIPPED})
    )
    assert correlation(undone, truth) > 0.97 > 0.93 > correlation(plain, truth)


# -- a part of it before the network -------------------------------------------------------------------


def test_to_a_filter_it_is_the_same_when_the_transfer_is_undone() -> None:
    even, odd = (noise((40, 36, 44), seed).numpy() for seed in (1, 2))
    options = {"voxel_size_angstrom": VOXEL, "contrast_transfer": FLIPPED}
    last, both = (
        restore_array(even, odd, Shrinking(any_contrast=knows), halves=True, **options) for knows in (False, True)
    )
    assert np.abs(last - both).max() < 1e-4 * last.std()


def test_the_network_is_shown_a_part_undone_as_loud_as_before() -> None:
    even, odd = (noise((40, 36, 44), seed).numpy() for seed in (1, 2))
    shown = []
    for knows in (False, True):
        model = Shrinking(any_contrast=knows)
        restore_array(even, odd, model, voxel_size_angstrom=VOXEL, contrast_transfer=FLIPPED, tile=WHOLE)
        shown.append(model.volumes)
    assert len(shown[0]) == len(shown[1]) == 2  # the halves
    assert float(shown[1][0].square().mean()) == pytest.approx(float(shown[0][0].square().mean()), rel=1e-4)
    k = radius(shown[0][0].shape)
    inside, wanted = (k > 0.05) & (k < 0.45), gain_on_grid(FLIPPED, VOXEL)(k) ** contrast.SHARE_BEFORE
    ratios = [(rfft(after).abs() / rfft(before).abs() / wanted)[inside] for before, after in zip(*shown, strict=True)]
    scale = torch.stack(ratios)  # one for both halves: what they share stays the same
    assert float(scale.std()) < 1e-3 * float(scale.mean())


@pytest.mark.parametrize(("transfer", "knows"), [(RAW, True), (FLIPPED, False)])
def test_phases_that_were_not_flipped_and_other_networks_see_the_data_as_they_are(transfer, knows) -> None:
    given, shown = noise((40, 36, 44), 1).numpy(), []
    for undone in (None, transfer):
        model = Shrinking(any_contrast=knows)
        restore_array(given, None, model, voxel_size_angstrom=VOXEL, contrast_transfer=undone, tile=WHOLE)
        shown.append(torch.stack(model.volumes))
    assert torch.equal(*shown)


def test_the_general_restorer_knows_contrasts_and_a_fit_from_the_spectrum_its_own(tmp_path: Path) -> None:
    halves = [Volume(noise((48, 48, 48), seed).numpy(), VOXEL) for seed in (1, 2)]
    restorer = settled(GeneralRestorer.bundled(), halves, WEDGE)
    assert restorer.any_contrast and restorer.of_the_mean().any_contrast
    restorer.save(tmp_path / "model.safetensors")
    assert Restorer.load(tmp_path / "model.safetensors").any_contrast
    assert not everything_passes(1).any_contrast


def test_halves_mean_and_seams() -> None:
    even, odd = (noise((40, 36, 44), seed).numpy() for seed in (1, 2))
    options = {"voxel_size_angstrom": VOXEL, "contrast_transfer": FLIPPED}
    halves = restore_array(even, odd, Shrinking(2), halves=True, **options)
    mean = restore_array(even, odd, Shrinking(2), tile=(8, 8, 8), **options)
    assert np.abs(mean - halves.mean(axis=0)).max() < 1e-4 * mean.std()


def test_measured_coefficients_are_put_back_in_the_contrast_of_the_rest() -> None:
    even, odd = (noise((40, 36, 44), seed).numpy() for seed in (1, 2))
    kept = restore_array(
        even, odd, Shrinking(), WEDGE, voxel_size_angstrom=VOXEL, keep_measured=True, contrast_transfer=FLIPPED
    )
    measured = filtered(torch.from_numpy((even + odd) / 2))
    spectra, support = [rfft(torch.as_tensor(v)) for v in (kept, measured)], WEDGE.support(kept.shape)
    assert float((spectra[0] - spectra[1])[support].abs().max()) < 1e-3 * float(spectra[1].abs().mean())
    assert float((spectra[0] - spectra[1])[~support].abs().mean()) > 0.1 * float(spectra[1].abs().mean())


@pytest.mark.parametrize("transfer", [FLIPPED, RAW])
def test_a_fit_is_shown_what_restoring_shows(transfer: ContrastTransfer) -> None:
    """Power by shells of the fit's halves: that of the halves which the network restores, as loud."""
    truth = 3 * gaussian(noise((64, 64, 64)), 1.5)
    halves = [Volume((WEDGE.measured(truth + noise(truth.shape, i) / 2)).numpy() * 7 + 40, VOXEL) for i in (1, 2)]
    settings = FitSettings(steps=1, patch_size=16, block_size=36, blocks=2, batch_size=4, working_bin=1)
    tomogram = Tomogram("t", halves[0], halves[1], None, WEDGE, transfer=transfer)
    start = GeneralRestorer.bundled()
    session = prepare([tomogram], settings, device=torch.device("cpu"), scratch=Path("unused"), init=start)
    fitted, (facts,) = session.restorer, session.restorer.spec.tomograms
    assert facts["contrast_transfer"]["defocus_um"] == [4.0]

    options = RestoreOptions(contrast_transfer=transfer)
    whole = WorkingTomogram.of(halves, WEDGE, fitted, options=options)
    shown = [Volume(half[whole.core].numpy(), VOXEL) for half in whole.halves]
    expected = measure_spectra(shown, WEDGE, generator=torch.Generator().manual_seed(5))
    centre = torch.linspace(0.1, 0.8, 15, dtype=torch.float64)
    found, wanted = (interpolate(one.signal + one.noise, centre) for one in (session.spectra[0], expected))
    assert (found / wanted).mean().item() == pytest.approx(1, abs=0.05)
    assert (found / wanted).std().item() < 0.15


# -- files ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for seed, half in ((1, "even"), (2, "odd")):
        paths[half] = tmp_path / f"TS_01_{half}.mrc"
        volume = 50 + 3 * WEDGE.measured(gaussian(noise((24, 30, 36)), 1.0) * 5 + 0.3 * noise((24, 30, 36), seed))
        write_volume(paths[half], volume.numpy(), voxel_size_angstrom=VOXEL)
    return paths


def restored(files: dict[str, Path], output: Path, **keywords):
    (result,) = restore(output=output, model=Shrinking(), device="cpu", tilt_range=(-60, 60), **files, **keywords)
    return result


def test_what_was_undone_is_recorded_and_another_defocus_is_other_work(files, tmp_path) -> None:
    out = tmp_path / "x.mrc"
    assert "4.00 µm" in restored(files, out, contrast_transfer=FLIPPED).undone
    record = json.loads((tmp_path / "x.json").read_text())["settings"]["contrast_transfer"]
    assert record["defocus_um"] == [4.0]
    assert record["floor"] == contrast.FLOOR
    assert restored(files, out, contrast_transfer=FLIPPED).skipped
    for other in (ContrastTransfer((3.9,)), RAW, None):
        with pytest.raises(InputError, match="exists"):
            restored(files, out, contrast_transfer=other)
    assert not restored(files, out, contrast_transfer=RAW, overwrite=True).skipped


def test_each_tomogram_has_its_own(files, tmp_path) -> None:
    by_name = {"TS_01": FLIPPED, "TS_02": RAW}
    mapped = restored(files, tmp_path / "a.mrc", contrast_transfer=by_name)
    stated = restored(files, tmp_path / "b.mrc", contrast_transfer=FLIPPED)
    assert np.array_equal(*(open_volume(r.paths[0]).numpy() for r in (mapped, stated)))
    with pytest.raises(InputError, match="did you mean 'TS_011'"):
        restored(files, tmp_path / "c.mrc", contrast_transfer={"TS_011": FLIPPED})
    assert transfer_of(None, "anything") is None


@pytest.mark.parametrize(("knows", "sampler"), [(False, "learned"), (True, "bootstrap")])
def test_draws_and_their_spread_are_under_the_same_filter(knows: bool, sampler: str, files, tmp_path) -> None:
    folders = tmp_path / "plain", tmp_path / "undone"
    for folder, transfer in zip(folders, (None, FLIPPED), strict=True):
        sample(
            (), folder, model=Shrinking(any_contrast=knows), draws=2, modes=1, device="cpu", tilt_range=(-60, 60),
            sampler=sampler, calibrate=False, contrast_transfer=transfer, **files,
        )  # fmt: skip
    plain, undone = (
        {name: open_volume(folder / f"{name}.mrc").numpy() for name in ("mean", "draw_001", "draw_002", "std")}
        for folder in folders
    )
    for name in ("draw_001", "draw_002"):
        before, after = (v[name] - v["mean"] for v in (plain, undone))
        # A restorer that only shrinks does the same to any density.
        wanted = restore_array(before, None, Shrinking(), voxel_size_angstrom=VOXEL, contrast_transfer=FLIPPED)
        assert correlation(torch.from_numpy(after), torch.from_numpy(wanted)) > 0.99
    squares = ((undone["draw_001"] - undone["mean"]) ** 2 + (undone["draw_002"] - undone["mean"]) ** 2) / 2
    spread = np.sqrt(gaussian_filter(squares, WINDOW_SIGMA * Shrinking().spec.working_bin, mode="reflect"))
    assert np.abs(undone["std"] - spread).max() < 1e-3 * spread.max()


# -- a tilt series' STAR file --------------------------------------------------------------------------

SERIES = """
data_global

loop_
_rlnTomoName
_rlnTomoTiltSeriesPixelSize
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
TS_01.tomostar 2.0 200.0 2.0 0.07
TS_02.tomostar 2.0 200.0 2.0 0.07
"""
IMAGES = """
data_{}.tomostar

loop_
_rlnTomoXTilt
_rlnTomoYTilt
_rlnTomoZRot
_rlnDefocusU
_rlnDefocusV
_rlnCtfScalefactor
0 -30 0 {} {} 0.9
0 0 0 {} {} 1.0
0 60 0 90000 90000 0
"""


@pytest.fixture
def star(tmp_path: Path) -> Path:
    first = IMAGES.format("TS_01", 30000, 32000, 34000, 34000)
    second = IMAGES.format("TS_02", 20000, 20000, 20000, 20000)
    path = tmp_path / "tomograms.star"
    path.write_text(SERIES + first + second)
    return path


def test_the_star_file_states_each_tomograms_own(star: Path) -> None:
    found = read_transfers(star, phase_flipped=False)
    assert found["TS_01"] == ContrastTransfer((3.1, 3.4), 200.0, 2.0, 0.07, phase_flipped=False)
    assert found["TS_02"].defocus_um == (2.0, 2.0)


@pytest.mark.data
def test_a_real_star_file_states_it() -> None:
    folder = Path(os.environ["CRYOAAE_DATA"]) / "subtomograms_70S"
    (path,) = folder.glob("*_tomograms.star")
    for transfer in read_transfers(path).values():
        assert 25 <= len(transfer.defocus_um) <= 41
        assert 1.5 < min(transfer.defocus_um) < max(transfer.defocus_um) < 8
        assert transfer.voltage_kv == 300.0


# -- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def command(files: dict[str, Path], tmp_path: Path) -> list[str]:
    everything_passes(1).save(tmp_path / "model.safetensors")
    words = ["restore", "-o", str(tmp_path / "x.mrc"), "--model", str(tmp_path / "model.safetensors")]
    words += ["--tilt-range", "-60", "60", "--device", "cpu"]
    return [*words, *(word for half, path in files.items() for word in (f"--{half}", str(path)))]


def test_the_command_says_what_it_undid(command, star, tmp_path, capsys) -> None:
    assert run([*command, "--defocus", "4", "--voltage", "200", "--dry-run"]) == 0
    assert "defocus 4.00 µm, 200 kV, Cs 2.7 mm" in capsys.readouterr().out
    assert not (tmp_path / "x.mrc").exists()
    assert run([*command, "--defocus", str(star), "--phase-flipped", "no"]) == 0
    said = capsys.readouterr().err
    assert "contrast transfer undone: defocus 3.25 µm (3.10 to 3.40 over 2 tilts), 200 kV" in said
    assert "phases not flipped" in said
    assert json.loads((tmp_path / "x.json").read_text())["settings"]["contrast_transfer"]["defocus_um"] == [3.1, 3.4]


WRONG = [
    (["--defocus", "40000"], "micrometres"),
    (["--defocus", "-3"], "above 0"),
    (["--defocus", "4um"], "no number"),
    (["--defocus", "absent.star"], "no such file|cannot be read|missing"),
    (["--defocus", "4", "--voltage", "300000"], "kilovolts"),
    (["--defocus", "4", "--phase-flipped", "maybe"], "yes or no"),
    (["--cs", "2.7"], "without --defocus"),
    (["--phase-flipped", "no"], "without --defocus"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_cannot_be_meant_is_refused_in_one_line(words, said, command, tmp_path, capsys) -> None:
    assert run([*command, *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cryoaae:")]
    assert len(lines) == 1
    assert re.search(said, lines[0]), lines[0]
    assert not (tmp_path / "x.mrc").exists()


def test_a_star_file_leaves_no_optics_to_state_and_needs_the_tomogram(command, star, capsys) -> None:
    assert run([*command, "--defocus", str(star), "--voltage", "300"]) == 2
    assert "states it" in capsys.readouterr().err
    star.write_text(star.read_text().replace("TS_01", "TS_77"))
    assert run([*command, "--defocus", str(star)]) == 2
    assert "TS_01" in capsys.readouterr().err


# -- quality -------------------------------------------------------------------------------------------


def test_a_simulated_tomogram_gains_and_beats_the_blur(tmp_path: Path) -> None:
    """The linear restorer alone, nothing fitted: its division has to bring the truth nearer than a blur does."""
    folder = cryoaae.simulate(tmp_path, shape_zyx=(48, 48, 48), defocus_um=4.0, seed=3, snr=1.0)
    volumes = [open_volume(folder / f"{half}.mrc") for half in ("even", "odd")]
    truth = torch.from_numpy(open_volume(folder / "truth.mrc").numpy().copy())
    spectra = measure_spectra(volumes, WEDGE, generator=torch.Generator().manual_seed(0))
    spec = RestorerSpec(working_bin=1, voxel_size_angstrom=VOXEL, network={"widths": [2, 2]})
    model = Restorer(spec, spectra).eval()

    def score(**keywords) -> float:
        even, odd = (v.numpy() for v in volumes)
        out = restore_array(even, odd, model, voxel_size_angstrom=VOXEL, **keywords)
        return correlation(torch.from_numpy(out), truth)

    blurred = gaussian(torch.from_numpy((volumes[0].numpy() + volumes[1].numpy()) / 2), 1.5)
    plain, undone = score(), score(contrast_transfer=FLIPPED)
    assert undone > plain + 0.05
    assert undone > correlation(blurred, truth)
    # A defocus a fifth off still gains most of it.
    assert min(score(contrast_transfer=ContrastTransfer((d,))) for d in (3.2, 4.8)) > plain + 0.03


def fit_command(tmp_path: Path, files: dict[str, Path], *words: str) -> list[str]:
    given = [word for half, path in files.items() for word in (f"--{half}", str(path))]
    sizes = [f"{key}={value}" for key, value in (("patch_size", 16), ("block_size", 36), ("blocks", 1))]
    few = [word for size in (*sizes, "batch_size=2") for word in ("--set", size)]
    where = ["--tilt-range", "-60", "60", "--device", "cpu", "-o", str(tmp_path / "run"), "--steps", "1"]
    return ["fit", *given, *where, *few, *words]


def test_a_fit_through_a_defocus_remembers_it(files, tmp_path, capsys) -> None:
    assert run(fit_command(tmp_path, files, "--defocus", "4")) == 0
    restoring = ["restore", "--even", str(files["even"]), "--odd", str(files["odd"]), "--model", str(tmp_path / "run")]
    restoring += ["-o", str(tmp_path / "y.mrc"), "--device", "cpu", "--dry-run"]
    capsys.readouterr()
    for words, missing in (([], True), (["--defocus", "4"], False)):
        assert run([*restoring, *words]) == 0
        assert ("fitted with --defocus" in capsys.readouterr().out) == missing
    assert run(fit_command(tmp_path, files, "--defocus", "3", "--resume")) == 2


def test_a_fit_from_the_spectrum_is_shown_no_part_of_it(files, tmp_path, capsys) -> None:
    for dry in ([], ["--dry-run"]):
        assert run(fit_command(tmp_path, files, "--defocus", "4", "--set", "start=spectrum", *dry)) == 2
        assert "start from the general restorer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
