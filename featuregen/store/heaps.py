"""HDF5 loops for ever on a damaged table of texts, so these tables are looked at before it reads any."""

from __future__ import annotations

import struct
from pathlib import Path

_HEAP = b"GCOL\x01\x00\x00\x00"
_OBJECT = struct.Struct("<HHIQ")
_SIZE = struct.Struct("<Q")
# The writer puts the first table before the data and those that do not fit there behind it.
_HEAD, _TAIL = 1 << 16, 1 << 20


def damaged_heap(path: Path) -> bool:
    """Whether a global heap collection near either end of the file does not add up."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD + _TAIL)
        if _damaged(head[: min(len(head), _HEAD)], head):
            return True
        file.seek(max(0, size - _TAIL) // 8 * 8)
        tail = file.read()
    return _damaged(tail, tail)


def _damaged(searched: bytes, held: bytes) -> bool:
    start = searched.find(_HEAP)
    while start >= 0:
        if start % 8 == 0 and not _adds_up(held, start):
            return True
        start = searched.find(_HEAP, start + 1)
    return False


def _adds_up(data: bytes, start: int) -> bool:
    """Objects follow each other up to the end of the collection; number 0 is its free space."""
    if len(data) < start + 16:
        return False
    end: int = start + _SIZE.unpack_from(data, start + 8)[0]
    at = start + 16
    while at + _OBJECT.size <= end:
        if at + _OBJECT.size > len(data):
            # The rest lies outside the part of the file looked at, or outside the file: HDF5 notices that.
            return True
        number: int
        length: int
        number, _, _, length = _OBJECT.unpack_from(data, at)
        if number == 0:
            return at + length == end
        at += _OBJECT.size + -(-length // 8) * 8
    return at <= end
