"""What gives patches energies, as a fit left it: a prior on structure, one of its own, or distances of codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.matching.code_distance import CodeDistance
from cryoaae.matching.referee import Referee
from cryoaae.matching.reference import ReferenceReferee
from cryoaae.matching.transport import Transport
from cryoaae.nets.discriminators import MultiScaleDiscriminator

FORMAT, VERSION = "cryoaae-energy", 1
FILE, CODES_FILE, REFERENCE_FILE = "energy.safetensors", "codes.safetensors", "reference.safetensors"
# What an energy may be read from, its file, and the fit that leaves one.
READERS = {
    "prior": (FILE, "prior on structure", "`cryoaae fit --prior adversarial` or `--prior transport`"),
    "code": (CODES_FILE, "codes", "`cryoaae fit --preset volumetric` or `--set latent_prior=adversarial`, on halves"),
    "reference": (REFERENCE_FILE, "prior of its own", "`cryoaae fit --set reference_steps=600`, on halves"),
}


class Matcher(Protocol):
    """Gives every patch an energy, high where it looks unlike real ones; a module that its settings make again."""

    kind: str
    settings: dict[str, Any]

    def energies(self, patches: Tensor) -> Tensor:
        """(b, 1, p, p, p) -> (b,)."""
        ...


def _referee(**network: Any) -> Referee:
    return Referee(MultiScaleDiscriminator(**network))


KINDS: dict[str, Callable[..., Any]] = {
    Referee.kind: _referee, Transport.kind: Transport, CodeDistance.kind: CodeDistance,
    ReferenceReferee.kind: ReferenceReferee.made,
}  # fmt: skip


def save_energy(path: Path, matcher: Any, *, patch: int, block: int) -> None:
    """Write a matcher as safetensors, atomically.

    Parameters
    ----------
    matcher : Matcher
    patch, block : int
        Edges in working voxels of the patches it compares and of the blocks that they were turned in.
    """
    spec = {"kind": matcher.kind, "patch": patch, "block": block, "settings": matcher.settings}
    save_weights(path, dict(matcher.state_dict()), {"format": FORMAT, "version": VERSION, "spec": spec})


def load_energy(run: Path, by: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Read the matcher of a run folder, and its description ("kind", "patch", "block", "settings").

    Parameters
    ----------
    run : path
    by : {"prior", "code", "reference"}, optional
        Default: the prior on structure, or distances of codes where there is none.

    Raises
    ------
    InputError
        If the run was fitted without, or the file is damaged or not ours.
    """
    if by is not None and by not in READERS:
        raise InputError("--by", f"{by!r} is none of {', '.join(READERS)}")
    if by is None:
        by = "prior" if (run / FILE).is_file() or not (run / CODES_FILE).is_file() else "code"
    name, what, fitted = READERS[by]
    file = run / name
    if not file.is_file():
        problem = f"holds no {what}" if run.is_dir() else "not a run folder"
        raise InputError(run, problem, f"give a run folder of {fitted}")
    tensors, metadata = load_weights(file)
    if metadata.get("format") != FORMAT:
        raise InputError(file, "not the energy of a prior", "give a run folder made by `cryoaae fit`")
    if int(metadata.get("version", 0)) > VERSION:
        raise InputError(file, "written by a newer cryoaae", "upgrade cryoaae")
    try:
        spec = metadata["spec"]
        matcher = KINDS[spec["kind"]](**spec["settings"])
        matcher.load_state_dict(tensors)
    except (TypeError, KeyError, ValueError, RuntimeError, InputError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(file, f"weights do not fit their description ({reason})", "fit again") from error
    return matcher.eval(), spec
