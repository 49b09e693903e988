"""Checks of a dataset file: digests, value ranges, the rules of its kind, and its base set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from featuregen.config.kinds import registered_kind
from featuregen.data.lazy import HDF5_ERRORS
from featuregen.errors import UserError, one_line
from featuregen.runtime.rng import RowRandom
from featuregen.storage.reader import DatasetInfo, attributes_of, info_of, open_file, read_columns, to_pixels
from featuregen.storage.schema import (
    ATTRIBUTES,
    COLUMNS,
    Array,
    Attribute,
    CorruptFile,
    content_digest,
    record_digest,
    row_blocks,
    value_problem,
    value_range,
)

NUMBERS = tuple(name for name in COLUMNS if name != "images")


@dataclass(frozen=True)
class Check:
    """One check of a file: its name, whether it passed, and the finding in a few words."""

    name: str
    ok: bool
    detail: str


def check_file(path: Path) -> list[Check]:
    """Every check of a featuregen file, damaged or not; UserError for a file that is none."""
    path = Path(path)
    try:
        with open_file(path) as root:
            attributes = attributes_of(root, path)
            info = info_of(root, path, attributes)
            checks = [Check("opens", True, f"{info.kind}, {info.rows} images, {info.dtype}")]
            checks += [_members(root, attributes), *_digests(root, attributes, info)]
            columns, column_checks = _columns(root, info)
    except CorruptFile as error:
        return [Check("opens", False, str(error))]
    checks += column_checks
    if not any(check.name == "values" and not check.ok for check in column_checks):
        checks += _labels(info, columns) + _rows(info, columns) + _norms(info, columns) + _success(info, columns)
    return checks


def _row_check(name: str, bad: Array, passed: str, failing: str) -> Check:
    """A check of every row, which passes if no row is bad."""
    count = int(bad.sum())
    if not count:
        return Check(name, True, passed)
    return Check(name, False, f"{count} of {len(bad)} rows {failing}, the first is row {int(np.argmax(bad))}")


def _members(root: h5py.File, attributes: Mapping[str, Attribute]) -> Check:
    foreign = sorted({*root} - {*COLUMNS}) + sorted(f"{name}@" for name in COLUMNS if len(root[name].attrs))
    if foreign:
        return Check("members", False, f"not part of the format: {', '.join(foreign)}")
    extra = ", ".join(sorted({*attributes} - {*ATTRIBUTES}))
    return Check(
        "members", True, f"and also the attributes {extra}" if extra else "only columns and attributes of the format"
    )


def _digests(root: h5py.File, attributes: Mapping[str, Attribute], info: DatasetInfo) -> list[Check]:
    try:
        content = content_digest(root, attributes)
    except HDF5_ERRORS as error:
        first = Check("content_sha256", False, f"the arrays cannot be read: {one_line(error)}")
    else:
        first = _digest_check("content_sha256", content, info.content_sha256, "arrays and content attributes")
    record = record_digest(attributes)
    return [first, _digest_check("record_sha256", record, info.record_sha256, "the other attributes")]


def _digest_check(name: str, computed: str, recorded: str, what: str) -> Check:
    if computed == recorded:
        return Check(name, True, f"{what} match {recorded[:12]}…")
    return Check(name, False, f"{what} give {computed[:12]}…, recorded is {recorded[:12]}…")


def _columns(root: h5py.File, info: DatasetInfo) -> tuple[dict[str, Array], list[Check]]:
    """All columns but the images, and the checks of every column's values."""
    columns: dict[str, Array] = {}
    problems: list[str] = []
    for name in NUMBERS:
        try:
            columns[name] = np.asarray(root[name][:])
        except HDF5_ERRORS as error:
            problems.append(f"'{name}' cannot be read: {one_line(error)}")
            continue
        problem = value_problem(name, columns[name], len(info.classes))
        if problem:
            problems.append(f"'{name}': {problem}")
    values = Check("values", not problems, "; ".join(problems) or "every number is within its range")
    wanted = value_range(info.dtype)
    limits = Check("value_range", info.value_range == wanted, f"{info.value_range} for {info.dtype}")
    return columns, [values, _pixels(root, info), limits]


