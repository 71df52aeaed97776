"""The samplers of draws by name."""

from __future__ import annotations

from cryoaae.errors import InputError
from cryoaae.registry import suggestion
from cryoaae.restoration.draw_sources import Bootstrap, DrawSource
from cryoaae.restoration.langevin_draws import Langevin
from cryoaae.restoration.learned_draws import Learned
from cryoaae.restoration.weighted_draws import Importance

SAMPLERS: dict[str, type[DrawSource]] = {
    "learned": Learned, "bootstrap": Bootstrap, "importance": Importance, "langevin": Langevin,
}  # fmt: skip


def sampler_named(name: str) -> type[DrawSource]:
    """The sampler of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in SAMPLERS:
        raise InputError("--sampler", f"'{name}' is not known", suggestion(name, SAMPLERS))
    return SAMPLERS[name]
