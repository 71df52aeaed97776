"""Set up a fit from tomograms: grid, spectra, held-out boxes, sources, model, pool."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.fitting.loop import Loop
from cryoaae.fitting.pair_feed import PairFeed
from cryoaae.fitting.prior_feed import PriorFeed
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.project import Tomogram
from cryoaae.matching.referee import Referee
from cryoaae.matching.structure import Clouds, Microscope, require_halves
from cryoaae.matching.transport import Transport
from cryoaae.models.adversarial_prior import AdversarialPrior
from cryoaae.models.general import GeneralRestorer, quarter_turns
from cryoaae.models.latent_prior import LatentPrior
from cryoaae.models.pair_fitting import PairFitting, whitening
from cryoaae.models.restorer import AUTOENCODER, Restorer, RestorerSpec
from cryoaae.models.structure_prior import StructurePrior
from cryoaae.models.transport_prior import TransportPrior
from cryoaae.nets.discriminators import MultiScaleDiscriminator
from cryoaae.patches.contrast import shown_gain
from cryoaae.patches.imaging import conditions
from cryoaae.patches.normalise import Normalisation, by_noise, measure_noise, noise_share_of, shared_normalisation
from cryoaae.patches.pairs import BlockPool, BlockRecipe
from cryoaae.patches.places import Places
from cryoaae.patches.source import IN_MEMORY_BYTES, TomogramSource, choose_held_out, prepare_source, source_bytes
from cryoaae.patches.spectra import Spectra, choose_working_bin, interpolate, measure_spectra
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.runs.ranks import of_the_first
from cryoaae.runs.resources import available_memory_bytes, bfloat16_pays, choose_precision, preflight
from cryoaae.volume import DENSITY_SIGN, Volume

HELD_OUT_PATCHES = 8
# What a fit needs beside its sources: blocks, features, their gradients.
FIT_BYTES = 1.5e9
# Real patches, at most, that a transport prior sees before the first step, to measure its frame on.
FRAME_PATCHES = 512
# Blocks, at most, by which codes are brought to the units of their prior before the first step.
STANDARD_BLOCKS = 3


@dataclass(frozen=True)
class Session:
    """A fit ready to run.

    Parameters
    ----------
    start : dict
        The network's weights of the general restorer that the fit starts from; empty if it starts from another.
    kept_change : float
        See `FitSettings`.
    """

    loop: Loop
    feed: PairFeed
    restorer: Restorer
    spectra: list[Spectra]
    voxel_size_angstrom: float
    start: dict[str, Tensor]
    kept_change: float

    def best(self) -> Restorer:
        """The restorer that the fit has found: the averaged weights that did best on what was kept out of fitting.

        Of a general restorer w_0 only a share of the change is kept, w_0 + c (w - w_0): what it knows of other
        specimens is worth more than a part of what few voxels taught (Wortsman et al. 2022, WiSE-FT).
        """
        if self.loop.held_out:
            self.loop.average.load_state_dict(self.loop.best)
        restorer: Restorer = self.loop.average.restorer
        with torch.no_grad():
            for name, value in restorer.network.state_dict().items():
                if name in self.start:
                    value.lerp_(self.start[name].to(value), 1 - self.kept_change)
        return restorer


def _describe(tomogram: Tomogram, source: TomogramSource) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": tomogram.name,
        "digests": [v.digest() for v in tomogram.volumes],
        **tomogram.wedge.facts(),
        # First and last working voxel + 1 of each box kept out of fitting, (z, y, x).
        "held_out_boxes": source.held_out.int().tolist(),
    }
    if tomogram.transfer is not None:
        facts["contrast_transfer"] = asdict(tomogram.transfer) | {"defocus_um": list(tomogram.transfer.defocus_um)}
    if source.wedge != tomogram.wedge:
        facts["fitted_range_deg"] = list(source.wedge.tilt_range_deg)
    return facts


def shown_wedge(name: str, wedge: MissingWedge, hold_out_deg: float) -> MissingWedge:
    """What fitting is shown of a tilt series of which a strip at its further end is held out.

    Raises
    ------
    InputError
        If less than half of the range would be left.
    """
    low, high = wedge.tilt_range_deg
    if hold_out_deg > (high - low) / 2:
        problem = f"{hold_out_deg:g} of {high - low:g} degrees of tilts would be hidden from fitting"
        raise InputError(name, problem, "give a smaller --hold-out-deg")
    return wedge.narrowed((low, high - hold_out_deg) if high >= -low else (low + hold_out_deg, high))


def check_tomogram(tomogram: Tomogram, settings: FitSettings) -> None:
    """Refuse a tomogram that cannot be fitted on with these settings, before anything is made.

    Raises
    ------
    InputError
    """
    shown_wedge(tomogram.name, tomogram.wedge, settings.hold_out_deg)
    if settings.prior != "none" or settings.reference_steps:
        require_halves(tomogram.name, tomogram.single is None)


def _shown(tomogram: Tomogram, wedge: MissingWedge) -> list[Volume]:
    """Volumes of a tomogram as they are, or copies in memory.

    Copies have not the tilts that a narrower wedge has not, and are multiplied with what restoring shows data with.
    """
    gain = None if tomogram.transfer is None else shown_gain(tomogram.transfer, tomogram.volumes[0].voxel_size_angstrom)
    if wedge == tomogram.wedge and gain is None:
        return list(tomogram.volumes)

    def made(volume: Volume) -> Volume:
        # Of the whole at once: the faces of blocks would let some of the hidden tilts through.
        density = torch.from_numpy(volume.block(*(slice(None),) * 3))
        if wedge != tomogram.wedge:
            density = wedge.solid().measured(density)
        if gain is not None:
            density = irfft(rfft(density) * gain(radius(density.shape)), density.shape)
        return replace(volume, data=density.numpy())

    return [made(volume) for volume in tomogram.volumes]


def _louder(volumes: list[Volume], working_bin: int, plain: Normalisation) -> float:
    """By how much these are louder than what has this normalisation: restoring takes that back."""
    return shared_normalisation(volumes, working_bin).scale / plain.scale


def _common_voxel_size(tomograms: list[Tomogram]) -> float:
    sizes = [t.volumes[0].voxel_size_angstrom for t in tomograms]
    for tomogram, size in zip(tomograms, sizes, strict=True):
        if abs(size / sizes[0] - 1) > 0.1:
            problem = f"voxel size {size:.3g} A, but {tomograms[0].name} has {sizes[0]:.3g} A"
            raise InputError(tomogram.name, problem, "fit tomograms of one voxel size together")
    return float(np.mean(sizes))


def _precision(settings: FitSettings, device: torch.device) -> torch.dtype:
    """Of the layers: what is asked for, or what gives more steps in the time.

    With a limit in steps the result is to depend on nothing but the seed, and so not on what is fast here; with priors
    half precision was not measured.
    """
    if settings.precision != "auto":
        return choose_precision(settings.precision)
    by_the_clock = settings.steps is None and settings.minutes is not None
    plain = settings.prior == "none" and settings.latent_prior == "none" and settings.network == "unet"
    if not (by_the_clock and plain):
        return torch.float32
    # Of several processes the first decides for all.
    pays = of_the_first(float(bfloat16_pays(device)), device)
    return torch.bfloat16 if pays else torch.float32


def _room(
    shapes_zyx: list[tuple[int, int, int]], channels: int, working_bin: int, settings: FitSettings, scratch: Path
) -> Path | None:
    """Where sources are kept: None is in memory; refuse what fits neither there nor on the disk."""
    needed = sum(source_bytes(shape, channels, working_bin) for shape in shapes_zyx)
    needed *= 2 if settings.refills else 1
    in_memory = needed <= min(IN_MEMORY_BYTES, 0.5 * available_memory_bytes())
    preflight(FIT_BYTES + (needed if in_memory else 0), 0 if in_memory else needed, scratch)
    return None if in_memory else scratch


def _places(tomogram: Tomogram, source: TomogramSource, working_bin: int, settings: FitSettings) -> Places | None:
    """Where patches are taken from."""
    if tomogram.mask is not None:
        return Places.of_mask(tomogram.mask, working_bin, source.working_shape_zyx)
    return Places.of_structure(source.density, source.working_shape_zyx) if settings.mask == "auto" else None


def _skewness(source: TomogramSource) -> float:
    """Third standardised moment of the source density: its sign tells the contrast."""
    x = source.density[:, ::4, ::4, ::4].double()
    x = x - x.mean()
    return float((x**3).mean() / (x**2).mean() ** 1.5)


def prepare(
    tomograms: list[Tomogram],
    settings: FitSettings,
    *,
    device: torch.device,
    scratch: Path,
    init: Restorer | GeneralRestorer | None,
) -> Session:
    """Measure, choose the grid, prepare the sources and build model, pool and loop.

    Every draw comes from one generator seeded with `settings.seed`, so a resumed run finds the
    same held-out boxes and batches again.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)  # network initialisation has no generator argument
    volumes = [list(t.volumes) for t in tomograms]
    voxel_size = _common_voxel_size(tomograms)
    wedges = [shown_wedge(t.name, t.wedge, settings.hold_out_deg) for t in tomograms]
    shown = [_shown(t, wedge) for t, wedge in zip(tomograms, wedges, strict=True)]
    raw = [measure_spectra(v, wedge, generator=generator) for v, wedge in zip(shown, wedges, strict=True)]
    fitted = init if isinstance(init, Restorer) else None  # a general one suits any grid
    working_bin = fitted.spec.working_bin if fitted else settings.working_bin
    if working_bin is None:
        working_bin = min(
            choose_working_bin(s, v[0].shape, voxel_size_angstrom=voxel_size) for s, v in zip(raw, volumes, strict=True)
        )
    kept_in = _room([v[0].shape for v in volumes], len(volumes[0]), working_bin, settings, scratch)
    sources, spectra, normalisations = [], [], []
    # Of all tilts, as when restoring: hidden ones must not make the others louder.
    measured = [shared_normalisation(v, working_bin) for v in volumes]
    noises = [
        measure_noise(v, working_bin, n) if len(v) == 2 else None for v, n in zip(volumes, measured, strict=True)
    ]
    share = fitted.spec.noise_share if fitted else _noise_share(measured, noises)
    for tomogram, wedge, pair, spectrum, plain, noise in zip(
        tomograms, wedges, shown, raw, measured, noises, strict=True
    ):
        normalisation = plain if noise is None or share <= 0 else by_noise(plain, noise, share)
        if tomogram.transfer is not None:
            louder = _louder(pair, working_bin, plain)
            normalisation = replace(normalisation, scale=normalisation.scale * louder)
        on_grid = spectrum.on_working_grid(working_bin, normalisation.scale)
        source = prepare_source(
            tomogram.name, pair, wedge, normalisation, working_bin=working_bin, held_out=torch.zeros(0, 2, 3),
            noise=on_grid.noise, scratch=kept_in,
        )  # fmt: skip
        places = _places(tomogram, source, working_bin, settings)
        held_out = choose_held_out(
            source.working_shape_zyx, settings.held_out_fraction, generator=generator, places=places
        )
        sources.append(replace(source, held_out=held_out, places=places))
        spectra.append(on_grid)
        normalisations.append(normalisation.scale)
    mean, skewness = _mean(spectra), float(np.mean([_skewness(s) for s in sources]))
    contrast, turns = (fitted.spec.contrast, fitted.spec.quarter_turns) if fitted else (1, 0)
    if isinstance(init, GeneralRestorer):
        told = DENSITY_SIGN[settings.density]
        contrast, turns = told or (1 if skewness >= 0 else -1), quarter_turns(wedges[0])[0]
    restorer = Restorer(
        RestorerSpec(
            working_bin=working_bin,
            voxel_size_angstrom=voxel_size,
            network=init.spec.network if init else _network(settings),
            noise_share=share,
            skewness=skewness,
            tomograms=[_describe(t, s) for t, s in zip(tomograms, sources, strict=True)],
            contrast=contrast,
            quarter_turns=turns,
        ),
        mean,
        fine=_mean([s.normalised(n) for s, n in zip(raw, normalisations, strict=True)]),
        halves=len(volumes[0]),
        condition=_condition(spectra, wedges, working_bin * voxel_size),
    )
    restorer.precision = _precision(settings, device)
    if init is not None:
        # Its weights, but the spectra and so the linear part of these tomograms.
        restorer.network.load_state_dict(init.network.state_dict())
    watched = _held_out_recipes(sources, generator)
    pool = BlockPool(
        sources, patch=settings.patch_size, block=settings.block_size, blocks=settings.blocks,
        device=device, generator=generator, axis_share=settings.axis_share, recorrupt=init is None,
    )  # fmt: skip
    if init is None and restorer.code_dim:
        _standardise_codes(restorer, pool)
    anchor = None
    if init is not None and not (settings.measured_weight == 1 and all(source.has_halves for source in sources)):
        anchor = copy.deepcopy(restorer).eval().requires_grad_(False).to(device).forward
    model, feed = _model_and_feed(restorer.train(), mean, pool, watched, settings, anchor)
    start = init.network.state_dict() if isinstance(init, GeneralRestorer) else {}
    return Session(
        Loop(model, feed, settings), feed, restorer, spectra, voxel_size, start=start, kept_change=settings.kept_change
    )


