"""HDF5 files with a few bytes changed where the library follows them: nodes, heaps, counts, headers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

from reliability.crafted_case import Case, Place, case
from reliability.crafted_datasets import beside
from reliability.crafted_records import COMMANDS, words_of
from reliability.crafted_world import SOURCE

_NODE_HEAD, _WORD = 24, 8
# Bytes of a node of a group: 32 children at most, and a key around each. Where the superblock has the file's length.
_GROUP_NODE, _END_OF_FILE = _NODE_HEAD + (32 + 33) * _WORD, 40
_UNDEFINED = 2**64 - 1
Patch = Callable[[bytearray], None]


def find(data: bytes | bytearray, signature: bytes) -> list[int]:
    """Where the signature of a structure stands."""
    found, at = [], data.find(signature)
    while at >= 0:
        found.append(at)
        at = data.find(signature, at + 1)
    return found


def _nodes(data: bytes, kind: int) -> list[int]:
    """Nodes of the B-trees of groups (0) or chunks (1)."""
    return [at for at in find(data, b"TREE") if data[at + 4] == kind]


def _word(data: bytearray, at: int, value: int) -> None:
    data[at : at + _WORD] = struct.pack("<Q", value % 2**64)


def _every(places: Callable[[bytes], list[int]], change: Callable[[bytearray, int], object]) -> Patch:
    """Changes all structures of a kind, of which there is at least one."""

    def patch(data: bytearray) -> None:
        found = places(bytes(data))
        if not found:
            raise ValueError("the file has no such structure")
        for at in found:
            change(data, at)

    return patch


def _in_group_tree(change: Callable[[bytearray, int], object]) -> Patch:
    return _every(lambda data: _nodes(data, 0), change)


def _in_chunk_trees(change: Callable[[bytearray, int], object]) -> Patch:
    return _every(lambda data: _nodes(data, 1), change)


def _child_itself(data: bytearray, at: int) -> None:
    data[at + 5] = 1
    _word(data, at + _NODE_HEAD + _WORD, at)


def _chunk_child_itself(data: bytearray, at: int) -> None:
    """The key before a child holds a size, a mask and an offset per dimension, and one for the element."""
    data[at + 5] = 1
    dimensions = 4 if data[at + _NODE_HEAD + 8 + 8 : at + _NODE_HEAD + 8 + 40].count(0) > 30 else 1
    for width in (8 + 8 * (dimensions + 1), 8 + 8 * 2):
        place = at + _NODE_HEAD + width
        if 0 < struct.unpack_from("<Q", data, place)[0] < len(data):
            _word(data, place, at)
            return


def _sibling(offset: int) -> Callable[[bytearray, int], None]:
    return lambda data, at: _word(data, at + offset, at)


def _second_child_itself(data: bytearray) -> None:
    """Every name is found through the first child, and whoever lists all names comes to the second."""
    at, end = _nodes(bytes(data), 0)[0], len(data)
    leaf = bytes(data[at : at + _GROUP_NODE])
    last = leaf[_NODE_HEAD + 2 * _WORD : _NODE_HEAD + 3 * _WORD]
    data += leaf
    data[at + 5 : at + 8] = struct.pack("<BH", 1, 2)
    children = struct.pack("<Q", end), last, struct.pack("<Q", at), last
    data[at + _NODE_HEAD + _WORD : at + _NODE_HEAD + 5 * _WORD] = b"".join(children)
    _word(data, _END_OF_FILE, len(data))


def _leaves_in_a_circle(data: bytearray) -> None:
    """Two leaves of chunks, of columns that are alike: each is the right sibling of the other."""
    one, other = _nodes(bytes(data), 1)[-2:]
    _word(data, one + 16, other)
    _word(data, other + 16, one)


def _leaf_cycle(data: bytearray, at: int) -> None:
    """A node with more levels than there are, whose children and right sibling are itself."""
    data[at + 5] = 3
    _word(data, at + 16, at)
    _word(data, at + _NODE_HEAD + _WORD, at)


def _set_byte(signature: bytes, offset: int, value: int, which: int = 0) -> Patch:
    return lambda data: data.__setitem__(find(data, signature)[which] + offset, value)


def _set_word(signature: bytes, offset: int, value: int, which: int = 0) -> Patch:
    return lambda data: _word(data, find(data, signature)[which] + offset, value)


def _itself(signature: bytes, offset: int) -> Patch:
    return lambda data: _word(data, (at := find(data, signature)[0]) + offset, at)


def _each_word(signature: bytes, offset: int, value: int) -> Patch:
    return _every(lambda data: find(data, signature), lambda data, at: _word(data, at + offset, value))


def _symbol_header(which: int, value: int) -> Patch:
    """The address of a member's header, in the node of the group's names."""
    return lambda data: _word(data, find(data, b"SNOD")[0] + 8 + 40 * which + 8, value)


def _root_header(data: bytes | bytearray) -> int:
    """The address of the root's header, from the superblock of version 0."""
    return int(struct.unpack_from("<Q", data, 24 + 32 + 8)[0])


def _continuation(value: int | None) -> Patch:
    """The first continuation of the root's header leads elsewhere, or to the header itself."""

    def patch(data: bytearray) -> None:
        at = _root_header(data)
        message, end = at + 16, at + 16 + struct.unpack_from("<I", data, at + 8)[0]
        while message < end:
            kind, size = struct.unpack_from("<HH", data, message)
            if kind == 0x10:
                _word(data, message + 8, at if value is None else value)
                if value is None:
                    _word(data, message + 16, end - at)
                return
            message += 8 + size
        raise ValueError("the root has no continuation")

    return patch


