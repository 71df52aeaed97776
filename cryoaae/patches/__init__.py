"""Patches: random pairs for fitting, tiles for restoring, and the normalisation both share."""
