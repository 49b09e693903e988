"""HDF5 files with a few bytes changed, so that the library crashes, loops for ever or asks for gigabytes.

Each function changes a file in place; the offsets are those of the file format specification, version 3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# What a node of a B-tree of version 1 is for.
GROUP, CHUNKS = 0, 1
_NODE = struct.Struct("<4sBBHQQ")
Change = Callable[[Path], None]


def _nodes(data: bytes, kind: int) -> list[int]:
    """The addresses of the nodes with entries."""
    found, at = [], data.find(b"TREE")
    while at >= 0:
        _, type_, level, entries, _, _ = _NODE.unpack_from(data, at)
        if type_ == kind and level < 8 and 0 < entries < 1000:
            found.append(at)
        at = data.find(b"TREE", at + 1)
    return found


def _first_child(data: bytes, node: int) -> int:
    """Where the address of a node's first child is: behind a key, whose size depends on what the node is for."""
    if data[node + 4] == GROUP:
        return node + 24 + 8
    # The offset of a chunk has a number for each axis and one for the element; the key begins with its size and mask.
    axes = next(axes for axes in range(1, 7) if struct.unpack_from("<Q", data, node + 24 + 8 + 8 * axes)[0] in (0, 1))
    while struct.unpack_from("<Q", data, node + 24 + 8 + 8 * axes)[0] == 0:
        axes += 1
    return node + 24 + 8 + 8 * axes


def _patch(path: Path, *changes: tuple[int, bytes]) -> None:
    data = bytearray(path.read_bytes())
    for at, new in changes:
        data[at : at + len(new)] = new
    path.write_bytes(data)


def _address(value: int) -> bytes:
    return struct.pack("<Q", value)


def child_is_itself(kind: int) -> Change:
    def change(path: Path) -> None:
        data = path.read_bytes()
        node = _nodes(data, kind)[0]
        _patch(path, (node + 5, b"\x01"), (_first_child(data, node), _address(node)))

    return change


def child_is_root(kind: int) -> Change:
    """A leaf that claims to be an inner node whose child is the first node."""

    def change(path: Path) -> None:
        data = path.read_bytes()
        first, last = _nodes(data, kind)[0], _nodes(data, kind)[-1]
        _patch(path, (last + 5, b"\x01"), (_first_child(data, last), _address(first)))

    return change


def sibling_is_itself(kind: int, side: str) -> Change:
    def change(path: Path) -> None:
        node = _nodes(path.read_bytes(), kind)[0]
        _patch(path, (node + (16 if side == "right" else 8), _address(node)))

    return change


def leaves_in_a_circle(kind: int) -> Change:
    def change(path: Path) -> None:
        data = path.read_bytes()
        leaves = [node for node in _nodes(data, kind) if data[node + 5] == 0]
        one, other = leaves[0], leaves[-1]
        _patch(path, (one + 16, _address(other)), (other + 16, _address(one)), (other + 8, _address(one)))

    return change


def key_outside_the_heap(path: Path) -> None:
    """The key of a group's node is the place of a name in the heap."""
    node = _nodes(path.read_bytes(), GROUP)[0]
    _patch(path, (node + 24, _address(2**50)), (node + 24 + 16, _address(2**50)))


def name_outside_the_heap(path: Path) -> None:
    at = path.read_bytes().index(b"SNOD")
    _patch(path, (at + 8, _address(2**50)))


def heap_larger_than_the_file(size: int) -> Change:
    def change(path: Path) -> None:
        _patch(path, (path.read_bytes().index(b"HEAP\0\0\0\0") + 8, _address(size)))

    return change


def _reference(data: bytes, name: str) -> int:
    """Where the length, the address and the index of a text attribute's value are."""
    at = next(at for at in range(len(data)) if data.startswith(name.encode() + b"\0", at) and data[at - 8] == 1)
    return data.index(b"\x19\x01", at) + 32


def text_of_gigabytes(size: int) -> Change:
    def change(path: Path) -> None:
        _patch(path, (_reference(path.read_bytes(), "recipe"), struct.pack("<I", size)))

    return change


def text_elsewhere(path: Path) -> None:
    _patch(path, (_reference(path.read_bytes(), "recipe") + 4, _address(0x49502E)))


def collection_of_gigabytes(path: Path) -> None:
    _patch(path, (path.read_bytes().index(b"GCOL\x01") + 8, _address(2**32)))


def many_attributes(path: Path) -> None:
    with h5py.File(path, "r+", libver="latest") as root:
        for number in range(1001):
            root.attrs[f"a{number}"] = 0


def dense_attributes_in_a_circle(path: Path) -> None:
    """Many attributes are in a fractal heap with a B-tree of version 2 for the names."""
    with h5py.File(path, "w", libver="latest") as root:
        for number in range(800):
            root.attrs[f"number {number}"] = "x" * 50
    data = bytearray(path.read_bytes())
    at = data.index(b"BTIN")
    # The children of an inner node: address, records, records below. Its checksum is made to agree.
    size = 512
    records = struct.unpack_from("<B", data, at + 5)
    assert records
    leaf = data.index(b"BTLF")
    address, own = _address(leaf), _address(at)
    first = bytes(data[at : at + size]).find(address)
    if first < 0:
        address = _address(data.index(b"BTLF", leaf + 1))
        first = bytes(data[at : at + size]).find(address)
    data[at + first : at + first + 8] = own
    path.write_bytes(data)


def packed(path: Path, name: str, content: bytes, **how: Any) -> None:
    """The array with one chunk, for which these bytes are stored."""
    with h5py.File(path, "r+") as root:
        old = root[name][:]
        del root[name]
        new = root.create_dataset(name, old.shape, old.dtype, chunks=old.shape, **how)
        new.id.write_direct_chunk((0,) * old.ndim, content)


@cache
def _zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


def unpacks_to(name: str, size: int, **how: Any) -> Change:
    def change(path: Path) -> None:
        content = _zeros(size)
        packed(path, name, content + bytes(4) * how.get("fletcher32", False), compression="gzip", **how)

    return change


def chunk_shorter_than_the_others(name: str) -> Change:
    return lambda path: packed(path, name, bytes(5), fletcher32=True)


def chunks_of_a_row(path: Path, name: str) -> None:
    """Trees of several nodes need more chunks than a small file has."""
    with h5py.File(path, "r+") as root:
        values = np.resize(root[name][:], (200, *root[name].shape[1:]))
        checks = root[name].fletcher32
        del root[name]
        root.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), fletcher32=checks)
