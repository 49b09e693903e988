"""Settings from YAML, options and recorded JSON: typed, bounded, and refused in one sentence."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from featuregen.config.schema import ATTACKED, KINDS, Config, check_consistency, to_dict
from featuregen.errors import UserError

_T = typing.TypeVar("_T")
# A few lines of YAML can stand for more than any memory holds, by aliases of aliases.
_MOST_VALUES = 100_000
_LONGEST_WORD = 100
# Levels of containers in a record.
_DEEPEST = 50
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 200


def _parse(text: str) -> Any:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_doubled_keys(root)
        if _values(root, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"by its aliases it stands for more than {_MOST_VALUES:,} values")
        return yaml.safe_load(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    # A date such as 2026-13-45, or a tag such as !!int before what is none.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise yaml.YAMLError(str(error)) from None


def _refuse_doubled_keys(root: Any) -> None:
    """YAML would keep the last and say nothing. Merge keys, which bring keys of their own, are not resolved yet."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias is the node it names, which may hold itself
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = next((key for key, times in Counter(keys).items() if times > 1), None)
        if doubled is not None:
            raise yaml.YAMLError(f"'{doubled}' is given twice in one place")
        waiting += [value for _, value in node.value]


def _values(node: Any, counted: dict[int, int]) -> int:
    """How many values a node stands for, where each alias stands for all that it names."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        # What holds itself stands for more than can be counted.
        counted[id(node)] = _MOST_VALUES + 1
        inside = [item for pair in node.value for item in (pair if isinstance(pair, tuple) else (pair,))]
        counted[id(node)] = 1 + sum(_values(item, counted) for item in inside)
    return counted[id(node)]


def nested_deeply(tree: Any) -> bool:
    """Whether plain containers lie in each other deeper than any record's, so that going through them may fail."""
    level = [tree]
    for _ in range(_DEEPEST):
        level = [
            inside
            for node in level
            if isinstance(node, (dict, list))
            for inside in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, or all of them."""
    names = list(known)
    match = difflib.get_close_matches(str(word)[:_LONGEST_WORD], names, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(names)}."


def config_names() -> list[str]:
    return sorted(Path(item.name).stem for item in _shipped().iterdir() if item.name.endswith(".yaml"))


def load_config(
    name_or_path: str = "digits", overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """Read a shipped config by name or any YAML file by path; apply values by dotted key, then `key=value` texts."""
    text, where = _read(name_or_path)
    try:
        tree = _parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split()).rstrip('.')}.") from None
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
            _put(tree, key.strip(), _parse(text))
        except yaml.YAMLError:
            _put(tree, key.strip(), text)
    config = from_dict(Config, tree, where)
    check_consistency(config)
    return config


def from_dict(kind: type[_T], tree: Mapping[str, Any], where: str) -> _T:
    """Settings from plain containers, e.g. those recorded in a file."""
    return typing.cast(_T, _build(kind, tree, "", where))


def _shipped() -> Any:
    packaged = resources.files("featuregen") / "configs"
    # An editable install has no copy inside the package: the clone's own folder is beside it.
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def _read(name_or_path: str) -> tuple[str, str]:
    if name_or_path in config_names():
        return (_shipped() / f"{name_or_path}.yaml").read_text(encoding="utf-8"), f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if not path.is_file():
        hint = did_you_mean(name_or_path, config_names())
        raise UserError(f"No config '{name_or_path}': give a YAML file or a shipped name; {hint}")
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read config {path}: {error}") from None


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the levels above it where they are missing."""
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = {} if node.get(parent) is None else node[parent]
        if not isinstance(child, dict):
            raise UserError(f"'{key}' cannot be set: '{parent}' is a single value and holds no '{last}'.")
        # A copy: in YAML, an anchor and its aliases are one and the same dictionary.
        node[parent] = dict(child)
        node = node[parent]
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
            raise UserError(f"{label} is {_SHOWN.repr(str(value))}; {did_you_mean(value, args)}")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_build(args[0], item, key, where, limits) for item in items)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{label} must map kinds of dataset to settings.")
        # Adversarial examples can be learnt from, but no recipe of synthesis makes them.
        kinds = (*KINDS, ATTACKED) if key == "fresh" else KINDS
        for kind in value:
            if kind not in kinds:
                raise UserError(f"{label}.{kind} is no kind of dataset; {did_you_mean(kind, kinds)}")
        return {k: _build(args[1], v, f"{key}.{k}", where) for k, v in value.items()}
    return _build_scalar(hint, value, label, limits or {})


def _build_dataclass(kind: type, value: Any, key: str, where: str) -> Any:
    label = f"{where}: {key}" if key else where
    if not isinstance(value, Mapping):
        raise UserError(f"{label} must hold settings as 'key: value' pairs; got {_SHOWN.repr(value)}.")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name in value:
        if name not in known:
            raise UserError(f"{where}: unknown setting '{f'{key}.' if key else ''}{name}'; {did_you_mean(name, known)}")
    prefix = f"{key}." if key else ""
    return kind(**{n: _build(hints[n], v, f"{prefix}{n}", where, known[n].metadata) for n, v in value.items()})


def _build_scalar(hint: Any, value: Any, label: str, limits: Mapping[str, float]) -> Any:
    if hint is bool:
        # What stands behind an attack's --set comes here as text, as its numbers do.
        chosen = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
        if not isinstance(chosen, bool):
            raise UserError(f"{label} is {_SHOWN.repr(value)}; give true or false.")
        return chosen
    if hint is str:
        if value is None or isinstance(value, (bool, list, dict)):
            raise UserError(
                f"{label} is {_SHOWN.repr(value)}; give a word, in quotes if YAML takes it for something else."
            )
        return str(value)
    number = _number(value)
    if number is None or (hint is int and number != int(number)):
        wanted = "a whole number" if hint is int else "a number such as 0.5, 5e-4 or 8/255"
        raise UserError(f"{label} is {_SHOWN.repr(value)}; give {wanted}.")
    if "low" in limits and number < limits["low"]:
        raise UserError(f"{label} is {value}; it must be at least {limits['low']:g}.")
    if "above" in limits and number <= limits["above"]:
        raise UserError(f"{label} is {value}; it must be above {limits['above']:g}.")
    if "high" in limits and number > limits["high"]:
        raise UserError(f"{label} is {value}; it must be at most {limits['high']:g}.")
    return int(number) if hint is int else float(number)


def _number(value: Any) -> float | int | None:
    """YAML leaves `5e-4` and `8/255` as strings; people mean numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int):
        return value if value.bit_length() < 1024 else None
    try:
        top, slash, bottom = str(value).partition("/")
        number = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None
