"""Weights of a sampler that was fitted on a run's own halves: where they lie, and what is said of draws by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryoaae.models.general import NAME

# Within a run folder.
FILE, RESTORER = "sampler.safetensors", "model.safetensors"


def weights_beside(model: Any) -> Path | None:
    """The sampler's weights in the run that a restorer is from (its folder, or its weights); None if it has none."""
    if not isinstance(model, str | Path):
        return None
    path = Path(model)
    folder = path if path.is_dir() else path.parent if path.name == RESTORER else None
    return folder / FILE if folder is not None and (folder / FILE).is_file() else None


def fitted_weights(weights: Path | str | None) -> Path | None:
    """The file of weights that were fitted; None of those that come along."""
    return None if weights is None or str(weights) == NAME else Path(weights)


def said_of_weights(weights: Path | str | None) -> str:
    """How a line goes on that says who drew."""
    file = fitted_weights(weights)
    return "" if file is None else f", fitted on halves ({file})"
