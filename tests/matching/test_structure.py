"""The proxy: clouds of one law are equal, and what differs is seen."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.matching.structure import (
    CloudDraw,
    Clouds,
    Microscope,
    blocks_at,
    reconstruction_transfer,
    settled,
)
from cryoaae.metrics.probes import probe_accuracy
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.source import TomogramSource, prepare_source
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, taper
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.reconstruction import back_project
from cryoaae.simulation.tilt_series import detector_width, project
from cryoaae.volume import Volume

SIZE, PATCH, BLOCK = 56, 16, 28
WEDGE = MissingWedge((-60.0, 60.0))


def structure(seed: int, size: int = SIZE) -> Tensor:
    """Clipped isotropic density: a law that turns leave alone, and that is not Gaussian."""
    field = band_limit(torch.randn((size,) * 3, generator=torch.Generator().manual_seed(seed)), 0.08, 0.14)
    blobs = (field / field.std() - 1).clamp(min=0)
    return (blobs - blobs.mean()) / blobs.std()


def measured(volume: Tensor) -> Tensor:
    """What lies between the planes of the end tilts, of the whole volume at once."""
    return irfft(rfft(volume) * (WEDGE.depth(volume.shape) <= 0), volume.shape)


def source(truth: Tensor, *, noise: float | Tensor = 1.0, seed: int = 0, halves: int = 2) -> TomogramSource:
    """A tomogram of bin 1: the truth through the wedge of the whole volume, white noise measured with it."""
    generator = torch.Generator().manual_seed(100 + seed)
    volumes = [
        Volume(measured(truth + noise * torch.randn(truth.shape, generator=generator)).numpy(), 10.0)
        for _ in range(halves)
    ]
    return prepare_source(
        "t", volumes, WEDGE, Normalisation(0.0, 1.0), working_bin=1, held_out=torch.zeros(0, 2, 3), noise=torch.ones(4)
    )


def clouds_of(*sources: TomogramSource, seed: int = 0) -> Clouds:
    return Clouds(sources, patch=PATCH, block=BLOCK, generator=torch.Generator().manual_seed(seed))


def cell_powers(patches: Tensor) -> Tensor:
    """Power of patches (b, 1, p, p, p) by shell, seen and hidden apart, (b, cells)."""
    box = (PATCH,) * 3
    power = rfft(patches[:, 0] * taper(box, share=0.25)).abs() ** 2 * multiplicity(box)
    k, hidden = radius(box), WEDGE.depth(box) > 0
    shells = ((0.06, 0.12), (0.12, 0.2), (0.2, 0.4))
    masks = [(k > a) & (k <= b) & side for a, b in shells for side in (hidden, ~hidden)]
    return torch.stack([(power * mask).sum(dim=(1, 2, 3)) / mask.sum() for mask in masks], dim=1)


@functools.cache
def drawn() -> tuple[list[Tensor], CloudDraw]:
    """Two truths, and draws from their tomograms."""
    truths = [structure(0), structure(50)]
    return truths, clouds_of(*(source(truth, seed=i) for i, truth in enumerate(truths))).draw(100)


def both(wedge: MissingWedge = WEDGE, *, smeared: bool = False) -> tuple[Tensor, Tensor]:
    """Cell powers of real patches, and of the truth (or of the noise-free data) seen again."""
    truths, draw = drawn()
    shown = [measured(t) for t in truths] if smeared else truths
    again = Microscope([wedge] * 2, patch=PATCH, block=BLOCK)(blocks_at(shown, draw, BLOCK), draw)
    return cell_powers(draw.real), cell_powers(again)


def told_apart(one: Tensor, other: Tensor) -> float:
    """Accuracy of a linear probe on log powers of unseen patches."""
    x, label = torch.cat([one, other]).log(), torch.arange(2).repeat_interleave(len(one))
    train = torch.arange(len(x)) % 2 == 0
    return probe_accuracy(x[train], label[train], x[~train], label[~train], seed=0, kind="linear")


def test_clouds_of_one_law_have_one_spectrum_and_no_linear_probe_tells_them_apart() -> None:
    real, again = both()
    error = (real.std(dim=0) / real.mean(dim=0) + again.std(dim=0) / again.mean(dim=0)) / math.sqrt(len(real))
    assert ((again.mean(dim=0) / real.mean(dim=0) - 1).abs() < 0.05 + 3 * error).all()
    assert told_apart(real, again) < 0.63  # 0.5 and 2.6 standard errors


@pytest.mark.parametrize("case", ["wedge", "smear"])
def test_a_wrong_wedge_and_a_smear_are_seen(case: str) -> None:
    wrong = {"wedge": {"wedge": replace(WEDGE, tilt_range_deg=(-40.0, 80.0))}, "smear": {"smeared": True}}[case]
    assert told_apart(*both(**wrong)) > 0.7  # type: ignore[arg-type]


def test_what_comes_through_the_gaps_between_tilts_is_in_both_clouds() -> None:
    """Tilts 8 degrees apart, structure beside the volume as within it; projections know nothing of the operator."""
    tilts, wide = tuple(float(t) for t in range(-64, 65, 8)), 2 * SIZE
    middle = slice(SIZE // 2, SIZE // 2 + SIZE)
    fields = [structure(seed, wide)[:SIZE, middle] for seed in (7, 8)]  # (z, y, x): x is wide
    tomograms = []
    for field in fields:
        images = (image - image.mean() for image in project(field, tilts, detector_width(field.shape)))
        tomograms.append(back_project(images, tilts, field.shape)[..., middle])
    truths = [field[..., middle].contiguous() for field in fields]

    def ratios(wedge: MissingWedge) -> Tensor:
        """Power of structures seen again over that of real patches, where tilts measured, by shell."""
        volumes = [[Volume(tomogram.numpy(), 10.0)] * 2 for tomogram in tomograms]
        sources = [
            prepare_source(
                "t", halves, wedge, Normalisation(0.0, 1.0), working_bin=1, held_out=torch.zeros(0, 2, 3),
                noise=torch.ones(4),
            )
            for halves in volumes
        ]  # fmt: skip
        draw = clouds_of(*sources).draw(80)
        again = Microscope([wedge] * 2, patch=PATCH, block=BLOCK)(blocks_at(truths, draw, BLOCK), draw)
        return (cell_powers(again).mean(dim=0) / cell_powers(draw.real).mean(dim=0))[1::2]

    tilted = MissingWedge.from_tilts(tilts)
    assert ratios(tilted)[-1] == pytest.approx(1.0, abs=0.12)
    assert ratios(tilted.solid())[-1] < 0.75


def test_nothing_is_lost_where_nothing_is_turned_hidden_or_added() -> None:
    truth = band_limit(structure(3, BLOCK), 0.3, 0.4)[None, None]
    draw = CloudDraw(
        torch.tensor([0]), torch.tensor([0]), torch.tensor([[14, 14, 14]]), torch.eye(3)[None],
        torch.zeros(1, 1, PATCH, PATCH, PATCH), torch.zeros(1, 1, PATCH, PATCH, PATCH),
    )  # fmt: skip
    again = Microscope([MissingWedge((-90.0, 90.0))], patch=PATCH, block=BLOCK)(truth, draw)
    low = BLOCK // 2 - PATCH // 2
    cut = slice(low, low + PATCH)
    assert torch.allclose(again, settled(truth[..., cut, cut, cut]), atol=0.02 * float(truth.std()))


def test_the_transfer_is_what_a_back_projection_passes() -> None:
    """Against projections and back-projection, which know nothing of wedges, in patches from the middle of blocks."""
    tilts = tuple(float(t) for t in range(-60, 61, 6))
    truth, box = structure(4, 48), (PATCH,) * 3
    images = (image - image.mean() for image in project(truth, tilts, detector_width(truth.shape)))
    tomogram = back_project(images, tilts, truth.shape)
    wedge, window = MissingWedge.from_tilts(tilts), taper(box, share=0.25)
    depth, k = wedge.solid().depth(box), radius(box)
    zones = [(depth >= low) & (depth < high) & (k > 0.06) & (k < 0.2) for low, high in ((-9, -0.5), (0.5, 2))]

    def middle(volume: Tensor, centre: tuple[int, ...], size: int) -> Tensor:
        z, y, x = (slice(c - size // 2, c - size // 2 + size) for c in centre)
        return volume[z, y, x]

    def power_ratios(transfer: Tensor) -> list[float]:
        """Power that the transfer leaves, over the tomogram's: where it was measured, and beyond the end tilts."""
        totals = torch.zeros(2, len(zones))
        for centre in itertools.product((20, 28), repeat=3):
            block = irfft(rfft(middle(truth, centre, BLOCK)) * transfer, (BLOCK,) * 3)
            patches = (middle(block, (BLOCK // 2,) * 3, PATCH), middle(tomogram, centre, PATCH))
            powers = [rfft(settled(patch) * window).abs() ** 2 for patch in patches]
            totals += torch.tensor([[float(power[zone].sum()) for zone in zones] for power in powers])
        return (totals[0] / totals[1]).tolist()

    seen, beyond = power_ratios(reconstruction_transfer(wedge, BLOCK))
    assert seen == pytest.approx(1.0, abs=0.05)
    assert beyond == pytest.approx(1.0, abs=0.2)
    # One that falls over the block's own Fourier voxel lets half as much again through.
    assert power_ratios(wedge.solid().transfer((BLOCK,) * 3))[1] > 1.4


def test_transfer_lies_between_0_and_1_is_even_and_keeps_the_mean() -> None:
    for wedge in (WEDGE, MissingWedge.from_tilts((-40.0, -37.0, 58.0, 61.0)), MissingWedge((-90.0, 90.0))):
        transfer = reconstruction_transfer(wedge, BLOCK)
        assert float(transfer.min()) >= 0
        assert float(transfer.max()) == 1.0 == float(transfer[0, 0, 0])
        volume = torch.randn((BLOCK,) * 3, generator=torch.Generator().manual_seed(0))
        spectrum = rfft(volume) * transfer
        assert torch.allclose(rfft(irfft(spectrum, (BLOCK,) * 3)), spectrum, atol=1e-4)
    assert torch.equal(transfer, torch.ones_like(transfer))


def test_noise_has_the_loudness_of_its_place_and_is_none_of_its_own() -> None:
    """Where noise is three times as loud on one side, each block gets noise of its side."""
    loud = torch.where(torch.arange(SIZE) < SIZE // 2, 1.0, 3.0)[None, None, :].expand((SIZE,) * 3)
    quiet_truth = torch.zeros((SIZE,) * 3)
    clouds = clouds_of(source(quiet_truth, noise=loud.contiguous()))
    draw = clouds.draw(40)
    x = draw.centre_zyx[:, 2]
    std = draw.noise.std(dim=(1, 2, 3, 4))
    left, right = x < SIZE // 2 - PATCH // 2, x >= SIZE // 2 + PATCH // 2
    assert float(std[right].mean() / std[left].mean()) == pytest.approx(3.0, rel=0.15)
    assert float(std[left].max()) < float(std[right].min())
    patch = clouds.inputs(draw)[..., 6:22, 6:22, 6:22]
    correlation = (settled(patch) * draw.noise).mean(dim=(1, 2, 3, 4)) / (
        patch.std(dim=(1, 2, 3, 4)) * draw.noise.std(dim=(1, 2, 3, 4))
    )
    # A block's own noise would stand in its half difference with a correlation of 0.7.
    assert float(correlation.abs().max()) < 0.25


def test_blocks_to_restore_are_the_halves_as_they_are() -> None:
    truth = structure(1)
    tomogram = source(truth)
    clouds = clouds_of(tomogram)
    draw = clouds.draw(4)
    generator = torch.Generator().manual_seed(100)
    halves = [band_limit(measured(truth + torch.randn(truth.shape, generator=generator))) for _ in range(2)]
    for row, block in enumerate(clouds.inputs(draw)):
        wanted = blocks_at([halves[int(draw.half[row])]], draw.part(slice(row, row + 1)), BLOCK)[0]
        middle = slice(8, -8)  # beyond the faces two grids reflect at two places
        difference = (block - wanted)[0, middle, middle, middle].std() / block.std()
        assert float(difference) < 0.03


def test_the_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(5)
    microscope = Microscope([WEDGE], patch=PATCH, block=BLOCK)
    zeros = torch.zeros(2, 1, PATCH, PATCH, PATCH)
    draw = CloudDraw(
        torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long),
        random_rotations(2, generator=generator), zeros, zeros,
    )  # fmt: skip
    x, way = (torch.randn(2, 1, BLOCK, BLOCK, BLOCK, generator=generator) for _ in range(2))
    x.requires_grad_()

    def energy(at: Tensor) -> Tensor:
        return microscope(at, draw).pow(3).sum()

    (slope,) = torch.autograd.grad(energy(x), x)
    with torch.no_grad():
        step = 1e-2
        measured = float(energy(x + step * way) - energy(x - step * way)) / (2 * step)
    assert float((slope * way).sum()) == pytest.approx(measured, rel=1e-2)


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (lambda: source(torch.zeros(32, 32, 32), halves=1), "single volume"),
        (lambda: source(torch.zeros(20, 40, 40)), "too few"),
    ],
)
def test_tomograms_without_clouds_are_refused(made: object, word: str) -> None:
    with pytest.raises(InputError, match=word):
        clouds_of(made())  # type: ignore[operator]


def test_a_block_too_small_for_its_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="does not hold"):
        Microscope([WEDGE], patch=PATCH, block=PATCH + 4)


def test_places_keep_away_from_faces_and_from_what_is_kept_out() -> None:
    held = torch.tensor([[[0.0, 0.0, 0.0], [56.0, 56.0, 32.0]]])
    tomogram = replace(source(torch.zeros((SIZE,) * 3)), held_out=held)
    centres = clouds_of(tomogram).draw(60).centre_zyx.numpy()
    low, high = 4 + PATCH // 2, SIZE - 4 - PATCH // 2
    assert (centres >= low).all()
    assert (centres <= high).all()
    assert (centres[:, 2] >= 32).all()
    assert len(np.unique(centres[:, 0])) > 10
