"""The border for JSON records that come from files: parsed within limits, then checked against a schema.

Whatever passes has the types, ranges and lengths that the schema says, so that nothing inside checks them again.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from featuregen.config.serialize import too_deeply_nested
from featuregen.errors import UserError

_T = TypeVar("_T")
# Far above any record of featuregen's; results of a large experiment are about a megabyte.
MAX_BYTES, _MAX_VALUES, _MAX_TEXT = 1 << 25, 1_000_000, 1 << 20
_REMEDY = "get it again, or make it again"
_PLACE = re.compile(r" - at (`key` in )?`\$(.*)`$")


class RecordError(UserError):
    """A record that is no JSON, exceeds a limit, or breaks its schema."""


def parse_json(text: str | bytes, where: str, nan_as_null: bool = False) -> Any:
    """The value of a JSON text; `where` names the file, and the attribute in it, in messages.

    With `nan_as_null`, the NaN that Python writes for an unknown number is read as null; otherwise it is no JSON.
    """
    if len(text) > MAX_BYTES:
        raise RecordError(f"{where} has {len(text) >> 20} MiB of JSON; a record has at most {MAX_BYTES >> 20}.")
    try:
        value = json.loads(text, parse_constant=_null) if nan_as_null else msgspec.json.decode(text)
        # A lone surrogate in an escape, which Python's parser lets pass.
        if nan_as_null:
            msgspec.json.encode(value)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        raise RecordError(f"{where} is not valid JSON; {_REMEDY}.") from None
    if too_deeply_nested(value):
        raise RecordError(f"{where} is nested too deeply; {_REMEDY}.")
    if problem := _excess(value):
        raise RecordError(f"{where} holds {problem}; {_REMEDY}.")
    return value


def check_record(value: Any, schema: type[_T], where: str, remedy: str = _REMEDY) -> _T:
    """The value as its schema has it; the message names the first field that breaks it."""
    try:
        return msgspec.convert(value, schema, strict=True)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        reason = _PLACE.sub("", text).replace("`", "'")
        # msgspec writes fields as `$.a.b`, list items as `$.a[0]` and values of mappings as `$.a[...]`.
        field = f": {place[2].lstrip('.')}" if place and place[2] else ""
        raise RecordError(f"{where}{field}: {reason[:1].lower()}{reason[1:]}; {remedy}.") from None


def read_record(text: str | bytes, schema: type[_T], where: str) -> _T:
    """A JSON text as its schema has it."""
    return check_record(parse_json(text, where), schema, where)


def _null(_: str) -> None:
    """What NaN and the infinities are read as."""


def _excess(tree: Any) -> str:
    """What no record holds: too many values, a text too long, or a number that 64 bits cannot; else nothing."""
    level, count = [tree], 0
    while level:
        count += len(level)
        if count > _MAX_VALUES:
            return f"more than {_MAX_VALUES:,} values"
        for node in level:
            if isinstance(node, str) and len(node) > _MAX_TEXT:
                return f"a text of {len(node):,} characters"
            if isinstance(node, int) and not -(2**63) <= node < 2**63:
                return "a whole number that does not fit 64 bits"
            if isinstance(node, dict) and any(len(key) > _MAX_TEXT for key in node):
                return "a name that is too long"
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return ""
