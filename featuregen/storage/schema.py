"""What a file of version 1 holds: columns, attributes, the rules for their values, and the two digests."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featuregen.config import canonical_json
from featuregen.errors import UserError

FORMAT = "featuregen"
FORMAT_VERSION = 1
Array = NDArray[Any]
Attribute = str | int | float | Array

# `images` has the dtype of its header; every other column has one number per row.
COLUMNS: dict[str, str] = {
    "images": "",
    "index": "<i8",
    "labels": "<i8",
    "norm": "<f4",
    "objective": "<f4",
    "source_labels": "<i8",
    "source_pred": "<i8",
    "start_index": "<i8",
}
IMAGE_DTYPES = {"uint8": "|u1", "float16": "<f2", "float32": "<f4"}

# What the pictures are and how they were made: covered by content_sha256. Time, host and software are not.
CONTENT_ATTRIBUTES = (
    "format", "format_version", "kind", "value_range", "classes", "recipe", "base", "source_model", "success_rate",
    "citation",
)  # fmt: skip
# Covered by record_sha256, together with any attribute this version does not know.
RECORD_ATTRIBUTES = ("software", "config", "created", "content_sha256")
ATTRIBUTES = (*CONTENT_ATTRIBUTES, *RECORD_ATTRIBUTES, "record_sha256")

PAPER = (
    "Ilyas, Santurkar, Tsipras, Engstrom, Tran, Madry: Adversarial Examples Are Not Bugs, They Are Features. "
    "NeurIPS 2019, arXiv:1905.02175."
)

SOURCE = "source model's weights"
CHUNK_BYTES = 256 * 1024
BLOCK_BYTES = 16 * 1024 * 1024


class CorruptFile(UserError):
    """The file says it is featuregen's, and is broken."""


