"""Settings of a fit on subtomograms, checked when made. A component is {name, **its constructor's keywords}."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cryoaae.subtomograms.alignment_settings import AlignmentSettings

Whole = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Component = dict[str, Any]


class ClusterSettings(BaseModel):
    """How to build and fit the volumetric autoencoder.

    Parameters
    ----------
    working_box : int or None
        Edge of the grid on which particles are seen; None: that of the store, but no more than 24.
    widths : tuple of int
        Channels after each halving.
    units : int
        Features that the encoder reads codes from, and hidden units of the decoder.
    classes : int
        Classes of the categorical code; more than there may be: those that copies of particles mix up are merged.
        With labels there are as many as labels, or as clusters are asked for, instead.
    style_dim : int
        Length of the style code, which holds the pose, too, unless `frame` is "reference".
    frame : {"particle", "reference"}
        What the decoder makes: each particle in its own pose, or, by the poses of the store, in that of its reference.
    divergence, class_divergence : {name, **keywords}
        Between style codes and a Gaussian, class codes and their categorical prior.
    divergence_weight, class_weight, reconstruction_weight, consistency, guard, supervised_weight : float
        Weights of the terms, see `models.volumetric`.
    structure_weight, structure_share : float
        Of the structure discriminator of decoded volumes, see `models.refereed_volumes`; 0: there is none.
    structure_batch_size : int
        Volumes a step that it sees.
    learned_share : float
        Share of the class proportions that is learned.
    class_gradient : float
        Share of the reconstruction's gradient that reaches the class code.
    shift : float
        Copies are moved by up to so many working voxels along each axis.
    batch_size, labelled_batch_size : int
        Particles a step, and labelled ones in addition, where fewer than half are labelled.
    learning_rate, beta1, critic_rate, warm_up_steps, ema_decay
        As of the 2-D family.
    steps, minutes : int or None, float or None
        Ceiling. With steps the result does not depend on the clock.
    evaluations : int
        Readings over the budget.
    checkpoint_every_seconds : float
    alignment : AlignmentSettings
        Of the multi-reference alignment, where particles are aligned.
    seed : int

    Raises
    ------
    ValueError
        For a value that cannot be.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    working_box: Annotated[int, Field(ge=8, le=96, multiple_of=2)] | None = None
    widths: Annotated[tuple[Whole, ...], Field(min_length=1, max_length=5)] = (16, 32, 64)
    units: Whole = 256
    classes: Annotated[int, Field(ge=2)] = 12
    style_dim: Whole = 12
    frame: Literal["particle", "reference"] = "particle"
    divergence: Component = Field(
        default_factory=lambda: {"name": "adversarial", "hidden": [128, 128], "input_noise": 0.1}
    )
    divergence_weight: Weight = 1.0
    class_divergence: Component = Field(
        default_factory=lambda: {"name": "adversarial", "hidden": [128, 128], "input_noise": 1.0}
    )
    class_weight: Weight = 0.3
    reconstruction_weight: Weight = 11.0
    consistency: Weight = 6.0
    guard: Weight = 3.0
    supervised_weight: Weight = 1.0
    structure_weight: Weight = 0.0
    structure_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    structure_batch_size: Whole = 16
    learned_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    class_gradient: Annotated[float, Field(ge=0, le=1)] = 1.0
    shift: Weight = 1.0
    batch_size: Annotated[int, Field(ge=2)] = 48
    labelled_batch_size: Annotated[int, Field(ge=2)] = 24
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    beta1: Share = 0.5
    critic_rate: Annotated[float, Field(gt=0)] = 2.0
    warm_up_steps: Annotated[int, Field(ge=0)] = 50
    ema_decay: Share = 0.99
    steps: Whole | None = None
    minutes: Annotated[float, Field(gt=0)] | None = 20.0
    evaluations: Whole = 20
    checkpoint_every_seconds: Weight = 60.0
    alignment: AlignmentSettings = Field(default_factory=AlignmentSettings)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> ClusterSettings:
        for field in ("divergence", "class_divergence"):
            name = getattr(self, field).get("name")
            if not isinstance(name, str):
                raise ValueError(f"{field} needs a name, such as {{name: adversarial}}")
            if name == "kl":
                raise ValueError(f"{field}: the encoder is deterministic, so its codes have no law for kl")
        if self.steps is None and self.minutes is None:
            raise ValueError("neither minutes nor steps given")
        if self.working_box is not None and 2 ** len(self.widths) > self.working_box:
            raise ValueError(f"{len(self.widths)} halvings of a box of {self.working_box} leave nothing")
        return self

    @property
    def patience(self) -> int:
        """Of no use to the loop, which has no held-out loss to watch here."""
        return 1
