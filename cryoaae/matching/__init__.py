"""The two clouds that a divergence compares."""
