"""What codes are asked to be distributed as; a new prior is a new module here."""

from cryoaae.registry import Registry

PRIORS: Registry = Registry("prior", "cryoaae.priors")
