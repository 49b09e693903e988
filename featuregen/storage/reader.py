"""Reading a file that may be damaged or hostile: everything it declares is checked before anything is read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featuregen.config.record_schemas import DATASET_RECORDS
from featuregen.config.records import RecordError, check_record, parse_json
from featuregen.config.serialize import to_dict
from featuregen.data.lazy import HDF5_ERRORS
from featuregen.errors import UserError, one_line
from featuregen.runtime.hdf5_guard import open_hdf5
from featuregen.runtime.hdf5_probe import MAX_ATTRIBUTE_VALUES
from featuregen.runtime.paths import read_start
from featuregen.storage.journal import MAGIC
from featuregen.storage.schema import (
    ATTRIBUTES,
    COLUMNS,
    FORMAT,
    FORMAT_VERSION,
    IMAGE_DTYPES,
    Array,
    Attribute,
    CorruptFile,
    Header,
    column_dtype,
    row_blocks,
    value_problem,
)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# The longest text of the attributes that hold no JSON.
_MAX_TEXT = {"kind": 200, "created": 100, "citation": 100_000, "content_sha256": 64, "record_sha256": 64}


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(Header):
    """A header as read from a finished file, with the attributes that only such a file has; `size` is in bytes."""

    path: Path
    success_rate: float
    created: str
    format_version: int
    value_range: tuple[float, float]
    content_sha256: str
    record_sha256: str
    size: int

    def header(self) -> Header:
        """The header alone: what a writer is opened with to make this file."""
        return Header(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Header)})

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        values: dict[str, Any] = to_dict(self)
        return {"path": str(values.pop("path")), **values}


def read_info(path: Path) -> DatasetInfo:
    """The attributes of a file, after checking that its columns are what they declare."""
    with open_file(path) as root:
        return info_of(root, Path(path))


def read_columns(path: Path, names: Sequence[str], rows: slice = slice(None)) -> dict[str, Array]:
    """Columns as stored, their values checked."""
    with open_file(path) as root:
        return columns_of(root, info_of(root, Path(path)), names, rows)


def column_blocks(path: Path, start: int = 0) -> Iterator[tuple[slice, dict[str, Array]]]:
    """All columns from row `start` on, as stored, in blocks that fit memory. The file is opened and checked once."""
    with open_file(path) as root:
        info = info_of(root, Path(path))
        for block in row_blocks(info.rows - start, 4 * math.prod(info.image_shape)):
            rows = slice(start + block.start, start + block.stop)
            yield rows, columns_of(root, info, list(COLUMNS), rows)


def columns_of(root: h5py.File, info: DatasetInfo, names: Sequence[str], rows: slice = slice(None)) -> dict[str, Array]:
    """Columns of an open file as stored, their values checked."""
    columns: dict[str, Array] = {}
    for name in names:
        if name not in COLUMNS:
            raise UserError(f"There is no column '{name}' in {info.path}; it has {', '.join(COLUMNS)}.")
        columns[name] = np.asarray(root[name][rows])
        if problem := value_problem(name, columns[name], len(info.classes)):
            raise CorruptFile(f"{info.path}: column '{name}' is damaged: {problem}.")
    return columns


def to_pixels(stored: Array) -> NDArray[np.float32]:
    """Stored images as a model takes them: float32 in [0, 1]."""
    pixels = stored.astype(np.float32)
    return pixels / np.float32(255) if stored.dtype == np.uint8 else pixels


# Opening -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """An open featuregen file whose columns were checked; errors while it is read become one sentence."""
    path = Path(path)
    head = _head(path)
    ours = CorruptFile if FORMAT.encode() in head else UserError
    try:
        with open_hdf5(path, tuple(COLUMNS)) as root:
            _check_format(root, path)
            check_columns(root, path)
            yield root
    except UserError:
        raise
    except HDF5_ERRORS as error:
        if ours is CorruptFile:
            raise CorruptFile(f"{path} is damaged: {one_line(error)}; get it again, or make it again.") from None
        raise UserError(f"{path} cannot be read as HDF5: {one_line(error)}.") from None


def _head(path: Path) -> bytes:
    """The first bytes, unless they show that this is no featuregen file."""
    head = read_start(path, 1 << 16, "HDF5 file")
    if not head:
        raise UserError(f"{path} is empty; get it again, or make it again.")
    if head.startswith(MAGIC):
        raise UserError(f"{path} is unfinished: run the same command again, and it resumes where it stopped.")
    if not head.startswith(_SIGNATURE):
        if b"content_sha256" in head and FORMAT.encode() in head:
            raise CorruptFile(f"{path} is damaged: its first bytes are not those of an HDF5 file.")
        raise UserError(f"{path} is no HDF5 file; give a file that featuregen wrote.")
    return head


def _check_format(root: h5py.File, path: Path) -> None:
    if "format" not in root.attrs or _attribute(root, "format", path) != FORMAT:
        raise UserError(f"{path} is an HDF5 file, but not one of featuregen's (its attribute 'format' says so).")
    version = _scalar(_attribute(root, "format_version", path))
    if not isinstance(version, int) or version < 1:
        raise CorruptFile(f"{path}: attribute 'format_version' is {version!r}, which is no version.")
    if version > FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, and this featuregen reads {FORMAT_VERSION}; upgrade it.")


def check_columns(root: h5py.File, path: Path) -> None:
    """Refuse columns that are not stored in this very file, or that declare more than it can hold."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in COLUMNS:
        link = root.get(name, getlink=True)
        if link is None:
            raise CorruptFile(f"{path} has no column '{name}'.")
        if not isinstance(link, h5py.HardLink) or root.get(name, getclass=True) is not h5py.Dataset:
            raise CorruptFile(
                f"{path}: '{name}' is a link or a group and not a data set of this file; it is not followed."
            )
        shapes[name] = _column_shape(h5py.h5d.open(root.id, name.encode()), name, path)
    images = shapes["images"]
    if len(images) != 4 or min(images) < 1:
        raise CorruptFile(f"{path}: 'images' has shape {images}, which is not (N, C, H, W).")
    for name, shape in shapes.items():
        if name != "images" and shape != images[:1]:
            raise CorruptFile(f"{path}: '{name}' has shape {shape}, and there are {images[0]} images.")


