"""A classifier that judges generated images, fitted apart from every model that it judges."""

from __future__ import annotations

import torch
from torch import Tensor

from cryoaae.draws import Draws
from cryoaae.io.images import Images, ImageSplit
from cryoaae.nets.stacked import MLP, initialise

UNITS, STEPS, BATCH = (400, 400), 2500, 100
INPUT_NOISE, RATE = 0.3, 1e-3
# The same judge for every model of the same images, whatever the seed of the model.
SEED = 0


class Judge:
    """A classifier of noisy images, about 98 % right on MNIST.

    Parameters
    ----------
    data : ImageSplit
        It learns all labels of the training images; `accuracy` is that on the test images, 0..1.
    """

    def __init__(self, data: ImageSplit) -> None:
        self.labels = data.classes
        self.network = _fitted(data.train, self.labels)
        self.accuracy = float((self.labels_of(data.test.pixels) == data.test.labels).double().mean())

    @torch.no_grad()
    def labels_of(self, images: Tensor) -> Tensor:
        """Likeliest label of images (n, pixels), (n,)."""
        return self.network(images).argmax(dim=1)


def _fitted(train: Images, labels: int) -> MLP:
    draws = Draws.seeded(SEED, device=train.pixels.device, dtype=train.pixels.dtype)
    judge = MLP(train.pixels.shape[1], UNITS, labels, batch_norm=True, input_noise=INPUT_NOISE).to(train.pixels)
    initialise(judge, draws)
    optimiser = torch.optim.Adam(judge.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = draws.integers(len(train.labels), min(BATCH, len(train.labels)))
        loss = torch.nn.functional.cross_entropy(judge(train.pixels[rows], draws), train.labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return judge.eval()
