"""Settings from YAML, command-line options and recorded JSON: typed, within bounds, refused in one sentence."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from featuregen.config.kinds import ATTACKED, KINDS
from featuregen.config.recipes import NamedRecipe, attack_values, recipe_values
from featuregen.config.schema import Config, Sources, check_consistency
from featuregen.config.serialize import parse_yaml, to_dict
from featuregen.errors import UserError, one_line, printable

_T = typing.TypeVar("_T")
_MAX_WORD_LENGTH, _MAX_KNOWN = 100, 12
# What any setting may be that has no narrower bounds: a text's characters, a list's values, a number.
_MAX_TEXT, _MAX_LIST, _MAX_NUMBER = 4096, 100, 1e6
# Bytes of a config; a long one has a few thousand.
_MAX_CONFIG = 1 << 20
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the closest known one, or as many as a line can hold."""
    names = list(known)
    match = difflib.get_close_matches(str(word)[:_MAX_WORD_LENGTH], names, n=1)
    more = f" and {len(names) - _MAX_KNOWN} more" if len(names) > _MAX_KNOWN else ""
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(names[:_MAX_KNOWN])}{more}."


def config_names() -> list[str]:
    """The names of the shipped configs."""
    return sorted(Path(item.name).stem for item in _shipped_folder().iterdir() if item.name.endswith(".yaml"))


def load_config(
    name_or_path: str = "digits",
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    recipe: NamedRecipe | None = None,
) -> Config:
    """Read settings from a shipped config or a YAML file, and replace some of them.

    Args:
        name_or_path: The name of a shipped config, or the path of a YAML file.
        overrides: Texts such as `seed=3` or `synthesis.det.eps=1.0`, which win over everything else.
        values: Values by dotted key, which win over the file and the recipe.
        recipe: A recipe with a name, which wins over the file alone.

    Raises:
        UserError: The file cannot be read, or a setting is unknown, of the wrong type or out of bounds.

    Example:
        >>> import featuregen as fg
        >>> fg.load_config("digits", ["synthesis.det.eps=1.0"]).synthesis["det"].eps
        1.0
    """
    text, where = _read_text(name_or_path)
    try:
        tree = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {one_line(error)}.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where} must hold settings as 'key: value' lines.")
    tree.setdefault("name", Path(where).stem)
    return _build_config(tree, where, overrides, values or {}, recipe)


def with_overrides(config: Config, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """The same settings with some of them replaced, checked again."""
    # A file may record kinds that are registered elsewhere only.
    recorded = {*config.synthesis, *config.fresh}
    return _build_config(to_dict(config), "the settings", overrides, values or {}, recorded=recorded)


def assignments(
    texts: Iterable[str], option: str = "--set", key: str = "key", example: str = "synthesis.robust.steps=50"
) -> Iterator[tuple[str, str]]:
    """The key and the value of each text such as `steps=40`, as words; what they mean is for the caller to say."""
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (sign and name) or ("." in key and not all(name.partition("."))):
            raise UserError(f"{option} takes {key}=value, for example {option} {example}; got '{text}'.")
        yield name, value


def unique_assignments(texts: Iterable[str], option: str, key: str, example: str) -> dict[str, str]:
    """The assignments by key, each of which may be given once."""
    values: dict[str, str] = {}
    for name, value in assignments(texts, option, key, example):
        if name in values:
            raise UserError(f"{option} {name} is given twice; keep one of {values[name]} and {value}.")
        values[name] = value
    return values


def _build_config(
    tree: dict[str, Any],
    where: str,
    overrides: Iterable[str],
    values: Mapping[str, Any],
    recipe: NamedRecipe | None = None,
    recorded: Collection[str] = (),
) -> Config:
    changes = [*values.items(), *((key, _parse_value(text)) for key, text in assignments(overrides))]
    if recipe:
        changes = [*_recipe_values(recipe, _with_keys(tree, changes), where).items(), *changes]
    config = from_dict(Config, _with_keys(tree, changes), where)
    # Models can be trained on adversarial examples, but no synthesis recipe makes them.
    for key, recipes, kinds in (("synthesis", config.synthesis, [*KINDS]), ("fresh", config.fresh, [*KINDS, ATTACKED])):
        for kind in recipes:
            if kind not in kinds and kind not in recorded:
                raise UserError(f"{where}: {key}.{kind} is no kind of dataset; {did_you_mean(kind, kinds)}")
    check_consistency(config)
    return config


def _recipe_values(recipe: NamedRecipe, tree: dict[str, Any], where: str) -> dict[str, Any]:
    """What a named recipe sets; its training steps are a share of the radius, which the settings say."""
    synthesis = tree.get("synthesis", {})
    kinds = (synthesis if isinstance(synthesis, Mapping) else ()) if recipe.kinds is None else recipe.kinds
    values = {key: value for kind in kinds for key, value in recipe_values(recipe.name, kind).items()}
    if recipe.training:
        attack = _convert(Sources, tree.get("sources", {}), "sources", where).robust.attack
        values |= attack_values(recipe.name, attack.eps) if attack else {}
    return values


def from_dict(kind: type[_T], tree: Mapping[str, Any], where: str) -> _T:
    """Settings from dictionaries, such as those recorded in a file; `where` names their origin in messages."""
    return typing.cast(_T, _convert(kind, tree, "", where))


def _shipped_folder() -> Any:
    packaged = resources.files("featuregen") / "configs"
    # An editable install has no copy inside the package; the clone has the folder beside it.
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def _read_text(name_or_path: str) -> tuple[str, str]:
    """The text of a config, and the file's name for messages."""
    if name_or_path in config_names():
        return (_shipped_folder() / f"{name_or_path}.yaml").read_text(encoding="utf-8"), f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if not path.is_file():
        hint = did_you_mean(name_or_path, config_names())
        raise UserError(f"No config '{name_or_path}': give a YAML file or a shipped name; {hint}")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG + 1)
        if len(content) > _MAX_CONFIG:
            raise UserError(f"Cannot read config {path}: it is larger than 1 MiB; name a YAML file with settings.")
        return content.decode("utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read config {path}: {error}") from None


