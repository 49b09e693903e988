"""Settings as text: YAML that is read safely, and JSON in one canonical spelling."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from featuregen.config.schema import Config

# A few lines of YAML can expand to more than any memory holds, through aliases of aliases.
_MAX_VALUES = 100_000
_MAX_DEPTH = 50


def parse_yaml(text: str) -> Any:
    """What a YAML text says; everything wrong with it is a `yaml.YAMLError`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_unique_keys(root)
        if _count_values(root, {}) > _MAX_VALUES:
            raise yaml.YAMLError(f"by its aliases it stands for more than {_MAX_VALUES:,} values")
        return yaml.safe_load(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    # An impossible date such as 2026-13-45, or a tag such as !!int before a word.
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
            raise yaml.YAMLError(f"'{duplicate}' is given twice in one place")
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
    record["data"] |= {name: PurePath(record["data"][name]).name for name in ("name", "folder")}
    record["sources"] |= {name: PurePath(record["sources"][name]).name for name in ("standard_from", "robust_from")}
    return record


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value, for digests and cache keys."""
    return json.dumps(to_dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
