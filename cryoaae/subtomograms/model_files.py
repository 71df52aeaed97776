"""The volumetric autoencoder made from settings, and its weights with all that using it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoaae.divergences import DIVERGENCES
from cryoaae.draws import Draws
from cryoaae.errors import InputError
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.matching.latent import LatentMatch
from cryoaae.matching.referee import Referee
from cryoaae.models.autoencoder import CLASS, STYLE, Objective
from cryoaae.models.refereed_volumes import RefereedVolumes
from cryoaae.models.volumetric import VolumetricAutoencoder
from cryoaae.nets.discriminators import MultiScaleDiscriminator
from cryoaae.nets.encoders import Encoder
from cryoaae.nets.stacked import initialise
from cryoaae.nets.volumetric import VolumeDecoder, VolumeTrunk, draw_weights
from cryoaae.patches.particle_spectra import sphere
from cryoaae.priors.categorical import Categorical
from cryoaae.priors.gaussian import Gaussian
from cryoaae.priors.prior import Prior
from cryoaae.registry import make_part
from cryoaae.subtomograms.settings import ClusterSettings, Component
from cryoaae.subtomograms.standard import Standard, band

KIND, WEIGHTS = "volumetric", "model.safetensors"
# The tensor of weights that a model has only where it was given averages.
AVERAGES = "averages"
# What every finished clustering has beside it.
FOUND = "clusters.json"


@dataclass(frozen=True)
class FittedModel:
    """A fitted model with what its particles were like.

    Parameters
    ----------
    model : VolumetricAutoencoder
    standard : Standard
    settings : ClusterSettings
    class_names : tuple of str
        Of the classes that were known by labels, the first of the model's; empty without.
    digest : str
        Of the weights; empty before they are written.
    """

    model: VolumetricAutoencoder
    standard: Standard
    settings: ClusterSettings
    class_names: tuple[str, ...] = ()
    digest: str = ""

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` into a run folder."""
        facts = {
            "kind": KIND, "settings": self.settings.model_dump(mode="json"), "standard": self.standard.facts(),
            "class_names": list(self.class_names),
        }  # fmt: skip
        save_weights(folder / WEIGHTS, dict(self.model.state_dict()), facts)

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> FittedModel:
        """Read a run folder, or the weights in it.

        Raises
        ------
        InputError
            When there are none, or they are of another kind of model.
        """
        path = Path(path)
        file = path / WEIGHTS if path.is_dir() else path
        if path.is_dir() and not file.exists() and (path / FOUND).exists():
            raise InputError(path, "was clustered by alignment, which fits no model", "cluster again with --by both")
        weights, facts = load_weights(file)
        if facts.get("kind") != KIND:
            raise InputError(file, "is no model of subtomograms", "give the run folder of cryoaae cluster")
        try:
            settings = ClusterSettings(**facts["settings"])
            standard = Standard.from_facts(facts["standard"])
            model = build_model(settings, standard, Draws.seeded(0), weights.get(AVERAGES))
            model.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(file, "was written by another version of cryoaae", "fit the model again") from error
        return cls(
            model.to(device).eval(), standard, settings, tuple(facts["class_names"]), facts["digest"]
        )


def check_apart(folder: Path, model: Path | str) -> None:
    """Refuse to write into the run folder of a model: --overwrite would clear it first.

    Raises
    ------
    InputError
    """
    own = Path(model) if Path(model).is_dir() else Path(model).parent
    if folder.resolve() == own.resolve():
        raise InputError(folder, "is the run folder of the model", "choose another folder")


def build_model(
    settings: ClusterSettings, standard: Standard, draws: Draws, averages: Tensor | None = None
) -> VolumetricAutoencoder:
    """Make a model, with averages of its classes (classes, z, y, x) or without, and draw its weights.

    Raises
    ------
    InputError
        For an unknown divergence, or keywords that do not fit it.
    """
    box, classes = standard.working_box, settings.classes
    style, categorical = Gaussian(settings.style_dim), Categorical(classes)
    trunk = VolumeTrunk(box, settings.widths, settings.units)
    # Without its norm the class head falls into one class within ten steps, and no guard brings it back.
    encoder = Encoder(trunk, settings.style_dim, classes=classes, head_norm=True)
    decoder = VolumeDecoder(settings.style_dim + classes, box, settings.widths, settings.units)
    matches = {
        STYLE: _match(settings.divergence, style, settings.divergence_weight),
        CLASS: _match(settings.class_divergence, categorical, settings.class_weight),
    }
    objective = Objective(
        reconstruction="squared", reconstruction_weight=settings.reconstruction_weight,
        supervised_weight=settings.supervised_weight, beta1=settings.beta1, critic_rate=settings.critic_rate,
        class_gradient=settings.class_gradient,
    )  # fmt: skip
    keywords: dict[str, Any] = {
        "input_filter": standard.filter(), "inside": sphere(box).clone(), "band": band(box).clone(),
        "consistency": settings.consistency, "guard": settings.guard, "learned_share": settings.learned_share,
        "averages": averages,
    }  # fmt: skip
    if settings.structure_weight == 0:
        model = VolumetricAutoencoder(encoder, decoder, matches, objective, **keywords)
        initialise(model, draws)
        return model
    referee = Referee(MultiScaleDiscriminator(widths=settings.widths))
    refereed = RefereedVolumes(
        encoder, decoder, matches, objective, referee=referee, structure_weight=settings.structure_weight,
        structure_share=settings.structure_share, **keywords,
    )  # fmt: skip
    initialise(refereed, draws)
    draw_weights(referee, draws)
    return refereed


def _match(component: Component, prior: Prior, weight: float) -> LatentMatch:
    return LatentMatch(prior, make_part(DIVERGENCES, component, prior), weight=weight)