def _parse_value(text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def _with_keys(tree: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy with dotted keys replaced, and missing levels above them added."""
    changed = dict(tree)
    for key, value in changes:
        *parents, last = key.split(".")
        node = changed
        for parent in parents:
            child = {} if node.get(parent) is None else node[parent]
            if not isinstance(child, dict):
                raise UserError(f"'{key}' cannot be set: '{parent}' is a single value and holds no '{last}'.")
            # A copy: in YAML, an anchor and its aliases are one and the same dictionary.
            node[parent] = dict(child)
            node = node[parent]
        node[last] = value
    return changed


def _convert(hint: Any, value: Any, key: str, where: str, limits: Mapping[str, float] | None = None) -> Any:
    """Turn a YAML value into what the type hint asks for, or say in one sentence why not."""
    label = f"{where}: {key}" if key else where
    if dataclasses.is_dataclass(hint):
        return _convert_dataclass(typing.cast(type, hint), value, key, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _convert(inner, value, key, where, limits)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{label} is {_quoted(str(value))}; {did_you_mean(value, args)}")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        if len(items) > _MAX_LIST:
            raise UserError(f"{label} has {len(items):,} values; give at most {_MAX_LIST}.")
        return tuple(_convert(args[0], item, key, where, limits) for item in items)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{label} must map kinds of dataset to settings.")
        return {k: _convert(args[1], v, f"{key}.{printable(k, 60)}", where) for k, v in value.items()}
    return _convert_scalar(hint, value, label, limits or {})


def _convert_dataclass(kind: type, value: Any, key: str, where: str) -> Any:
    if not isinstance(value, Mapping):
        label = f"{where}: {key}" if key else where
        raise UserError(f"{label} must hold settings as 'key: value' pairs; got {_quoted(value)}.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in fields:
            raise UserError(f"{where}: unknown setting '{prefix}{printable(name, 60)}'; {did_you_mean(name, fields)}")
    return kind(**{n: _convert(hints[n], v, f"{prefix}{n}", where, fields[n].metadata) for n, v in value.items()})


def _convert_scalar(hint: Any, value: Any, label: str, limits: Mapping[str, float]) -> Any:
    if hint is bool:
        # An attack's --set values arrive as words.
        chosen = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
        if not isinstance(chosen, bool):
            raise UserError(f"{label} is {_quoted(value)}; give true or false.")
        return chosen
    if hint is str:
        if value is None or isinstance(value, (bool, list, dict)):
            raise UserError(f"{label} is {_quoted(value)}; give a word, in quotes if YAML takes it for something else.")
        if len(str(value)) > _MAX_TEXT:
            raise UserError(f"{label} has {len(str(value)):,} characters; give at most {_MAX_TEXT:,}.")
        return str(value)
    number = _parse_number(value)
    if number is None or (hint is int and number != int(number)):
        wanted = "a whole number" if hint is int else "a number such as 0.5, 5e-4 or 8/255"
        raise UserError(f"{label} is {_quoted(value)}; give {wanted}.")
    low, high = limits.get("low", -_MAX_NUMBER), limits.get("high", _MAX_NUMBER)
    shown = printable(value, _MAX_WORD_LENGTH)
    if number < low:
        raise UserError(f"{label} is {shown}; it must be at least {_number_text(low)}.")
    if "above" in limits and number <= limits["above"]:
        raise UserError(f"{label} is {shown}; it must be above {_number_text(limits['above'])}.")
    if number > high:
        raise UserError(f"{label} is {shown}; it must be at most {_number_text(high)}.")
    return int(number) if hint is int else float(number)


def _number_text(limit: float) -> str:
    return f"{limit:,.0f}" if 1e6 <= abs(limit) < 1e15 else f"{limit:g}"


def _quoted(value: Any) -> str:
    """A value for a message, cut."""
    try:
        return printable(_SHORT.repr(value), _MAX_WORD_LENGTH)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number of thousands of digits"


def _parse_number(value: Any) -> float | int | None:
    """The finite number that a YAML value means: YAML leaves `5e-4` and `8/255` as strings."""
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
