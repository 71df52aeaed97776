"""YAML presets and ``--set`` overrides, checked before any work and turned into settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cryoaae.autoencoding.settings import VARIANTS, AutoencodingSettings, unused_settings
from cryoaae.errors import InputError
from cryoaae.fitting.settings import FROM_SPECTRUM, FitSettings
from cryoaae.registry import suggestion
from cryoaae.subtomograms.settings import ClusterSettings

# Priors that take a number of dimensions; the others have their own.
DIMENSIONED = ("gaussian", "uniform")
LARGEST_CONFIG_BYTES = 100_000
PART_OPTIONS = {"prior": "--latent", "divergence": "--divergence"}
# What a run's config.yaml records beside its settings; options of the command say both.
RECORDED = ("data", "stack_seeds")
RECORDED_INPUTS = ("stores", "by", "clusters", "labelled", "model")
Whole = Annotated[int, Field(ge=1)]
Config = TypeVar("Config", bound=BaseModel)


# What priors are called in the literature of the methods.
PRIOR_NAMES = {"cryogen1": "adversarial", "cryogen2": "transport"}
LATENT_NAMES = {"aae": "adversarial", "wae": "mmd", "vae": "kl"}


def _prior_name(name: object) -> object:
    return PRIOR_NAMES.get(name, name) if isinstance(name, str) else name


def _latent_name(name: object) -> object:
    return LATENT_NAMES.get(name, name) if isinstance(name, str) else name


class FitConfig(BaseModel):
    """Settings of a fit as a user writes them; see `FitSettings` for what they mean."""

    model_config = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)

    patch_size: Annotated[int, Field(ge=16, le=160)] = FitSettings.patch_size
    block_size: Annotated[int, Field(ge=24, le=320)] = FitSettings.block_size
    blocks: Whole = FitSettings.blocks
    renew_every: Whole = FitSettings.renew_every
    batch_size: Whole = FitSettings.batch_size
    start: Literal["general", "spectrum"] = "general"
    network: Literal["unet", "autoencoder"] = "unet"
    widths: Annotated[list[Whole], Field(min_length=1, max_length=6)] = list(FitSettings.widths)
    learning_rate: Annotated[float, Field(gt=0, le=1)] = FitSettings.learning_rate
    warm_up_steps: Annotated[int, Field(ge=0)] = FitSettings.warm_up_steps
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = FitSettings.ema_decay
    hidden_weight: Annotated[float, Field(ge=0)] = FitSettings.hidden_weight
    measured_weight: Annotated[float, Field(ge=0, le=1)] = FitSettings.measured_weight
    refills: Annotated[int, Field(ge=0, le=20)] = FitSettings.refills
    presence: bool = FitSettings.presence
    axis_share: Annotated[float, Field(ge=0, le=1)] = FitSettings.axis_share
    held_out_fraction: Annotated[float, Field(ge=0, lt=0.5)] = FitSettings.held_out_fraction
    hold_out_deg: Annotated[float, Field(ge=0, le=45)] = FitSettings.hold_out_deg
    working_bin: Annotated[int, Field(ge=1, le=16)] | None = None
    prior: Annotated[Literal["none", "adversarial", "transport"], BeforeValidator(_prior_name)] = "none"
    prior_weight: Annotated[float, Field(gt=0)] = FitSettings.prior_weight
    prior_share: Annotated[float, Field(gt=0, le=1)] = FitSettings.prior_share
    prior_batch: Whole = FitSettings.prior_batch
    prior_scales: Annotated[int, Field(ge=1, le=3)] = FitSettings.prior_scales
    prior_r1: Annotated[float, Field(ge=0)] = FitSettings.prior_r1
    prior_spectral: bool = FitSettings.prior_spectral
    prior_divergence: Literal["sinkhorn", "sliced"] = "sinkhorn"
    prior_features: Literal["wavelets", "random_convolutions"] = "wavelets"
    prior_bank: Annotated[int, Field(ge=128, le=16384)] = FitSettings.prior_bank
    reference_steps: Annotated[int, Field(ge=0)] = FitSettings.reference_steps
    code_patch: Annotated[int, Field(ge=4, le=64)] = FitSettings.code_patch
    code_dim: Annotated[int, Field(ge=1, le=1024)] = FitSettings.code_dim
    latent_prior: Annotated[
        Literal["none", "adversarial", "mmd", "sinkhorn", "sliced", "kl"], BeforeValidator(_latent_name)
    ] = "none"
    latent_weight: Annotated[float, Field(gt=0)] = FitSettings.latent_weight
    latent_share: Annotated[float, Field(gt=0)] = FitSettings.latent_share
    minutes: Annotated[float, Field(gt=0)] | None = FitSettings.minutes
    steps: Whole | None = None
    patience: Whole = FitSettings.patience
    evaluations: Whole = FitSettings.evaluations
    checkpoint_every_seconds: Annotated[float, Field(ge=0)] = FitSettings.checkpoint_every_seconds
    preview_every_seconds: Annotated[float, Field(ge=0)] = FitSettings.preview_every_seconds
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    density: Literal["auto", "bright", "dark"] = "auto"
    mask: Literal["none", "auto"] = "none"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = FitSettings.seed  # what torch takes

    @model_validator(mode="after")
    def _fits_together(self) -> FitConfig:
        multiple = 2 ** (len(self.widths) - 1)
        if self.patch_size % multiple:
            levels = len(self.widths)
            raise ValueError(f"patch_size {self.patch_size} is not a multiple of {multiple} ({levels} widths)")
        if self.block_size < self.patch_size + 16:
            raise ValueError(f"block_size {self.block_size} is less than patch_size + 16 = {self.patch_size + 16}")
        if self.minutes is None and self.steps is None:
            raise ValueError("neither minutes nor steps given")
        return self

    def settings(self) -> FitSettings:
        """Return the same as plain settings; a start from the spectrum brings its own rate where none was given."""
        values = self.model_dump(exclude={"widths"})
        if self.start == FROM_SPECTRUM["start"]:
            values |= {key: value for key, value in FROM_SPECTRUM.items() if key not in self.model_fields_set}
        return FitSettings(**values, widths=tuple(self.widths))


def presets(command: str = "fit") -> dict[str, Path]:
    """Presets of a command by name: packed in the wheel, or beside the package in a checkout."""
    packed = Path(str(files("cryoaae"))) / "configs"
    folder = packed if packed.is_dir() else packed.parents[1] / "configs"
    return {path.stem: path for path in sorted((folder / command).glob("*.yaml"))}


def load_fit_config(
    *, preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = (), **given: Any
) -> FitSettings:
    """Settings of `fit` from preset, file, ``key=value`` overrides and options given one by one (None: not given).

    Raises
    ------
    InputError
        For an unknown preset or key (with the nearest name), or a value that cannot be.
    """
    source, values, _ = _gathered("fit", preset, "fast", file, overrides, given)
    return _checked(FitConfig, source, values).settings()


def load_aae_config(
    variant: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    parts: Mapping[str, str | None] | None = None,
    **given: Any,
) -> AutoencodingSettings:
    """Settings of `aae`, likewise; without a preset the one named as the variant.

    `parts` names other parts than the preset's, such as {"prior": "mixture"}: what the preset says of a part of
    another name does not hold for them, but for the dimensions of a code, and overrides do. Nor does hold what
    a preset says of settings that such a change leaves without use. A file may be the config.yaml of a run.

    Raises
    ------
    InputError
        For an unknown variant, preset or key (with the nearest name), a value that cannot be, or a setting
        that this variant would ignore.
    """
    if variant not in VARIANTS:
        raise InputError("VARIANT", f"'{variant}' is none of {', '.join(VARIANTS)}", suggestion(variant, VARIANTS))
    source, values, asked = _gathered("aae", preset, variant, file, overrides, given, parts or {})
    if (other := values.setdefault("variant", variant)) != variant:
        raise InputError(source, f"is for the variant {other}, not {variant}", f"run `cryoaae aae {other}`")
    # What a preset or the record of an older version says of settings without use was not asked for.
    lenient = file is None or any(key in values for key in RECORDED)
    if file is not None:
        values = {key: value for key, value in values.items() if key not in RECORDED}
    _check_names(source, values, list(AutoencodingSettings.model_fields))
    for name, why in unused_settings(values).items():
        if name in asked:
            raise InputError(asked[name], f"{name} would be ignored: {why}", "leave it out")
        if lenient:
            values.pop(name, None)
    return _checked(AutoencodingSettings, source, values)


def load_cluster_config(
    *, preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = (), **given: Any
) -> ClusterSettings:
    """Settings of `cluster`, likewise. A file may be the config.yaml of a run, whose inputs are passed over.

    Raises
    ------
    InputError
        For an unknown preset or key (with the nearest name), or a value that cannot be.
    """
    source, values, _ = _gathered("cluster", preset, "fast", file, overrides, given)
    own = {key: value for key, value in values.items() if key not in RECORDED_INPUTS}
    return _checked(ClusterSettings, source, own)


def recorded_stack(file: Path | None) -> int | None:
    """How many seeds were fitted side by side by the run whose config.yaml this is."""
    found = None if file is None else read_yaml(file).get("stack_seeds")
    return found if isinstance(found, int) else None


def _gathered(
    command: str,
    preset: str | None,
    default: str,
    file: Path | None,
    overrides: Sequence[str],
    given: Mapping[str, Any],
    parts: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Where settings are from, their values, and which the user asked for one by one, by what option."""
    values: dict[str, Any] = {}
    if preset is not None and file is not None:
        raise InputError("--config", f"given together with --preset {preset}", "give one of them")
    if file is None:
        known = presets(command)
        source = preset or default
        if source not in known:
            raise InputError("--preset", f"'{source}' is none of {', '.join(known)}", "choose one of them")
        values |= read_yaml(known[source])
    else:
        source = str(file)
        values |= read_yaml(file)
    asked = {}
    for field, name in parts.items():
        if name is None:
            continue
        asked[field] = f"{PART_OPTIONS[field]} {name}"
        before = values.get(field)
        before = before if isinstance(before, dict) else {}
        if before.get("name") != name:
            values[field] = {"name": name}
            if field == "prior" and name in DIMENSIONED and "dim" in before:
                values[field]["dim"] = before["dim"]
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise InputError("--set", f"'{override}' is not key=value", "for example --set learning_rate=0.001")
        _put(values, key.strip(), _parse("--set " + override, text))
        asked[key.strip().partition(".")[0]] = "--set " + override
    values |= {key: value for key, value in given.items() if value is not None}
    return source, values, asked


