"""Mutations that know nothing of a format, and those of trees such as JSON and YAML hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

INTERESTING = (
    0, 1, -1, 2, 4, 7, 8, 16, 32, 64, 100, 127, 128, 255, 256, 1023, 1024, 4096, 32767, 32768, 65535, 65536,
    2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
# What a tree may hold where something else was meant.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("inf"),
    float("nan"), "", "a", "\x1b[2J", "\n\n", "\ud800", "ü" * 50, "x" * 5000, "../decoy/decoy.h5", "../decoy/decoy.npz",
    "/etc/passwd", "cifar10", [], {}, [[]], [None] * 300, {"": ""}, {"a": {"a": {"a": 1}}}, [1, [2, [3]]], "nan",
    "1e999", "8/0", "true", "l2", "det", "attack", {"name": []}, {"norm": "l2", "eps": "x"},
)  # fmt: skip


def flip(data: bytes, random: Random) -> bytes:
    broken = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        broken[random.randrange(len(broken))] ^= 1 << random.randrange(8)
    return bytes(broken)


def overwrite(data: bytes, random: Random) -> bytes:
    broken = bytearray(data)
    for _ in range(random.choice((1, 1, 3))):
        broken[random.randrange(len(broken))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(broken)


def integer(data: bytes, random: Random) -> bytes:
    """An interesting number in some width and order over whatever stands there."""
    width, order = random.choice((1, 2, 4, 8)), random.choice(("<", ">"))
    number = struct.pack(order + "Q", random.choice(INTERESTING) & (2**64 - 1))
    number = number[:width] if order == "<" else number[-width:]
    at = random.randrange(max(1, len(data) - width + 1))
    if random.random() < 0.5:
        at -= at % width
    return data[:at] + number + data[at + width :]


def truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def _block(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data))
    return start, min(len(data), start + random.choice((1, 2, 4, 8, 16, 64, 512, 4096)))


def delete(data: bytes, random: Random) -> bytes:
    start, stop = _block(data, random)
    return data[:start] + data[stop:]


def repeat(data: bytes, random: Random) -> bytes:
    start, stop = _block(data, random)
    return data[:stop] + data[start:stop] * random.choice((1, 1, 2, 20)) + data[stop:]


def copy(data: bytes, random: Random) -> bytes:
    """One block over another, as long."""
    start, stop = _block(data, random)
    there = random.randrange(max(1, len(data) - (stop - start)))
    return data[:there] + data[start:stop] + data[there + stop - start :]


def blank(data: bytes, random: Random) -> bytes:
    start, stop = _block(data, random)
    return data[:start] + random.choice((b"\0", b"\xff")) * (stop - start) + data[stop:]


def noise(data: bytes, random: Random) -> bytes:
    start, stop = _block(data, random)
    return data[:start] + random.randbytes(stop - start) + data[stop:]


BYTES: tuple[Mutation, ...] = (flip, flip, overwrite, integer, integer, truncate, delete, repeat, copy, blank, noise)


# Trees ---------------------------------------------------------------------------------------------


def changed(tree: Any, random: Random) -> Any:
    """A copy of a tree with one or a few of its nodes replaced, removed, renamed or doubled."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random.choice((1, 1, 2, 4))):
        places = list(_places(tree))
        if not places:
            return deepcopy(random.choice(ODD))
        holder, key = random.choice(places)
        kind = random.random()
        if kind < 0.7:
            # A copy, or a later change inside it would change every other input, or make a node that holds itself.
            holder[key] = deepcopy(random.choice(ODD))
        elif kind < 0.8:
            del holder[key]
        elif kind < 0.9 and isinstance(holder, dict):
            holder[str(random.choice((key.upper(), "", "x", "name", "\x1b")))] = holder.pop(key)
        else:
            holder[key] = _nested(holder[key], random.choice((2, 40, 900)))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def _nested(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def changed_json(data: bytes, random: Random) -> bytes:
    text = json.dumps(changed(json.loads(data), random))
    if random.random() < 0.1:
        text = random.choice(("[" * 100_000, text + "}", text[:-1], "1" * 5000, text.replace(":", ":NaN", 1)))
    return text.encode("utf-8", "surrogatepass")


_YAML = (
    b"&a [*a, *a]", b"*a", b"&a", b"<<: *a", b"!!python/object/apply:os.system ['true']", b"!!python/name:os.system",
    b"!!binary aGk=", b"!!set {a, b}", b"!!timestamp 2026-13-45", b"2026-13-45", b"? [a]\n: b", b"{", b"}", b"[" * 3000,
    b"- " * 2000, b"|", b"---", b"...", b"%YAML 9.9", b"0o17", b"1_000", b"1:30:00", b".inf", b".nan", b"~",
    b"0x" + b"f" * 300,
    b"1e999", b"8/0", b"\xff\xfe", b"\xf0\x9f\x98\x80", b"\x00", b"\x1b[2J", b"\t", b"9" * 5000, b"''", b"\"\\x", b"#",
    b"a: &x [1]\nb: [*x, *x, *x]\n", b"!!float x", b"!!int ''", b"!!null", b"!!omap [a: 1]", b"0b", b"-",
    b"\xe2\x80\xa8",
    b"&b0 [l, o, l]\nc: &b1 [*b0, *b0, *b0, *b0, *b0, *b0]\nd: &b2 [*b1, *b1, *b1, *b1, *b1, *b1]\n"
    b"e: &b3 [*b2, *b2, *b2, *b2, *b2, *b2]\nf: &b4 [*b3, *b3, *b3, *b3, *b3, *b3]\n",
)  # fmt: skip


def yaml_words(data: bytes, random: Random) -> bytes:
    """A piece of YAML somebody else would write, in place of a word, a value or a line."""
    separators = random.choice((b" ", b"\n", b": ", b", "))
    parts = data.split(separators)
    parts[random.randrange(len(parts))] = random.choice(_YAML)
    return separators.join(parts)


def yaml_bomb(data: bytes, random: Random) -> bytes:
    """Aliases of aliases, or merges of merges: a few lines that stand for more than any memory holds."""
    merges, times = random.random() < 0.3, random.choice((5, 9))
    levels = [b"&b0 {lol: 1}" if merges else b"&b0 [lol, lol]"]
    for level in range(1, 12):
        below = b", ".join([b"*b%d" % (level - 1)] * times)
        levels.append(b"&b%d %s" % (level, b"{<<: [%s]}" % below if merges else b"[%s]" % below))
    lines = data.splitlines(keepends=True)
    at = random.randrange(len(lines))
    lines[at] = lines[at].partition(b":")[0] + b": [" + b", ".join(levels) + b"]\n"
    return b"".join(lines)


YAML: tuple[Mutation, ...] = (yaml_words, yaml_words, yaml_words, yaml_bomb)
