"""Writing a file: batches go into the journal beside it, and the HDF5 file is written from it at the end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

from featuregen.errors import UserError
from featuregen.runtime.atomic import atomic_path, os_errors_as_user_errors, remove_partial
from featuregen.runtime.hdf5_guard import remember_written
from featuregen.runtime.ledger import remember
from featuregen.runtime.paths import check_output_file
from featuregen.storage.journal import Journal, begun_with, check_unfinished, journal_path
from featuregen.storage.preallocated import PreallocatedFile
from featuregen.storage.reader import read_info
from featuregen.storage.schema import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    COLUMNS,
    FORMAT,
    SOURCE,
    Array,
    Attribute,
    ContentDigest,
    Header,
    chunk_shape,
    column_dtype,
    column_shape,
    difference,
    record_digest,
    value_problem,
)

# What to do about an OSError before the first row.
_BEFORE_WORK = "choose another output, or fix that"


class Writer:
    """Writes a dataset batch by batch, in row order. An interrupted run keeps every appended batch.

    If `complete`, the finished file already exists; otherwise append from row `rows_done` on, then `finish`.
    """

    def __init__(self, path: Path, header: Header, journal: Journal | None) -> None:
        self.path = path
        self.header = header
        self._journal = journal

    @classmethod
    def open(cls, path: Path, header: Header, force: bool = False) -> Writer:
        """Open an output, or refuse at once what would fail later: folder, disk space, another file in its place."""
        path = Path(path)
        # A run killed between finishing the file and deleting its journal leaves both; the journal is deleted below.
        if not force and check_compatible(path, header) and not begun_with(journal_path(path), header):
            return cls(path, header, None)
        check_output_file(path)
        with os_errors_as_user_errors(path, _BEFORE_WORK):
            path.parent.mkdir(parents=True, exist_ok=True)
            journal = Journal(journal_path(path), header, force)
        writer = cls(path, header, journal)
        try:
            # Another run may have finished the file before this one got the lock.
            if not force and check_compatible(path, header):
                journal.remove()
                return cls(path, header, None)
            with os_errors_as_user_errors(path, _BEFORE_WORK):
                remove_partial(path)
                writer._check_disk_space()
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
        """Numbers of rows of the batches in the journal; empty once the file is finished."""
        return self._journal.batch_sizes if self._journal else []

    def append(self, columns: Mapping[str, Array]) -> None:
        """Append the next rows: every column, with the types and values of the format."""
        journal = self._open_journal()
        self._check(columns)
        with os_errors_as_user_errors(
            self.path, f"{journal.rows} rows are kept, and the same command resumes from there"
        ):
            journal.append(columns)

    def finish(self, created: str | None = None, remarks: Mapping[str, str] | None = None) -> str:
        """Write the HDF5 file atomically, delete the journal, and return content_sha256.

        `created` is a UTC time, by default now; `remarks` are added to the recorded software.
        """
        journal = self._open_journal()
        if journal.rows != self.header.rows:
            raise UserError(f"{self.path} has {journal.rows} of {self.header.rows} rows; append the others first.")
        header = replace(self.header, software={**self.header.software, **(remarks or {})})
        attributes = header.attributes()
        attributes["created"] = created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with (
            atomic_path(self.path, "all rows are kept, and the same command finishes the file") as partial,
            partial.open("w+b") as file,
        ):
            target = PreallocatedFile(file, _file_size(self.header, attributes))
            digest = self._write(target, journal, attributes)
            target.finish()
        remember_written(self.path, tuple(COLUMNS))
        journal.remove()
        self._journal = None
        remember("dataset", digest)
        return digest

    def close(self) -> None:
        """Release the lock. A journal with rows stays for the next run; an empty one is deleted."""
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
            wrong = ", ".join(sorted(set(columns) ^ set(COLUMNS)))
            raise UserError(
                f"{self.path}: a batch has exactly the columns {', '.join(COLUMNS)}; missing or unknown: {wrong}."
            )
        count = len(columns["labels"])
        if not 0 < count <= self.header.rows - self.rows_done:
            left = self.header.rows - self.rows_done
            raise UserError(f"{self.path}: a batch of {count} rows was given where 1 to {left} are missing.")
        for name, values in columns.items():
            dtype = column_dtype(name, self.header.dtype)
            shape = column_shape(name, count, self.header.image_shape)
            if values.dtype != dtype or values.shape != shape:
                actual = f"{values.dtype} of shape {values.shape}"
                raise UserError(f"{self.path}: column '{name}' takes {dtype} of shape {shape}; got {actual}.")
            problem = value_problem(name, values, len(self.header.classes))
            if problem:
                raise UserError(f"{self.path}: column '{name}' in the batch after row {self.rows_done}: {problem}.")

    def _check_disk_space(self) -> None:
        """Journal and HDF5 file exist together for a while, so twice the size of the data must be free."""
        needed = 2 * _file_size(self.header, {}) - journal_path(self.path).stat().st_size
        usage = shutil.disk_usage(self.path.parent)
        # Some network file systems report a size of 0.
        if usage.total and usage.free < needed:
            raise UserError(
                f"{self.path} needs about {_megabytes(needed)} while it is written, and {self.path.parent} has "
                f"{_megabytes(usage.free)} free; make room or choose another output."
            )

    def _write(self, target: PreallocatedFile, journal: Journal, attributes: dict[str, Attribute]) -> str:
        with h5py.File(target, "w", track_order=False) as root:
            # First, so that a truncated file is still recognised as featuregen's.
            root.attrs["format"] = FORMAT
            for name in COLUMNS:
                shape = column_shape(name, self.header.rows, self.header.image_shape)
                dtype = column_dtype(name, self.header.dtype)
                chunks = chunk_shape(shape, dtype)
                root.create_dataset(name, shape, dtype, chunks=chunks, fletcher32=True, track_times=False)
            digest = self._copy(journal, root, attributes)
            attributes["content_sha256"] = digest
            attributes["record_sha256"] = record_digest(attributes)
            for name in sorted(set(attributes) - {"format"}):
                root.attrs[name] = attributes[name]
        return digest

    def _copy(self, journal: Journal, root: h5py.File, attributes: dict[str, Attribute]) -> str:
        """Copy every column in one pass over the journal, add success_rate, and return the content digest.

        Images are written in whole chunks, so that their order in the file does not depend on the batches.
        """
        digest, images = ContentDigest(), root["images"]
        digest.begin_column("images", images.dtype, images.shape)
        step = images.chunks[0] * max(1, BLOCK_BYTES // CHUNK_BYTES)
        waiting: list[Array] = []
        # Allocated before any batch: small arrays kept behind each would keep malloc from reusing its memory.
        numbers = {name: np.empty(root[name].shape, root[name].dtype) for name in sorted(COLUMNS) if name != "images"}
        written = read = 0
        for records in journal.batches():
            for name, column in numbers.items():
                column[read : read + len(records)] = records[name]
            waiting.append(records["images"])
            read += len(records)
            if read - written >= step or read == self.header.rows:
                block = np.concatenate(waiting)
                whole = len(block) if read == self.header.rows else len(block) - len(block) % step
                for first in range(0, whole, step):
                    part = block[first : min(whole, first + step)]
                    images[written + first : written + first + len(part)] = part
                digest.update(block[:whole])
                waiting, written = [block[whole:]], written + whole
        for name, column in numbers.items():
            root[name][:] = column
            digest.begin_column(name, column.dtype, column.shape)
            digest.update(column)
        attributes["success_rate"] = _success_rate(numbers["source_pred"], numbers["labels"])
        return digest.finish(attributes)


def check_compatible(path: Path, header: Header) -> bool:
    """Whether the output exists already; anything else in its place, or begun there, is refused.

    Called before a source model is trained, when the header may not name one yet.
    """
    check_output_file(path)
    if not path.is_file():
        check_unfinished(journal_path(path), header)
        return False
    try:
        existing = read_info(path).identity()
    except UserError as error:
        raise UserError(f"Cannot replace what is there: {str(error).rstrip('.')}; --force overwrites it.") from None
    wanted = header.identity()
    if not header.source_model:
        wanted[SOURCE] = existing[SOURCE]
    if clause := difference(existing, wanted, ("there", "here")):
        raise UserError(f"{path} is another dataset: {clause}; choose another output, or --force to overwrite it.")
    return True


def _success_rate(source_pred: Array, labels: Array) -> float:
    """The share of rows that the source model classifies as their label; NaN where no prediction is recorded."""
    recorded = int((source_pred >= 0).sum())
    return int((source_pred == labels).sum()) / recorded if recorded else float("nan")


def _file_size(header: Header, attributes: Mapping[str, Attribute]) -> int:
    """An upper bound for the HDF5 file: chunks with checksums, an index entry for each, text, and a margin."""
    size = 1 << 20
    for name in COLUMNS:
        shape, dtype = column_shape(name, header.rows, header.image_shape), column_dtype(name, header.dtype)
        chunk = chunk_shape(shape, dtype)
        size += -(-shape[0] // chunk[0]) * (math.prod(chunk) * dtype.itemsize + 256)
    return size + sum(2 * len(value.encode()) for value in attributes.values() if isinstance(value, str))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
