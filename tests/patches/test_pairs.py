"""What a network is fitted on must be what it is used on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.pairs import BlockPool, BlockRecipe, draw_recipe, make_block
from cryoaae.patches.source import TomogramSource, choose_held_out, prepare_source
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum, taper
from cryoaae.physics.resample import to_working_grid
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

CPU = torch.device("cpu")
SHELLS = 6
FLAT = torch.ones(32, dtype=torch.float64)


def noise_volume(n: int, wedge: MissingWedge, generator: torch.Generator) -> torch.Tensor:
    """Coloured noise of a weighted back-projection: rising with frequency, empty in the wedge."""
    box = (n, n, n)
    power = 0.2 + 3 * radius(box)
    return irfft(rfft(torch.randn(box, generator=generator)) * power.sqrt() * wedge.support(box), box)


def source_of(*halves: torch.Tensor, wedge: MissingWedge, working_bin: int, held_out: float = 0.0) -> TomogramSource:
    shape = tuple(n // working_bin for n in halves[0].shape)
    boxes = choose_held_out(shape, held_out, generator=torch.Generator().manual_seed(0))
    volumes = [Volume(np.asarray(h), 10.0) for h in halves]
    return prepare_source(
        "t", volumes, wedge, Normalisation(0.0, 1.0), working_bin=working_bin, held_out=boxes, noise=FLAT
    )


def power_and_count(volume: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Power and number of measured coefficients per shell, (2, shells)."""
    box = volume.shape[-3:]
    window = taper(box)
    index = shell_index(box, SHELLS, 0.45)
    counted = support * multiplicity(box)
    power = rfft(volume * window).abs() ** 2 / float((window**2).mean())
    return torch.stack([shell_sum(power * counted, index, SHELLS), shell_sum(counted, index, SHELLS)])


def test_noise_of_fitting_inputs_equals_noise_of_restoring_inputs() -> None:
    """Within 3 % per shell up to the cut-off: a network passes noise it never saw (DESIGN 4)."""
    generator = torch.Generator().manual_seed(1)
    wedge = MissingWedge((-60.0, 60.0))
    n, size, block_size = 160, 32, 48
    halves = [noise_volume(n, wedge, generator) for _ in range(2)]
    source = source_of(*halves, wedge=wedge, working_bin=2)
    working = [to_working_grid(half, 2) for half in halves]
    box, cut = (size,) * 3, slice(8, 8 + size)
    kept = wedge.support(box, margin=1.5)
    fitted, restored = torch.zeros(2, SHELLS).double(), torch.zeros(2, SHELLS).double()
    for _ in range(40):
        # Rotated blocks stay inside the volume.
        centre = 28.0 + 24.0 * torch.rand(3, generator=generator)
        rotation = draw_recipe([source], generator=generator).rotation
        both = kept & wedge.rotated(rotation).support(box, margin=1.5)
        z, y, x = (slice(a, a + size) for a in (centre - size / 2).long().tolist())
        for channel in range(2):
            recipe = BlockRecipe(0, tuple(centre.tolist()), rotation, half=channel)
            block = make_block(source, recipe, block_size, device=CPU, slab_voxels=size)
            fitted += power_and_count(block.inputs[cut, cut, cut], both)
            restored += power_and_count(working[channel][z, y, x], kept)
    ratio = (fitted[0] / fitted[1]) / (restored[0] / restored[1])
    assert (ratio - 1).abs()[1:].max() < 0.03


def test_second_wedge_empties_what_it_hides() -> None:
    generator = torch.Generator().manual_seed(0)
    wedge = MissingWedge((-50.0, 60.0))
    volume = torch.randn(64, 64, 64, generator=generator)
    source = source_of(volume, volume, wedge=wedge, working_bin=1)
    recipe = BlockRecipe(0, (32.0, 32.0, 32.0), torch.eye(3))
    block = make_block(source, recipe, 48, device=CPU, slab_voxels=48)
    box = (48, 48, 48)
    hidden = ~wedge.support(box)
    assert rfft(block.inputs)[hidden].abs().max() < 1e-3
    assert rfft(block.targets)[hidden].abs().mean() > 0.1
    # An unrotated block of the source grid is the working-grid volume itself.
    crop = to_working_grid(volume, 1)[8:56, 8:56, 8:56]
    assert torch.allclose(block.targets[12:36, 12:36, 12:36], crop[12:36, 12:36, 12:36], atol=0.02)


def test_held_out_voxels_never_count_in_fitting() -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(48, 48, 48, generator=generator)
    source = source_of(volume, volume, wedge=MissingWedge(), working_bin=1, held_out=0.1)
    share = sum(float((b[1] - b[0]).prod()) for b in source.held_out) / 48**3
    assert 0.05 < share < 0.15
    recipe = BlockRecipe(0, (24.0, 24.0, 24.0), torch.eye(3))
    block = make_block(source, recipe, 48, device=CPU, slab_voxels=48)
    for low, high in source.held_out.long():
        z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        assert block.weight[z, y, x].max() == 0
        assert block.held_out_weight[z, y, x].min() == 1
    assert float((block.weight + block.held_out_weight).min()) == 1


def test_outside_the_tomogram_does_not_count() -> None:
    volume = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    source = source_of(volume, volume, wedge=MissingWedge(), working_bin=1)
    block = make_block(source, BlockRecipe(0, (0.0, 16.0, 16.0), torch.eye(3)), 32, device=CPU, slab_voxels=32)
    assert block.weight[:16].max() == 0
    assert block.weight[17:].min() == 1


