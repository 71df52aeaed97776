"""The napari plugin: readers and writers here load neither Qt nor torch, panels load Qt when they are opened."""