def check_start(init: Restorer | GeneralRestorer | None, settings: FitSettings) -> None:
    """Refuse a model to start from whose network is not what the settings ask for.

    Raises
    ------
    InputError
    """
    if init is None:
        return
    network = init.spec.network
    if settings.network == AUTOENCODER and network.get("kind") != AUTOENCODER:
        raise InputError("--init", "the model to start from is no autoencoder", "start without --init")
    if settings.latent_prior == "none":
        return
    if network.get("kind") != AUTOENCODER and not network.get("code"):
        raise InputError("--init", "the model to start from has no code for a latent prior", "start without --init")
    if (settings.latent_prior == "kl") != bool(network.get("variational")):
        raise InputError("--init", "kl needs an encoder fitted with kl, and others one without", "start without --init")


def _network(settings: FitSettings) -> dict[str, object]:
    """What a spec says of the network."""
    widths: dict[str, object] = {"widths": list(settings.widths)}
    if settings.network == AUTOENCODER:
        variational = settings.latent_prior == "kl"
        codes = {"patch": settings.code_patch, "dim": settings.code_dim, "variational": variational}
        return {"kind": AUTOENCODER, **widths, **codes}
    return widths if settings.latent_prior == "none" else {**widths, "code": settings.code_dim}


def _standardise_codes(restorer: Restorer, pool: BlockPool) -> None:
    """Begin with codes in the units of their prior, by some blocks of the pool."""
    pool.ready()
    size = pool.block // restorer.multiple * restorer.multiple
    blocks = [block.inputs[:size, :size, :size].cpu() for _, block in pool.blocks()[:STANDARD_BLOCKS]]
    restorer.standardise_codes(torch.stack(blocks)[:, None])


