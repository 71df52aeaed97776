"""The prior of its own: its gradient is its energy's, every voxel counts once, and a Gaussian is told from none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoaae.matching.frozen import REFERENCE_FILE, load_energy, save_energy
from cryoaae.matching.reference import ReferenceReferee, learn_reference
from cryoaae.matching.structure import CloudDraw, Clouds, Microscope, add_blocks, blocks_at
from cryoaae.matching.structure_energy import StructureEnergy, frozen_draw, places
from cryoaae.nets.discriminators import MultiScaleDiscriminator
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.source import prepare_source
from cryoaae.patches.spectra import coloured_noise
from cryoaae.patches.turning import Turner
from cryoaae.physics.fourier import irfft, rfft, shell_index, shell_sum
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import quarter_turns
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

SIZE, PATCH, BLOCK = 40, 16, 28
WEDGE = MissingWedge((-60.0, 60.0))
POWER = 4.0 / (1 + (torch.arange(16, dtype=torch.float64) / 4) ** 2) ** 2


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(seed: int) -> Tensor:
    """A draw of the reference."""
    return coloured_noise(POWER, (SIZE,) * 3, seeded(seed))


def clumped(seed: int) -> Tensor:
    """The same spectrum, all density in few clumps."""
    field = band_limit(torch.randn((SIZE,) * 3, generator=seeded(seed)), 0.08, 0.14)
    blobs = (field / field.std() - 1).clamp(min=0)
    index = shell_index(blobs.shape, 16)
    spectrum = rfft(blobs - blobs.mean())
    shells = [shell_sum(s.abs().square(), index, 16) for s in (spectrum, rfft(gaussian(seed)))]
    gain = torch.cat([(shells[1] / shells[0]).sqrt(), torch.zeros(1)]).float()
    return irfft(spectrum * gain[index], blobs.shape)


def clouds_of(truth: Tensor, seed: int = 0, noise: float = 0.2) -> Clouds:
    parts = [noise * torch.randn(truth.shape, generator=seeded(10 + i)) for i in range(2)]
    halves = [Volume(WEDGE.measured(truth + part).numpy(), 10.0) for part in parts]
    source = prepare_source(
        "t", halves, WEDGE, Normalisation(0.0, 1.0), working_bin=1, held_out=torch.zeros(0, 2, 3), noise=torch.ones(4)
    )
    return Clouds([source], patch=PATCH, block=BLOCK, generator=seeded(seed))


def judge(seed: int = 0) -> ReferenceReferee:
    torch.manual_seed(seed)
    return ReferenceReferee(MultiScaleDiscriminator(1, (4, 8, 8)), POWER).eval()


def energy_of(
    clouds: Clouds, *, step: int = PATCH, turns: int = 2, chains: int = 1, **how: object
) -> StructureEnergy:
    axes = (torch.from_numpy(places(first, count, step)) for first, count in clouds.centres())
    centres = torch.cartesian_prod(*axes)
    draws = [frozen_draw(clouds, centres, turns=turns) for _ in range(chains)]
    return StructureEnergy(judge(), Microscope([WEDGE], patch=PATCH, block=BLOCK), draws, **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clouds() -> Clouds:
    return clouds_of(gaussian(0))


# -- the operator ------------------------------------------------------------------------------------


def test_putting_blocks_back_is_the_adjoint_of_cutting_them_at_faces_too() -> None:
    volume = torch.randn(20, 24, 22, generator=seeded(0))
    centres = torch.tensor([[3, 12, 20], [10, 4, 11], [18, 22, 2]])
    draw = CloudDraw(*(torch.zeros(3, dtype=torch.long),) * 2, centres, *(torch.zeros(3),) * 3)
    blocks = torch.randn(3, 1, 16, 16, 16, generator=seeded(1))
    back = torch.zeros_like(volume)
    add_blocks(back, blocks, draw)
    found = float((blocks_at([volume], draw, 16) * blocks).sum())
    assert found == pytest.approx(float((volume * back).sum()), rel=1e-4)


def test_a_quarter_turn_is_what_any_turn_would_be() -> None:
    block = band_limit(torch.randn((BLOCK,) * 3, generator=seeded(2)), 0.2, 0.3)
    nothing = torch.zeros(1, 1, PATCH, PATCH, PATCH)
    microscope = Microscope([MissingWedge((-90.0, 90.0))], patch=PATCH, block=BLOCK)
    low = (BLOCK - PATCH) // 2
    cut = slice(low, low + PATCH)
    for rotation in quarter_turns()[1::5]:
        one = torch.zeros(1, dtype=torch.long)
        draw = CloudDraw(one, one, torch.full((1, 3), BLOCK // 2), rotation[None], nothing, nothing)
        found = microscope(block[None, None], draw)[0, 0]
        slow = Turner(block.shape, rotation)(block)[cut, cut, cut]
        assert torch.allclose(found, slow - slow.mean(), atol=0.02 * float(block.std()))


# -- the energy --------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_energy_chain_by_chain(clouds: Clouds) -> None:
    energy = energy_of(clouds, chains=2)
    x = torch.stack([gaussian(1), gaussian(2)]).requires_grad_()
    found = energy(x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    # Mostly uphill, or kinks are all that is seen.
    step = torch.stack([gaussian(3), gaussian(4)]) / 4 + slope / slope.std()
    h = 1e-3
    ends = [energy(x.detach() + s * h * step) for s in (1, -1)]
    torch.testing.assert_close((slope * step).sum(dim=(1, 2, 3)), (ends[0] - ends[1]) / (2 * h), rtol=0.03, atol=1e-4)
    assert torch.equal(energy(x.detach()), found.detach()), "frozen: the same from call to call"
    swapped = energy(x.detach().flip(0))
    assert not torch.allclose(swapped.flip(0), found.detach()), "a chain has turns and noise of its own"


def test_a_part_in_its_surroundings_has_the_gradient_of_the_whole(clouds: Clouds) -> None:
    whole, corner = gaussian(5), (8, 12, 10)
    part = tuple(slice(c, c + 20) for c in corner)
    volumes = SIZE**3
    alone = energy_of(clouds_of(gaussian(0)), voxels=volumes)
    inside = energy_of(clouds_of(gaussian(0)), voxels=volumes, surroundings=whole, corner_zyx=corner)
    energy, slope = alone.energy_and_gradient(whole)
    own, own_slope = inside.energy_and_gradient(whole[part].double())
    assert own_slope.dtype == torch.float64
    assert float(own) == pytest.approx(float(energy), rel=1e-6)
    torch.testing.assert_close(own_slope.float(), slope[part])


def test_every_voxel_counts_once_however_many_places_and_turns(clouds: Clouds) -> None:
    volume = clumped(6)
    found = [
        float(energy_of(clouds, step=step, turns=turns)(volume[None])) for step, turns in ((16, 2), (16, 6), (6, 2))
    ]
    assert max(found) - min(found) < 0.15 * abs(sum(found) / 3)
    twice = energy_of(clouds, step=16, turns=2, weight=2.0, voxels=SIZE**3 // 2)
    assert float(twice(volume[None])) == pytest.approx(
        2 * twice.voxels / twice.judge.neighbourhood**3 * -twice.logit(volume), rel=1e-5
    )


def test_quarter_turns_of_a_place_differ(clouds: Clouds) -> None:
    draw = frozen_draw(clouds, torch.tensor([[20, 20, 20], [16, 16, 16]]), turns=8)
    for each in draw.rotations.split(8):
        assert len({tuple(rotation.flatten().tolist()) for rotation in each}) == 8
    free = frozen_draw(clouds, torch.tensor([[20, 20, 20]]), turns=2, quarter=False)
    assert not torch.equal(free.rotations, free.rotations.round())


# -- what it learns ----------------------------------------------------------------------------------


def test_clumps_are_told_from_a_gaussian_of_their_spectrum_and_a_gaussian_is_not() -> None:
    told = {}
    for name, truth in (("clumps", clumped(7)), ("gaussian", gaussian(8))):
        learned = learn_reference(clouds_of(truth), POWER, steps=50, widths=(8, 16, 16))
        microscope, unseen = Microscope([WEDGE], patch=PATCH, block=BLOCK), clouds_of(truth, seed=1)
        draw = unseen.draw(40)
        again = microscope(learned.blocks(40, BLOCK, generator=seeded(9)), draw)
        with torch.no_grad():
            real, fake = learned.energies(draw.real), learned.energies(again)
        told[name] = float((real[:, None] < fake).double().mean())
    assert told["clumps"] > 0.8
    assert abs(told["gaussian"] - 0.5) < 0.2, "three standard errors of so few patches"


def test_a_frozen_one_knows_its_reference(tmp_path: Path) -> None:
    made = judge(3)
    save_energy(tmp_path / REFERENCE_FILE, made, patch=PATCH, block=BLOCK)
    loaded, spec = load_energy(tmp_path, "reference")
    assert spec["kind"] == "reference"
    patches = torch.randn(2, 1, PATCH, PATCH, PATCH, generator=seeded(11))
    assert torch.equal(loaded.energies(patches), made.energies(patches))
    assert loaded.neighbourhood == 15
    power = loaded.reference_power((24, 24, 24))
    assert float(power[0, 0, 0]) == pytest.approx(4.0)
    assert not power[12, 12, 12].item()
    drawn = loaded.blocks(6, 24, generator=seeded(12))
    mean = torch.stack([rfft(block[0]).abs().square() for block in drawn]).mean(dim=0)
    shell = (power > 0.5) & (power < 2)
    assert float(mean[shell].sum() / power[shell].sum()) == pytest.approx(1.0, abs=4 / math.sqrt(6 * int(shell.sum())))