def _column_shape(column: Any, name: str, path: Path) -> tuple[int, ...]:
    layout = column.get_create_plist()
    # The layout first: reading the shape of a virtual data set would already open other files.
    if layout.get_layout() != h5py.h5d.CHUNKED or layout.get_external_count():
        raise CorruptFile(f"{path}: '{name}' is not stored in chunks inside the file itself; it is not read.")
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    if filters != [h5py.h5z.FILTER_FLETCHER32]:
        raise CorruptFile(f"{path}: '{name}' must be stored with checksums and without compression.")
    allowed = {COLUMNS[name]} if COLUMNS[name] else set(IMAGE_DTYPES.values())
    if column.dtype.str not in allowed:
        raise CorruptFile(f"{path}: '{name}' holds {column.dtype}; it must be {' or '.join(sorted(allowed))}.")
    shape, chunk = tuple(map(int, column.shape)), tuple(map(int, layout.get_chunk()))
    # HDF5 returns fill values for missing chunks, so a tiny file could declare terabytes.
    chunks = math.prod(-(-length // piece) for length, piece in zip(shape, chunk, strict=True))
    stored = chunks * (math.prod(chunk) * column.dtype.itemsize + 4)
    size = path.stat().st_size
    if column.get_storage_size() != stored or stored > size:
        raise CorruptFile(f"{path}: '{name}' declares shape {shape}, and the file does not hold that much.")
    return shape


# Attributes ----------------------------------------------------------------------------------------


def attributes_of(root: h5py.File, path: Path) -> dict[str, Attribute]:
    """Every root attribute, also those this version does not know."""
    return {str(name): _attribute(root, str(name), path) for name in root.attrs}


def _attribute(root: h5py.File, name: str, path: Path) -> Attribute:
    try:
        raw = root.attrs.get_id(name)
        kind, shape = raw.get_type(), raw.shape
        allowed = isinstance(kind, (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID))
        if (
            not allowed
            or shape is None
            or math.prod(shape) > MAX_ATTRIBUTE_VALUES
            or raw.get_storage_size() > path.stat().st_size
        ):
            raise CorruptFile(f"{path}: attribute '{name}' is neither text nor a few numbers.")
        value = root.attrs[name]
    except KeyError:
        raise CorruptFile(f"{path} has no attribute '{name}'.") from None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        return json.dumps([str(item) for item in value.ravel()])
    return value if isinstance(value, str) else np.asarray(value)


def _scalar(value: Attribute) -> Any:
    """A single number as a Python number; the digests cover its stored type."""
    return value.item() if isinstance(value, np.ndarray) and value.shape == () else value


def info_of(root: h5py.File, path: Path, attributes: Mapping[str, Attribute] | None = None) -> DatasetInfo:
    """The info of an open file, from `attributes` where they were read already."""
    stored = attributes or {}
    values: dict[str, Any] = {n: _scalar(stored[n] if n in stored else _attribute(root, n, path)) for n in ATTRIBUTES}
    for name, value in values.items():
        wanted = {"format_version": int, "success_rate": float, "value_range": np.ndarray}.get(name, str)
        if not isinstance(value, wanted):
            raise CorruptFile(f"{path}: attribute '{name}' is {type(value).__name__}, not {wanted.__name__}.")
    for name, longest in _MAX_TEXT.items():
        if len(values[name]) > longest:
            raise CorruptFile(f"{path}: attribute '{name}' has {len(values[name])} characters, more than {longest}.")
    parsed = {
        name: _parse(values[name], schema, f"{path}: attribute '{name}'") for name, schema in DATASET_RECORDS.items()
    }
    limits, rate = values["value_range"], values["success_rate"]
    if limits.shape != (2,) or limits.dtype.kind != "f" or not np.isfinite(limits).all():
        raise CorruptFile(f"{path}: attribute 'value_range' must hold two numbers.")
    if not (math.isnan(rate) or 0 <= rate <= 1):
        raise CorruptFile(f"{path}: attribute 'success_rate' is {rate}; it must be between 0 and 1.")
    images = root["images"]
    unparsed = ("kind", "success_rate", "created", "citation", "format_version", "content_sha256", "record_sha256")
    return DatasetInfo(
        path=path,
        rows=int(images.shape[0]),
        image_shape=(int(images.shape[1]), int(images.shape[2]), int(images.shape[3])),
        dtype=next(name for name in IMAGE_DTYPES if column_dtype("images", name) == images.dtype),
        classes=tuple(parsed["classes"]),
        value_range=(float(limits[0]), float(limits[1])),
        size=path.stat().st_size,
        **{name: parsed[name] for name in ("recipe", "base", "source_model", "software", "config")},
        **{name: values[name] for name in unparsed},
    )


def _parse(text: str, schema: Any, where: str) -> Any:
    """The JSON of an attribute as it is, once it fits its schema."""
    try:
        value = parse_json(text, where)
        check_record(value, schema, where)
    except RecordError as error:
        raise CorruptFile(str(error)) from None
    return value