def _pixels(root: h5py.File, info: DatasetInfo) -> Check:
    images = root["images"]
    try:
        for rows in row_blocks(info.rows, math.prod(info.image_shape) * images.dtype.itemsize):
            problem = value_problem("images", np.asarray(images[rows]), len(info.classes))
            if problem:
                return Check("pixels", False, f"in the rows from {rows.start} on, {problem}")
    except HDF5_ERRORS as error:
        return Check("pixels", False, f"cannot be read: {one_line(error)}")
    return Check("pixels", True, f"{info.dtype}, all finite and in range")


# The rules of a kind -------------------------------------------------------------------------------


def _is_unrecorded(column: Array) -> bool:
    """Imported files do not record some columns, which are then -1 or NaN in every row."""
    return bool(np.isnan(column).all() if column.dtype.kind == "f" else (column == -1).all())


def _has_base_row(info: DatasetInfo, index: Array) -> Array:
    """The rows that must have a base row: all, save rows of an imported file that could not be matched."""
    return (index >= 0) | ("imported" not in info.recipe)


def _labels(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    labels, true = columns["labels"], columns["source_labels"]
    classes = len(info.classes)
    kind = registered_kind(info.kind)
    if kind and kind.label != "random":
        if _is_unrecorded(true):
            return [Check("labels", True, "source labels are not recorded, so the rule cannot be checked")]
        words = {"true": "the source label", "next": f"(source label + 1) mod {classes}"}
        rule = words.get(str(kind.label), f"what the rule of {kind.name} makes of the source label")
        wrong = _has_base_row(info, columns["index"]) & (labels != kind.labels_of(true, classes))
        return [_row_check("labels", wrong, f"each is {rule}", f"are not {rule}")]
    seed = info.recipe.get("seed")
    if kind is None or seed is None or (columns["index"] < 0).any():
        return [Check("labels", True, f"within the {classes} classes; no further rule to check")]
    wanted = RowRandom(seed, "target").integers(columns["index"], classes)
    return [_row_check("labels", labels != wanted, "as drawn by the seed", "are not what the seed draws")]


def _rows(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    index, start = columns["index"], columns["start_index"]
    if _is_unrecorded(index):
        return [Check("index", True, "not recorded")]
    base_rows = info.base.get("rows")
    recorded = _has_base_row(info, index)
    outside = recorded & ((index < 0) | (index >= (base_rows if base_rows is not None else np.iinfo(np.int64).max)))
    repeated = recorded.copy()
    repeated[np.unique(index, return_index=True)[1]] = False
    passed = "unique base rows" + ("" if recorded.all() else f", recorded for {int(recorded.sum())} of {len(index)}")
    checks = [_row_check("index", outside | repeated, passed, "are repeated or outside the base set")]
    seed = info.recipe.get("seed")
    kind = registered_kind(info.kind)
    if kind and kind.start == "self":
        checks.append(_row_check("start_index", start != index, "the base image itself", "start elsewhere"))
    elif kind and kind.start == "noise":
        checks.append(_row_check("start_index", start != -1, "noise", "do not start from noise"))
    elif kind and seed is not None and base_rows and recorded.all() and not outside.any():
        wanted = RowRandom(seed, "start").integers(index, base_rows)
        checks.append(_row_check("start_index", start != wanted, "as drawn by the seed", "are not what the seed draws"))
    else:
        checks.append(Check("start_index", True, "no rule to check"))
    return checks


def _norms(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    norm = columns["norm"]
    ball = _ball(info)
    if ball is None or _is_unrecorded(norm):
        return [Check("norm", True, "no ball, or distances are not recorded")]
    name, eps = ball
    # The column is an L2 distance; the Linf ball lies within the L2 ball of radius eps * sqrt(size).
    limit = eps if name == "l2" else eps * math.sqrt(math.prod(info.image_shape))
    slack = limit + _tolerance(info) * max(1.0, limit)
    return [
        _row_check("norm", ~(norm <= slack), f"at most {limit:g}", f"are farther than {limit:g} from their base image")
    ]


def _success(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    predicted = columns["source_pred"]
    if _is_unrecorded(predicted) or math.isnan(info.success_rate):
        return [Check("success_rate", True, "not recorded")]
    known = predicted != -1
    share = float((predicted == columns["labels"])[known].mean())
    rows = "the rows" if known.all() else f"the {int(known.sum())} rows whose prediction is known"
    detail = f"the source model predicts the label of {share:.4f} of {rows}; recorded is {info.success_rate:.4f}"
    return [Check("success_rate", abs(share - info.success_rate) < 1e-6, detail)]


def _ball(info: DatasetInfo) -> tuple[str, float] | None:
    settings = info.recipe.get("synthesis", info.recipe.get("attack", {}))
    norm, eps = settings.get("norm"), settings.get("eps")
    # The settings of an attack may be of any plain type.
    if norm not in ("l2", "linf") or isinstance(eps, bool) or not isinstance(eps, (int, float)):
        return None
    return str(norm), float(eps)


def _tolerance(info: DatasetInfo) -> float:
    """How far rounding may move pixels out of the ball: float16 rounds after projection, the other types do not."""
    return 1e-3 if info.dtype == "float16" else 1e-6


# Against the base set ------------------------------------------------------------------------------


def check_against_base(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[Check]:
    """Recompute labels and distances from the base images (uint8, NHWC) and the stored pixels."""
    path = Path(path)
    try:
        return _against_base(path, images, labels)
    except CorruptFile as error:
        return [Check("opens", False, str(error))]


def _against_base(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[Check]:
    columns = read_columns(path, NUMBERS)
    index, norm = columns["index"], columns["norm"]
    with open_file(path) as root:
        info = info_of(root, path)
        height, width, channels = images.shape[1:]
        if (channels, height, width) != info.image_shape:
            shape = (channels, height, width)
            raise UserError(
                f"{path} holds images of shape {info.image_shape} and the base set {shape}; give the base set it names."
            )
        if _is_unrecorded(index):
            return [Check("base rows", True, "the file does not record its base rows")]
        recorded = _has_base_row(info, index)
        outside = recorded & ((index < 0) | (index >= len(images)))
        if outside.any():
            return [_row_check("base rows", outside, "", f"lie outside the base set of {len(images)}")]
        l2, linf = _distances(root, info, images, index)
    wrong = recorded & (columns["source_labels"] != labels[index]) & (columns["source_labels"] != -1)
    checks = [_row_check("source_labels", wrong, "the labels of the base images", "have another label in the base set")]
    if not _is_unrecorded(norm):
        off = recorded & ~(np.abs(norm - l2) <= 1e-4 * np.maximum(l2, 1e-2))
        checks.append(_row_check("distance", off, "as computed from the pixels", "have another distance than recorded"))
    ball = _ball(info)
    if ball:
        distance = l2 if ball[0] == "l2" else linf
        slack = ball[1] + _tolerance(info) * max(1.0, ball[1])
        checks.append(
            _row_check(
                "ball",
                recorded & ~(distance <= slack),
                f"stored pixels are within {ball[1]:g} in {ball[0]}",
                f"leave the {ball[0]} ball of {ball[1]:g}",
            )
        )
    return checks


def _distances(root: h5py.File, info: DatasetInfo, base: NDArray[np.uint8], index: Array) -> tuple[Array, Array]:
    """L2 and Linf from each stored image to its base image."""
    l2, linf = np.empty(info.rows), np.empty(info.rows)
    for rows, stored in _pixel_blocks(root, info):
        original = base[index[rows]].transpose(0, 3, 1, 2).astype(np.float64) / 255
        delta = (stored - original).reshape(len(original), -1)
        l2[rows], linf[rows] = np.linalg.norm(delta, axis=1), np.abs(delta).max(axis=1)
    return l2, linf


def _pixel_blocks(root: h5py.File, info: DatasetInfo) -> Iterator[tuple[slice, Array]]:
    for rows in row_blocks(info.rows, 8 * math.prod(info.image_shape)):
        stored = np.asarray(root["images"][rows])
        yield rows, stored.astype(np.float64) / 255 if info.dtype == "uint8" else to_pixels(stored).astype(np.float64)
