"""What HDF5 believes without looking: how long a text is and where, and how large its tables of names and texts are.

It would set aside gigabytes for a few bytes, or loop for ever, so these are looked at before it reads any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

_NAMES = b"HEAP\x00\x00\x00\x00"
_TEXTS = b"GCOL\x01\x00\x00\x00"
_OBJECT = struct.Struct("<HHIQ")
_SIZE = struct.Struct("<Q")
_PLACE = struct.Struct("<QQQ")
_REFERENCE = struct.Struct("<IQI")
# An attribute as stored: version, flags, sizes of name, type and shape; in version 3 also how the name is written.
_HEADS = {1: struct.Struct("<BBHHH"), 2: struct.Struct("<BBHHH"), 3: struct.Struct("<BBHHHB")}
# Writers put the root's attributes before the data, and those that do not fit there behind it.
_HEAD, _TAIL = 1 << 20, 1 << 20
_LARGEST_TABLE = 1 << 24


def has_oversized_local_heap(path: Path) -> bool:
    """Whether a table of names near either end of the file claims more than the file holds."""
    size = path.stat().st_size
    for data in _ends(path):
        at = data.find(_NAMES)
        while at >= 0:
            if at + 8 + _PLACE.size <= len(data):
                length, _, place = _PLACE.unpack_from(data, at + 8)
                if length + place > size:
                    return True
            at = data.find(_NAMES, at + 1)
    return False


def first_bad_vlen_string(path: Path, counts: Mapping[str, int]) -> str | None:
    """The first of the root's attributes, given with how many texts each has, that are not where the file says."""
    ends = _ends(path)
    tables: dict[int, dict[int, int]] = {}
    with path.open("rb") as file:
        for name, count in counts.items():
            found = [reference for data in ends for reference in _references(data, name.encode(), count)]
            # Where none is found, it is stored in a way that cannot be looked at.
            if not found or not all(_is_there(file, tables, *reference) for reference in found):
                return name
    return None


def _ends(path: Path) -> list[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD + _TAIL)
        if size <= len(head):
            return [head]
        file.seek(max(_HEAD, size - _TAIL))
        return [head[:_HEAD], file.read()]


def _references(data: bytes, name: bytes, count: int) -> Iterator[tuple[int, int, int]]:
    """Length, table and number of the texts of every attribute of this name, wherever it belongs."""
    at = data.find(name + b"\0")
    while at >= 0:
        for version, head in _HEADS.items():
            start = at - head.size
            if start < 0 or data[start] != version:
                continue
            _, _, *sizes = head.unpack_from(data, start)
            if sizes[0] != len(name) + 1:
                continue
            lengths = [-(-size // 8) * 8 if version == 1 else size for size in sizes[:3]]
            kind, values = at + lengths[0], at + sum(lengths)
            # Class 9 is a sequence of any length, and its kind 1 a text.
            if data[kind : kind + 1] and data[kind] & 15 == 9 and values + count * _REFERENCE.size <= len(data):
                yield from _REFERENCE.iter_unpack(data[values : values + count * _REFERENCE.size])
        at = data.find(name + b"\0", at + 1)


def _is_there(file: IO[bytes], tables: dict[int, dict[int, int]], length: int, place: int, number: int) -> bool:
    if length == 0:
        return True
    if place not in tables:
        tables[place] = _table(file, place)
    return tables[place].get(number, -1) >= length


def _table(file: IO[bytes], place: int) -> dict[int, int]:
    """The lengths of its objects by number; nothing where they do not follow each other up to its end."""
    if place >= 2**63:
        return {}
    file.seek(place)
    head = file.read(16)
    if len(head) < 16 or not head.startswith(_TEXTS):
        return {}
    size: int = _SIZE.unpack_from(head, 8)[0]
    if not 16 <= size <= _LARGEST_TABLE:
        return {}
    data, at, lengths = head + file.read(size - 16), 16, dict[int, int]()
    while at + _OBJECT.size <= size <= len(data):
        number: int
        length: int
        number, _, _, length = _OBJECT.unpack_from(data, at)
        if number == 0:
            # Its free space.
            return lengths if at + length == size else {}
        lengths[number] = length
        at += _OBJECT.size + -(-length // 8) * 8
    return lengths if at <= size <= len(data) else {}
