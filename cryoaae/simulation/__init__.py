"""Simulated tomograms with known truth, made by projection and weighted back-projection."""