def _latent(restorer: Restorer, settings: FitSettings) -> LatentPrior | None:
    """The prior on the restorer's codes, if there is to be one."""
    if settings.latent_prior == "none":
        return None
    return LatentPrior(
        restorer.code_dim, settings.latent_prior, weight=settings.latent_weight, share=settings.latent_share,
        seed=settings.seed,
    )  # fmt: skip


def _condition(spectra: list[Spectra], wedges: list[MissingWedge], working_voxel_angstrom: float) -> Tensor:
    """What a network that is told of the imaging is told: the mean over the tomograms."""
    told = [
        conditions(s, quarter_turns(wedge)[1], working_voxel_angstrom)
        for s, wedge in zip(spectra, wedges, strict=True)
    ]
    return torch.stack(told).mean(dim=0)


def _model_and_feed(
    restorer: Restorer, spectra: Spectra, pool: BlockPool, watched: list[BlockRecipe], settings: FitSettings,
    anchor: Callable[[Tensor], Tensor] | None,
) -> tuple[PairFitting, PairFeed]:  # fmt: skip
    """What is fitted, and what it is fitted on, with or without a prior."""
    orthogonal, latent = settings.optimiser == "muon", _latent(restorer, settings)
    loss = (restorer, whitening(spectra), settings.hidden_weight, orthogonal, latent, anchor, settings.measured_weight)
    rhythm = {
        "batch_size": settings.batch_size, "renew_every": settings.renew_every, "refills": settings.refills,
        "seed": settings.seed,
    }  # fmt: skip
    if settings.prior == "none":
        return PairFitting(*loss).to(pool.device), PairFeed(pool, watched, **rhythm)
    sizes = {"patch": settings.prior_patch, "block": settings.patch_size}
    clouds = Clouds(pool.sources, **sizes, generator=pool.generator, device=pool.device)
    microscope = Microscope([source.wedge for source in pool.sources], **sizes, device=pool.device)
    bounds = {"microscope": microscope, "weight": settings.prior_weight, "share": settings.prior_share}
    model: StructurePrior
    if settings.prior == "transport":
        model = TransportPrior(*loss, **bounds, transport=_transport(clouds, settings))
    else:
        network = MultiScaleDiscriminator(settings.prior_scales, spectral=settings.prior_spectral)
        model = AdversarialPrior(*loss, **bounds, referee=Referee(network, r1=settings.prior_r1))
    return model.to(pool.device), PriorFeed(pool, watched, clouds=clouds, cloud_size=settings.prior_batch, **rhythm)


