"""Ways to break one rule of a JSON record: everything else in it stays valid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

Path = tuple[str | int, ...]
_MARK = "@@broken@@"
# Sets a terminal's title, and clears its screen.
ESCAPES = "\x1b]0;pwned\x07\x1b[2J"
_BIDIRECTIONAL = "\u202egnp.\u2066x\u2069"

# Names of breaks, with the JSON that stands where a valid value was. A few are beyond JSON, as other writers make them.
BREAKS: dict[str, str] = {
    "none": "null", "true": "true", "false": "false", "text": '"x"', "empty-text": '""', "list": "[]", "dict": "{}",
    "list-of-lists": "[1, [2, [3]]]", "list-of-none": "[null]", "dict-of-dict": '{"a": {"a": 1}}', "zero": "0",
    "one": "1", "half": "0.5", "minus-one": "-1", "minus-5e9": "-5000000000", "1e12": "1000000000000",
    "2-to-31": "2147483648", "2-to-63": "9223372036854775808", "huge-int": "9" * 400, "huge-int-5000": "9" * 5000,
    "negative-huge-int": "-" + "9" * 400, "nan": "NaN", "inf": "Infinity", "minus-inf": "-Infinity", "1e999": "1e999",
    "1e308": "1e308", "1e-320": "1e-320", "minus-zero": "-0.0", "number-as-text": '"5"', "ratio-as-text": '"8/0"',
    "huge-int-as-text": '"' + "9" * 5000 + '"', "nan-as-text": '"nan"', "deep": "[" * 60 + "]" * 60,
    "deep-dict": '{"a":' * 60 + "1" + "}" * 60, "deeper": "[" * 100_000 + "]" * 100_000, "esc": json.dumps(ESCAPES),
    "lines": json.dumps("a\nerror: forged\r\n  ok"), "bidi": json.dumps(_BIDIRECTIONAL), "surrogate": '"\\ud800x"',
    "nul": '"a\\u0000b"', "c1": json.dumps("\x9b2J\x85"), "separators": json.dumps("a\u2028b\u2029c"),
    "1MB": '"' + "A" * 1_000_000 + '"', "long-word": '"' + "w" * 3000 + '"', "long": json.dumps([1] * 100_000),
    "long-texts": json.dumps([f"{number}_x" for number in range(100_000)]),
    "long-dict": json.dumps({str(number): number for number in range(100_000)}), "tilde": '"~nosuch/x"',
    "tilde2": '"~nosuch"', "passwd": '"/etc/passwd"', "fifo": '"fifo.h5"', "folder": '"."', "parent": '"../../x"',
    "device": '"/dev/zero"', "markup": json.dumps("<script>alert(1)</script> | [x](javascript:y) `z`\n---\n# q"),
    "format": '"{0.__class__} %s %n ${HOME}"', "cut": '{"a": ', "trailing": "1} {",
}  # fmt: skip
# Ways that are not another value.
OTHER_BREAKS = ("gone", "renamed", "key-esc", "key-long", "twice", "more")
ALL_BREAKS = (*BREAKS, *OTHER_BREAKS)


def places(record: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every field and entry of a record, itself first."""
    yield path
    fields: Sequence[str | int] = ()
    if isinstance(record, dict):
        fields = list(record)
    elif isinstance(record, list):
        fields = range(min(len(record), 2))
    for name in fields:
        yield from places(record[name], (*path, name))


def dotted(path: Path) -> str:
    """The path as it is written in names of cases."""
    return ".".join(map(str, path)) or "all"


def broken(record: Any, path: Path, name: str) -> str:
    """The JSON text of the record with one rule broken; an unknown path is added."""
    if not path:
        return BREAKS.get(name, "")
    tree = json.loads(json.dumps(record))
    holder: Any = tree
    key = path[-1]
    for part in path[:-1]:
        if isinstance(holder, dict):
            holder.setdefault(part, {})
        holder = holder[part]
    if name in BREAKS:
        holder[key] = _MARK
        return json.dumps(tree).replace(json.dumps(_MARK), BREAKS[name])
    if not isinstance(holder, dict):
        # An entry of a list has no name that could be wrong.
        del holder[key]
        return json.dumps(tree)
    old = holder.pop(key)
    if name == "more":
        holder |= {str(key): old, "unknown": {"a": [1]}}
    elif name == "twice":
        # Two fields of one name, the second with another value.
        holder |= {str(key): old, _MARK: None}
        return json.dumps(tree).replace(f"{json.dumps(_MARK)}: null", f"{json.dumps(str(key))}: [3]")
    elif name != "gone":
        odd = {"renamed": str(key).upper(), "key-esc": ESCAPES + _BIDIRECTIONAL, "key-long": "k" * 50_000}[name]
        holder[odd] = old
    return json.dumps(tree)


def drawn_break(record: Any, random: Random) -> tuple[str, str]:
    """A name and the text of a record broken in a random way at a random place."""
    path, name = random.choice(list(places(record))), random.choice(ALL_BREAKS)
    return f"{dotted(path)}-{name}", broken(record, path, name)
