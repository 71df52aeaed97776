"""Restore cryo-electron tomograms, and know what was measured and what was filled in."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Loaded when first used (PEP 562): importing cryoaae loads no torch.
_PUBLIC = {
    "Volume": "cryoaae.volume",
    "MissingWedge": "cryoaae.physics.wedge",
    "ContrastTransfer": "cryoaae.physics.ctf",
    "Restorer": "cryoaae.models.restorer",
    "open_volume": "cryoaae.io.mrc",
    "write_volume": "cryoaae.io.mrc",
    "simulate": "cryoaae.simulation.dataset",
    "fit": "cryoaae.restoration.fit",
    "restore": "cryoaae.restoration.restore",
    "restore_array": "cryoaae.restoration.restore",
    "sample": "cryoaae.restoration.posterior",
    "evaluate": "cryoaae.restoration.evaluate",
    "validate": "cryoaae.restoration.validate",
    "energy": "cryoaae.restoration.energy",
    "inspect": "cryoaae.restoration.inspection",
    "extract": "cryoaae.subtomograms.extract",
    "SubtomogramStore": "cryoaae.io.store",
    "cluster": "cryoaae.subtomograms.cluster",
    "embed": "cryoaae.subtomograms.embed",
    "generate": "cryoaae.subtomograms.generate",
}

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from cryoaae.io.mrc import open_volume, write_volume
    from cryoaae.io.store import SubtomogramStore
    from cryoaae.models.restorer import Restorer
    from cryoaae.physics.ctf import ContrastTransfer
    from cryoaae.physics.wedge import MissingWedge
    from cryoaae.restoration.energy import energy
    from cryoaae.restoration.evaluate import evaluate
    from cryoaae.restoration.fit import fit
    from cryoaae.restoration.inspection import inspect
    from cryoaae.restoration.posterior import sample
    from cryoaae.restoration.restore import restore, restore_array
    from cryoaae.restoration.validate import validate
    from cryoaae.simulation.dataset import simulate
    from cryoaae.subtomograms.cluster import cluster
    from cryoaae.subtomograms.embed import embed
    from cryoaae.subtomograms.extract import extract
    from cryoaae.subtomograms.generate import generate
    from cryoaae.volume import Volume


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'cryoaae' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
