"""Base sets in HDF5 that somebody else made: nodes that lead astray, chunks that unpack to gigabytes, odd arrays."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from reliability.crafted_case import ANY, NOT_FINE, Case, Place, case
from reliability.crafted_datasets import beside
from reliability.crafted_hdf5 import PATCHES, Patch
from reliability.crafted_world import arrays

_COMMANDS: dict[str, tuple[str, ...]] = {
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


def _bomb(path: Path, gigabytes: int, honest: bool) -> None:
    """One chunk of zeros for each array, which unpacks to gigabytes; `honest` where its shape says so."""
    _write_set(path)
    rows = 60
    with h5py.File(path, "r+", locking=False) as file:
        for name in ("x_train", "x_test"):
            del file[name]
            side = int((gigabytes * 2**30 / rows / 3) ** 0.5) if honest else 8
            made = file.create_dataset(
                name, (rows, side, side, 3), np.uint8, chunks=(rows, side, side, 3), compression="gzip"
            )
            made.id.write_direct_chunk((0, 0, 0, 0), _packed_zeros(gigabytes))


@cache
def _packed_zeros(gigabytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**24)) for _ in range(gigabytes * 64)) + packer.flush()


def by_hand() -> Iterator[Case]:
    def write(patch: Patch | None, place: Place) -> None:
        beside(place)
        _write_set(place.work / "set.h5", chunks=(20, 8, 8, 3), compression="gzip")
        if patch:
            data = bytearray((place.work / "set.h5").read_bytes())
            patch(data)
            place.write("set.h5", bytes(data))

    for name in (
        "child is itself", "sibling is itself", "chunk child is itself", "chunk sibling is itself",
        "chunk leaf cycle", "chunk leaves in a circle",
        "leaf sibling cycle", "names heap at itself", "member is the root", "chunk size 4G", "cut in half",
        "end of file beyond",
    ):  # fmt: skip
        for command, words in _COMMANDS.items():
            prepare = lambda place, patch=PATCHES[name]: write(patch, place)  # noqa: E731
            yield case(f"base sets/{name}/{command}", words, prepare)

    for name, honest in (("gzip bomb", False), ("gzip bomb of large images", True)):

        def prepare_bomb(place: Place, honest: bool = honest) -> None:
            beside(place)
            _bomb(place.work / "set.h5", 2, honest)

        for command, words in _COMMANDS.items():
            yield case(f"base sets/{name}/{command}", words, prepare_bomb, NOT_FINE if command != "reproduce" else ANY)
    for name, edit in _SET_EDITS.items():

        def prepare_edit(place: Place, edit: Callable[[h5py.File], object] = edit) -> None:
            write(None, place)
            with h5py.File(place.work / "set.h5", "r+", locking=False) as file:
                edit(file)

        for command, words in _COMMANDS.items():
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
