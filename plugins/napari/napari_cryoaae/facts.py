"""What is known of a layer beyond its voxels: one typed object, kept under one key of its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoaae.io.names import match_name, side_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryoaae.physics.wedge import MissingWedge

KEY = "cryoaae"
# Length units that a viewer may state, in angstrom.
ANGSTROM = {"angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4}
# Scales of the three axes that differ by more are not a rounding.
CUBIC = 1e-3


class Role(StrEnum):
    """What a volume is to its tomogram."""

    INPUT = "input"
    EVEN = "even half"
    ODD = "odd half"
    RESTORED = "restored"
    RESTORED_HALF = "restored half"
    STD = "standard deviation"
    DRAW = "draw"
    MODE = "principal mode"
    PREVIEW = "preview"
    MEASURED = "measured only"
    FILLED = "filled in only"
    PARTICLES = "particles"
    SUBTOMOGRAMS = "made of subtomograms"
    FILM = "film"


@dataclass(frozen=True)
class StatedWedge:
    """Tilts as a record or a user states them; plain numbers, so that no torch is needed to show them."""

    tilt_range_deg: tuple[float, float]
    tilts_deg: tuple[float, ...] | None = None
    tilt_axis_deg: float = 0.0
    flipped: bool = False

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> StatedWedge:
        """Take it from the plain data of a record or of a model's spec."""
        lo, hi = plain["tilt_range_deg"]
        tilts = plain.get("tilts_deg")
        listed = None if tilts is None else tuple(float(t) for t in tilts)
        return cls((float(lo), float(hi)), listed, float(plain["tilt_axis_deg"]), bool(plain["flipped"]))

    @classmethod
    def of_tilts(cls, tilts_deg: Sequence[float], tilt_axis_deg: float = 0.0, *, flipped: bool = False) -> StatedWedge:
        """Take it from a list of tilts."""
        listed = tuple(sorted(tilts_deg))
        return cls((listed[0], listed[-1]), listed, tilt_axis_deg, flipped)

    def build(self) -> MissingWedge:
        """The library's wedge.

        Raises
        ------
        InputError
            When the range cannot be meant.
        """
        from cryoaae.io.tilts import check_tilt_range
        from cryoaae.physics.wedge import MissingWedge

        check_tilt_range(*self.tilt_range_deg, source="tilt range")
        return MissingWedge(self.tilt_range_deg, self.tilts_deg, self.tilt_axis_deg, self.flipped)

    def text(self) -> str:
        lo, hi = self.tilt_range_deg
        count = "" if self.tilts_deg is None else f", {len(self.tilts_deg)} tilts"
        sign = ", angles of the other sign" if self.flipped else ""
        return f"{lo:g} to {hi:g}°{count}, axis {self.tilt_axis_deg:g}° from y{sign}"


@dataclass(frozen=True)
class LayerFacts:
    """What is known of one layer.

    Parameters
    ----------
    role : Role
    tomogram : str
        Name that the volumes of one tomogram share.
    source : Path, optional
        File the layer was read from; None for one that was computed.
    voxel_size_angstrom : float, optional
        None where no file states it.
    wedge : StatedWedge, optional
    run : Path, optional
        Run folder of the model, or the weights of a general restorer.
    record : Path, optional
        Record (JSON) of the restoration, or of the draws, that it belongs to.
    draw : int, optional
        Number of a draw.
    offset_zyx : (int, int, int)
        Where a piece lies in its tomogram, in voxels.
    made : str
        How a volume was computed that no file holds.
    """

    role: Role
    tomogram: str
    source: Path | None = None
    voxel_size_angstrom: float | None = None
    wedge: StatedWedge | None = None
    run: Path | None = None
    record: Path | None = None
    draw: int | None = None
    offset_zyx: tuple[int, int, int] = (0, 0, 0)
    made: str = ""


def role_of_file(path: Path) -> Role:
    """What a map is, by its name alone."""
    if path.stem.lower().endswith("_std"):
        return Role.STD
    return {"even": Role.EVEN, "odd": Role.ODD}.get(side_of(path) or "", Role.INPUT)


def facts_of(layer: Any) -> LayerFacts:
    """Facts of a layer: ours where we made it, else what the viewer knows of it."""
    known = layer.metadata.get(KEY)
    if isinstance(known, LayerFacts):
        return known
    stated = getattr(getattr(layer, "source", None), "path", None)
    path = Path(str(stated)) if stated else None
    name = match_name(path) if path else layer.name
    role = role_of_file(path or Path(f"{layer.name}.mrc"))
    return LayerFacts(role, name, path, voxel_size_of(layer.scale, layer.units))


def voxel_size_of(scale: Any, units: Any) -> float | None:
    """Edge of the voxel in angstrom from a layer's scale and units; None where they do not state one."""
    steps = [float(s) * ANGSTROM.get(str(u), 0.0) for s, u in zip(scale[-3:], (units or ())[-3:], strict=False)]
    if len(steps) != 3 or min(steps) <= 0 or max(steps) > min(steps) * (1 + CUBIC):
        return None
    return sum(steps) / 3
