"""Figures and one-file HTML reports."""
