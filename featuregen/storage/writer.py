"""Writing a file: batches into the journal beside it, then the HDF5 file in one go and in one order."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

from featuregen.errors import UserError
from featuregen.runtime import os_errors_as_user_errors, partial_path, sync_folder
from featuregen.storage.journal import Journal
from featuregen.storage.preallocated import ReservedFile
from featuregen.storage.reader import read_info
from featuregen.storage.schema import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    COLUMNS,
    FORMAT,
    SOURCE,
    Array,
    Attribute,
    Header,
    chunk_shape,
    column_dtype,
    column_shape,
    content_digest,
    difference,
    record_digest,
    value_problem,
)

# Said where nothing is begun yet.
_MEND = "choose another output, or mend that"


class Writer:
    """Rows in order, a batch at a time; whatever stops the run, the batches appended so far are kept.

    `complete` says that the finished file is already there; otherwise go on from row `rows_done`.
    """

    def __init__(self, path: Path, header: Header, journal: Journal | None) -> None:
        self.path = path
        self.header = header
        self._journal = journal

    @classmethod
    def open(cls, path: Path, header: Header, force: bool = False) -> Writer:
        """Refuse before any work what would fail after it: the folder, the room on disk, a file in the way."""
        path = Path(path)
        # A journal beside a finished file was left by a run killed in between; it goes, under its lock, below.
        if not force and _is_complete(path, header) and not partial_path(path).exists():
            return cls(path, header, None)
        with os_errors_as_user_errors(path, _MEND):
            if path.is_dir():
                raise UserError(f"{path} is a folder; name a file to write, for example {path / 'det.h5'}.")
            path.parent.mkdir(parents=True, exist_ok=True)
            journal = Journal(partial_path(path), header)
        writer = cls(path, header, journal)
        try:
            # Another run may have finished it between the first look and the lock.
            if not force and _is_complete(path, header):
                journal.remove()
                return cls(path, header, None)
            with os_errors_as_user_errors(path, _MEND):
                _finishing_path(path).unlink(missing_ok=True)
                writer._check_room()
        except BaseException:
            journal.close()
            raise
        return writer

    @property
    def complete(self) -> bool:
        return self._journal is None

    @property
    def rows_done(self) -> int:
        return self._journal.rows if self._journal else self.header.rows

    @property
    def batches(self) -> list[int]:
        """Rows of every batch so far, in an unfinished file."""
        return self._journal.batch_sizes if self._journal else []

    def append(self, columns: Mapping[str, Array]) -> None:
        """The next rows, in every column at once."""
        journal = self._open_journal()
        self._check(columns)
        with os_errors_as_user_errors(
            self.path, f"{journal.rows} rows are kept, and the same command goes on from there"
        ):
            journal.append(columns)

    def finish(self, created: str | None = None, remarks: Mapping[str, str] | None = None) -> str:
        """Write the file, put it in place at once, and return its content_sha256.

        `remarks` join what the file says of the software that made it.
        """
        journal = self._open_journal()
        if journal.rows != self.header.rows:
            raise UserError(f"{self.path} has {journal.rows} of {self.header.rows} rows; append the others first.")
        header = replace(self.header, software={**self.header.software, **(remarks or {})})
        attributes = header.attributes()
        attributes["success_rate"] = _success_rate(journal)
        attributes["created"] = created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        finishing = _finishing_path(self.path)
        with os_errors_as_user_errors(self.path, "all rows are kept, and the same command finishes the file"):
            try:
                with finishing.open("w+b") as file:
                    target = ReservedFile(file, _file_size(self.header, attributes))
                    digest = self._write(target, journal, attributes)
                    target.seal()
                os.replace(finishing, self.path)
                sync_folder(self.path.parent)
            finally:
                finishing.unlink(missing_ok=True)
            journal.remove()
        self._journal = None
        return digest

    def close(self) -> None:
        """Let go of the lock; an unfinished file stays where it is, unless it has no row to keep."""
        if self._journal and self._journal.rows:
            self._journal.close()
        elif self._journal:
            self._journal.remove()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_journal(self) -> Journal:
        if self._journal is None:
            raise UserError(f"{self.path} is finished and takes no more rows.")
        return self._journal

    def _check(self, columns: Mapping[str, Array]) -> None:
        if set(columns) != set(COLUMNS):
            odd = ", ".join(sorted(set(columns) ^ set(COLUMNS)))
            raise UserError(
                f"{self.path}: a batch has exactly the columns {', '.join(COLUMNS)}; missing or unknown: {odd}."
            )
        count = len(columns["labels"])
        if not 0 < count <= self.header.rows - self.rows_done:
            left = self.header.rows - self.rows_done
            raise UserError(f"{self.path}: a batch of {count} rows was given where 1 to {left} are missing.")
        for name, values in columns.items():
            dtype = column_dtype(name, self.header.dtype)
            shape = column_shape(name, count, self.header.image_shape)
            if values.dtype != dtype or values.shape != shape:
                given = f"{values.dtype} of shape {values.shape}"
                raise UserError(f"{self.path}: column '{name}' takes {dtype} of shape {shape}; got {given}.")
            problem = value_problem(name, values, len(self.header.classes))
            if problem:
                raise UserError(f"{self.path}: column '{name}' in the batch after row {self.rows_done}: {problem}.")

    def _check_room(self) -> None:
        """The journal grows to the size of the data, and the file is written before the journal goes."""
        wanted = 2 * _file_size(self.header, {}) - partial_path(self.path).stat().st_size
        usage = shutil.disk_usage(self.path.parent)
        # Some network file systems report nothing at all.
        if usage.total and usage.free < wanted:
            raise UserError(
                f"{self.path} needs about {_megabytes(wanted)} while it is made, and {self.path.parent} has "
                f"{_megabytes(usage.free)} free; make room or choose another output."
            )

    def _write(self, target: ReservedFile, journal: Journal, attributes: dict[str, Attribute]) -> str:
        with h5py.File(target, "w", track_order=False) as root:
            # First, so that a truncated file can still be told from a stranger's.
            root.attrs["format"] = FORMAT
            for name in COLUMNS:
                shape = column_shape(name, self.header.rows, self.header.image_shape)
                dtype = column_dtype(name, self.header.dtype)
                chunks = chunk_shape(shape, dtype)
                root.create_dataset(name, shape, dtype, chunks=chunks, fletcher32=True, track_times=False)
            self._copy(journal, root)
            digest = content_digest(root, attributes)
            attributes["content_sha256"] = digest
            attributes["record_sha256"] = record_digest(attributes)
            for name in sorted(set(attributes) - {"format"}):
                root.attrs[name] = attributes[name]
        return digest

    def _copy(self, journal: Journal, root: h5py.File) -> None:
        """Images in whole chunks, so that the order on disk does not depend on the batches; then the numbers."""
        images = root["images"]
        step = images.chunks[0] * max(1, BLOCK_BYTES // CHUNK_BYTES)
        waiting: list[Array] = []
        # Made before any batch: small copies kept behind each would keep the C library from using its memory again.
        numbers = {name: np.empty(root[name].shape, root[name].dtype) for name in COLUMNS if name != "images"}
        start = held = 0
        for records in journal.batches():
            for name, column in numbers.items():
                column[start + held : start + held + len(records)] = records[name]
            waiting.append(records["images"])
            held += len(records)
            if held >= step or start + held == self.header.rows:
                block = np.concatenate(waiting)
                whole = held if start + held == self.header.rows else held - held % step
                for first in range(0, whole, step):
                    part = block[first : min(whole, first + step)]
                    images[start + first : start + first + len(part)] = part
                waiting, start, held = [block[whole:]], start + whole, held - whole
        for name, column in numbers.items():
            root[name][:] = column


def check_compatible(path: Path, header: Header) -> bool:
    """Say early that the place is taken, before a source model is trained: a header may name none yet.

    True where the file is there already.
    """
    return _is_complete(Path(path), header)


def _is_complete(path: Path, header: Header) -> bool:
    """Whether the output is there already; anything else in its place is refused."""
    if not path.is_file():
        return False
    try:
        there = read_info(path).header()
    except UserError as error:
        raise UserError(f"Cannot replace what is there: {str(error).rstrip('.')}; --force overwrites it.") from None
    wanted, found = header.identity(), there.identity()
    if not header.source_model:
        wanted = {**wanted, SOURCE: found[SOURCE]}
    if odd := difference(found, wanted, ("there", "here")):
        raise UserError(f"{path} is another dataset: {odd}; choose another output, or --force to overwrite it.")
    return True


def _success_rate(journal: Journal) -> float:
    """The share of rows that the source model sees as the label they carry; NaN where its view is not recorded."""
    hits = known = 0
    for records in journal.batches():
        hits += int((records["source_pred"] == records["labels"]).sum())
        known += int((records["source_pred"] >= 0).sum())
    return hits / known if known else float("nan")


def _finishing_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.finishing")


def _file_size(header: Header, attributes: Mapping[str, Attribute]) -> int:
    """Never less than HDF5 will take: chunks with their checksums, an index entry for each, text, and a margin."""
    size = 1 << 20
    for name in COLUMNS:
        shape, dtype = column_shape(name, header.rows, header.image_shape), column_dtype(name, header.dtype)
        chunk = chunk_shape(shape, dtype)
        size += -(-shape[0] // chunk[0]) * (math.prod(chunk) * dtype.itemsize + 256)
    return size + sum(2 * len(value.encode()) for value in attributes.values() if isinstance(value, str))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
