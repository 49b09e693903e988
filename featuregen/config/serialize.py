"""Settings as text: YAML that is read safely, and JSON in one canonical spelling."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from featuregen.errors import printable

if TYPE_CHECKING:
    from featuregen.config.schema import Config

# A few lines of YAML can expand to more than any memory holds, through aliases of aliases.
_MAX_VALUES = 100_000
_MAX_DEPTH = 50


# As many digits as fit 64 bits; a longer number is a word, which a setting then refuses.
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}$")
_FLOAT = re.compile(r"[-+]?(?:(?:[0-9]{1,99}\.[0-9]{0,99}|\.[0-9]{1,99})(?:[eE][-+]?[0-9]{1,3})?|\.inf)$|\.nan$", re.I)
_INTEGER_TAG, _FLOAT_TAG = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_KEPT = {None, *(f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "merge", "str", "seq", "map"))}


class _Loader(yaml.SafeLoader):
    """YAML in which numbers are decimal: 1:30, 0x1F and 2026-01-01 are words, and no other type has a tag.

    YAML 1.1 reads them as 90, 31 and a date, and takes 0x with a thousand digits, which Python cannot print.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {  # type: ignore[misc]  # one for all in yaml, too
        first: [(tag, pattern) for tag, pattern in known if tag in _KEPT]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag in _KEPT
    }

    def construct_integer(self, node: Any) -> int:
        text = str(self.construct_scalar(node))
        if not _INTEGER.match(text):
            raise yaml.YAMLError(f"{printable(text, 60)} is no decimal number of at most 19 digits")
        return int(text)

    def construct_float(self, node: Any) -> float:
        text = str(self.construct_scalar(node)).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_implicit_resolver(_INTEGER_TAG, _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
_Loader.add_constructor(_INTEGER_TAG, _Loader.construct_integer)
_Loader.add_constructor(_FLOAT_TAG, _Loader.construct_float)


def parse_yaml(text: str) -> Any:
    """What a YAML text says; everything wrong with it is a `yaml.YAMLError`."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        _check_unique_keys(root)
        if _count_values(root, {}) > _MAX_VALUES:
            raise yaml.YAMLError(f"by its aliases it stands for more than {_MAX_VALUES:,} values")
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    # A tag such as !!int before a word.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise yaml.YAMLError(str(error)) from None


def _check_unique_keys(root: Any) -> None:
    """YAML silently keeps the last of two equal keys. Merge keys are not resolved yet, so they do not count twice."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias is the very node it names, which may contain itself
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        duplicate = next((key for key, count in Counter(keys).items() if count > 1), None)
        if duplicate is not None:
            raise yaml.YAMLError(f"'{printable(duplicate, 60)}' is given twice in one place")
        waiting += [value for _, value in node.value]


def _count_values(node: Any, counts: dict[int, int]) -> int:
    """The number of values a node expands to, where every alias counts as a copy."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counts:
        # A node that contains itself would expand for ever.
        counts[id(node)] = _MAX_VALUES + 1
        children = [item for pair in node.value for item in (pair if isinstance(pair, tuple) else (pair,))]
        counts[id(node)] = 1 + sum(_count_values(child, counts) for child in children)
    return counts[id(node)]


def too_deeply_nested(tree: Any) -> bool:
    """Whether dictionaries and lists are nested deeper than in any record, so that recursion over them may fail."""
    level = [tree]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)


def to_dict(settings: Any) -> Any:
    """Dictionaries and lists, ready for JSON or YAML."""
    if dataclasses.is_dataclass(settings):
        pairs = ((f, getattr(settings, f.name)) for f in dataclasses.fields(settings))
        return {f.name: to_dict(v) for f, v in pairs if not (f.metadata.get("omit_default") and v == f.default)}
    if isinstance(settings, Mapping):
        return {key: to_dict(value) for key, value in settings.items()}
    if isinstance(settings, (tuple, list)):
        return [to_dict(value) for value in settings]
    return settings


def to_record(config: Config) -> dict[str, Any]:
    """A config as files record it: of paths, which only its own machine has, the last part."""
    record: dict[str, Any] = to_dict(config)
    for part, names in (("data", ("name", "folder")), ("sources", ("standard_from", "robust_from"))):
        record[part] |= {name: shown_name(PurePath(record[part][name]).name) for name in names}
    return record


def shown_name(path: str | os.PathLike[str]) -> str:
    """A path as text: bytes that are not UTF-8 become �, since neither HDF5, JSON nor a picture can hold them."""
    return os.fsencode(path).decode("utf-8", "replace")


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value, for digests and cache keys."""
    return json.dumps(to_dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def json_document(value: Any) -> str:
    """Indented JSON for a file; what JSON has no number for, such as nan, is null."""
    return json.dumps(finite(value), indent=1, allow_nan=False)


def finite(value: Any) -> Any:
    """The same with null for numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
