"""The general restorer made one for a tomogram: measure it, choose the grid, tell the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cryoaae.errors import InputError
from cryoaae.models.general import GeneralRestorer
from cryoaae.models.restorer import Restorer
from cryoaae.patches.normalise import measure_noise, noise_share_of, shared_normalisation
from cryoaae.patches.spectra import choose_working_bin, measure_spectra
from cryoaae.physics.resample import to_working_grid
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume, mean_volume

# Working voxels an axis of the part that tells the contrast.
PART = 96
# What a general restorer's record of training calls the store that its particles were simulated for.
PARTICLES_LIKE = "particles_like"


def settled(model: Any, volumes: Sequence[Volume], wedge: MissingWedge | None, *, of_mean: bool = True) -> Any:
    """The restorer of a tomogram: what was fitted as it is, a general one by what is measured of the tomogram.

    One that was fitted on halves and is told of their noise restores their mean, too.

    Parameters
    ----------
    model : Restorer or GeneralRestorer
    volumes : sequence of Volume
        The halves, or a single volume.
    wedge : MissingWedge, optional
        A general restorer needs it.
    of_mean : bool
        Whether a network that is told of the noise is to restore the mean of the halves, or each half.

    Raises
    ------
    InputError
        When the density is constant, a general restorer is not told the tilts, or one that was fitted from there took
        structures for the other contrast than is said now.
    """
    if not isinstance(model, GeneralRestorer):
        _check_contrast(model, volumes[0].contrast)
        return model.of_the_mean() if of_mean and len(volumes) == 2 and isinstance(model, Restorer) else model
    if wedge is None:
        raise InputError("wedge", "a general restorer needs the tilts", "give the tilts or the tilt range")
    given, voxel = list(volumes), volumes[0].voxel_size_angstrom
    raw = measure_spectra(given, wedge, generator=torch.Generator().manual_seed(0))
    working_bin = choose_working_bin(raw, given[0].shape, voxel_size_angstrom=voxel)
    normalisation = shared_normalisation(given, working_bin)
    scale = normalisation.scale
    noise = measure_noise(given, working_bin, normalisation) if len(given) == 2 else 0.0
    sign = contrast_of(given, working_bin)
    return model.restorer(
        raw.on_working_grid(working_bin, scale), wedge, fine=raw.normalised(scale), working_bin=working_bin,
        voxel_size_angstrom=voxel, halves=len(given), of_mean=of_mean, contrast=sign,
        noise_share=noise_share_of(normalisation, noise),
    )  # fmt: skip


def _check_contrast(model: Any, said: int) -> None:
    """Refuse to restore by the one contrast what a network was fitted to by the other."""
    spec = model.spec if isinstance(model, Restorer) else None
    # One that was fitted from the spectrum knows its tomograms' contrast by heart, and states none.
    if spec is not None and said and spec.network.get("conditions") and spec.contrast != said:
        problem = f"the model was fitted with structures taken to be {_shade(spec.contrast)}"
        raise InputError("--density", problem, f"fit again with --density {_shade(said)}, or leave it out")


def _shade(contrast: int) -> str:
    return "bright" if contrast > 0 else "dark"


def contrast_of(volumes: Sequence[Volume], working_bin: int) -> int:
    """1 where structures are bright, -1 where they are dark: as was said, else the sign of the density's skewness.

    Structures fill less than half of a specimen, so that they are the longer tail of the histogram of a density
    quiet enough to see it: the mean of the halves on the working grid, of a part in the middle.
    """
    whole = mean_volume(volumes)
    if whole.contrast:
        return whole.contrast
    edge = PART * working_bin
    start = [max(0, (n - edge) // 2) for n in whole.shape]
    count = [min(n, edge) // working_bin * working_bin for n in whole.shape]
    z, y, x = (slice(a, a + n) for a, n in zip(start, count, strict=True))
    density = to_working_grid(torch.from_numpy(whole.block(z, y, x)), working_bin).double()
    density = density - density.mean()
    return 1 if float((density**3).mean()) >= 0 else -1


def caveats(
    general: Any, model: Any, wedge: MissingWedge, *, noise_to_signal: float = 0.0, undone: bool = False
) -> list[str]:
    """What a user should know of a restoration by a general restorer, or by one that was fitted through a defocus.

    Parameters
    ----------
    general : Restorer or GeneralRestorer
        The one given.
    model : Restorer
        What was made of it for the tomogram.
    noise_to_signal : float
        Of what is restored, where it is known; 0: not asked.
    undone : bool
        Whether a contrast transfer is undone.
    """
    if not isinstance(general, GeneralRestorer):
        through = any("contrast_transfer" in facts for facts in getattr(general.spec, "tomograms", []))
        return ["this restorer was fitted with --defocus; restore with it too"] if through and not undone else []
    like = general.spec.training.get(PARTICLES_LIKE)
    name = f"restorer fitted on simulated particles like those of {like}" if like else "general restorer (no fit)"
    words = [f"{name}; structures taken to be {_shade(model.spec.contrast)}"]
    outside = general.outside(wedge, model.spec.working_bin * model.spec.voxel_size_angstrom, noise_to_signal)
    what_it_is = "restorer" if like else "general restorer"
    return words + [f"outside of what the {what_it_is} was trained on: {what}" for what in outside]


def seen_by(model: Any, volumes: Sequence[Volume]) -> list[Volume]:
    """What of a tomogram a restorer takes: its halves, or their mean."""
    whole = bool(getattr(getattr(model, "spec", None), "of_mean", False))
    return [mean_volume(volumes)] if whole and len(volumes) == 2 else list(volumes)
