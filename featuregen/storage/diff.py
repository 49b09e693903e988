"""How two files differ: in what they say of themselves, in their rows, and in the pixels of the rows they share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featuregen.data import h5_take
from featuregen.storage.reader import DatasetInfo, info_of, open_file, read_columns, to_pixels
from featuregen.storage.schema import COLUMNS, Array, differences, row_blocks

Rows = NDArray[np.int64]
_CONTENT = ("kind", "dtype", "image_shape", "classes", "recipe", "base", "source_model", "citation")
# Neither file's content: how it came about.
_RECORD = ("config", "software", "format_version")
_COUNTED = tuple(name for name in COLUMNS if name not in ("images", "index"))


@dataclass(frozen=True)
class PixelDiff:
    """Of the rows that both have: how many images differ, and by how much in [0, 1].

    `largest` is of a single pixel, `median` of the L2 norms of the images that differ.
    """

    images: int
    largest: float
    median: float


@dataclass(frozen=True)
class DatasetDiff:
    """`settings` and `record` are (name, first, second); `columns` counts the shared rows whose number differs.

    Rows belong together where they were made for the same row of the base set, or stand at the same place in files
    that do not record it.
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


def diff_datasets(first: Path, second: Path) -> DatasetDiff:
    with open_file(first) as one, open_file(second) as other:
        infos = info_of(one, Path(first)), info_of(other, Path(second))
        return _compared(one, other, *infos)


def _compared(one: h5py.File, other: h5py.File, first: DatasetInfo, second: DatasetInfo) -> DatasetDiff:
    numbers = [read_columns(info.path, [name for name in COLUMNS if name != "images"]) for info in (first, second)]
    by, rows, mates = _mates(numbers[0]["index"], numbers[1]["index"])
    columns = {name: int((~_equal(numbers[0][name][rows], numbers[1][name][mates])).sum()) for name in _COUNTED}
    settings, record = (
        tuple(differences(_named(first, names), _named(second, names))) for names in (_CONTENT, _RECORD)
    )
    alike = first.image_shape == second.image_shape
    return DatasetDiff(
        same=first.content_sha256 == second.content_sha256,
        settings=settings,
        record=record,
        by=by,
        shared=len(rows),
        only_first=first.rows - len(rows),
        only_second=second.rows - len(rows),
        columns=columns,
        pixels=_pixels(one, other, rows, mates, math.prod(first.image_shape)) if alike and len(rows) else None,
    )


def _named(info: DatasetInfo, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(info, name) for name in names}


def _mates(first: Rows, second: Rows) -> tuple[str, Rows, Rows]:
    """Which row of the second belongs to which of the first."""
    for index in (first, second):
        if (index < 0).any() or len(np.unique(index)) < len(index):
            together = np.arange(min(len(first), len(second)))
            return "place", together, together
    _, rows, mates = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    order = np.argsort(rows)
    return "index", rows[order], mates[order]


def _equal(first: Array, second: Array) -> NDArray[np.bool_]:
    """Unknown numbers are nan in both."""
    equal: NDArray[np.bool_] = (first == second) | ((first != first) & (second != second))
    return equal


def _pixels(one: h5py.File, other: h5py.File, rows: Rows, mates: Rows, size: int) -> PixelDiff:
    norms, largest = np.empty(len(rows)), 0.0
    for part in row_blocks(len(rows), 8 * size):
        first, second = (to_pixels(h5_take(root["images"], own[part])) for root, own in ((one, rows), (other, mates)))
        change = first.astype(np.float64) - second
        norms[part] = np.linalg.norm(change.reshape(len(change), -1), axis=1)
        largest = max(largest, float(np.abs(change).max()))
    differ = norms[norms > 0]
    return PixelDiff(len(differ), largest, float(np.median(differ)) if len(differ) else 0.0)
