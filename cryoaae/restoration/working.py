"""A tomogram on the working grid, to be restored as often as a check asks: hidden, shuffled, or as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoaae.patches.normalise import Normalisation, shared_normalisation
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.contrast import Undoing, transfer_of
from cryoaae.restoration.data_consistency import estimator, kept_share, put_together
from cryoaae.restoration.engine import Plan, RestoreOptions, plan_restoration
from cryoaae.restoration.network import TileRunner
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import to_working
from cryoaae.volume import Volume

# What faces, and the continuation beyond them, reach: left out of all that is measured.
FACE_VOXELS = 4


def normalisation_of(volumes: Sequence[Volume], model: Any) -> Normalisation:
    """The normalisation with which a model restores a tomogram."""
    share = float(getattr(model.spec, "noise_share", 0.0))
    return shared_normalisation(volumes, int(model.spec.working_bin), noise_share=share)


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class WorkingTomogram:
    """Halves of a tomogram as the network sees them, and the network.

    Parameters
    ----------
    halves : list of (z, y, x)
        Normalised, band-limited, continued periodically beyond the faces.
    wedge : MissingWedge
    model : Restorer
    plan : Plan
    normalisation : Normalisation
        Shared by both halves, and by all that is made from them.
    voxel_size_angstrom : float
        Of the working grid.
    advance : callable
        Called with the working voxels done; may raise to stop.
    turns : tuple of axes to flip
        Half turns that `restore` averages over, the identity among them.
    yielding : bool
        Whether the network yields to the data where they are sure (`data_consistency`), as in what is written.
    contrast : int
        What was said of it; see `Volume`.
    undoing : Undoing, optional
        Of the contrast transfer. Its first part is done to all that is brought to the working grid; the rest is left
        to whoever writes.
    """

    halves: list[Tensor]
    wedge: MissingWedge
    model: Any
    plan: Plan
    normalisation: Normalisation
    voxel_size_angstrom: float
    advance: Callable[[float], None] = field(default=_nothing)
    turns: tuple[tuple[int, ...], ...] = ((),)
    yielding: bool = True
    contrast: int = 0
    undoing: Undoing | None = None

    @classmethod
    def of(
        cls,
        volumes: Sequence[Volume],
        wedge: MissingWedge,
        model: Any,
        *,
        options: RestoreOptions,
        normalisation: Normalisation | None = None,
        undoing: Undoing | None = None,
        advance: Callable[[float], None] = _nothing,
    ) -> WorkingTomogram:
        """Bring halves to the working grid, whole and in memory.

        Parameters
        ----------
        normalisation : Normalisation, optional
        undoing : Undoing, optional
            Those of the tomogram which the volumes are a part of; default: their own.
        """
        plan = plan_restoration(volumes[0].shape, model, options)
        bin_ = plan.frame.working_bin
        if normalisation is None:
            normalisation = normalisation_of(volumes, model)
        turns = wedge.half_turns() if options.symmetries else ((),)
        voxel = bin_ * volumes[0].voxel_size_angstrom
        if undoing is None:
            undoing = Undoing.of(transfer_of(options.contrast_transfer, volumes[0].name), model, voxel)
        made = cls(
            [], wedge, model, plan, normalisation, voxel, advance, turns, contrast=volumes[0].contrast, undoing=undoing,
        )  # fmt: skip
        made.halves.extend(made.bring(volume) for volume in volumes)
        return made

    def bring(self, volume: Volume) -> Tensor:
        """Bring a volume of the same shape, in the same units, to the working grid."""
        array = to_working(volume, self.plan.frame, self.normalisation, scratch=Scratch(None), check=_nothing)
        if self.undoing is not None:
            self.undoing.before(array, scratch=Scratch(None), check=_nothing)
        return torch.from_numpy(np.array(array))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size of the continued working grid."""
        z, y, x = self.plan.frame.working_zyx
        return z, y, x

    @property
    def core(self) -> tuple[slice, slice, slice]:
        """The tomogram within the continued grid."""
        bin_ = self.plan.frame.working_bin
        z, y, x = (slice(a.before // bin_, (a.before + a.size) // bin_) for a in self.plan.frame.axes)
        return z, y, x

    @property
    def core_shape(self) -> tuple[int, int, int]:
        """Size of the tomogram in working voxels, (z, y, x)."""
        z, y, x = (s.stop - s.start for s in self.core)
        return z, y, x

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The core without its faces."""
        z, y, x = (slice(s.start + FACE_VOXELS, s.stop - FACE_VOXELS) for s in self.core)
        return z, y, x

    @property
    def counted(self) -> Tensor:
        """Voxels of the core without its faces, (z, y, x) bool."""
        mask = torch.zeros(self.shape, dtype=torch.bool)
        mask[self.inside] = True
        return mask

    def restore(self, halves: Sequence[Tensor], hidden: Tensor | None = None) -> Tensor:
        """Mean of the restored halves, (z, y, x): the tomogram's, or others on a grid that suits the network.

        Parameters
        ----------
        halves : sequence of (z, y, x)
            Measured through the tomogram's wedge.
        hidden : (z, y, x // 2 + 1) bool, optional
            Coefficients that were taken away from them.
        """
        z, y, x = halves[0].shape
        function, wiener = estimator(self.model, len(self.halves))
        plan, grid = self.plan, replace(self.plan.grid, shape=(z, y, x))
        own = grid == plan.grid
        tile, batch = (plan.tile, plan.batch) if own else (grid.choose_core(plan.voxel_budget), 1)
        runner = TileRunner(function, grid, plan.device, self.turns, self.advance, plan.precision)
        parts = [np.zeros((z, y, x), np.float32) for _ in range(1 if wiener is None else 2)]
        for half in halves:
            runner.run(half.numpy(), parts, grid.tiles(tile), batch=batch, weight=1 / len(halves))
        share, inner = None, self.core_shape if own else None
        if wiener is not None and self.yielding:
            share = kept_share(wiener, self.wedge, (z, y, x), object_zyx=inner, hidden=hidden)
        return torch.from_numpy(put_together(parts, share, scratch=Scratch(None), check=_nothing))

    def restore_each(self, halves: Sequence[Tensor], hidden: Tensor | None = None) -> list[Tensor]:
        """Every half restored, (z, y, x) each; `hidden` as for `restore`."""
        return [self.restore([half], hidden) for half in halves]

    def without(self, hidden: Tensor) -> list[Tensor]:
        """The halves without some coefficients (z, y, x // 2 + 1)."""
        return [irfft(rfft(half) * ~hidden, self.shape) for half in self.halves]
