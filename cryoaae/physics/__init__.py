"""Operators of the imaging model: Fourier grids, the missing wedge, rotation, noise, resampling.

Functions of tensors only: no disk, no clock, no choice of device.
"""
