"""What a layer was made with, as lines of text: read from its file, its record and its run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from cryoaae.errors import InputError
from napari_cryoaae.facts import LayerFacts, StatedWedge
from napari_cryoaae.run_folder import Restoration, Run, read_restoration, read_run

# Sections, each of (label, text).
Sections = list[tuple[str, list[tuple[str, str]]]]


def provenance(facts: LayerFacts) -> Sections:
    """Everything that is known of a layer, a section a source of it."""
    made = read_restoration(facts.record) if facts.record else None
    run = _run(facts)
    sections: Sections = [("Layer", _layer_lines(facts))]
    if made is not None:
        sections.append(("Restoration", _restoration_lines(made, run)))
    if run is not None:
        sections.append(("Model", _model_lines(run)))
    return sections


def as_text(sections: Sections) -> str:
    """The same as plain text, to be copied into a notebook."""
    blocks = ["\n".join([title, *(f"  {label}: {text}" for label, text in lines)]) for title, lines in sections]
    return "\n".join(blocks)


def restore_command(made: Restoration, run: Run | None) -> str:
    """The command that makes the same output again."""
    settings = made.record["settings"]
    paths = [str(fact["path"]) for fact in made.record["inputs"]]
    model = "RUN" if run is None else str(run.path)
    # The model knows the tilts of what it was fitted on.
    known = run is not None and made.wedge in [StatedWedge.of(tomogram) for tomogram in run.tomograms]
    words = ["cryoaae", "restore", *_inputs(paths), *([] if known else _tilts(made.wedge)), "--model", model]
    words += ["-o", str(made.file.with_name(made.record["outputs"][0]))]
    options = settings.get("options", {})
    words += ["--halves"] if len(made.record["outputs"]) > 1 else []
    words += ["--keep-measured"] if options.get("keep_measured") else []
    words += [] if options.get("symmetries") else ["--no-symmetries"]
    words += ["--dtype", settings["dtype"]] if settings.get("dtype", "float32") != "float32" else []
    voxel = settings.get("opening", {}).get("voxel_size_angstrom")
    words += ["--voxel-size", f"{voxel:g}"] if voxel else []
    return shlex.join(words)


def fit_command(run: Run) -> str:
    """The command that fits the same model again."""
    words = ["cryoaae", "fit"]
    facts = iter(run.record.get("inputs", []))
    for tomogram in run.tomograms:
        words += _inputs([str(next(facts)["path"]) for _ in tomogram["digests"]])
    if run.tomograms:
        words += _tilts(StatedWedge.of(run.tomograms[0]))
    return shlex.join([*words, "--config", str(run.path / "config.yaml"), "-o", str(run.path)])


def _run(facts: LayerFacts) -> Run | None:
    try:
        return None if facts.run is None else read_run(facts.run)
    except InputError:
        return None  # moved since; the record still speaks for the layer


def _layer_lines(facts: LayerFacts) -> list[tuple[str, str]]:
    voxel = facts.voxel_size_angstrom
    return [
        ("tomogram", facts.tomogram),
        ("is", str(facts.role)),
        ("file", str(facts.source) if facts.source else "none: computed here"),
        ("voxel size", "not stated" if voxel is None else f"{voxel:.4g} Å"),
        ("wedge", facts.wedge.text() if facts.wedge else "not known"),
    ]


def _restoration_lines(made: Restoration, run: Run | None) -> list[tuple[str, str]]:
    settings, result = made.record["settings"], made.record["result"]
    chosen = [name.replace("_", " ") for name, value in settings.get("options", {}).items() if value is True]
    lines = [("input", str(fact["path"])) for fact in made.record["inputs"]]
    return [
        *lines,
        ("model digest", made.model),
        ("wedge", made.wedge.text()),
        ("options", ", ".join(chosen) or "none"),
        ("took", f"{result['seconds']:.0f} s, {result['voxels_per_second'] / 1e6:.2f} million voxels/s"),
        ("versions", _versions(made.record)),
        ("same again", restore_command(made, run)),
    ]


def _model_lines(run: Run) -> list[tuple[str, str]]:
    spec = run.spec
    lines = [("run folder", str(run.path)), ("state", _state(run.record)), ("digest", run.digest or "no weights yet")]
    if spec:
        fitted = float(spec["voxel_size_angstrom"])
        working = fitted * int(spec["working_bin"])
        lines += [
            ("voxel size", f"{fitted:.4g} Å, works on voxels of {working:.4g} Å"),
            ("normalisation", _normalisation(float(spec.get("noise_share", 0.0)))),
        ]
        for tomogram in run.tomograms:
            lines.append(("fitted on", f"{tomogram['name']}, {StatedWedge.of(tomogram).text()}"))
    return [*lines, ("versions", _versions(run.record)), ("same again", fit_command(run))]


def _normalisation(noise_share: float) -> str:
    if noise_share > 0:
        scale = f"scale such that the noise of a half is {noise_share:.3g}"
    else:
        scale = "scale 1, the standard deviation"
    return f"mean 0, {scale}; measured on each tomogram"


def _state(record: Mapping[str, Any]) -> str:
    finished = record.get("finished")
    return f"{record.get('state', 'unknown')}" + (f", {finished}" if finished else "")


def _versions(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items())


def _inputs(paths: list[str]) -> list[str]:
    return ["--even", paths[0], "--odd", paths[1]] if len(paths) == 2 else paths


def _tilts(wedge: StatedWedge) -> list[str]:
    """Options that state a wedge; a list of tilts stands in a file that no record names."""
    axis = [] if wedge.tilt_axis_deg == 0 else ["--tilt-axis", f"{wedge.tilt_axis_deg:g}"]
    sign = ["--flip-tilts"] if wedge.flipped else []
    if wedge.tilts_deg is not None:
        return ["--tilts", "TILTS.tlt", *axis, *sign]
    return ["--tilt-range", *(f"{end:g}" for end in wedge.tilt_range_deg), *axis, *sign]
