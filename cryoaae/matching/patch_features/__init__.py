"""What a transport prior compares of a patch; a new feature map is a new module here.

A feature map is an `nn.Module` made as ``Name(patch)`` that takes patches (b, 1, p, p, p) without their means to
features (b, `dim`), differentiably, from which nobody could tell where in a patch something lies. It has no
parameters to learn. Half turns permute its features: ``map(x.flip(axes)) == map(x)[:, map.turned(axes)]``, so that a
patch counts in every half turn that keeps its wedge, for the price of one.
"""

from cryoaae.registry import Registry

PATCH_FEATURES: Registry = Registry("patch feature", "cryoaae.matching.patch_features")
