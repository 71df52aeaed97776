"""Settings of a multi-reference alignment."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict

from cryoaae.errors import InputError

# Edge of the working grid unless another is asked for.
ALIGNMENT_BOX = 32
# Where classes are to be found, no more references than one for so many particles.
LEAST_PARTICLES = 4


@dataclass(frozen=True)
class AlignmentSettings:
    """How particles are classified and aligned. Voxels are those of the working grid.

    Parameters
    ----------
    clusters : int or None
        Classes asked for; None: found, by what merging them would lose.
    references : int
        References at first; fewer of few particles.
    over : float
        Where classes are asked for, at least so many times more references at first; those that are one structure are
        merged. Begun with few, two classes may come to share a reference, which no merging undoes.
    working_box : int or None
        Edge of the grid, which covers the particles' box; None: theirs, but no more than 32.
    freq_max : float
        End of the band, cycles a voxel.
    coarse_freq : float
        Highest frequency of the coarse search, cycles a voxel; the fine one uses the whole band.
    coarse_step_deg, fine_step_deg : float
        Distance of neighbouring rotations.
    shift_voxels : float
        Furthest shift searched; a seed that is off the centre needs more than the particles' own.
    coarse_iterations, fine_iterations, final_iterations : int
        The last after merging.
    temperature : float
        At the start of the coarse search.
    starts : int
        Coarse searches from different seeds, of which the likeliest goes on.

    Raises
    ------
    InputError
        For a value that cannot be.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    clusters: int | None = None
    references: int = 16
    over: float = 2.0
    working_box: int | None = None
    freq_max: float = 0.25
    coarse_freq: float = 0.16
    coarse_step_deg: float = 24.0
    fine_step_deg: float = 15.0
    shift_voxels: float = 3.0
    coarse_iterations: int = 10
    fine_iterations: int = 4
    final_iterations: int = 4
    temperature: float = 4.0
    starts: int = 1

    def __post_init__(self) -> None:
        rules = [
            ("clusters", self.clusters is None or self.clusters >= 1, self.clusters, "give 1 or more"),
            ("references", self.references >= 2, self.references, "give 2 or more"),
            ("over", self.over >= 1, self.over, "give 1 or more"),
            ("working_box", self.working_box is None or self.working_box >= 8, self.working_box, "give 8 or more"),
            ("temperature", self.temperature >= 1, self.temperature, "give 1 or more"),
            ("starts", self.starts >= 1, self.starts, "give 1 or more"),
            ("coarse_iterations", self.coarse_iterations >= 1, self.coarse_iterations, "give 1 or more"),
            ("freq_max", 0 < self.freq_max < 0.5, self.freq_max, "give cycles a voxel, below 0.5"),
            ("coarse_freq", 0 < self.coarse_freq < 0.5, self.coarse_freq, "give cycles a voxel, below 0.5"),
            ("fine_step_deg", 5 <= self.fine_step_deg <= self.coarse_step_deg, self.fine_step_deg,
             "give 5 degrees or more, up to coarse_step_deg"),
        ]
        for option, good, value, remedy in rules:
            if not good:
                raise InputError(option, f"'{value}' cannot be used", remedy)

    def first_references(self, particles: int) -> int:
        """References at first, for so many particles."""
        few = max(2, min(self.references, particles // LEAST_PARTICLES))
        return few if self.clusters is None else max(few, round(self.over * self.clusters))

    def grid(self, box: int) -> int:
        """Edge of the working grid for particles of a box."""
        return min(self.working_box or ALIGNMENT_BOX, box)
