"""Subtomograms: extracted, and what is learned from them."""
