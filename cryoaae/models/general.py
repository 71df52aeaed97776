"""The general restorer: one network for any tomogram, trained on simulations, that comes with the package.

It is made a `Restorer` for a tomogram by what is measured of that tomogram: its spectra, which set the Wiener filter
and tell the network how noisy which shell is, its tilts and its voxel size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.errors import InputError
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.nets.presence import Presence
from cryoaae.nets.unet import UNet
from cryoaae.patches.imaging import conditions, ends_deg
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.wedge import MissingWedge

FORMAT, FORMAT_VERSION = "cryoaae-general-restorer", 2
# What the one that comes with the package is called, and its file.
NAME, BUNDLED = "general", "general.safetensors"
# A tilt axis further than this from x or y is not one that it was trained for.
AXIS_DEG = 5.0


@dataclass(frozen=True)
class GeneralSpec:
    """What a general restorer is and saw; plain data, kept with the weights.

    Parameters
    ----------
    network : dict
        Keywords of `UNet`.
    voxel_size_angstrom, tilt_end_deg : (float, float)
        Smallest and largest working voxel, and end of the tilt range, in training.
    training : dict
        How the weights came about: steps, minutes, machine, data.
    noise_to_signal : float
        The most noise in training, standard deviations over that of the signal.
    """

    network: dict[str, Any]
    voxel_size_angstrom: tuple[float, float]
    tilt_end_deg: tuple[float, float]
    training: dict[str, Any] = field(default_factory=dict)
    noise_to_signal: float = 4.0


class GeneralRestorer(nn.Module):
    """A network for any tomogram.

    Parameters
    ----------
    spec : GeneralSpec

    Notes
    -----
    That it tells structure from noise (`nets.presence`) is learned after the network; see `Restorer`.
    """

    presence_known: Tensor

    def __init__(self, spec: GeneralSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network = UNet(in_channels=2, **spec.network)
        self.presence = Presence(self.network.features, self.network.levels)
        self.register_buffer("presence_known", torch.tensor(False))

    def know_presence(self) -> None:
        """Use the probabilities of `presence` from now on."""
        self.presence_known.fill_(True)

    def restorer(
        self,
        spectra: Spectra,
        wedge: MissingWedge,
        *,
        fine: Spectra,
        working_bin: int,
        voxel_size_angstrom: float,
        halves: int,
        of_mean: bool = True,
        contrast: int = 1,
        noise_share: float = 0.0,
    ) -> Restorer:
        """The restorer of a tomogram.

        Parameters
        ----------
        spectra, fine : Spectra
            On the working grid and on the tomogram's own, of one half or of the single volume.
        wedge : MissingWedge
        working_bin : int
        voxel_size_angstrom : float
            Of the tomogram.
        halves : int
            2, or 1 for a single volume.
        of_mean : bool
            Restore the mean of two halves: the network has seen all levels of noise, so it may take the quietest.
        contrast : int
            1 where structures are bright, else -1.
        noise_share : float
            As of `RestorerSpec`.
        """
        of_mean &= halves == 2
        if of_mean:
            halves, spectra, fine = 1, *(Spectra(s.signal, s.noise / 2, s.freq_max) for s in (spectra, fine))
        turns, seen = quarter_turns(wedge)
        spec = RestorerSpec(
            working_bin=working_bin, voxel_size_angstrom=voxel_size_angstrom, network=dict(self.spec.network),
            contrast=contrast, quarter_turns=turns, of_mean=of_mean, noise_share=noise_share,
        )  # fmt: skip
        told = conditions(spectra, seen, working_bin * voxel_size_angstrom)
        made = Restorer(spec, spectra, fine=fine, halves=halves, condition=told)
        made.network.load_state_dict(self.network.state_dict())
        made.presence.load_state_dict(self.presence.state_dict())
        made.presence_known.copy_(self.presence_known)
        return made.eval()

    def outside(
        self, wedge: MissingWedge, working_voxel_angstrom: float, noise_to_signal: float = 0.0
    ) -> list[str]:
        """What of a tomogram, or of particles, lies outside of what it was trained on, in words; empty if nothing."""
        found = []
        low, high = self.spec.voxel_size_angstrom
        if not low <= working_voxel_angstrom <= high:
            found.append(f"working voxels of {working_voxel_angstrom:.1f} angstrom (trained on {low:g} to {high:g})")
        least, most = self.spec.tilt_end_deg
        ends = [abs(end) for end in ends_deg(wedge)]
        if not all(least <= end <= most for end in ends):
            found.append(f"tilts to {ends[0]:g} and {ends[1]:g} degrees (trained on {least:g} to {most:g})")
        if abs((wedge.tilt_axis_deg + 45) % 90 - 45) > AXIS_DEG:
            found.append(f"a tilt axis at {wedge.tilt_axis_deg:g} degrees (trained on axes along y; x will do)")
        if noise_to_signal > self.spec.noise_to_signal:
            trained = self.spec.noise_to_signal
            found.append(f"noise {noise_to_signal:.1f} times as loud as the signal (trained up to {trained:.1f})")
        return found

    def save(self, path: Path) -> None:
        """Write weights and spec as safetensors, atomically."""
        metadata = {"format": FORMAT, "version": FORMAT_VERSION, "spec": asdict(self.spec)}
        save_weights(path, dict(self.state_dict()), metadata)

    @classmethod
    def load(cls, path: Path | str) -> GeneralRestorer:
        """Read a general restorer.

        Raises
        ------
        InputError
            If the file is missing, damaged, or something else.
        """
        tensors, metadata = load_weights(path)
        if metadata.get("format") != FORMAT or int(metadata.get("version", 0)) > FORMAT_VERSION:
            raise InputError(path, "not the weights of a general restorer of this version", "install cryoaae again")
        try:
            made = cls(GeneralSpec(**metadata["spec"]))
            made.load_state_dict(tensors)
        except (TypeError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(path, f"weights do not fit their description ({reason})", "make them again") from error
        return made.eval()

    @classmethod
    def bundled(cls) -> GeneralRestorer:
        """The one that comes with the package."""
        with as_file(files("cryoaae") / "weights" / BUNDLED) as path:
            return cls.load(path)


def quarter_turns(wedge: MissingWedge) -> tuple[int, MissingWedge]:
    """Quarter turns about the beam that bring the tilt axis nearest to y, and the wedge seen then.

    Quarters count from y towards x, as `torch.rot90` over (y, x) does and as the angle of the axis does.
    """
    angle = wedge.tilt_axis_deg % 360.0
    quarters = round(angle / 90.0)
    return -quarters % 4, MissingWedge(ends_deg(wedge), tilt_axis_deg=angle - 90.0 * quarters)


def load_any(path: Path | str | None) -> Restorer | GeneralRestorer:
    """Read a restorer that was fitted, or a general one; None or ``general``: the one that comes with the package.

    Raises
    ------
    InputError
    """
    if path is None or str(path) == NAME:
        return GeneralRestorer.bundled()
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if file.suffix == ".safetensors" and file.is_file() and load_weights(file)[1].get("format") == FORMAT:
        return GeneralRestorer.load(file)
    return Restorer.load(path)


