"""Settings of a member of the family, checked when made. A component is {name, **its constructor's keywords}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

VARIANTS = (
    "aae", "labelled", "supervised", "semisupervised", "clustering", "dimension-reduction",
    "vae", "wae", "sinkhorn", "evia",
)  # fmt: skip
WITH_CLASSES = ("semisupervised", "clustering", "dimension-reduction")
WITH_LABELS = ("labelled", "semisupervised", "dimension-reduction")
Whole = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Component = dict[str, Any]
CLASS_SETTINGS = ("class_divergence", "class_weight", "head_norm", "tell_class", "class_gradient")
# What compares codes with their prior, or weighs against it.
MATCH_SETTINGS = (
    "encoder", "divergence", "divergence_weight", "reconstruction", "reconstruction_weight", "phased",
)  # fmt: skip


class AutoencodingSettings(BaseModel):
    """How to build and fit a member of the 2-D family.

    Parameters
    ----------
    variant : str
        Which model; see `VARIANTS`.
    network : {"mlp", "convolutional"}
    hidden : list of int
        Units of the hidden layers of encoder and decoder; channels of a convolutional one, but for the
        last number, which is the units between convolutions and code.
    encoder : {"deterministic", "gaussian", "universal"}
    noise_dim : int
        Length of the universal approximator's noise.
    prior : {name, **keywords}
        Of the style code.
    divergence : {name, **keywords}
        Between style codes and prior; `divergence_weight` its weight.
    classes : int
        Classes of the categorical code, in variants that have one.
    class_divergence, class_weight
        Between class codes and their categorical prior.
    labels : int or None
        Labelled examples the model may use, equally many of each class; None: as the variant says
        (supervised: all, clustering: none).
    reconstruction : {"bernoulli", "squared"}
        Summed over the pixels of an image.
    batch_norm : bool
        In encoder and decoder.
    head_norm : bool
        Batch normalisation of the class logits.
    dropout, input_noise : float
        In encoder and decoder; on the encoder's input.
    phased : bool
        The paper's alternating phases with SGD instead of joint steps with Adam.
    critic_rate : float
        Learning rate of discriminators as a multiple of the autoencoder's.
    tell_class : bool
        Tell the style's discriminator the likeliest class of each image, so that the style does not know it.
    class_gradient : float
        Share of the reconstruction's gradient that reaches the class code.
    head_distance, head_weight : float
        Cluster heads closer than this are pushed apart, with this weight.
    temperature : float
        EVIA's gamma, as a share of the half squared error of the mean image: what not to code at all costs.
    candidates, proposal_std : int, float
        EVIA's draws from the prior in a step, and the spread of those around codes, in the prior's scale.
    batch_size, labelled_batch_size : int
    learning_rate, beta1, warm_up_steps
        Peak rate of Adam, decay of its first moment, steps to reach the rate; it falls as a half cosine.
    ema_decay : float
        Decay of the averaged weights, which are what is scored.
    epochs : float
    seed : int
    evaluations : int
        Readings of the diagnostics over the fit.

    Raises
    ------
    ValueError
        For a value that cannot be, and for one that this variant would ignore (`unused_settings`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    variant: Literal[VARIANTS]  # type: ignore[valid-type]
    network: Literal["mlp", "convolutional"] = "mlp"
    hidden: Annotated[tuple[Whole, ...], Field(min_length=1, max_length=6)] = (400, 400)
    encoder: Literal["deterministic", "gaussian", "universal"] = "deterministic"
    noise_dim: Whole = 10
    prior: Component = Field(default_factory=lambda: {"name": "gaussian", "dim": 10})
    divergence: Component = Field(default_factory=lambda: {"name": "adversarial"})
    divergence_weight: Weight = 1.0
    classes: Annotated[int, Field(ge=0)] = 0
    class_divergence: Component = Field(default_factory=lambda: {"name": "adversarial"})
    class_weight: Weight = 1.0
    labels: Annotated[int, Field(ge=0)] | None = None
    reconstruction: Literal["bernoulli", "squared"] = "bernoulli"
    reconstruction_weight: Weight = 1.0
    supervised_weight: Weight = 1.0
    batch_norm: bool = False
    head_norm: bool = False
    dropout: Share = 0.0
    input_noise: Weight = 0.0
    phased: bool = False
    tell_class: bool = False
    class_gradient: Annotated[float, Field(ge=0, le=1)] = 1.0
    head_distance: Weight = 4.0
    head_weight: Weight = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.05
    candidates: Annotated[int, Field(ge=2)] = 256
    proposal_std: Annotated[float, Field(gt=0)] = 0.1
    batch_size: Annotated[int, Field(ge=2)] = 100
    labelled_batch_size: Annotated[int, Field(ge=2)] = 100
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    beta1: Share = 0.5
    critic_rate: Annotated[float, Field(gt=0)] = 1.0
    warm_up_steps: Annotated[int, Field(ge=0)] = 0
    ema_decay: Share = 0.99
    epochs: Annotated[float, Field(gt=0)] = 10
    evaluations: Whole = 20
    checkpoint_every_seconds: Weight = 60.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> AutoencodingSettings:
        for field in ("prior", "divergence", "class_divergence"):
            if not isinstance(getattr(self, field).get("name"), str):
                raise ValueError(f"{field} needs a name, such as {{name: gaussian}}")
        if self.variant in WITH_CLASSES and self.classes < 2:
            raise ValueError(f"{self.variant} needs classes of 2 or more")
        if self.variant not in WITH_CLASSES and self.classes:
            raise ValueError(f"{self.variant} has no classes")
        if self.variant == "semisupervised" and not self.labels:
            raise ValueError("semisupervised needs labels")
        if self.variant not in WITH_LABELS and self.labels is not None:
            uses = "all labels" if self.variant == "supervised" else "no labels"
            raise ValueError(f"labels: {self.variant} uses {uses}")
        for name, why in unused_settings(dict(self)).items():
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: {why}")
        return self


def unused_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings that a member of the family has no use for, each with the reason.

    Parameters
    ----------
    values : mapping
        Settings by name, with the variant; those left out are at their defaults.
    """
    fields = AutoencodingSettings.model_fields
    given = {name: field.get_default(call_default_factory=True) for name, field in fields.items()} | dict(values)
    variant, evia, encoder = given["variant"], given["variant"] == "evia", given["encoder"]
    classes, divergence = variant in WITH_CLASSES, given["divergence"]
    compares = divergence.get("name") if isinstance(divergence, dict) else None
    # Whether they are used, settings, and what to say where they are not.
    rules: tuple[tuple[bool, tuple[str, ...], str], ...] = (
        (classes, CLASS_SETTINGS, f"{variant} has no class code"),
        (classes and bool(given["labels"]), ("supervised_weight", "labelled_batch_size"), "there are no labels"),
        (compares == "adversarial", ("tell_class",), f"the divergence {compares} is told nothing"),
        (variant == "dimension-reduction", ("head_distance", "head_weight"), f"{variant} has no cluster heads"),
        (evia, ("temperature", "candidates", "proposal_std"), f"{variant} has no transport plan"),
        (not evia, MATCH_SETTINGS, "evia has a transport plan in its place"),
        (encoder == "universal", ("noise_dim",), f"a {encoder} encoder takes no noise"),
        (not given["phased"], ("beta1", "critic_rate"), "the paper's phases (phased=true) have their own"),
    )
    return {name: why for used, names, why in rules if not used for name in names}