def test_recorruption_makes_a_single_volume_unbiased() -> None:
    """R2R: input and target noise of pure noise are uncorrelated where the input was measured."""
    generator = torch.Generator().manual_seed(2)
    wedge = MissingWedge((-60.0, 60.0))
    noise = torch.randn(64, 64, 64, generator=generator)
    source = source_of(noise, wedge=wedge, working_bin=1)
    cross = own = 0.0
    for seed in range(6):
        rotation = draw_recipe([source], generator=generator).rotation
        block = make_block(source, BlockRecipe(0, (32.0, 32.0, 32.0), rotation, seed), 36, device=CPU, slab_voxels=36)
        band = radius((36, 36, 36)) < 0.4
        kept = wedge.support((36, 36, 36)) & band
        a, b = rfft(block.inputs)[kept], rfft(block.targets)[kept]
        cross += float((a * b.conj()).real.mean())
        own += float((rfft(noise[:36, :36, :36]).abs() ** 2)[kept].mean())
    assert abs(cross / own) < 0.05


def test_a_single_volume_that_is_not_recorrupted_teaches_what_the_second_wedge_hides_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    source = source_of(torch.randn(48, 48, 48, generator=generator), wedge=MissingWedge(), working_bin=1)
    rotation = draw_recipe([source], generator=generator).rotation
    recipe, sizes = BlockRecipe(0, (24.0, 24.0, 24.0), rotation), {"device": CPU, "slab_voxels": 32}
    block = make_block(source, recipe, 32, **sizes, recorrupt=False)
    assert block.kept_weight == 0
    assert torch.equal(block.inputs, block.plain)
    recorrupted = make_block(source, recipe, 32, **sizes)
    assert recorrupted.kept_weight > 0
    assert not torch.equal(recorrupted.inputs, recorrupted.plain)


def small_pool(seed: int, blocks: int) -> BlockPool:
    volume = torch.randn(2, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    source = source_of(volume[0], volume[1], wedge=MissingWedge(), working_bin=1)
    generator = torch.Generator().manual_seed(seed)
    pool = BlockPool([source], patch=16, block=32, blocks=blocks, device=CPU, generator=generator)
    pool.ready()
    return pool


def assert_alike(first: BlockPool, second: BlockPool) -> None:
    """Same generators from now on, same patches."""
    second.generator.set_state(first.generator.get_state())
    for _ in range(6):
        a, b = first.batch(2, margin=2), second.batch(2, margin=2)
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
        first.renew()
        second.renew()


def test_a_share_of_the_blocks_turns_about_the_tilt_axis() -> None:
    volume = torch.zeros(24, 24, 24)
    wedge = MissingWedge(tilt_axis_deg=30.0)
    source = source_of(volume, volume, wedge=wedge, working_bin=1)
    generator = torch.Generator().manual_seed(0)
    axis = torch.tensor(wedge.tilt_axis_zyx)
    for share, expected in ((0.0, 0.0), (0.4, 0.4), (1.0, 1.0)):
        recipes = [draw_recipe([source], generator=generator, axis_share=share) for _ in range(300)]
        about = [torch.allclose(r.rotation @ axis, axis, atol=1e-5) for r in recipes]
        assert sum(about) / 300 == pytest.approx(expected, abs=0.1)


def test_pool_is_a_function_of_its_recipes() -> None:
    first, second = small_pool(0, blocks=2), small_pool(1, blocks=2)
    first.renew()
    second.load_state(first.state(), [])
    assert_alike(first, second)


def estimate(y: torch.Tensor) -> torch.Tensor:
    return 0.5 * y.roll(1, dims=-1)


def test_refilling_changes_the_wedge_and_nothing_else() -> None:
    """M of what is filled is the tomogram's, the rest the estimate's and noise as loud as the measured."""
    generator = torch.Generator().manual_seed(3)
    wedge = MissingWedge((-50.0, 50.0))
    volume = noise_volume(80, wedge, generator)
    source = source_of(volume, volume, wedge=wedge, working_bin=1)
    pool = BlockPool([source], patch=48, block=64, blocks=1, device=CPU, generator=generator)
    recipe = BlockRecipe(0, (40.0, 40.0, 40.0), torch.eye(3))
    pool.refill(lambda y: 0 * y, multiple=4, seed=0)
    filled = pool.filled[0]
    assert filled is not None
    spectra = []
    for density in (source.density[0], filled[0]):
        both = torch.stack([density, density])
        turned = dataclasses.replace(source, density=both, wedge=MissingWedge((-90.0, 90.0)))
        block = make_block(turned, recipe, 48, device=CPU, slab_voxels=48)
        spectra.append(rfft(block.targets * taper((48, 48, 48))))
    band = radius((48, 48, 48)) < 0.35
    inside = wedge.support((48, 48, 48), margin=3.0) & band
    missing = (wedge.solid().depth((48, 48, 48)) > 3) & band
    change = (spectra[1] - spectra[0]).abs() ** 2
    assert float(change[inside].mean()) < 0.02 * float((spectra[0].abs() ** 2)[inside].mean())
    expected = float((taper((48, 48, 48)) ** 2).mean())  # of the flat noise given to the source
    assert 0.8 * expected < float(change[missing].mean()) < 1.2 * expected


def test_pool_after_refilling_is_made_again_from_its_state() -> None:
    first, second = small_pool(0, blocks=3), small_pool(1, blocks=3)
    for _ in range(2):  # blocks of three ages stand side by side
        first.refill(estimate, multiple=4, seed=5)
        first.renew()
    second.load_state(first.state(), [lambda: second.refill(estimate, multiple=4, seed=5)] * 2)
    assert_alike(first, second)
