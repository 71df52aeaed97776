"""Grey levels of several volumes: shared through the viewer's own links, or taken from what is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.style import contrast_limits
from napari_cryoaae.comparison import Entry, Kind


class LinkedContrast:
    """Keeps the grey levels of all densities the same, or lets each have its own."""

    def __init__(self) -> None:
        self._linked: list[Any] = []

    def link(self, entries: Sequence[Entry], *, on: bool) -> None:
        """Link the layers of these entries' densities in place of those before; `on` false: let go of them."""
        from napari.experimental import link_layers, unlink_layers

        if self._linked:
            with suppress(KeyError, ValueError):  # a layer that is gone
                unlink_layers(self._linked, ("contrast_limits",))
        densities = {id(e.layers[0]): e.layers[0] for e in entries if e.kind is Kind.DENSITY}
        self._linked = list(densities.values()) if on and len(densities) > 1 else []
        if self._linked:
            for layer in self._linked:
                layer.contrast_limits = self._linked[-1].contrast_limits
            link_layers(self._linked, ("contrast_limits",))

    def fit(self, entries: Sequence[Entry], values: Mapping[str, NDArray[np.float32]]) -> None:
        """Take grey levels from densities, by the titles of their entries; of linked volumes together."""
        densities = [e for e in entries if e.kind is Kind.DENSITY and values[e.title].size]
        pooled = [values[e.title] for e in densities]
        for entry, own in zip(densities, pooled, strict=True):
            limits = contrast_limits(pooled if self._linked else [own])
            for layer in entry.layers:
                layer.contrast_limits = limits
