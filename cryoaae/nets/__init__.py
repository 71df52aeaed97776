"""Networks, of MONAI blocks where they fit."""