def _header_count(data: bytearray) -> None:
    struct.pack_into("<H", data, _root_header(data) + 2, 65535)


def _header_size(data: bytearray) -> None:
    struct.pack_into("<I", data, _root_header(data) + 8, 2**31)


# Names as in the review where it has them.
PATCHES: dict[str, Patch] = {
    "child is itself": _in_group_tree(_child_itself),
    "child is itself, names are found": _second_child_itself,
    "right sibling itself": _in_group_tree(_sibling(16)),
    "left sibling itself": _in_group_tree(_sibling(8)),
    "sibling is itself": _in_group_tree(lambda data, at: [_sibling(16)(data, at), _sibling(8)(data, at)]),
    "leaf sibling cycle": _in_group_tree(_leaf_cycle),
    "level 255": _in_group_tree(lambda data, at: data.__setitem__(at + 5, 255)),
    "entries 65535": _in_group_tree(lambda data, at: struct.pack_into("<H", data, at + 6, 65535)),
    "child beyond": _in_group_tree(lambda data, at: _word(data, at + 32, 2**40)),
    "child undefined": _in_group_tree(lambda data, at: _word(data, at + 32, _UNDEFINED)),
    "chunk child is itself": _in_chunk_trees(_chunk_child_itself),
    "chunk sibling is itself": _in_chunk_trees(_sibling(16)),
    "chunk leaves in a circle": _leaves_in_a_circle,
    "chunk leaf cycle": _in_chunk_trees(_leaf_cycle),
    "chunk level 255": _in_chunk_trees(lambda data, at: data.__setitem__(at + 5, 255)),
    "chunk entries 65535": _in_chunk_trees(lambda data, at: struct.pack_into("<H", data, at + 6, 65535)),
    "chunk size 4G": _in_chunk_trees(lambda data, at: struct.pack_into("<I", data, at + 24, 2**32 - 1)),
    "names 65535": lambda data: struct.pack_into("<H", data, find(data, b"SNOD")[0] + 6, 65535),
    "member is the root": lambda data: _symbol_header(0, _root_header(data))(data),
    "member beyond": _symbol_header(1, 2**50),
    "member at the node": lambda data: _symbol_header(2, find(data, b"SNOD")[0])(data),
    "names heap of 2^40": _set_word(b"HEAP", 8, 2**40),
    "names heap at itself": _itself(b"HEAP", 24),
    "names heap free list": _set_word(b"HEAP", 16, 0),
    "text heap of 2^40": _each_word(b"GCOL", 8, 2**40),
    "text heap of 0": _each_word(b"GCOL", 8, 0),
    "text heap object of 0": _each_word(b"GCOL", 24, 0),
    "text heap object of 2^60": _each_word(b"GCOL", 24, 2**60),
    "header continues itself": _continuation(None),
    "header continues beyond": _continuation(2**45),
    "header of 65535 messages": _header_count,
    "header of 2 GB": _header_size,
    "end of file beyond": lambda data: _word(data, _END_OF_FILE, 2**62),
    "end of file 0": lambda data: _word(data, _END_OF_FILE, 0),
    "base address 8": lambda data: _word(data, 24, 8),
    "cut in half": lambda data: data.__delitem__(slice(len(data) // 2, None)),
    "cut at the end": lambda data: data.__delitem__(slice(-100, None)),
    "only the signature": lambda data: data.__delitem__(slice(8, None)),
}


def patched(place: Place, patch: Patch, world_name: str = "det.h5", name: str = "a.h5") -> Path:
    data = bytearray((place.world / world_name).read_bytes())
    patch(data)
    return place.write(name, bytes(data))


def by_hand() -> Iterator[Case]:
    for name, patch in PATCHES.items():

        def prepare(place: Place, patch: Patch = patch) -> None:
            beside(place)
            patched(place, patch)

        for command in COMMANDS:
            yield case(f"hdf5/{name}/{command}", words_of(command), prepare)
    for command, path in (("info", SOURCE), ("verify", "tiny.yaml"), ("info", "tiny.yaml"), ("verify", SOURCE)):
        yield case(f"hdf5/of another kind/{command} {path}", (command, path), beside)


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


def drawn(random: Random, world: Path) -> Case:
    """A word near one of the structures replaced by an address in the file, or by a large number."""
    data = _content(world / "det.h5")
    signature = random.choice((b"TREE", b"TREE", b"SNOD", b"HEAP", b"GCOL"))
    places = find(data, signature)
    at = random.choice(places) + random.choice(range(4, 72, random.choice((1, 2, 8))))
    value = random.choice((random.choice(places), at, 0, 1, 2**16 - 1, 2**31, 2**40, _UNDEFINED))
    width = random.choice((1, 2, 8, 8))
    command = random.choice(list(COMMANDS))

    def patch(data: bytearray) -> None:
        data[at : at + width] = struct.pack("<Q", value)[:width]

    def prepare(place: Place) -> None:
        beside(place)
        patched(place, patch)

    return case(f"hdf5/~{signature.decode()}-{at}-{value}-{width}/{command}", words_of(command), prepare)
