"""Runs: the folder, its lock and record, progress and cancelling, devices and memory."""