def _transport(clouds: Clouds, settings: FitSettings) -> Transport:
    """A transport prior that has learned real patches."""
    turns = _common_turns(clouds)
    transport = Transport(
        settings.prior_patch, features=settings.prior_features, divergence=settings.prior_divergence,
        bank=settings.prior_bank, turns=turns,
    ).to(clouds.device)  # fmt: skip
    transport.learn_real(clouds.real(min(FRAME_PATCHES, settings.prior_bank // len(turns))))
    return transport


def _common_turns(clouds: Clouds) -> list[tuple[int, ...]]:
    """Half turns that keep every tomogram's wedge."""
    first, *others = [source.wedge.half_turns() for source in clouds.sources]
    return [turn for turn in first if all(turn in other for other in others)]


def _noise_share(measured: list[Normalisation], noises: list[float | None]) -> float:
    """Noise of a half over its density, standard deviations, mean of the tomograms that have halves."""
    shares = [noise_share_of(n, noise) for n, noise in zip(measured, noises, strict=True) if noise is not None]
    return float(np.mean(shares)) if shares and min(shares) > 0 else 0.0


def _mean(spectra: list[Spectra]) -> Spectra:
    """Average spectra of tomograms brought to one scale; shells of the first."""
    shells = len(spectra[0].signal)
    centre = (torch.arange(shells, dtype=torch.float64) + 0.5) / shells
    signal = torch.stack([interpolate(s.signal, centre) for s in spectra]).mean(dim=0)
    noise = torch.stack([interpolate(s.noise, centre) for s in spectra]).mean(dim=0)
    return Spectra(signal, noise, spectra[0].freq_max)


def _held_out_recipes(sources: list[TomogramSource], generator: torch.Generator) -> list[BlockRecipe]:
    """Fixed rotated blocks centred on held-out boxes."""
    boxes = [(i, box) for i, s in enumerate(sources) for box in s.held_out]
    if not boxes:
        return []
    recipes = []
    for i, rotation in enumerate(random_rotations(HELD_OUT_PATCHES, generator=generator)):
        tomogram, box = boxes[int(torch.randint(len(boxes), (1,), generator=generator))]
        recipes.append(BlockRecipe(tomogram, tuple(box.mean(dim=0).tolist()), rotation, half=i % 2))
    return recipes
