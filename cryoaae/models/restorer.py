"""The restorer: a linear estimate from the spectrum, and what a network adds to it."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.errors import InputError
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.nets.presence import NOTHING, STRUCTURE, Presence
from cryoaae.nets.unet import UNet
from cryoaae.patches.imaging import conditions_of_mean
from cryoaae.patches.spectra import Spectra, interpolate, kernel_response, radial_kernel

KERNEL_REACH = 6
# Held beside the features for each voxel at most: measured.
OTHER_NUMBERS = 40
FINE_SHELLS = 32
FORMAT = "cryoaae-restorer"
FORMAT_VERSION = 4
AUTOENCODER = "autoencoder"


@dataclass(frozen=True)
class RestorerSpec:
    """Everything fitting and restoring must agree on; plain data, kept with the weights.

    Parameters
    ----------
    working_bin : int
        Tomogram voxels per working voxel.
    voxel_size_angstrom : float
        Voxel size of the tomograms it was fitted on.
    network : dict
        Keywords of the network, with its "kind", `AUTOENCODER`, unless it is a U-Net.
    skewness : float
        Of the normalised density it was fitted on: its sign tells the contrast.
    noise_share : float
        Noise of one half over the normalised density it was fitted on, standard deviations on the
        working grid; 0 when it was fitted on single volumes.
    tomograms : list of dict
        Name, content digest and wedge of each tomogram it was fitted on.
    contrast, quarter_turns : int, int
        A network that came with the sign of its contrast and its tilt axis along y sees densities times
        `contrast`, turned by so many quarters from y towards x.
    of_mean : bool
        Whether the network estimates from the mean of the halves, not from each half.
    """

    working_bin: int
    voxel_size_angstrom: float
    network: dict[str, Any] = field(default_factory=dict)
    skewness: float = 0.0
    noise_share: float = 0.0
    tomograms: list[dict[str, Any]] = field(default_factory=list)
    contrast: int = 1
    quarter_turns: int = 0
    of_mean: bool = False


def network_of(described: dict[str, Any]) -> Any:
    """Make the network of a spec."""
    keywords = dict(described)
    kind = keywords.pop("kind", "unet")
    if kind == "unet":
        return UNet(in_channels=2, **keywords)
    if kind != AUTOENCODER:
        raise KeyError(kind)
    from cryoaae.nets.patch_autoencoder import PatchAutoencoder  # needs MONAI, which takes seconds to load

    return PatchAutoencoder(in_channels=2, **keywords)


def averaged(fsc: Tensor, count: int) -> Tensor:
    """Wiener filter of the mean of `count` inputs, S / (S + N / count), from S / (S + N)."""
    return count * fsc / (1 + (count - 1) * fsc)


def convolve(volume: Tensor, kernel: Tensor) -> Tensor:
    """Convolve volumes (..., z, y, x) with a kernel (k, k, k), zero outside, by FFT.

    Same as a direct convolution, and several times faster for kernels of this size.
    """
    reach = kernel.shape[-1] // 2
    box = [n + 2 * reach for n in volume.shape[-3:]]
    response = kernel_response(kernel, box)
    padded = nn.functional.pad(volume, [reach] * 6)
    out = torch.fft.irfftn(torch.fft.rfftn(padded, dim=(-3, -2, -1)) * response, s=box, dim=(-3, -2, -1))
    z, y, x = (slice(reach, n - reach) for n in box)
    return out[..., z, y, x]


def _full(features: list[Tensor]) -> list[Tensor]:
    return [level.float() for level in features]


class Restorer(nn.Module):
    """f(y) = (1 - p_nothing) W y + p_structure U(y, W y): Wiener estimate and a U-Net's residual.

    This is the mean over three cases, weighted by their probabilities: structure, where the network
    knows what is missing; featureless Gaussian density, where the Wiener filter is best and nothing
    can be said of what was not measured; noise alone, where the estimate is zero. The residual is
    zero at the start, and structure is certain until `know_presence`.

    An autoencoder of patches stands for the whole estimate, f(y) = A(E(W y)): nothing comes past its codes, nor is
    it told structure from noise.

    Parameters
    ----------
    spec : RestorerSpec
        Grid, voxel size and network.
    spectra : Spectra, optional
        Spectra on the working grid; they set the Wiener filter W = S / (S + N). Without them W is
        the identity until weights are loaded.
    fine : Spectra, optional
        Spectra on the tomogram's own grid. What lies beyond the working grid's band is restored by
        their Wiener filter alone (`restoration.detail`): kept where it was measured, never filled.
    halves : int
        How many inputs are averaged when restoring: 2 for halves, 1 for a single volume.
    condition : (c,), optional
        What the network is told of the imaging, if it is to be told (`patches.imaging`).

    Notes
    -----
    The network sees one half and so shrinks as one half must. The mean of two has half the noise,
    and its Wiener filter W2 = S / (S + N / 2) shrinks less; `restore` adds (W2 - W) y to each
    half. That is linear in the data, so it says nothing about the wedge.
    """

    wiener: Tensor
    wiener_mean: Tensor
    fine: Tensor
    presence_known: Tensor
    condition: Tensor
    # Of the network's layers; all else, and what is kept of them, is float32.
    precision: torch.dtype = torch.float32

    def __init__(
        self,
        spec: RestorerSpec,
        spectra: Spectra | None = None,
        *,
        fine: Spectra | None = None,
        halves: int = 2,
        condition: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        flat = torch.ones(FINE_SHELLS, dtype=torch.float64)
        one = flat if spectra is None else spectra.fsc
        all_ = flat if fine is None else fine.significant()
        self.register_buffer("wiener", radial_kernel(one, reach=KERNEL_REACH))
        self.register_buffer("wiener_mean", radial_kernel(averaged(one, halves), reach=KERNEL_REACH))
        position = (torch.arange(FINE_SHELLS, dtype=torch.float64) + 0.5) / FINE_SHELLS
        self.network = network_of(spec.network)
        fine_filter = interpolate(averaged(all_, halves), position).float()
        self.register_buffer("fine", fine_filter if self.network.adds_to_linear else torch.zeros_like(fine_filter))
        # None where there are no features of several levels to read it from.
        self.presence: Any = None
        if self.network.adds_to_linear:
            self.presence = Presence(self.network.features, self.network.levels)
        self.register_buffer("presence_known", torch.tensor(False))
        if self.network.gains is not None:
            told = torch.zeros(self.network.conditions) if condition is None else condition
            self.register_buffer("condition", told.float())

    def of_the_mean(self) -> Restorer:
        """The same restorer for the mean of the two halves, where its network is told of the noise, else itself.

        One pass over the quieter mean beats the mean of two passes: the network has more to go by.
        """
        if self.network.gains is None or self.spec.of_mean:
            return self
        made = copy.deepcopy(self)
        made.spec = replace(self.spec, of_mean=True)
        made.wiener.copy_(self.wiener_mean)
        made.condition.copy_(conditions_of_mean(self.condition))
        return made

    @property
    def any_contrast(self) -> bool:
        """Whether its network is one that has seen many contrast transfers: it is told of the imaging."""
        return self.network.gains is not None

    @property
    def code_dim(self) -> int:
        """Length of the codes that the network makes; 0: it has none."""
        return int(self.network.code_dim)

    def know_presence(self) -> None:
        """Use the probabilities of `presence` from now on."""
        self.presence_known.fill_(True)

    @property
    def halo(self) -> int:
        """How far beyond a tile it looks, in working voxels, if the tile starts and ends at multiples of `multiple`."""
        seen = 0 if self.presence is None else self.network.encoder_reach(self.presence.reach)
        return KERNEL_REACH + int(max(self.network.reach, seen))

    @property
    def voxel_bytes(self) -> float:
        """Memory that restoring takes, a working voxel: features, and densities, estimates and probabilities."""
        return 4.0 * (self.network.voxel_channels + OTHER_NUMBERS)

    @property
    def multiple(self) -> int:
        """Tile sizes, in working voxels, must be multiples of this."""
        return int(self.network.multiple)

    def forward(self, y: Tensor) -> Tensor:
        """Estimate the structure from normalised, band-limited densities, (b, 1, z, y, x)."""
        return self._estimate(y, self.wiener)

    def from_features(self, y: Tensor, features: list[Tensor]) -> Tensor:
        """The estimate with these in place of `features(y)`; (b, 1, z, y, x)."""
        return self._estimate(y, self.wiener, features)

    def codes(self, y: Tensor) -> Tensor:
        """Codes of normalised densities (b, 1, z, y, x), (b, code_dim, ...) on the network's coarsest grid."""
        return self.features(y)[-1][:, : self.code_dim]

    def standardise_codes(self, y: Tensor) -> None:
        """Begin with codes of normalised densities (b, 1, z, y, x) in the units of their prior."""
        self.network.standardise(self._shown(y, convolve(y, self.wiener)))

    def features(self, y: Tensor, wiener: Tensor | None = None) -> list[Tensor]:
        """What the network sees of normalised densities (b, 1, z, y, x), at all its levels."""
        return _full(self._encoded(y, convolve(y, self.wiener) if wiener is None else wiener))

    def _encoded(self, y: Tensor, wiener: Tensor) -> list[Tensor]:
        """Features as the network hands them on, at its precision."""
        with self._layers(y.device):
            found: list[Tensor] = self.network.encode(self._shown(y, wiener), self._told(y))
        return found

    def _layers(self, device: torch.device) -> AbstractContextManager[object]:
        """Where the network computes: at its precision, or at that of what surrounds it."""
        return nullcontext() if self.precision == torch.float32 else torch.autocast(device.type, self.precision)

    def _shown(self, y: Tensor, wiener: Tensor) -> Tensor:
        """What the network is given, (b, 2, z, y, x)."""
        return self._faced(torch.cat([y, wiener], dim=1))

    def _told(self, y: Tensor) -> Tensor | None:
        """What the network is told of the imaging of a batch."""
        return None if self.network.gains is None else self.condition.expand(len(y), -1)

    def _faced(self, y: Tensor, way: int = 1) -> Tensor:
        """Densities with the contrast and tilt axis that the network knows, or back again (`way` = -1)."""
        turned = torch.rot90(y, way * self.spec.quarter_turns, (-2, -1)) if self.spec.quarter_turns else y
        return turned if self.spec.contrast == 1 else self.spec.contrast * turned

    def _estimate(self, y: Tensor, kernel: Tensor, features: list[Tensor] | None = None) -> Tensor:
        parts = self._parts(y, kernel, features)
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _parts(self, y: Tensor, kernel: Tensor, features: list[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Linear part and residual, (b, 1, z, y, x) each; of a network that does not add to it the estimate alone."""
        wiener = convolve(y, self.wiener)
        features = self._encoded(y, wiener) if features is None else features
        with self._layers(y.device):
            decoded = self.network.decode(features, self._told(y))
        residual = self._faced(decoded.float(), -1)
        if not self.network.adds_to_linear:
            return (residual,)
        linear = wiener if kernel is self.wiener else convolve(y, kernel)
        if self.presence is None or not self.presence_known:
            return linear, residual
        # Under the autocast of a caller it takes features as they are; a second copy of them would not be small.
        seen = features if self.precision == torch.float32 else _full(features)
        p = torch.rot90(self.presence(seen), -self.spec.quarter_turns, (-2, -1))
        return (1 - p[:, NOTHING, None]) * linear, p[:, STRUCTURE, None] * residual

    def restore(self, y: Tensor) -> Tensor:
        """Estimate to be averaged over the halves, (b, 1, z, y, x); see Notes of the class."""
        return self._estimate(y, self.wiener_mean)

    def in_parts(self, y: Tensor) -> Tensor:
        """Linear part and residual, of which `forward` is the sum, (b, 2, z, y, x); of a U-Net alone."""
        return torch.cat(self._parts(y, self.wiener), dim=1)

    def mean_in_parts(self, y: Tensor) -> Tensor:
        """Linear part and residual, of which `restore` is the sum, (b, 2, z, y, x); of a U-Net alone."""
        return torch.cat(self._parts(y, self.wiener_mean), dim=1)

    def save(self, path: Path) -> str:
        """Write weights and spec as safetensors, atomically; return the content digest."""
        metadata = {"format": FORMAT, "version": FORMAT_VERSION, "spec": asdict(self.spec)}
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        save_weights(path, tensors, metadata)
        return str(load_weights(path)[1]["digest"])

    @classmethod
    def load(cls, path: Path | str) -> Restorer:
        """Read a restorer from weights or from a run folder.

        Raises
        ------
        InputError
            If the file is missing, damaged, or not a restorer of this version.
        """
        path = Path(path)
        file = path / "model.safetensors" if path.is_dir() else path
        tensors, metadata = load_weights(file)
        if metadata.get("format") != FORMAT:
            raise InputError(file, "not the weights of a restorer", "give a run folder made by `cryoaae fit`")
        if int(metadata.get("version", 0)) > FORMAT_VERSION:
            raise InputError(file, "written by a newer cryoaae", "upgrade cryoaae")
        try:
            model = cls(RestorerSpec(**metadata["spec"]))
            model.load_state_dict(tensors)
        except (TypeError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(file, f"weights do not fit their description ({reason})", "fit again") from error
        return model.eval()
