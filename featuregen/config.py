"""Frozen, typed settings: read from YAML, overridden by key, checked before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from featuregen.errors import UserError

Norm = Literal["l2", "linf"]
Precision = Literal["auto", "fp32", "bf16"]
Dtype = Literal["uint8", "float16", "float32"]

_T = typing.TypeVar("_T")

KINDS = ("robust", "nonrobust", "robust-noise", "nonrobust-noise", "rand", "det")


def _limits(default: Any = dataclasses.MISSING, **limits: float) -> Any:
    """A field whose numbers must respect `low`, `high` (inclusive) or `above` (exclusive)."""
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class Data:
    """Which images. `name` is a known set or the path of a Keras-style `.npz`."""

    name: str = "digits"
    folder: str = "data"


@dataclass(frozen=True)
class Model:
    """Which network. `width` 0 means the architecture's own."""

    architecture: str = "convnet"
    width: int = _limits(0, low=0, high=4096)


@dataclass(frozen=True)
class Runtime:
    device: str = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True)
class Attack:
    """Projected gradient steps inside a ball. `step_size` 0 means 2.5 · eps / steps."""

    norm: Norm = "l2"
    eps: float = _limits(0.5, low=0)
    steps: int = _limits(20, low=1)
    step_size: float = _limits(0.0, low=0)
    random_start: bool = False
    restarts: int = _limits(1, low=1)


@dataclass(frozen=True)
class Augment:
    """Random changes of training images: pixels of crop padding, flip, colour jitter, degrees of rotation."""

    crop: int = _limits(0, low=0, high=64)
    flip: bool = False
    jitter: float = _limits(0.0, low=0, high=1)
    rotate: float = _limits(0.0, low=0, high=180)


