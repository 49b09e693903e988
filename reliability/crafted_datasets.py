"""Copies of valid datasets with one edit, and digests that agree with it, as docs/format.md says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reliability.crafted_case import Place
from reliability.crafted_world import SOURCE

_CONTENT = frozenset({
    "base", "citation", "classes", "format", "format_version", "kind", "recipe", "source_model", "success_rate",
    "value_range",
})  # fmt: skip
COLUMNS = (
    "images", "index", "labels", "norm", "objective", "source_labels", "source_pred", "start_index",
)  # fmt: skip
Edit = Callable[[h5py.File], object]


def edited(place: Place, world_name: str, edit: Edit, name: str = "a.h5") -> Path:
    """A copy of a dataset with an edit and digests that agree with it."""
    path = place.give(world_name, name)
    with h5py.File(path, "r+", locking=False) as file:
        known = edit(file)
        seal(file, known if isinstance(known, dict) else None)
    return path


def seal(file: h5py.File, known: Mapping[str, str] | None = None) -> None:
    """Recompute both digests, as docs/format.md says, as far as the file allows it.

    `known` are texts of attributes that need not be read: HDF5 takes minutes to look up thousands of names.
    """
    known = known or {}
    try:
        put(file, "content_sha256", _digest(file, _CONTENT, True, known))
        others = set(file.attrs) - {*_CONTENT, "record_sha256"}
        put(file, "record_sha256", _digest(file, others, False, known))
    # A file without a column or attribute has no digests that could agree.
    except (KeyError, TypeError, ValueError, UnicodeError, OSError):
        return


def _digest(file: h5py.File, names: Any, columns: bool, known: Mapping[str, str]) -> str:
    digest = sha256()
    for name in COLUMNS if columns else ():
        values = file[name][()]
        digest.update(_line(name, values.dtype.str, values.shape) + values.tobytes())
    for name in sorted(names):
        value = known[name] if name in known else file.attrs[name]
        if isinstance(value, str):
            kind, data = "text", value.encode("utf-8", "surrogateescape")
        else:
            array = np.asarray(value)
            array = array.astype(array.dtype.newbyteorder("<"))
            kind, data = f"{array.dtype.str}{list(array.shape)}", array.tobytes()
        digest.update(_line(name, kind, len(data)) + data)
    return digest.hexdigest()


def _line(*words: Any) -> bytes:
    return json.dumps(words, separators=(",", ":")).encode() + b"\n"


def put(file: h5py.File, name: str, value: Any) -> None:
    """An attribute with another value or type, or none."""
    if name in file.attrs:
        del file.attrs[name]
    if value is None:
        return
    if isinstance(value, str):
        try:
            file.attrs.create(name, value, dtype=h5py.string_dtype())
        # A null character ends a text of HDF5.
        except ValueError:
            file.attrs.create(name, value.replace("\0", ""), dtype=h5py.string_dtype())
    else:
        file.attrs[name] = value


def set_text(name: str, text: str) -> Edit:
    return lambda file: put(file, name, text)


def set_column(name: str, values: Any, **how: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[name]
        array = np.asarray(values)
        chunks = (max(1, array.shape[0]), *array.shape[1:]) if array.ndim else None
        # Of no rows, only a column that may grow can be stored in chunks.
        empty = {"maxshape": (None,) * array.ndim} if array.ndim and not array.size else {}
        if chunks:
            chunks = tuple(max(1, length) for length in chunks)
        file.create_dataset(name, data=array, **({"chunks": chunks, "fletcher32": bool(array.ndim)} | empty | how))

    return edit


def set_rows(name: str, rows: Any, value: Any) -> Edit:
    return lambda file: file[name].__setitem__(rows, value)


def beside(place: Place) -> None:
    """What the person has besides the file that was sent."""
    place.give("det.h5", "good.h5")
    place.give(SOURCE)
    place.give("shard-2.h5")
    place.give("tiny.yaml")
    place.fifo("fifo.h5")