def _checked(config: type[Config], source: str, values: dict[str, Any]) -> Config:
    """Make the settings, or say in one line what is wrong with them."""
    _check_names(source, values, list(config.model_fields))
    try:
        return config(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise InputError(source, problem, "correct the value") from error


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value, or with a dot one setting of a component: ``prior.std``."""
    name, dot, setting = key.partition(".")
    if dot and isinstance(values.get(name), dict):
        values[name] = {**values[name], setting: value}
    else:
        values[key] = value


def _check_names(source: str, values: dict[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            remedy = f"did you mean '{near[0]}'?" if near else "see configs/"
            raise InputError(source, f"unknown setting '{key}'", remedy)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", node.start_mark)
    return dict(loader.construct_pairs(node, deep=True))


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a small YAML mapping; no tags, no key twice."""
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise InputError(path, "is too large for a configuration", "give a YAML file of settings")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the name") from error
    except UnicodeDecodeError as error:
        raise InputError(path, f"not valid YAML ({error.reason})", "save it as UTF-8 text") from error
    loaded = _parse(path, text)
    if not isinstance(loaded, dict):
        raise InputError(path, "holds no settings", "write key: value lines")
    return loaded


def _parse(source: Path | str, text: str) -> Any:
    """Parse YAML of a user.

    Besides its own errors the parser lets through those of Python's constructors: of a month 99, a key
    that is a list, a number of 5000 digits, brackets nested too deep.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise InputError(source, f"not valid YAML ({reason})", "correct it") from error
