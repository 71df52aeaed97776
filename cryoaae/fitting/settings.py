"""Settings of a fit, plain data with the defaults of the `fast` preset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cryoaae.errors import InputError
from cryoaae.volume import DENSITY_SIGN

PRIORS = ("none", "adversarial", "transport")
STARTS = ("spectrum", "general")
OPTIMISERS = ("muon", "adam")
NETWORKS = ("unet", "autoencoder")
MASKS = ("none", "auto")
PRECISIONS = ("auto", "float32", "bfloat16")
DENSITIES = tuple(DENSITY_SIGN)
LATENT_PRIORS = ("none", "adversarial", "mmd", "sinkhorn", "sliced", "kl")
WIDTHS = (8, 32, 64)
# A network that has learned nothing yet takes larger steps than one that has.
FROM_SPECTRUM = MappingProxyType({"start": "spectrum", "learning_rate": 2e-3, "warm_up_steps": 50})


@dataclass(frozen=True)
class FitSettings:
    """How to fit a restorer.

    Parameters
    ----------
    patch_size, block_size : int
        Edge of a patch and of the block it is cut from, in working voxels.
    blocks : int
        Blocks held ready; patches are drawn from all of them.
    renew_every : int
        Steps after which the oldest block is replaced by a freshly rotated one.
    batch_size : int
        Patches a step.
    start : {"general", "spectrum"}
        Where a fit starts that is not given a model: from the restorer that comes with the package, or from the
        linear estimate that the spectrum gives (`from_spectrum`).
    network : {"unet", "autoencoder"}
        What is fitted: a U-Net beside the linear estimate, or an autoencoder of overlapping patches that restores from
        codes alone.
    widths : tuple of int
        Channels of the U-Net at each resolution, the full one first, or of the autoencoder after each halving; a fit
        that starts from a model has that model's.
    optimiser : {"muon", "adam"}
        Whether the steps of filters are made orthogonal (Muon; all else goes by Adam), or all is Adam's.
    learning_rate, warm_up_steps : float, int
        Peak rate and steps to reach it; it falls as a half cosine over the budget. The defaults are for what a model
        has learned before, `FROM_SPECTRUM` has those of a fit from the spectrum.
    ema_decay : float
        Decay of the averaged weights, which are what is kept.
    kept_change : float
        Share of what a fit changes of the general restorer that it keeps: weights between those it started from and
        those it reached restore better than either (docs/decisions/0028-between-start-and-end.md).
    hidden_weight : float
        Weight of coefficients that only the second wedge took away.
    measured_weight : float
        Weight of what one half tells of the other where both measured, in a fit that starts from a restorer; for the
        rest, to 1, it is held to what that made of it (docs/decisions/0045-held-to-the-start.md).
    refills : int
        How often, evenly over the budget, the tomograms' own wedges are filled with the estimate so far.
    presence : bool
        After fitting learn to tell structure from featureless density and from noise.
    axis_share : float
        Share of the blocks that are turned about the tilt axis alone, not freely.
    held_out_fraction : float
        Share of each tomogram kept out of fitting, to watch for learning by heart.
    hold_out_deg : float
        Width of a strip of tilts, at the end of the range, that fitting is never shown; `validate` then
        holds what is filled in against it. For a strict test, not for the restoration to keep.
    working_bin : int or None
        Binning of the working grid; None: chosen by the half-map FSC.
    prior : {"none", "adversarial", "transport"}
        What pulls restorations towards the law of structures: nothing, a referee (CryoGEN-I), or transport between
        the features of patches (CryoGEN-II).
    prior_weight, prior_share : float
        Weight of its energy, and the most its gradient may be on the last layer as a share of the pair loss's.
    prior_batch : int
        Restored blocks, and real patches, that it compares a step.
    prior_scales : int
        Scales at which a referee judges.
    prior_r1 : float
        Weight of the referee's gradient penalty.
    prior_spectral : bool
        Whether the referee's layers are spectrally normalised.
    prior_divergence : {"sinkhorn", "sliced"}
        What transport descends: the debiased Sinkhorn divergence, or the sliced Wasserstein distance.
    prior_features : {"wavelets", "random_convolutions"}
        What transport compares of a patch.
    prior_bank : int
        Patches of either cloud that transport remembers.
    reference_steps : int
        Steps, after the fit, of a discriminator that learns to tell real patches from a Gaussian of their spectrum,
        for `cryoaae energy --by reference` and `--descend`; 0: none.
    code_patch, code_dim : int, int
        Edge of the autoencoder's patches in working voxels; length of its codes, or of those at a U-Net's coarsest
        level, which it has with a latent prior alone.
    latent_prior : {"none", "adversarial", "mmd", "sinkhorn", "sliced", "kl"}
        By what divergence the law of the codes is matched to a standard Gaussian; kl for the autoencoder alone.
    latent_weight, latent_share : float
        Weight of that divergence, and the most its gradient may be on the codes as a share of the pair loss's.
    minutes, steps : float or None, int or None
        Ceiling. With steps the result does not depend on the clock.
    patience : int
        Evaluations without a better held-out loss after which fitting stops.
    evaluations : int
        Held-out evaluations over the budget.
    checkpoint_every_seconds, preview_every_seconds : float
    precision : {"auto", "float32", "bfloat16"}
        Of the layers while they are fitted; auto: half where that is faster and the fit is limited by minutes, without
        a prior.
    density : {"auto", "bright", "dark"}
        Whether structures are bright or dark, for a fit that starts from the general restorer; auto: the data tell.
    mask : {"none", "auto"}
        Where patches of a tomogram without a mask are taken from: everywhere alike, or where there is structure.
    seed : int
    """

    patch_size: int = 48
    block_size: int = 96
    blocks: int = 12
    renew_every: int = 6
    batch_size: int = 2
    start: str = "general"
    network: str = "unet"
    widths: tuple[int, ...] = WIDTHS
    optimiser: str = "adam"
    learning_rate: float = 5e-4
    warm_up_steps: int = 20
    ema_decay: float = 0.995
    kept_change: float = 0.7
    hidden_weight: float = 2.0
    measured_weight: float = 1.0
    refills: int = 3
    presence: bool = True
    axis_share: float = 0.0
    held_out_fraction: float = 0.08
    hold_out_deg: float = 0.0
    working_bin: int | None = None
    prior: str = "none"
    prior_weight: float = 1.0
    prior_share: float = 0.1
    prior_batch: int = 2
    prior_scales: int = 1
    prior_r1: float = 0.0
    prior_spectral: bool = False
    prior_divergence: str = "sinkhorn"
    prior_features: str = "wavelets"
    prior_bank: int = 2048
    reference_steps: int = 0
    code_patch: int = 16
    code_dim: int = 64
    latent_prior: str = "none"
    latent_weight: float = 1.0
    latent_share: float = 0.1
    minutes: float | None = 10.0
    steps: int | None = None
    patience: int = 8
    evaluations: int = 20
    checkpoint_every_seconds: float = 60.0
    preview_every_seconds: float = 120.0
    precision: str = "auto"
    density: str = "auto"
    mask: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        named = {
            "prior": PRIORS, "optimiser": OPTIMISERS, "start": STARTS, "network": NETWORKS,
            "latent_prior": LATENT_PRIORS, "precision": PRECISIONS,
            "density": DENSITIES, "mask": MASKS,
        }  # fmt: skip
        for field, known in named.items():
            value = getattr(self, field)
            if value not in known:
                raise InputError(field, f"{value!r} is none of {', '.join(known)}")
        if self.network == "autoencoder":
            self._check_autoencoder()
        elif self.latent_prior == "kl":
            problem = "kl is for the autoencoder, whose codes have a law"
            raise InputError("latent_prior", problem, "use adversarial or mmd")
        if self.start == "general":
            self._check_general()

    def _check_general(self) -> None:
        """Refuse what the general restorer's network is not."""
        if self.latent_prior != "none" or self.network != "unet":
            raise InputError("start", "the general restorer is a U-Net without a code", "give --set start=spectrum")
        if self.widths != WIDTHS:
            raise InputError("widths", "the general restorer has its own", "give --set start=spectrum as well")

    def _check_autoencoder(self) -> None:
        patch, halved = self.code_patch, 2 ** len(self.widths)
        if patch % halved or patch % 2:
            problem = f"{patch} voxels cannot be halved {len(self.widths)} times, as often as there are widths"
            raise InputError("code_patch", problem, f"use a multiple of {max(halved, 2)}")
        for name, size in (("patch_size", self.patch_size), ("patches of a prior", self.prior_patch)):
            if size < patch or size % (patch // 2):
                problem = f"{size} voxels do not hold patches of {patch}, half a patch apart"
                raise InputError(name, problem, "change patch_size or code_patch")

    @classmethod
    def from_spectrum(cls, **changed: Any) -> FitSettings:
        """Settings of a fit that starts from the linear estimate; `changed` as for the class."""
        return cls(**{**FROM_SPECTRUM, **changed})

    @property
    def prior_patch(self) -> int:
        """Edge of the patches that a prior compares: what a turned patch of the fit still holds whole."""
        return int(self.patch_size / math.sqrt(3)) // 8 * 8
