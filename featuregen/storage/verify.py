"""Is a file what it says it is? Digests, value ranges and the rules of its kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featuregen.config import registered_kind
from featuregen.errors import UserError
from featuregen.runtime import RowRandom
from featuregen.storage.reader import (
    READ_ERRORS,
    DatasetInfo,
    attributes_of,
    info_of,
    open_file,
    read_columns,
    to_pixels,
)
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
    name: str
    ok: bool
    detail: str


def check_file(path: Path) -> list[Check]:
    """Every check of a featuregen file, damaged or not; a UserError for something that is no such file."""
    path = Path(path)
    try:
        with open_file(path) as root:
            attributes = attributes_of(root, path)
            info = info_of(root, path, attributes)
            checks = [
                Check("opens", True, f"{info.kind}, {info.rows} images, {info.dtype}"),
                _members(root, attributes),
            ]
            checks += _digests(root, attributes, info)
            columns, broken = _columns(root, info)
    except CorruptFile as error:
        return [Check("opens", False, str(error))]
    checks += broken
    if not any(check.name == "values" and not check.ok for check in broken):
        checks += _labels(info, columns) + _rows(info, columns) + _norms(info, columns) + _success(info, columns)
    return checks


def _outcome(name: str, bad: Array, good: str, failing: str) -> Check:
    """A check that holds row by row."""
    count = int(bad.sum())
    if not count:
        return Check(name, True, good)
    return Check(name, False, f"{count} of {len(bad)} rows {failing}, the first is row {int(np.argmax(bad))}")


def _members(root: h5py.File, attributes: Mapping[str, Attribute]) -> Check:
    odd = sorted({*root} - {*COLUMNS}) + sorted(f"{name}@" for name in COLUMNS if len(root[name].attrs))
    extra = sorted({*attributes} - {*ATTRIBUTES})
    known = ", ".join(extra)
    detail = f"and also the attributes {known}" if extra else "only the columns and attributes of the format"
    return Check("members", not odd, f"not part of the format: {', '.join(odd)}" if odd else detail)


def _digests(root: h5py.File, attributes: Mapping[str, Attribute], info: DatasetInfo) -> list[Check]:
    try:
        content = content_digest(root, attributes)
    except READ_ERRORS as error:
        first = Check("content_sha256", False, f"the arrays cannot be read: {' '.join(str(error).split())}")
    else:
        first = _same("content_sha256", content, info.content_sha256, "arrays and content attributes")
    record = record_digest(attributes)
    return [first, _same("record_sha256", record, info.record_sha256, "the other attributes")]


def _same(name: str, found: str, recorded: str, what: str) -> Check:
    if found == recorded:
        return Check(name, True, f"{what} match {recorded[:12]}…")
    return Check(name, False, f"{what} give {found[:12]}…, recorded is {recorded[:12]}…")


def _columns(root: h5py.File, info: DatasetInfo) -> tuple[dict[str, Array], list[Check]]:
    """All columns but the images, and what is wrong with the values of any."""
    columns: dict[str, Array] = {}
    problems: list[str] = []
    for name in NUMBERS:
        try:
            columns[name] = np.asarray(root[name][:])
        except READ_ERRORS as error:
            problems.append(f"'{name}' cannot be read: {' '.join(str(error).split())}")
            continue
        problem = value_problem(name, columns[name], len(info.classes))
        if problem:
            problems.append(f"'{name}': {problem}")
    values = Check("values", not problems, "; ".join(problems) or "every number is within its range")
    return columns, [values, _pixels(root, info), _range(info)]


def _pixels(root: h5py.File, info: DatasetInfo) -> Check:
    images = root["images"]
    try:
        for rows in row_blocks(info.rows, math.prod(info.image_shape) * images.dtype.itemsize):
            problem = value_problem("images", np.asarray(images[rows]), len(info.classes))
            if problem:
                return Check("pixels", False, f"in the rows from {rows.start} on, {problem}")
    except READ_ERRORS as error:
        return Check("pixels", False, f"cannot be read: {' '.join(str(error).split())}")
    return Check("pixels", True, f"{info.dtype}, all finite and in range")


def _range(info: DatasetInfo) -> Check:
    wanted = value_range(info.dtype)
    return Check("value_range", info.value_range == wanted, f"{info.value_range} for {info.dtype}")


# The rules of a kind -------------------------------------------------------------------------------


def _unknown(column: Array) -> bool:
    """Imported files lack some columns; they are then unknown from the first row to the last."""
    return bool(np.isnan(column).all() if column.dtype.kind == "f" else (column == -1).all())


def _recorded(info: DatasetInfo, index: Array) -> Array:
    """The rows that must have a base row: all, unless the file was imported and a row could not be matched."""
    return (index >= 0) | ("imported" not in info.recipe)


def _labels(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    labels, true = columns["labels"], columns["source_labels"]
    classes = len(info.classes)
    kind = registered_kind(info.kind)
    if kind and kind.label != "random":
        if _unknown(true):
            return [Check("labels", True, "source labels are not recorded, so the rule cannot be tried")]
        words = {"true": "the source label", "next": f"(source label + 1) mod {classes}"}
        rule = words.get(str(kind.label), f"what the rule of {kind.name} makes of the source label")
        wrong = _recorded(info, columns["index"]) & (labels != kind.labels_of(true, classes))
        return [_outcome("labels", wrong, f"each is {rule}", f"are not {rule}")]
    seed = _seed(info)
    if kind is None or seed is None or (columns["index"] < 0).any():
        return [Check("labels", True, f"within the {classes} classes; no further rule to try")]
    wanted = RowRandom(seed, "target").integers(columns["index"], classes)
    return [_outcome("labels", labels != wanted, "as drawn by the seed", "are not what the seed draws")]


def _rows(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    index, start = columns["index"], columns["start_index"]
    if _unknown(index):
        return [Check("index", True, "not recorded")]
    base_rows = _count(info.base.get("rows"))
    recorded = _recorded(info, index)
    outside = recorded & ((index < 0) | (index >= (base_rows if base_rows is not None else np.iinfo(np.int64).max)))
    repeated = recorded.copy()
    repeated[np.unique(index, return_index=True)[1]] = False
    good = "unique base rows" + ("" if recorded.all() else f", recorded for {int(recorded.sum())} of {len(index)}")
    checks = [_outcome("index", outside | repeated, good, "are repeated or outside the base set")]
    seed = _seed(info)
    kind = registered_kind(info.kind)
    if kind and kind.start == "self":
        checks.append(_outcome("start_index", start != index, "the base image itself", "start elsewhere"))
    elif kind and kind.start == "noise":
        checks.append(_outcome("start_index", start != -1, "noise", "do not start from noise"))
    elif kind and seed is not None and base_rows and recorded.all() and not outside.any():
        wanted = RowRandom(seed, "start").integers(index, base_rows)
        checks.append(_outcome("start_index", start != wanted, "as drawn by the seed", "are not what the seed draws"))
    else:
        checks.append(Check("start_index", True, "no rule to try"))
    return checks


def _norms(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    norm = columns["norm"]
    ball = _ball(info)
    if ball is None or _unknown(norm):
        return [Check("norm", True, "no ball, or distances are not recorded")]
    name, eps = ball
    # The column is always an L2 distance; the cube of Linf radius eps lies in the L2 ball around it.
    limit = eps if name == "l2" else eps * math.sqrt(math.prod(info.image_shape))
    slack = limit + _tolerance(info) * max(1.0, limit)
    return [
        _outcome("norm", ~(norm <= slack), f"at most {limit:g}", f"are farther than {limit:g} from their base image")
    ]


def _success(info: DatasetInfo, columns: Mapping[str, Array]) -> list[Check]:
    predicted = columns["source_pred"]
    if _unknown(predicted) or math.isnan(info.success_rate):
        return [Check("success_rate", True, "not recorded")]
    share = float((predicted == columns["labels"]).mean())
    detail = f"{share:.4f} of the rows have the label the source model sees; recorded is {info.success_rate:.4f}"
    return [Check("success_rate", abs(share - info.success_rate) < 1e-6, detail)]


def _seed(info: DatasetInfo) -> int | None:
    seed = info.recipe.get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63 else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63 else None


def _ball(info: DatasetInfo) -> tuple[str, float] | None:
    settings = info.recipe.get("synthesis", info.recipe.get("attack"))
    if not isinstance(settings, Mapping):
        return None
    norm, eps = settings.get("norm"), settings.get("eps")
    if norm not in ("l2", "linf") or isinstance(eps, bool) or not isinstance(eps, (int, float)):
        return None
    if not 0 <= eps < 1e9:
        return None
    return str(norm), float(eps)


def _tolerance(info: DatasetInfo) -> float:
    """float16 rounds pixels after the ball was enforced; the other types are held to it."""
    return 1e-3 if info.dtype == "float16" else 1e-6


# Against the base set ------------------------------------------------------------------------------


def check_against_base(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[Check]:
    """Recompute what a file says about its base images (uint8, NHWC) from the stored pixels."""
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
            given = (channels, height, width)
            raise UserError(
                f"{path} holds images of shape {info.image_shape} and the base set {given}; give the base set it names."
            )
        if _unknown(index):
            return [Check("base rows", True, "the file does not record its base rows")]
        recorded = _recorded(info, index)
        outside = recorded & ((index < 0) | (index >= len(images)))
        if outside.any():
            return [_outcome("base rows", outside, "", f"lie outside the base set of {len(images)}")]
        l2, linf = _distances(root, info, images, index)
    wrong = recorded & (columns["source_labels"] != labels[index]) & (columns["source_labels"] != -1)
    checks = [_outcome("source_labels", wrong, "the labels of the base images", "have another label in the base set")]
    if not _unknown(norm):
        off = recorded & ~(np.abs(norm - l2) <= 1e-4 * np.maximum(l2, 1e-2))
        checks.append(_outcome("distance", off, "as the pixels give it", "have another distance than recorded"))
    ball = _ball(info)
    if ball:
        distance = l2 if ball[0] == "l2" else linf
        slack = ball[1] + _tolerance(info) * max(1.0, ball[1])
        inside, outside_text = (
            f"stored pixels are within {ball[1]:g} in {ball[0]}",
            f"leave the {ball[0]} ball of {ball[1]:g}",
        )
        checks.append(_outcome("ball", recorded & ~(distance <= slack), inside, outside_text))
    return checks


def _distances(root: h5py.File, info: DatasetInfo, base: NDArray[np.uint8], index: Array) -> tuple[Array, Array]:
    """L2 and Linf from each stored image to its base image."""
    l2, linf = np.empty(info.rows), np.empty(info.rows)
    for rows, stored in _pixel_blocks(root, info):
        there = base[index[rows]].transpose(0, 3, 1, 2).astype(np.float64) / 255
        delta = (stored - there).reshape(len(there), -1)
        l2[rows], linf[rows] = np.linalg.norm(delta, axis=1), np.abs(delta).max(axis=1)
    return l2, linf


def _pixel_blocks(root: h5py.File, info: DatasetInfo) -> Iterator[tuple[slice, Array]]:
    for rows in row_blocks(info.rows, 8 * math.prod(info.image_shape)):
        stored = np.asarray(root["images"][rows])
        yield rows, stored.astype(np.float64) / 255 if info.dtype == "uint8" else to_pixels(stored).astype(np.float64)
