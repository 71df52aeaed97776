"""The draws of a tomogram with the spread that its own errors show: found, fitted, checked, applied.

Draws whose law is symmetric are spread about the restoration as loud as the structure is (`restoration.loudness`).

Everything but the last step looks at one part of the tomogram, at most `REGION` working voxels an axis, so the cost is
bounded. Errors found stand beside the draws (they do not depend on their number); the calibrated draws have a store of
their own, so that those that were drawn stay as they are and more can be added.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.io.weights import digest
from cryoaae.nets.error_size import ErrorSize
from cryoaae.restoration.draw_sources import DrawSource, covering, covering_axes, generator_of
from cryoaae.restoration.draw_store import ERRORS
from cryoaae.restoration.draw_volumes import DrawVolumes
from cryoaae.restoration.found_errors import PASSES, TURNS_DEG, FoundErrors, chessboard, find_errors
from cryoaae.restoration.loudness import Loudness, centred
from cryoaae.restoration.placement import Confirmed, LocalError, evened, uneven
from cryoaae.restoration.plain import plain
from cryoaae.restoration.recalibration import (
    FORMAT,
    Powers,
    Recalibration,
    fit_recalibration,
    powers_of_draws,
    recalibrated,
)
from cryoaae.restoration.reliability import DrawnSpread, Sampled, check_recalibration
from cryoaae.restoration.samplers import sampler_named
from cryoaae.restoration.tomogram_draws import TomogramDraws
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.validate import REGION
from cryoaae.restoration.working import WorkingTomogram, normalisation_of
from cryoaae.runs.progress import Progress

# The spread is measured on at most so many draws.
MOST_MEASURED = 32
# Who told the places of draws that lie where they were drawn.
OWN = "draws"
# What the generators of this step are for, besides the seed and the number of the draw.
HIDING, CHECKING, ADDING, ADDING_MORE = 1, 2, 3, 4


def calibrate(volumes: DrawVolumes, sampling: TomogramDraws, told: Progress) -> tuple[DrawVolumes, dict[str, Any]]:
    """Bring the spread of draws that stand to the errors found in the tomogram.

    Parameters
    ----------
    volumes : DrawVolumes
        With all draws that were asked for.
    sampling : TomogramDraws
    told : Progress

    Returns
    -------
    volumes : DrawVolumes
        With the calibrated draws; the same as before where nothing can be found.
    facts : dict
        Plain data: "calibrated", "why" not, and by what.

    Raises
    ------
    InterruptedRunError
        What was found is kept.
    """
    why = sampling.not_calibrated_because
    if why is not None:
        return volumes, _not_calibrated(why)
    work = _Calibration(volumes, sampling, told)
    told.start(f"calibrating {sampling.item.name}", work.amount, "voxels")
    if not work.found.all_measured():
        return volumes, _not_calibrated("too few coefficients were measured for any error to be found")
    facts = plain({
        "format": FORMAT, "calibrated": True, "why": None, "hidden_by_turns_deg": list(TURNS_DEG),
        "region_zyx": [[s.start, s.stop] for s in work.region], "draws": len(work.deviations),
        **work.factors(), "check": work.check(), "places": work.places(), "made_from": sampling.made_from,
    })  # fmt: skip
    made = work.apply(_digest(facts))
    told.finish()
    return made, facts


def said_of(facts: Mapping[str, Any]) -> str:
    """What calibration came to, in a line."""
    if not facts["calibrated"]:
        return f"not calibrated ({facts['why']})"
    words, check = "calibrated by two halves and hidden tilts", facts["check"]
    if check is not None:
        measured, hidden = (check["whole"][name] for name in ("measured", "hidden"))
        words += (
            "; on blocks its factors were not fitted on it is "
            f"{_times(measured['after'])} the error where data were measured (before {_times(measured['before'])}) "
            f"and {_times(hidden['after'])} that of hidden tilts (before {_times(hidden['before'])})"
        )
    confirmed = facts["places"]["found"]
    words += "" if confirmed is None else f"; the halves confirm {confirmed:.0%} of the foretold unevenness"
    extrapolated = facts["shares"]["extrapolated"]
    return words + (f"; {extrapolated:.0%} of it in the wedge is extrapolated" if extrapolated else "")


def _times(ratio: float | None) -> str:
    return "an unknown multiple of" if ratio is None else f"{ratio:.2f} times"


def _not_calibrated(why: str) -> dict[str, Any]:
    return {"format": FORMAT, "calibrated": False, "why": why}


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _kept(path: Path) -> FoundErrors | None:
    """Errors that were found before; None if there are none, or they cannot be read."""
    try:
        return FoundErrors.from_facts(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Calibration:
    """The steps on one tomogram."""

    volumes: DrawVolumes
    sampling: TomogramDraws
    told: Progress
    error_size: ErrorSize = field(default_factory=ErrorSize.bundled)

    @cached_property
    def region(self) -> tuple[slice, slice, slice]:
        """The middle of the tomogram, in working voxels of its own."""
        shape = [s.stop - s.start for s in covering(self.volumes.tomogram.plan.frame)]
        z, y, x = (slice((n - min(n, REGION)) // 2, (n - min(n, REGION)) // 2 + min(n, REGION)) for n in shape)
        return z, y, x

    @cached_property
    def tomogram(self) -> WorkingTomogram:
        """The region on a working grid of its own."""
        sampling = self.sampling
        whole, bin_ = sampling.volumes, int(sampling.restorer.spec.working_bin)
        part = [
            slice(s.start * bin_, min(s.stop * bin_, n)) for s, n in zip(self.region, whole[0].shape, strict=True)
        ]
        cut = [volume.cut(*part) for volume in whole]
        return WorkingTomogram.of(
            cut, sampling.item.wedge, sampling.restorer,
            options=sampling.options.restoring, normalisation=normalisation_of(whole, sampling.restorer),
            undoing=self.volumes.tomogram.undoing, advance=self._advance,
        )  # fmt: skip

    def _advance(self, voxels: float) -> None:
        self.told.check()
        self.told.advance(voxels)

    @property
    def amount(self) -> float:
        """Working voxels that the network is to see."""
        passes = 2 if self._errors_path.exists() else PASSES
        return float(passes * math.prod(self.tomogram.shape))

    @cached_property
    def numbers(self) -> range:
        """Numbers of the draws that the spread is measured on."""
        return range(1, min(self.sampling.options.draws, MOST_MEASURED) + 1)

    @property
    def sampler(self) -> type[DrawSource]:
        return sampler_named(self.sampling.options.sampler)

    @cached_property
    def size(self) -> Tensor:
        """Relative size of the error that is foretold, on the continued working grid of the whole.

        By the draws themselves, where the sampler knows places, else by the map.
        """
        if not self.sampler.knows_places:
            return self.error_size(self.volumes.estimate, self._inside)
        own = evened(map(self._final, self.numbers), self._inside).reciprocal()
        return own / own[self._inside].square().mean().sqrt()

    @cached_property
    def _size_here(self) -> Tensor:
        return self._in_region(self.size)

    def _drawn(self, number: int) -> Tensor:
        """A draw as it was made, on the continued working grid of the whole."""
        return self.volumes.continued(self.volumes.store.read(number))

    def _sized(self, number: int) -> Tensor:
        """A draw of the right size, where it is: only then does it tell where its spread lies."""
        return recalibrated(self._drawn(number), self._first_fields, generator_of(self._seed, number, ADDING))

    @property
    def _seed(self) -> int:
        return self.sampling.options.seed

    def _placed(self, number: int) -> Tensor:
        """A draw with its spread where errors are foretold; as it was drawn, where the sampler knows places."""
        return self._drawn(number) if self.sampler.knows_places else self.place * self._sized(number)

    def _final(self, number: int) -> Tensor:
        """A draw as it is written, on the continued working grid of the whole."""
        made = recalibrated(self._placed(number), self._fields, generator_of(self._seed, number, ADDING_MORE))
        return centred(made, self._centring, self.volumes.estimate) if self.sampler.centred else made

    @cached_property
    def loudness(self) -> Loudness:
        return Loudness.of(self.found)

    @cached_property
    def _centring(self) -> tuple[Tensor, Tensor]:
        return self.loudness.fields(self.volumes.tomogram)

    @cached_property
    def _fields(self) -> tuple[Tensor, Tensor]:
        return self._second.fields(self.volumes.tomogram)

    @cached_property
    def _first_fields(self) -> tuple[Tensor, Tensor]:
        return self._first.fields(self.volumes.tomogram)

    @cached_property
    def _first(self) -> Recalibration:
        return self._fitted(self.powers_drawn[0])

    @cached_property
    def _second(self) -> Recalibration:
        return self._fitted(self.powers[0])

    def _fitted(self, powers: Powers) -> Recalibration:
        return fit_recalibration(self.tomogram, self.found, powers, wedge_within=self.sampler.wedge_within)

    @cached_property
    def place(self) -> Tensor:
        """What brings the spread of sized draws to its places, on the continued working grid of the whole."""
        level = evened(map(self._sized, self.numbers), self._inside)
        return level * uneven(self.size, self.confirmed.applied).sqrt()

    @property
    def _inside(self) -> Tensor:
        where = torch.zeros(self.volumes.tomogram.shape, dtype=torch.bool)
        where[covering(self.volumes.tomogram.plan.frame)] = True
        return where

    def _in_region(self, whole: Tensor) -> Tensor:
        """What lies in the region of a volume on the whole's continued grid, on its own continued grid."""
        part = whole[covering(self.volumes.tomogram.plan.frame)][self.region]
        return continued(part.contiguous(), covering_axes(self.tomogram.plan.frame))

    @cached_property
    def drawn(self) -> list[Tensor]:
        """Draws in the region, as they were made, on its continued grid."""
        return [self._in_region(self._drawn(number)) for number in self.numbers]

    @cached_property
    def deviations(self) -> list[Tensor]:
        """Draws in the region, in their places, on its continued grid."""
        if self.sampler.knows_places:
            return self.drawn
        return [self._in_region(self._placed(number)) for number in self.numbers]

    @cached_property
    def local_error(self) -> LocalError:
        return LocalError(self.tomogram, self.estimates)

    @cached_property
    def confirmed(self) -> Confirmed:
        """How far the halves confirm what is foretold of places."""
        return self.local_error.confirms(self._size_here, self.tomogram.counted)

    def places(self) -> dict[str, Any]:
        """How the spread came to its places, and whether that holds on blocks it was not confirmed on."""
        if self.sampler.knows_places:
            found = {**self.confirmed.facts(), "told_by": OWN, "applied": 1.0}
        else:
            found = {**self.confirmed.facts(), "told_by": digest(dict(self.error_size.state_dict()))[:16]}
        return {**found, "check": self._checked_places()}

    def _checked_places(self) -> dict[str, Any]:
        one, other = self.parts
        size, applied = self._size_here, 1.0
        power = torch.ones(())
        if not self.sampler.knows_places:
            applied = self.local_error.confirms(size, one).applied
            power = uneven(size, applied) / uneven(size, self.confirmed.applied)
        spread = torch.zeros(self.tomogram.shape, dtype=torch.float64)
        for deviation in self.deviations:
            spread += self.local_error.filtered(power.sqrt() * deviation).square()
        return {"applied": applied, "groups": self.local_error.groups(spread, other)}

    @cached_property
    def estimates(self) -> list[Tensor]:
        """The restored halves."""
        return self.tomogram.restore_each(self.tomogram.halves)

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        return chessboard(self.tomogram)

    @cached_property
    def found(self) -> FoundErrors:
        """Errors found; they are kept, for more draws."""
        kept = _kept(self._errors_path)
        if kept is not None:
            return kept
        generator = generator_of(self._seed, 0, HIDING)
        found = find_errors(self.tomogram, self.estimates, self.parts, generator=generator)
        write_text(self._errors_path, json.dumps(found.facts(), indent=1) + "\n")
        return found

    @property
    def _errors_path(self) -> Path:
        return self.volumes.store.folder / ERRORS

    @cached_property
    def powers_drawn(self) -> list[Powers]:
        """Of the draws as they were made: over all voxels, and over each part."""
        return self._powers_of(self.drawn)

    @cached_property
    def powers(self) -> list[Powers]:
        """Of the draws in their places: over all voxels, and over each part."""
        return self.powers_drawn if self.sampler.knows_places else self._powers_of(self.deviations)

    def _powers_of(self, deviations: list[Tensor]) -> list[Powers]:
        restored = torch.stack(self.estimates).mean(dim=0)
        return powers_of_draws(self.tomogram, restored, deviations, [self.tomogram.counted, *self.parts])

    def factors(self) -> dict[str, Any]:
        """What is done to the draws as they were made, all in all."""
        both = self._second if self.sampler.knows_places else self._second.following(self._first)
        shares = both.shares(self.tomogram, self.powers_drawn[0])
        centre = self._centre() if self.sampler.centred else None
        return {**both.facts(self.tomogram), "shares": shares, "centre": centre}

    def _centre(self) -> dict[str, Any]:
        """What draws are spread about, and whether the truth is nearer to it on blocks it was not told by."""
        told = self.loudness.facts(self.tomogram.voxel_size_angstrom)
        return {**told, "check": Loudness.of(self.found.part(0)).gained(self.found.part(1))}

    def check(self) -> dict[str, Any] | None:
        drawn, placed = DrawnSpread(self.drawn), DrawnSpread(self.deviations)
        sampled = Sampled(self.tomogram, self.estimates, drawn, placed, self.parts)
        generator = generator_of(self._seed, 0, CHECKING)
        return check_recalibration(
            sampled, self.found, self.powers_drawn[1:], self.powers[1:], generator=generator,
            wedge_within=self.sampler.wedge_within,
        )  # fmt: skip

    def apply(self, digest: str) -> DrawVolumes:
        """Make the calibrated draws that do not stand; return what writes them."""
        whole = self.volumes.tomogram
        store = self.volumes.store.recalibrated(digest)
        store.open(whole.voxel_size_angstrom, overwrite=not store.ours())
        part = covering(whole.plan.frame)
        for number in range(1, self.sampling.options.draws + 1):
            self.told.check()
            if not store.path(number).exists():
                store.write(number, self._final(number)[part].contiguous())
        return replace(self.volumes, store=store)
