"""What a layer was made with, as lines of text: read from its file, its record and its run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from cryoaae.errors import InputError
from napari_cryoaae.facts import LayerFacts, StatedWedge
from napari_cryoaae.general_model import GeneralModel, general_of
from napari_cryoaae.particle_provenance import clustering_lines, state_of, versions_of
from napari_cryoaae.run_folder import Restoration, Run, read_restoration, read_run
from napari_cryoaae.spread_record import SpreadRecord, read_spread

# Sections, each of (label, text).
Sections = list[tuple[str, list[tuple[str, str]]]]


def provenance(facts: LayerFacts) -> Sections:
    """Everything that is known of a layer, a section a source of it."""
    made = read_restoration(facts.record) if facts.record else None
    spread = read_spread(facts.record) if facts.record else None
    general = _general(facts, made, spread)
    run = _run(facts) if general is None else None
    sections: Sections = [("Layer", _layer_lines(facts))]
    if made is not None:
        sections.append(("Restoration", _restoration_lines(made, run or general)))
    if spread is not None:
        sections.append(("Spread", _spread_lines(spread, run or general)))
    if general is not None:
        sections.append(("Model", general.lines()))
    elif run is not None:
        sections.append(("Model", _model_lines(run)))
    clustering = clustering_lines(facts.run) if run is None and facts.run is not None else []
    return [*sections, ("Model of particles", clustering)] if clustering else sections


def as_text(sections: Sections) -> str:
    """The same as plain text, to be copied into a notebook."""
    blocks = ["\n".join([title, *(f"  {label}: {text}" for label, text in lines)]) for title, lines in sections]
    return "\n".join(blocks)


def restore_command(made: Restoration, model: Run | GeneralModel | None) -> str:
    """The command that makes the same output again."""
    settings = made.record["settings"]
    words = ["cryoaae", "restore", *_inputs(_paths(made)), *_tilts_unknown_to(model, made.wedge)]
    words += [*_model(model), "-o", str(made.file.with_name(made.record["outputs"][0]))]
    options = settings.get("options", {})
    words += ["--halves"] if len(made.record["outputs"]) > 1 else []
    words += ["--keep-measured"] if options.get("keep_measured") else []
    words += [] if options.get("symmetries") else ["--no-symmetries"]
    words += ["--dtype", settings["dtype"]] if settings.get("dtype", "float32") != "float32" else []
    return shlex.join([*words, *_stated(settings), *_contrast(settings)])


def spread_command(spread: SpreadRecord, model: Run | GeneralModel | None) -> str:
    """The command that makes the same draws, or the same spread beside a restoration, again."""
    made, made_from = read_restoration(spread.beside), spread.record["made_from"]
    options, inputs = made_from.get("options", {}), ["INPUT"] if made is None else _inputs(_paths(made))
    command = "sample" if spread.whole_folder else "restore"
    output = spread.file.parent if spread.whole_folder else spread.beside.with_suffix(".mrc")
    words = ["cryoaae", command, *inputs, *_tilts_unknown_to(model, spread.wedge)]
    words += [*_model(model, str(spread.record.get("model", "RUN"))), "-o", str(output)]
    words += [] if spread.whole_folder else ["--uncertainty"]
    words += ["--draws", str(spread.record["draws"]), "--seed", str(options.get("seed", 0))]
    sampler = options.get("sampler", "learned")
    words += ["--sampler", sampler] if spread.whole_folder and sampler != "learned" else []
    words += ["--turns", options["turns"]] if spread.whole_folder and options.get("turns", "any") != "any" else []
    words += [] if options.get("symmetries", True) else ["--no-symmetries"]
    words += [] if _chosen(spread, "calibrate", True) else ["--no-calibrate"]
    if spread.whole_folder:
        words += ["--modes", str(_chosen(spread, "modes", 4))]
        words += [] if _chosen(spread, "keep_draws", True) else ["--no-draws"]
    return shlex.join([*words, *_stated(made_from), *_contrast(made_from)])


def fit_command(run: Run) -> str:
    """The command that fits the same model again."""
    words = ["cryoaae", "fit"]
    facts = iter(run.record.get("inputs", []))
    for tomogram in run.tomograms:
        words += _inputs([str(next(facts)["path"]) for _ in tomogram["digests"]])
    if run.tomograms:
        words += _tilts(StatedWedge.of(run.tomograms[0]))
    for mask in facts:
        words += ["--mask", str(mask["path"])]
    return shlex.join([*words, "--config", str(run.path / "config.yaml"), "-o", str(run.path)])


def _general(facts: LayerFacts, made: Restoration | None, spread: SpreadRecord | None) -> GeneralModel | None:
    """The general restorer that made a layer, if one did: by its weights, else by what the record says."""
    if made is not None:
        return general_of(made.model, facts.run, stated=made.by_general)
    if spread is not None:
        return general_of(spread.model, facts.run or spread.weights, stated=spread.by_general)
    return general_of("", facts.run, stated=False)


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
        *([("computed as", facts.made)] if facts.made else []),
        *([("draw", str(facts.draw))] if facts.draw is not None else []),
    ]


def _restoration_lines(made: Restoration, model: Run | GeneralModel | None) -> list[tuple[str, str]]:
    settings, result = made.record["settings"], made.record["result"]
    chosen = [name.replace("_", " ") for name, value in settings.get("options", {}).items() if value is True]
    lines = [("input", path) for path in _paths(made)]
    return [
        *lines,
        ("model digest", made.model),
        ("wedge", made.wedge.text()),
        ("options", ", ".join(chosen) or "none"),
        *([("contrast transfer undone", str(result["undone"]))] if result.get("undone") else []),
        ("took", f"{result['seconds']:.0f} s, {result['voxels_per_second'] / 1e6:.2f} million voxels/s"),
        ("versions", versions_of(made.record)),
        ("same again", restore_command(made, model)),
    ]


def _spread_lines(spread: SpreadRecord, model: Run | GeneralModel | None) -> list[tuple[str, str]]:
    record, options = spread.record, spread.record["made_from"].get("options", {})
    lines = [
        ("model digest", spread.model),
        ("wedge", spread.wedge.text()),
        ("draws", f"{record['draws']} by {options.get('sampler', 'unnamed')}, seed {options.get('seed', 0)}"),
        ("recalibration", spread.calibration_text()),
    ]
    if "version" in record:
        lines.append(("version", f"cryoaae {record['version']}"))
    return [*lines, ("same again", spread_command(spread, model))]


def _model_lines(run: Run) -> list[tuple[str, str]]:
    spec = run.spec
    lines = [("run folder", str(run.path)), ("state", state_of(run.record)), ("digest", run.digest or "no weights yet")]
    if spec:
        fitted = float(spec["voxel_size_angstrom"])
        working = fitted * int(spec["working_bin"])
        lines += [
            ("voxel size", f"{fitted:.4g} Å, works on voxels of {working:.4g} Å"),
            ("normalisation", _normalisation(float(spec.get("noise_share", 0.0)))),
        ]
        for tomogram in run.tomograms:
            lines.append(("fitted on", f"{tomogram['name']}, {StatedWedge.of(tomogram).text()}"))
    return [*lines, ("versions", versions_of(run.record)), ("same again", fit_command(run))]


def _model(model: Run | GeneralModel | None, otherwise: str = "RUN") -> list[str]:
    """The option that names a model."""
    if isinstance(model, GeneralModel):
        return model.option()
    return ["--model", otherwise if model is None else str(model.path)]


def _normalisation(noise_share: float) -> str:
    if noise_share > 0:
        scale = f"scale such that the noise of a half is {noise_share:.3g}"
    else:
        scale = "scale 1, the standard deviation"
    return f"mean 0, {scale}; measured on each tomogram"


def _paths(made: Restoration) -> list[str]:
    return [str(fact["path"]) for fact in made.record["inputs"]]


def _chosen(spread: SpreadRecord, option: str, unsaid: Any) -> Any:
    """An option of the command beside those that decide what a draw is."""
    found = spread.record.get("options") if spread.whole_folder else spread.record
    return (found or {}).get(option, unsaid)


def _contrast(settings: Mapping[str, Any]) -> list[str]:
    """Options of the contrast transfer that was undone; that of many tilts stands in a file that no record names."""
    facts = settings.get("contrast_transfer")
    if not facts:
        return []
    flipped = [] if facts.get("phase_flipped", True) else ["--phase-flipped", "no"]
    if len(facts["defocus_um"]) > 1:
        return ["--defocus", "TILT_SERIES.star", *flipped]
    names = {"--voltage": "voltage_kv", "--cs": "cs_mm", "--amplitude-contrast": "amplitude_contrast"}
    stated = [word for option, name in names.items() for word in (option, f"{facts[name]:g}")]
    return ["--defocus", f"{facts['defocus_um'][0]:g}", *stated, *flipped]


def _stated(settings: Mapping[str, Any]) -> list[str]:
    """Options that overrule what files say or data show, where they were given."""
    opening = settings.get("opening") or {}
    voxel, density = opening.get("voxel_size_angstrom"), opening.get("density")
    said = ["--voxel-size", f"{voxel:g}"] if voxel else []
    return [*said, "--density", str(density)] if density else said


def _inputs(paths: list[str]) -> list[str]:
    return ["--even", paths[0], "--odd", paths[1]] if len(paths) == 2 else paths


def _tilts_unknown_to(model: Run | GeneralModel | None, wedge: StatedWedge) -> list[str]:
    """Options that state a wedge; none where the model knows it of what it was fitted on."""
    known = isinstance(model, Run) and wedge in [StatedWedge.of(tomogram) for tomogram in model.tomograms]
    return [] if known else _tilts(wedge)


def _tilts(wedge: StatedWedge) -> list[str]:
    """Options that state a wedge; a list of tilts stands in a file that no record names."""
    axis = [] if wedge.tilt_axis_deg == 0 else ["--tilt-axis", f"{wedge.tilt_axis_deg:g}"]
    sign = ["--flip-tilts"] if wedge.flipped else []
    if wedge.tilts_deg is not None:
        return ["--tilts", "TILTS.tlt", *axis, *sign]
    return ["--tilt-range", *(f"{end:g}" for end in wedge.tilt_range_deg), *axis, *sign]
