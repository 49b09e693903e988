"""How two dataset files differ: in their attributes, in their columns, and in the pixels of the rows they share."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featuregen.data.lazy import h5_take
from featuregen.storage.reader import DatasetInfo, attributes_of, columns_of, info_of, open_file, to_pixels
from featuregen.storage.schema import COLUMNS, Array, content_digest, differences, row_blocks

_CONTENT = ("kind", "dtype", "image_shape", "classes", "recipe", "base", "source_model", "citation")
# How the file came about, which is not part of its content.
_RECORD = ("config", "software", "format_version")
_NUMBERS = tuple(name for name in COLUMNS if name != "images")


@dataclass(frozen=True)
class PixelDiff:
    """Over the rows that both files have: how many images differ, and by how much in [0, 1].

    `largest` is the largest difference of a pixel, `median` the median L2 norm over the images that differ.
    """

    images: int
    largest: float
    median: float


@dataclass(frozen=True)
class DatasetDiff:
    """The differences between two dataset files.

    Attributes:
        same: Whether the content digests agree, computed from what the files hold and not as they record them.
        settings: Attributes of the content that differ, as (name, first, second).
        record: Attributes outside the content that differ: config, software, format version.
        by: How rows were paired: "index", the row of the base set, or "place" where a file does not record it.
        shared: Number of rows that both files have.
        only_first: Number of rows that only the first file has.
        only_second: Number of rows that only the second file has.
        columns: For every column of numbers, in how many shared rows it differs.
        pixels: How the images of the shared rows differ; None where the files share no rows or no image shape.
    """

    same: bool
    settings: tuple[tuple[str, str, str], ...]
    record: tuple[tuple[str, str, str], ...]
    by: str
    shared: int
    only_first: int
    only_second: int
    columns: dict[str, int]
    pixels: PixelDiff | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def diff(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> DatasetDiff:
    """Compare two dataset files: their attributes, columns and pixels.

    Args:
        first: A dataset file.
        second: Another one, of any kind and size.

    Returns:
        The differences; `same` says whether the content is equal.

    Raises:
        UserError: One of them is no featuregen dataset, or is damaged.

    Example:
        >>> import featuregen as fg
        >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2"]
        >>> det = fg.Experiment("digits", out="out", overrides=tiny).make_dataset("det")
        >>> fg.diff(det.path, det.path).same
        True
    """
    first, second = Path(first), Path(second)
    with open_file(first) as one, open_file(second) as other:
        digests = {content_digest(root, attributes_of(root, path)) for root, path in ((one, first), (other, second))}
        return _diff(one, other, info_of(one, first), info_of(other, second), same=len(digests) == 1)


def _diff(one: h5py.File, other: h5py.File, first: DatasetInfo, second: DatasetInfo, same: bool) -> DatasetDiff:
    numbers, others = columns_of(one, first, _NUMBERS), columns_of(other, second, _NUMBERS)
    by, rows, mates = _pair_rows(numbers["index"], others["index"])
    settings, record = (
        tuple(differences(_attributes(first, names), _attributes(second, names))) for names in (_CONTENT, _RECORD)
    )
    comparable = first.image_shape == second.image_shape and len(rows) > 0
    return DatasetDiff(
        same=same,
        settings=settings,
        record=record,
        by=by,
        shared=len(rows),
        only_first=first.rows - len(rows),
        only_second=second.rows - len(rows),
        columns={
            name: int((~_equal(numbers[name][rows], others[name][mates])).sum()) for name in _NUMBERS if name != "index"
        },
        pixels=_pixel_diff(one, other, rows, mates, math.prod(first.image_shape)) if comparable else None,
    )


def _attributes(info: DatasetInfo, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(info, name) for name in names}


def _pair_rows(first: Array, second: Array) -> tuple[str, Array, Array]:
    """The rows of the first file that the second one has too, and where; by base row, or by place if it is unknown."""
    for index in (first, second):
        if (index < 0).any() or len(np.unique(index)) < len(index):
            common = np.arange(min(len(first), len(second)))
            return "place", common, common
    _, rows, mates = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    order = np.argsort(rows)
    return "index", rows[order], mates[order]


def _equal(first: Array, second: Array) -> NDArray[np.bool_]:
    """NaN, which means not recorded, equals NaN."""
    equal: NDArray[np.bool_] = (first == second) | ((first != first) & (second != second))
    return equal


def _pixel_diff(one: h5py.File, other: h5py.File, rows: Array, mates: Array, size: int) -> PixelDiff:
    norms, largest = np.empty(len(rows)), 0.0
    for part in row_blocks(len(rows), 8 * size):
        first, second = to_pixels(h5_take(one["images"], rows[part])), to_pixels(h5_take(other["images"], mates[part]))
        change = first.astype(np.float64) - second
        norms[part] = np.linalg.norm(change.reshape(len(change), -1), axis=1)
        largest = max(largest, float(np.abs(change).max()))
    differ = norms[norms > 0]
    return PixelDiff(len(differ), largest, float(np.median(differ)) if len(differ) else 0.0)
