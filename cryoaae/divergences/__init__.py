"""How far a cloud of codes is from its prior; a new divergence is a new module here."""

from cryoaae.registry import Registry

DIVERGENCES: Registry = Registry("divergence", "cryoaae.divergences")
