"""A fit of the family ready to run: model, feed and loop, of one model or of a stack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.autoencoding.build import build
from cryoaae.autoencoding.feed import ImageFeed, Labelled
from cryoaae.autoencoding.settings import WITH_CLASSES, AutoencodingSettings
from cryoaae.draws import Draws
from cryoaae.errors import InputError
from cryoaae.fitting.loop import Loop
from cryoaae.io.images import Images, ImageSplit, choose_labelled
from cryoaae.models.autoencoder import Autoencoder
from cryoaae.priors.prior import UNLABELLED


@dataclass(frozen=True)
class EpochSchedule:
    """What the loop reads of the settings, with epochs turned into steps."""

    learning_rate: float
    warm_up_steps: int
    ema_decay: float
    steps: int
    evaluations: int
    minutes: float | None = None
    patience: int = 1


class FamilyRun:
    """A fit ready to run: model, feed and loop of one model or of a stack.

    Parameters
    ----------
    data : ImageSplit
    settings : AutoencodingSettings
    stack_seeds : int or None
    device : torch.device
    dtype : torch.dtype

    Attributes
    ----------
    spread : float
        Half squared error of the mean of the training images.
    """

    def __init__(
        self,
        data: ImageSplit,
        settings: AutoencodingSettings,
        stack_seeds: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = settings
        self.seeds: int | list[int] = settings.seed
        if stack_seeds is not None:
            self.seeds = list(range(settings.seed, settings.seed + stack_seeds))
        parts = (data.train, data.validation, data.test)
        self.data = ImageSplit(*(Images(p.pixels.to(device, dtype), p.labels.to(device), p.shape) for p in parts))
        self.labels = data.classes
        self.spread = float(data.train.pixels.double().var(dim=0, correction=0).sum()) / 2
        # Weights and labelled examples are drawn on the CPU, so that they are the same on every device.
        first = Draws.seeded(self.seeds, dtype=dtype)
        model = self._build(first).to(device=device, dtype=dtype)
        draws = Draws.seeded(self.seeds, device=device, dtype=dtype)
        self.feed = ImageFeed(
            self.data.train.pixels, draws, known=self._known(first), labelled=self._labelled(first),
            batch_size=settings.batch_size, labelled_batch_size=settings.labelled_batch_size,
        )  # fmt: skip
        steps = max(1, round(settings.epochs * self.feed.steps_per_epoch))
        self.loop = Loop(
            model, self.feed,
            EpochSchedule(
                settings.learning_rate, settings.warm_up_steps, settings.ema_decay, steps, settings.evaluations
            ),
        )  # fmt: skip

    def _build(self, draws: Draws) -> Autoencoder:
        return build(self.settings, self.data.train.shape, self.labels, draws, spread=self.spread)

    def _choose(self, draws: Draws) -> Tensor:
        """Indices of the labelled examples of each member, equally many of each label."""
        count = self.settings.labels or 0
        if count >= len(self.data.train.labels):
            every = torch.arange(len(self.data.train.labels), device=self.data.train.labels.device)
            return every.expand(*draws.stack, -1)
        if count % self.labels or not count:
            raise InputError("--labels", f"{count} is no multiple of {self.labels} classes", "give 100 or 1000")
        labels, each = self.data.train.labels.cpu(), count // self.labels
        return draws.each(lambda g: choose_labelled(labels, each, g)).to(self.data.train.labels.device)

    def _labelled(self, draws: Draws) -> Labelled | None:
        if self.settings.variant not in WITH_CLASSES or not self.settings.labels:
            return None
        chosen = self._choose(draws)
        return Labelled(chosen, self.data.train.labels[chosen])

    def _known(self, draws: Draws) -> Tensor | None:
        """Labels told beside the images, (*stack, n)."""
        every = self.data.train.labels.expand(*draws.stack, -1)
        if self.settings.variant == "supervised":
            return every
        if self.settings.variant != "labelled":
            return None
        if self.settings.labels is None:
            return every
        chosen = self._choose(draws)
        return torch.full_like(every, UNLABELLED).scatter(-1, chosen, every.gather(-1, chosen))

    def member(self, index: int) -> Autoencoder:
        """Averaged model of one member, without the stack."""
        average: Autoencoder = self.loop.average
        if isinstance(self.seeds, int):
            return average
        device, dtype = self.data.train.pixels.device, self.data.train.pixels.dtype
        alone = self._build(Draws.seeded(0, dtype=dtype))
        alone.load_state_dict({k: v[index] for k, v in average.state_dict().items()})
        return alone.to(device=device, dtype=dtype)

    @property
    def told_classes(self) -> bool:
        """Whether the model was told what its classes are: all labels, or those of some examples."""
        settings = self.settings
        return settings.variant == "supervised" or (settings.variant in WITH_CLASSES and bool(settings.labels))

    def all_seeds(self) -> list[int]:
        """Seed of each member."""
        return [self.seeds] if isinstance(self.seeds, int) else self.seeds
