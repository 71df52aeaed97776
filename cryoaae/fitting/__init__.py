"""Fitting: settings, the loop, guards and records."""