@dataclass(frozen=True)
class Header:
    """All that is known of a file before its first row."""

    kind: str
    rows: int
    image_shape: tuple[int, int, int]
    dtype: str
    classes: tuple[str, ...]
    recipe: Mapping[str, Any]
    base: Mapping[str, Any]
    source_model: Mapping[str, Any]
    software: Mapping[str, Any]
    citation: str
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.dtype not in IMAGE_DTYPES:
            raise UserError(f"dtype is '{self.dtype}'; images are stored as {', '.join(IMAGE_DTYPES)}.")
        if self.rows < 1 or len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise UserError(
                f"A file of {self.rows} images of shape {self.image_shape} cannot be; give (C, H, W) and rows."
            )
        if len(self.classes) < 2:
            raise UserError(f"A file needs at least two classes; got {list(self.classes)}.")
        for name in ("recipe", "base", "source_model", "software", "config"):
            try:
                canonical_json(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise UserError(f"{name} cannot be written as JSON: {error}.") from None

    def identity(self) -> dict[str, Any]:
        """What must agree for a file to be this header's file; plain containers."""
        whole: dict[str, Any] = json.loads(canonical_json({
            "kind": self.kind,
            "rows": self.rows,
            "image shape": self.image_shape,
            "dtype": self.dtype,
            "classes": self.classes,
            "recipe": self.recipe,
            "base": self.base,
            SOURCE: self.source_model.get("weights_sha256"),
        }))  # fmt: skip
        return whole

    def attributes(self) -> dict[str, Attribute]:
        """The root attributes known in advance, as stored."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "value_range": np.array(value_range(self.dtype), dtype="<f8"),
            "classes": canonical_json(self.classes),
            "recipe": canonical_json(self.recipe),
            "base": canonical_json(self.base),
            "source_model": canonical_json(self.source_model),
            "citation": self.citation,
            "software": canonical_json(self.software),
            "config": canonical_json(self.config),
        }


def value_range(dtype: str) -> tuple[float, float]:
    return (0.0, 255.0) if dtype == "uint8" else (0.0, 1.0)


def column_dtype(name: str, dtype: str) -> np.dtype[Any]:
    return np.dtype(COLUMNS[name] or IMAGE_DTYPES[dtype])


def column_shape(name: str, rows: int, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    return (rows, *image_shape) if name == "images" else (rows,)


def chunk_shape(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Whole rows, up to 256 KiB of them: small enough for shuffled reads."""
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    return (max(1, min(shape[0], CHUNK_BYTES // row_bytes)), *shape[1:])


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The settings in which two headers differ: where, and what either has."""
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{prefix}{key}.")
        # As text, since a nan differs from itself.
        elif canonical_json(old) != canonical_json(new):
            yield f"{prefix}{key}", _short(old), _short(new)


def difference(there: Mapping[str, Any], here: Mapping[str, Any], words: tuple[str, str]) -> str | None:
    """The first of them as a clause; `words` say where either is."""
    found = next(differences(there, here), None)
    if found is None:
        return None
    name, old, new = found
    return f"{name} is {old} {words[0]} and {new} {words[1]}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def value_problem(name: str, values: Array, classes: int) -> str | None:
    """What is wrong with the values of a column, in words. Unknown values are -1, or NaN for floats."""
    if name == "images":
        return _pixel_problem(values)
    if name == "objective":
        return None
    if name == "norm":
        bad = (values < 0) | np.isinf(values)
        wanted = "not negative and finite"
    elif name in ("index", "start_index"):
        bad, wanted = values < -1, "at least -1"
    else:
        lowest = 0 if name == "labels" else -1
        bad, wanted = (values < lowest) | (values >= classes), f"between {lowest} and {classes - 1}"
    return _first_bad(values, bad, wanted)


def _pixel_problem(values: Array) -> str | None:
    if values.dtype == np.uint8:
        return None
    # A comparison with NaN is false, so this catches NaN too.
    fine = (values >= 0) & (values <= 1)
    return None if fine.all() else _first_bad(values, ~fine, "in [0, 1]")


def _first_bad(values: Array, bad: Array, wanted: str) -> str | None:
    if not bad.any():
        return None
    where = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return f"row {where[0]} holds {values[where].item()!r}, which must be {wanted}"


# Digests -------------------------------------------------------------------------------------------


def row_blocks(rows: int, row_bytes: int) -> Iterator[slice]:
    """The rows of a column in pieces of bounded size."""
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def content_digest(root: h5py.Group, attributes: Mapping[str, Attribute]) -> str:
    """sha256 over the columns in name order (name, type, shape, C-order bytes), then the content attributes."""
    digest = hashlib.sha256()
    for name in sorted(COLUMNS):
        column = root[name]
        digest.update(canonical_json([name, column.dtype.str, list(column.shape)]).encode() + b"\n")
        for rows in row_blocks(column.shape[0], math.prod(column.shape[1:]) * column.dtype.itemsize):
            digest.update(np.ascontiguousarray(column[rows]).tobytes())
    _update(digest, attributes, CONTENT_ATTRIBUTES)
    return digest.hexdigest()


def record_digest(attributes: Mapping[str, Attribute]) -> str:
    """sha256 over every attribute that content_sha256 leaves out, known or not, save itself."""
    digest = hashlib.sha256()
    _update(digest, attributes, {*attributes, *RECORD_ATTRIBUTES} - {*CONTENT_ATTRIBUTES, "record_sha256"})
    return digest.hexdigest()


def _update(digest: Any, attributes: Mapping[str, Attribute], names: Iterable[str]) -> None:
    for name in sorted(names):
        value = attributes[name]
        if isinstance(value, str):
            kind, data = "text", value.encode("utf-8", "surrogateescape")
        else:
            array = np.asarray(value)
            little = array.astype(array.dtype.newbyteorder("<"))
            kind, data = f"{little.dtype.str}{list(little.shape)}", little.tobytes()
        head = canonical_json([name, kind, len(data)])
        digest.update(head.encode() + b"\n" + data)