@dataclass(frozen=True)
class Training:
    """One training recipe; with an `attack` it is adversarial training."""

    epochs: int = _limits(30, low=1)
    batch_size: int = _limits(128, low=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = _limits(0.1, above=0)
    momentum: float = _limits(0.9, low=0, high=1)
    weight_decay: float = _limits(5e-4, low=0)
    schedule: Literal["onecycle", "cosine", "steps", "constant"] = "onecycle"
    milestones: tuple[float, ...] = _limits((1 / 3, 2 / 3), low=0, high=1)
    label_smoothing: float = _limits(0.0, low=0, high=0.99)
    augment: Augment = Augment()
    attack: Attack | None = None


@dataclass(frozen=True)
class Synthesis:
    """How pixels are moved. `norm` none leaves them free in [0, 1]."""

    steps: int = _limits(1000, low=0)
    step_size: float = _limits(0.1, above=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    norm: Literal["none", "l2", "linf"] = "none"
    eps: float = _limits(0.0, low=0)
    noise: float = _limits(0.25, low=0)
    fake_relu: bool = False
    batch_size: int = _limits(256, low=1)
    dtype: Dtype = "uint8"
    rows: int = _limits(0, low=0)


@dataclass(frozen=True)
class Evaluation:
    """Fresh models per dataset, and the attacks they face: one per norm and eps.

    `headline` is the L2 eps of the bar chart and of every claim in words, fixed before any seed is run.
    """

    seeds: int = _limits(3, low=1)
    l2: tuple[float, ...] = _limits((0.25, 0.5), low=0)
    headline: float = _limits(0.5, low=0)
    linf: tuple[float, ...] = _limits((), low=0)
    steps: int = _limits(20, low=1)
    restarts: int = _limits(1, low=1)
    batch_size: int = _limits(500, low=1)


@dataclass(frozen=True)
class Honesty:
    """The radii at which judges other than the source look at D_rand and D_det, on `rows` images each (0: all)."""

    eps: tuple[float, ...] = _limits((), above=0)
    rows: int = _limits(0, low=0)


@dataclass(frozen=True)
class Sources:
    """The recipes of the two source models."""

    standard: Training = Training()
    robust: Training = Training(attack=Attack())


@dataclass(frozen=True)
class Config:
    name: str = "unnamed"
    seed: int = _limits(0, low=0, high=2**63 - 1)
    data: Data = Data()
    model: Model = Model()
    runtime: Runtime = Runtime()
    sources: Sources = Sources()
    synthesis: Mapping[str, Synthesis] = field(default_factory=dict[str, Synthesis])
    fresh: Mapping[str, Training] = field(default_factory=dict[str, Training])
    evaluation: Evaluation = Evaluation()
    honesty: Honesty = Honesty()


# Reading -------------------------------------------------------------------------------------------


def closest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, or all of them."""
    names = list(known)
    match = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(names)}."


def config_names() -> list[str]:
    return sorted(Path(item.name).stem for item in _shipped().iterdir() if item.name.endswith(".yaml"))


def load_config(
    name_or_path: str = "digits", overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """Read a shipped config by name or any YAML file by path; apply values by dotted key, then `key=value` texts."""
    text, where = _read(name_or_path)
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where} must hold settings as 'key: value' lines.")
    tree.setdefault("name", Path(where).stem)
    return _checked(tree, where, overrides, values or {})


def with_overrides(config: Config, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """The same settings with some of them replaced, checked again."""
    return _checked(to_dict(config), "the settings", overrides, values or {})


def _checked(tree: dict[str, Any], where: str, overrides: Iterable[str], values: Mapping[str, Any]) -> Config:
    for key, value in values.items():
        _put(tree, key, value)
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key.strip():
            raise UserError(f"--set takes key=value, for example --set synthesis.robust.steps=50; got '{override}'.")
        try:
            _put(tree, key.strip(), yaml.safe_load(text))
        except yaml.YAMLError:
            _put(tree, key.strip(), text)
    config: Config = _build(Config, tree, "", where)
    check_consistency(config)
    return config


def check_consistency(config: Config) -> None:
    """Rules that span several settings."""
    if not re.fullmatch(r"[\w.-]+", config.name):
        raise UserError(f"name is '{config.name}'; it names a folder, so use letters, digits, '.', '_' and '-'.")
    for kind, recipe in config.synthesis.items():
        if kind in ("rand", "det") and recipe.norm == "none":
            raise UserError(f"synthesis.{kind}.norm is 'none'; {kind} needs a ball: set it to l2 or linf.")
        if recipe.norm != "none" and recipe.eps == 0:
            raise UserError(f"synthesis.{kind}.eps is 0 with norm {recipe.norm}; give a positive radius.")
    if config.evaluation.headline not in config.evaluation.l2:
        radii = ", ".join(f"{eps:g}" for eps in config.evaluation.l2)
        raise UserError(f"evaluation.headline is {config.evaluation.headline:g}; choose one of evaluation.l2: {radii}.")
    if config.sources.robust.attack is None:
        raise UserError("sources.robust.attack is missing; a robust source model is trained against an attack.")
    if config.sources.standard.attack is not None:
        raise UserError("sources.standard.attack is set; a standard source model is trained without one.")


def to_dict(settings: Any) -> Any:
    """Plain containers, ready for JSON or YAML."""
    if dataclasses.is_dataclass(settings):
        return {f.name: to_dict(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {key: to_dict(value) for key, value in settings.items()}
    if isinstance(settings, (tuple, list)):
        return [to_dict(value) for value in settings]
    return settings


def canonical_json(value: Any) -> str:
    """One spelling per value, for digests and cache keys."""
    return json.dumps(to_dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_dict(kind: type[_T], tree: Mapping[str, Any], where: str) -> _T:
    """Settings from plain containers, e.g. those recorded in a file."""
    return typing.cast(_T, _build(kind, tree, "", where))


def _shipped() -> Any:
    packaged = resources.files("featuregen") / "configs"
    # An editable install has no copy inside the package: the clone's own folder is beside it.
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"


def _read(name_or_path: str) -> tuple[str, str]:
    if name_or_path in config_names():
        return (_shipped() / f"{name_or_path}.yaml").read_text(encoding="utf-8"), f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if not path.is_file():
        raise UserError(f"No config '{name_or_path}': give a YAML file or a shipped name; {closest(name_or_path, config_names())}")
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read config {path}: {error}") from None


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the levels above it where they are missing."""
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise UserError(f"'{key}' cannot be set: '{parent}' is a single value and holds no '{last}'.")
    node[last] = value


def _build(hint: Any, value: Any, key: str, where: str, limits: Mapping[str, float] | None = None) -> Any:
    """Turn a YAML value into what the type hint asks for, or say in one sentence why not."""
    label = f"{where}: {key}" if key else where
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(typing.cast(type, hint), value, key, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _build(inner, value, key, where, limits)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{label} is '{value}'; {closest(str(value), args)} Choices: {', '.join(args)}.")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_build(args[0], item, key, where, limits) for item in items)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{label} must map kinds of dataset to settings.")
        for kind in value:
            if kind not in KINDS:
                raise UserError(f"{label}.{kind} is no kind of dataset; {closest(str(kind), KINDS)}")
        return types.MappingProxyType({k: _build(args[1], v, f"{key}.{k}", where) for k, v in value.items()})
    return _build_scalar(hint, value, label, limits or {})


def _build_dataclass(kind: type, value: Any, key: str, where: str) -> Any:
    label = f"{where}: {key}" if key else where
    if not isinstance(value, Mapping):
        raise UserError(f"{label} must hold settings as 'key: value' pairs; got {value!r}.")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name in value:
        if name not in known:
            raise UserError(f"{where}: unknown setting '{f'{key}.' if key else ''}{name}'; {closest(str(name), known)}")
    prefix = f"{key}." if key else ""
    return kind(
        **{n: _build(hints[n], v, f"{prefix}{n}", where, known[n].metadata) for n, v in value.items()}
    )


def _build_scalar(hint: Any, value: Any, label: str, limits: Mapping[str, float]) -> Any:
    if hint is bool:
        if not isinstance(value, bool):
            raise UserError(f"{label} is {value!r}; give true or false.")
        return value
    if hint is str:
        return str(value)
    number = _number(value)
    if number is None or (hint is int and number != int(number)):
        wanted = "a whole number" if hint is int else "a number such as 0.5, 5e-4 or 8/255"
        raise UserError(f"{label} is {value!r}; give {wanted}.")
    if "low" in limits and number < limits["low"]:
        raise UserError(f"{label} is {value}; it must be at least {limits['low']:g}.")
    if "above" in limits and number <= limits["above"]:
        raise UserError(f"{label} is {value}; it must be above {limits['above']:g}.")
    if "high" in limits and number > limits["high"]:
        raise UserError(f"{label} is {value}; it must be at most {limits['high']:g}.")
    return int(number) if hint is int else float(number)


def _number(value: Any) -> float | int | None:
    """YAML leaves `5e-4` and `8/255` as strings; people mean numbers."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    try:
        top, slash, bottom = str(value).partition("/")
        number = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None
