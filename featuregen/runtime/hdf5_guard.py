"""Checks of HDF5's local and global heaps, whose sizes and addresses the library itself trusts.

With false ones it would allocate gigabytes for a small file, or never end, so they are checked before it opens one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

_LOCAL_HEAP = b"HEAP\x00\x00\x00\x00"
_GLOBAL_HEAP = b"GCOL\x01\x00\x00\x00"
# Size of the data segment, head of the free list, address of the data segment.
_LOCAL_HEAP_HEADER = struct.Struct("<QQQ")
_COLLECTION_SIZE = struct.Struct("<Q")
# Index, reference count, reserved, size.
_HEAP_OBJECT = struct.Struct("<HHIQ")
# A variable-length value: its length, the address of the collection, the index of the object.
_VLEN_REFERENCE = struct.Struct("<IQI")
# An attribute message: version, flags, sizes of name, datatype and dataspace; in version 3 also the name's encoding.
_ATTRIBUTE_HEADERS = {1: struct.Struct("<BBHHH"), 2: struct.Struct("<BBHHH"), 3: struct.Struct("<BBHHHB")}
# Writers put the attributes of the root group before the data, and those that do not fit there behind it.
_HEAD, _TAIL = 1 << 20, 1 << 20
_MAX_COLLECTION = 1 << 24


def has_oversized_local_heap(path: Path) -> bool:
    """Whether a local heap near either end of the file claims more bytes than the file has."""
    file_size = path.stat().st_size
    for data in _ends(path):
        at = data.find(_LOCAL_HEAP)
        while at >= 0:
            if at + 8 + _LOCAL_HEAP_HEADER.size <= len(data):
                size, _, address = _LOCAL_HEAP_HEADER.unpack_from(data, at + 8)
                if size + address > file_size:
                    return True
            at = data.find(_LOCAL_HEAP, at + 1)
    return False


def first_bad_vlen_string(path: Path, counts: Mapping[str, int]) -> str | None:
    """The first attribute of the root group whose strings are not in a global heap where their references say.

    `counts` has the number of strings of each attribute.
    """
    ends = _ends(path)
    collections: dict[int, dict[int, int]] = {}
    with path.open("rb") as file:
        for name, count in counts.items():
            references = [reference for data in ends for reference in _references(data, name.encode(), count)]
            # Without references the attribute is stored in a way that this check does not read.
            if not references or not all(_exists(file, collections, *reference) for reference in references):
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
    """The references of every attribute with this name, of any group."""
    at = data.find(name + b"\0")
    while at >= 0:
        for version, header in _ATTRIBUTE_HEADERS.items():
            start = at - header.size
            if start < 0 or data[start] != version:
                continue
            _, _, *sizes = header.unpack_from(data, start)
            if sizes[0] != len(name) + 1:
                continue
            # Version 1 pads each part to a multiple of eight bytes.
            lengths = [-(-size // 8) * 8 if version == 1 else size for size in sizes[:3]]
            datatype, values = at + lengths[0], at + sum(lengths)
            # Datatype class 9 is variable-length.
            is_vlen = data[datatype : datatype + 1] and data[datatype] & 15 == 9
            if is_vlen and values + count * _VLEN_REFERENCE.size <= len(data):
                yield from _VLEN_REFERENCE.iter_unpack(data[values : values + count * _VLEN_REFERENCE.size])
        at = data.find(name + b"\0", at + 1)


def _exists(file: IO[bytes], collections: dict[int, dict[int, int]], length: int, address: int, index: int) -> bool:
    if length == 0:
        return True
    if address not in collections:
        collections[address] = _object_sizes(file, address)
    return collections[address].get(index, -1) >= length


def _object_sizes(file: IO[bytes], address: int) -> dict[int, int]:
    """Index and size of each object in a global heap collection; empty if they do not fill it exactly."""
    if address >= 2**63:
        return {}
    file.seek(address)
    header = file.read(16)
    if len(header) < 16 or not header.startswith(_GLOBAL_HEAP):
        return {}
    collection_size: int = _COLLECTION_SIZE.unpack_from(header, 8)[0]
    if not 16 <= collection_size <= _MAX_COLLECTION:
        return {}
    data, at, sizes = header + file.read(collection_size - 16), 16, dict[int, int]()
    while at + _HEAP_OBJECT.size <= collection_size <= len(data):
        index: int
        size: int
        index, _, _, size = _HEAP_OBJECT.unpack_from(data, at)
        if index == 0:
            # Object 0 is the free space.
            return sizes if at + size == collection_size else {}
        sizes[index] = size
        at += _HEAP_OBJECT.size + -(-size // 8) * 8
    return sizes if at <= collection_size <= len(data) else {}
