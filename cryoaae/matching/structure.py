"""The proxy: real patches, and restorations put through the microscope again; the one place that makes both clouds.

    real    y                     a patch of one half, as it is
    again   T C R x_hat + n       a restored block, turned, seen through the laboratory's wedge, with noise

If x_hat follows the law of structures, and that law does not care for orientation, the two clouds have one law
(DESIGN 3). Necessary, not sufficient: it says nothing about *this* y. What is left of x_hat's own wedge shows, for
the second wedge cuts it elsewhere.

Any flaw of the forward operator shows just as well, so:

- R is fresh, and band-limited (`patches.turning`): neither signal nor noise changes its spectrum.
- T is what a reconstruction passes (`reconstruction_transfer`), on a block of which the patch is the middle.
- n is a half difference of the same tomogram, from another place of like variance; it is never turned. What comes
  through the gaps between tilts from structure elsewhere (`matching.elsewhere`) is in both halves alike, and added.
- Both clouds lie on the working grid, in one normalisation and one band, and lose their means: how much was measured
  of what is slower than a block, a block does not know.
- C is the identity: a restoration has the contrast transfer of the data that it was fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.matching.elsewhere import Elsewhere
from cryoaae.patches.pairs import sampled
from cryoaae.patches.source import TomogramSource
from cryoaae.patches.turning import Turner
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import (
    OVERSAMPLING,
    quarter_turned,
    random_rotations,
    reflect_positions,
    sample_positions,
)
from cryoaae.physics.wedge import MissingWedge

# Working voxels at the tomogram's faces that no patch holds: reconstructions end there.
FACE_VOXELS = 4
# The edge of what was measured is as sharp as the tomogram is large: Fourier voxels of the block it falls over.
EDGE_WIDTH = 0.5
# Blocks that the power shared by the halves is measured over.
SPECTRUM_BLOCKS = 24
# Noise is measured at places this far apart, and drawn from this share of them, the nearest in variance.
NOISE_STEP, LIKE_SHARE = 8, 0.1


@dataclass(frozen=True)
class CloudDraw:
    """All that is random in a comparison of the two clouds.

    Parameters
    ----------
    tomogram, half : (b,) int
        What the blocks to restore are cut from.
    centre_zyx : (b, 3) int
        Their middle voxels, n // 2, on the working grid.
    rotations : (b, 3, 3)
    noise : (b, 1, p, p, p)
        Noise of one half, from other places than the blocks', and what reaches a place from structure elsewhere.
    real : (b, 1, p, p, p)
        Patches of halves, from places of their own, without their means.
    """

    tomogram: Tensor
    half: Tensor
    centre_zyx: Tensor
    rotations: Tensor
    noise: Tensor
    real: Tensor

    def __len__(self) -> int:
        return len(self.tomogram)

    def part(self, where: slice) -> CloudDraw:
        """Some of the blocks, and as many real patches."""
        return CloudDraw(*(getattr(self, field.name)[where] for field in fields(self)))


def blocks_at(volumes: Sequence[Tensor], draw: CloudDraw, block: int) -> Tensor:
    """Blocks (b, 1, n, n, n) of volumes (z, y, x), one a tomogram, where a draw has its own; faces reflect."""
    rows = [
        volumes[tomogram][_voxels(centre, block, volumes[tomogram].shape)]
        for tomogram, centre in zip(draw.tomogram.tolist(), draw.centre_zyx.tolist(), strict=True)
    ]
    return torch.stack(rows)[:, None]


def add_blocks(total: Tensor, blocks: Tensor, draw: CloudDraw) -> None:
    """Add blocks (b, 1, n, n, n) to a volume (z, y, x) where a draw has its own: the adjoint of `blocks_at`."""
    for block, centre in zip(blocks[:, 0], draw.centre_zyx.tolist(), strict=True):
        total.index_put_(_voxels(centre, block.shape[-1], total.shape), block, accumulate=True)


def _voxels(centre_zyx: Sequence[int], block: int, shape_zyx: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Index of a block of a volume."""
    z, y, x = (
        _reflected(torch.arange(c - block // 2, c - block // 2 + block), n)
        for c, n in zip(centre_zyx, shape_zyx, strict=True)
    )
    return z[:, None, None], y[:, None], x


def _reflected(index: Tensor, size: int) -> Tensor:
    """Voxels of an axis, reflected at the centres of its end voxels."""
    folded = torch.remainder(index, 2 * (size - 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)


def reconstruction_transfer(wedge: MissingWedge, size: int) -> Tensor:
    """What a weighted back-projection passes of a block, (size, size, size // 2 + 1), in [0, 1].

    Notes
    -----
    The end tilts stand for half a step beyond them, as the others do on both sides; without it a block lacks what
    a tomogram has. Between the tilts everything is passed: the slabs of so small a block touch.
    """
    low, high = wedge.tilt_range_deg
    tilts = wedge.tilts_deg or ()
    first, last = ((tilts[1] - tilts[0]) / 2, (tilts[-1] - tilts[-2]) / 2) if len(tilts) > 1 else (0.0, 0.0)
    reached = (max(low - first, -90.0), min(high + last, 90.0))
    depth = replace(wedge.solid(), tilt_range_deg=reached).depth((size,) * 3)
    whole = reached == (-90.0, 90.0)  # no edge anywhere
    transfer = torch.ones_like(depth) if whole else (0.5 - depth / EDGE_WIDTH).clamp(0.0, 1.0)
    transfer[0, 0, 0] = 1.0
    return transfer


def settled(patches: Tensor) -> Tensor:
    """Patches (..., z, y, x) without their means."""
    return patches - patches.mean(dim=(-3, -2, -1), keepdim=True)


class Microscope:
    """Puts restored blocks through the microscope again.

    Parameters
    ----------
    wedges : sequence of MissingWedge
        Of each tomogram, laboratory frame.
    patch, block : int
        Edges in working voxels. A turned block holds its middle patch whole if it is sqrt(3) times as large.
    device : torch.device, optional
    """

    def __init__(
        self, wedges: Sequence[MissingWedge], *, patch: int, block: int, device: torch.device | None = None
    ) -> None:
        if block < math.sqrt(3) * patch:
            raise ValueError(f"a block of {block} voxels does not hold a patch of {patch} at every turn")
        self.patch, self.block = patch, block
        kinds = list(dict.fromkeys(wedges))  # tomograms of one tilt scheme share a transfer
        self._kind = torch.tensor([kinds.index(wedge) for wedge in wedges])
        self._transfers = torch.stack([reconstruction_transfer(wedge, block) for wedge in kinds]).to(device)

    def __call__(self, restored: Tensor, draw: CloudDraw) -> Tensor:
        """Turn, measure, add noise: (b, 1, n, n, n) on the working grid to (b, 1, p, p, p), differentiable."""
        shape = (self.block,) * 3
        turned = [_turned(x[0], rotation) for x, rotation in zip(restored, draw.rotations, strict=True)]
        transfer = self._transfers[self._kind[draw.tomogram].to(self._transfers.device)]
        seen = irfft(rfft(torch.stack(turned)) * transfer, shape)
        start = self.block // 2 - self.patch // 2
        cut = slice(start, start + self.patch)
        return settled(seen[:, None, cut, cut, cut] + draw.noise)


def _turned(block: Tensor, rotation: Tensor) -> Tensor:
    """A block (n, n, n) turned about voxel n // 2, in the band that any turn keeps; a quarter turn samples nothing."""
    if torch.equal(rotation, rotation.round()):
        return band_limit(quarter_turned(block, rotation))
    return Turner(block.shape, rotation, device=block.device)(block)


class Clouds:
    """Draws real patches, noise, and the blocks to restore, from prepared tomograms.

    Parameters
    ----------
    sources : sequence of TomogramSource
        With halves: without them nobody knows the law of the noise.
    patch, block : int
        As for `Microscope`.
    generator : torch.Generator
        Of every draw.
    device : torch.device, optional

    Raises
    ------
    InputError
        If a tomogram is a single volume, or too small for a patch.
    """

    def __init__(
        self,
        sources: Sequence[TomogramSource],
        *,
        patch: int,
        block: int,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        self.sources, self.patch, self.block = list(sources), patch, block
        self.generator, self.device = generator, device or torch.device("cpu")
        for source in self.sources:
            require_halves(source.name, source.has_halves)
            _require_room(source, patch)
        self._volumes = torch.tensor([float(math.prod(s.working_shape_zyx)) for s in self.sources])
        self._loudness = [_noise_variance(source, patch) for source in self.sources]
        self._elsewhere = [self._structure_elsewhere(tomogram) for tomogram in range(len(self.sources))]

    def draw(self, count: int) -> CloudDraw:
        """Draw places, turns and noise for `count` restored blocks, and as many real patches."""
        blocks, others = ([self._place() for _ in range(count)] for _ in range(2))
        return self._drawn(blocks, others)

    def draw_at(self, centres_zyx: Tensor, *, tomogram: int = 0) -> CloudDraw:
        """Draw turns and noise for blocks at centres (b, 3) int of a tomogram, and as many real patches."""
        blocks = [(tomogram, 0, centre) for centre in centres_zyx]
        return self._drawn(blocks, [self._place() for _ in blocks])

    def real(self, count: int) -> Tensor:
        """Draw real patches alone, (count, 1, p, p, p), without their means."""
        return settled(torch.stack([self._cut(*self._place(), self.patch) for _ in range(count)])[:, None])

    def centres(self, tomogram: int = 0) -> list[tuple[int, int]]:
        """Lowest centre of a patch away from the faces, and how many there are, along z, y, x."""
        return _centres(self.sources[tomogram], self.patch)

    def _drawn(self, blocks: list[tuple[int, int, Tensor]], others: list[tuple[int, int, Tensor]]) -> CloudDraw:
        noise = [self._noise(tomogram, centre) for tomogram, _, centre in blocks]
        real = [self._cut(*place, self.patch) for place in others]
        return CloudDraw(
            torch.tensor([tomogram for tomogram, *_ in blocks]),
            torch.tensor([half for _, half, _ in blocks]),
            torch.stack([centre for *_, centre in blocks]),
            random_rotations(len(blocks), generator=self.generator),
            torch.stack(noise)[:, None],
            settled(torch.stack(real)[:, None]),
        )

    def inputs(self, draw: CloudDraw) -> Tensor:
        """Blocks of halves to restore, (b, 1, n, n, n); what lies beyond the faces is reflected."""
        rows = zip(draw.tomogram.tolist(), draw.half.tolist(), draw.centre_zyx, strict=True)
        return torch.stack([self._cut(*place, self.block) for place in rows])[:, None]

    # -- parts of a draw ---------------------------------------------------------------------------

    def _random(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self.generator))

    def _place(self) -> tuple[int, int, Tensor]:
        """Tomogram (by volume), half and centre: uniform away from the faces, outside boxes kept out of fitting."""
        tomogram = int(torch.multinomial(self._volumes, 1, generator=self.generator))
        half = self._random(2)
        return tomogram, half, self._place_in(tomogram)

    def _place_in(self, tomogram: int) -> Tensor:
        """Centre of a patch of one tomogram."""
        source = self.sources[tomogram]
        for _ in range(100):  # all of a tomogram cannot be kept out, but chance needs an end
            centre = torch.tensor([low + self._random(n) for low, n in _centres(source, self.patch)])
            inside = (centre >= source.held_out[:, 0]) & (centre < source.held_out[:, 1])
            if not bool(inside.all(dim=1).any()):
                break
        return centre

    def _cut(self, tomogram: int, half: int, centre_zyx: Tensor, size: int) -> Tensor:
        """A half about a working voxel, (size, size, size)."""
        density = self.sources[tomogram].density[half]
        positions = sample_positions(torch.eye(3), centre_zyx * OVERSAMPLING, size, OVERSAMPLING)
        positions = reflect_positions(positions, tuple(density.shape))
        return sampled(density, positions.to(self.device), self.device)

    def _noise(self, tomogram: int, centre_zyx: Tensor) -> Tensor:
        """Noise of one half, (p, p, p), from a place that is elsewhere and as loud as that at a centre."""
        places = _centres(self.sources[tomogram], self.patch)
        low = torch.tensor([a for a, _ in places])
        last = torch.tensor([a + n - 1 for a, n in places])
        cells = torch.cartesian_prod(*(torch.arange(n) for n in self._loudness[tomogram].shape))
        centres, variance = low + NOISE_STEP * cells, self._loudness[tomogram].flatten()
        away = (centres - centre_zyx).abs()
        own = variance[away.square().sum(dim=1).argmin()]
        # Relative difference, and the share of the patch that would be the same.
        unlike = (variance - own).abs() / own.clamp(min=1e-12) + (1 - away / self.patch).clamp(min=0).prod(dim=1)
        like = unlike.argsort()[: max(1, round(LIKE_SHARE * len(cells)))]
        chosen = centres[like[self._random(len(like))]]
        jitter = torch.tensor([self._random(NOISE_STEP) for _ in range(3)]) - NOISE_STEP // 2
        place = torch.minimum((chosen + jitter).clamp(min=low), last)
        even, odd = (self._cut(tomogram, half, place, self.patch) for half in (0, 1))
        return (even - odd) / math.sqrt(2) + self._from_elsewhere(tomogram, centre_zyx)

    def _structure_elsewhere(self, tomogram: int) -> Elsewhere:
        """What reaches a place of a tomogram from structure elsewhere, by the power that its halves share."""
        source = self.sources[tomogram]
        transfer = reconstruction_transfer(source.wedge, self.block)
        elsewhere = Elsewhere(source.wedge, transfer, source.working_shape_zyx[0])
        if elsewhere.any:
            places = [self._place_in(tomogram) for _ in range(SPECTRUM_BLOCKS)]
            halves = [torch.stack([self._cut(tomogram, half, at, self.block) for at in places]) for half in (0, 1)]
            elsewhere.measure(halves, [int(at[0]) for at in places])
        return elsewhere

    def _from_elsewhere(self, tomogram: int, centre_zyx: Tensor) -> Tensor:
        return self._elsewhere[tomogram].draw(int(centre_zyx[0]), self.patch, generator=self.generator)


def require_halves(name: str, has_halves: bool) -> None:
    """Refuse a single volume: nobody can draw its noise.

    Raises
    ------
    InputError
    """
    if not has_halves:
        problem = "a single volume; a prior on structure needs samples of the noise, which halves give"
        raise InputError(name, problem, "give --even and --odd, or fit with --prior none")


def _require_room(source: TomogramSource, patch: int) -> None:
    least, size = patch + 2 * FACE_VOXELS, min(source.working_shape_zyx)
    if size < least:
        problem = f"{size} working voxels are too few for the prior's patches of {patch}"
        raise InputError(source.name, problem, "use a smaller patch_size or --prior none")


def _centres(source: TomogramSource, patch: int) -> list[tuple[int, int]]:
    """Lowest centre of a patch away from the faces, and how many there are, along z, y, x."""
    return [(FACE_VOXELS + patch // 2, n - patch - 2 * FACE_VOXELS + 1) for n in source.working_shape_zyx]


def _noise_variance(source: TomogramSource, patch: int) -> Tensor:
    """Variance of the half difference in patches `NOISE_STEP` apart, (z, y, x), up to one factor.

    Read from the source grid as it is: its prefilter is the same everywhere.
    """
    even, odd = source.density[:, ::OVERSAMPLING, ::OVERSAMPLING, ::OVERSAMPLING]
    inner = slice(FACE_VOXELS, -FACE_VOXELS)
    power = (even - odd)[inner, inner, inner].square()
    return torch.nn.functional.avg_pool3d(power[None, None], patch, NOISE_STEP)[0, 0]
