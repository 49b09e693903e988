"""Format version 1: columns, attributes, the valid values of each, and the two digests."""

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

from featuregen.config.serialize import canonical_json
from featuregen.errors import UserError, shortened

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

# Covered by content_sha256, with the columns: the images and how they were made. Time, host and software are not.
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
    """A featuregen file that is damaged."""


@dataclass(frozen=True)
class Header:
    """Everything a file records before its first row: what a writer is opened with."""

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
                f"A file cannot hold {self.rows} images of shape {self.image_shape}; give rows and (C, H, W)."
            )
        if len(self.classes) < 2:
            raise UserError(f"A file needs at least two classes; got {list(self.classes)}.")
        for name in ("recipe", "base", "source_model", "software", "config"):
            try:
                canonical_json(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise UserError(f"{name} cannot be written as JSON: {error}.") from None

    def identity(self) -> dict[str, Any]:
        """The settings that a file must share with this header to be the same dataset, in plain containers."""
        identity: dict[str, Any] = json.loads(canonical_json({
            "kind": self.kind,
            "rows": self.rows,
            "image shape": self.image_shape,
            "dtype": self.dtype,
            "classes": self.classes,
            "recipe": self.recipe,
            "base": self.base,
            SOURCE: self.source_model.get("weights_sha256"),
        }))  # fmt: skip
        return identity

    def attributes(self) -> dict[str, Attribute]:
        """The root attributes as stored, save those that depend on the rows."""
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
    """Whole rows, up to 256 KiB per chunk: small enough for shuffled reads."""
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    return (max(1, min(shape[0], CHUNK_BYTES // row_bytes)), *shape[1:])


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every setting in which two records differ, as (name, first value, second value)."""
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{prefix}{key}.")
        # Compared as text, since NaN differs from itself.
        elif canonical_json(old) != canonical_json(new):
            yield f"{prefix}{key}", _short(old), _short(new)


def difference(there: Mapping[str, Any], here: Mapping[str, Any], places: tuple[str, str]) -> str | None:
    """The first difference as a clause, "NAME is A PLACE and B PLACE"; None where there is none."""
    for name, old, new in differences(there, here):
        return f"{name} is {shortened(old, 30)} {places[0]} and {shortened(new, 30)} {places[1]}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def value_problem(name: str, values: Array, classes: int) -> str | None:
    """What is wrong with the values of a column, as a clause, or None. -1, and NaN in floats, mean not recorded."""
    if name == "images":
        return _pixel_problem(values)
    if name == "objective":
        return None
    if name == "norm":
        bad, wanted = (values < 0) | np.isinf(values), "not negative and finite"
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
    """The rows of a column in consecutive blocks of bounded size."""
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


class ContentDigest:
    """sha256 over the columns in name order (name, type, shape, C-order bytes), then the content attributes."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def begin_column(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._sha256.update(canonical_json([name, dtype.str, list(shape)]).encode() + b"\n")

    def update(self, values: Array) -> None:
        self._sha256.update(np.ascontiguousarray(values).data)

    def finish(self, attributes: Mapping[str, Attribute]) -> str:
        _update(self._sha256, attributes, CONTENT_ATTRIBUTES)
        return self._sha256.hexdigest()


def content_digest(root: h5py.Group, attributes: Mapping[str, Attribute]) -> str:
    """The content digest of a file as its columns are stored."""
    digest = ContentDigest()
    for name in sorted(COLUMNS):
        column = root[name]
        digest.begin_column(name, column.dtype, column.shape)
        for rows in row_blocks(column.shape[0], math.prod(column.shape[1:]) * column.dtype.itemsize):
            digest.update(column[rows])
    return digest.finish(attributes)


def record_digest(attributes: Mapping[str, Attribute]) -> str:
    """sha256 over every attribute outside content_sha256, also those this version does not know, save itself."""
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
