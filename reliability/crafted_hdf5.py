"""HDF5 files with a few bytes changed where the library follows them: nodes, heaps, counts, headers, bombs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

import h5py
import numpy as np

from reliability.crafted_case import ANY, NOT_FINE, Case, Place, case
from reliability.crafted_datasets import beside
from reliability.crafted_records import COMMANDS, words_of
from reliability.crafted_world import SOURCE, arrays

_NODE_HEAD, _WORD = 24, 8
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
    "end of file beyond": lambda data: _word(data, 40, 2**62),
    "end of file 0": lambda data: _word(data, 40, 0),
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
    yield from _sets()
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


# Base sets in HDF5 ---------------------------------------------------------------------------------

_SET_COMMANDS: dict[str, tuple[str, ...]] = {
    "verify": ("verify", "good.h5", "--data", "set.h5"), "preview": ("preview", "good.h5", "--data", "set.h5"),
    "make": ("make-dataset", "det", "--config", "tiny.yaml", "--data", "set.h5", "--out", "o.h5"),
    "evaluate": ("evaluate", "good.h5", "--data", "set.h5"), "info": ("info", "set.h5"),
    "train": ("train", "--config", "tiny.yaml", "--data", "set.h5", "--out", "t.safetensors"),
    "reproduce": ("reproduce", "--config", "tiny.yaml", "--data", "set.h5", "--dry-run"),
}  # fmt: skip


def _write_set(path: Path, **how: object) -> None:
    with h5py.File(path, "w", locking=False) as file:
        for name, values in arrays().items():
            file.create_dataset(name, data=values, **(how if values.ndim > 1 else {}))


def bomb(path: Path, gigabytes: int = 4) -> None:
    """One chunk of zeros for each array, which unpacks to gigabytes."""
    _write_set(path)
    rows = 60
    with h5py.File(path, "r+", locking=False) as file:
        for name in ("x_train", "x_test"):
            del file[name]
            side = int((gigabytes * 2**30 / rows / 3) ** 0.5)
            made = file.create_dataset(
                name, (rows, side, side, 3), np.uint8, chunks=(rows, side, side, 3), compression="gzip"
            )
            packer = zlib.compressobj(9)
            packed = b"".join(packer.compress(bytes(2**24)) for _ in range(gigabytes * 8)) + packer.flush()
            made.id.write_direct_chunk((0, 0, 0, 0), packed)


def _sets() -> Iterator[Case]:
    def write(patch: Patch | None, place: Place) -> None:
        beside(place)
        _write_set(place.work / "set.h5", chunks=(20, 8, 8, 3), compression="gzip")
        if patch:
            data = bytearray((place.work / "set.h5").read_bytes())
            patch(data)
            place.write("set.h5", bytes(data))

    for name in (
        "child is itself", "sibling is itself", "chunk child is itself", "chunk sibling is itself", "chunk leaf cycle",
        "leaf sibling cycle", "names heap at itself", "member is the root", "chunk size 4G", "cut in half",
        "end of file beyond",
    ):  # fmt: skip
        for command, words in _SET_COMMANDS.items():
            prepare = lambda place, patch=PATCHES[name]: write(patch, place)  # noqa: E731
            yield case(f"base sets/{name}/{command}", words, prepare)

    def prepare_bomb(place: Place) -> None:
        beside(place)
        bomb(place.work / "set.h5", 2)

    for command, words in _SET_COMMANDS.items():
        yield case(f"base sets/gzip bomb/{command}", words, prepare_bomb, NOT_FINE if command != "reproduce" else ANY)
    for name, edit in _SET_EDITS.items():

        def prepare_edit(place: Place, edit: Callable[[h5py.File], object] = edit) -> None:
            write(None, place)
            with h5py.File(place.work / "set.h5", "r+", locking=False) as file:
                edit(file)

        for command, words in _SET_COMMANDS.items():
            yield case(f"base sets/{name}/{command}", words, prepare_edit)


def _other(name: str, values: object) -> Callable[[h5py.File], object]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return edit


_SET_EDITS: dict[str, Callable[[h5py.File], object]] = {
    "labels are text": _other("y_train", np.array([b"a"] * 60)),
    "labels are negative": _other("y_train", np.full(60, -1)),
    "labels of 2^62": _other("y_train", np.full(60, 2**62)),
    "labels are NaN": _other("y_train", np.full(60, np.nan)),
    "pixels are NaN": _other("x_train", np.full((60, 8, 8, 3), np.nan)),
    "no pictures": _other("x_train", np.zeros((0, 8, 8, 3), np.uint8)),
    "no test": lambda file: file.__delitem__("x_test"),
    "a group": lambda file: [file.__delitem__("x_train"), file.create_group("x_train")],
    "an outside link": _other("x_train", h5py.ExternalLink("good.h5", "images")),
    "a device link": _other("x_train", h5py.ExternalLink("fifo.h5", "images")),
    "five channels": _other("x_train", np.zeros((60, 8, 8, 5), np.uint8)),
    "one pixel": lambda file: [_other(f"x_{part}", np.zeros((60, 1, 1, 3), np.uint8))(file) for part in ("train",
            "test")],
}  # fmt: skip
