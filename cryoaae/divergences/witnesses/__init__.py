"""First variations of divergences between two clouds; a new one is a new module here.

The first variation h of D(q, p) at q tells how the divergence changes as mass moves: for any other law r,
``D(q + t (r - q), p) = D(q, p) + t (E_r h - E_q h) + o(t)``. So a few fresh points can descend the divergence of a
cloud of thousands, and h at a point says whether q has too much there, as a discriminator's -logit does.
"""

from cryoaae.registry import Registry

WITNESSES: Registry = Registry("divergence of patches", "cryoaae.divergences.witnesses")
