"""The unfinished file beside an output: a locked, append-only journal of batches.

It is deliberately not HDF5: a batch is appended completely or not at all however the process ends, earlier batches are
never rewritten, and a full disk is an ordinary error (HDF5 aborts the process when it cannot flush).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from featuregen.config.records import RecordError, check_record, parse_json
from featuregen.config.serialize import canonical_json
from featuregen.errors import UserError
from featuregen.runtime.atomic import is_at, lock, unlock
from featuregen.runtime.console import log
from featuregen.runtime.kept_files import set_aside
from featuregen.runtime.paths import is_file, open_file, read_start
from featuregen.storage.schema import COLUMNS, SOURCE, Array, Header, column_dtype, column_shape, difference

MAGIC = b"featuregen unfinished 1\n"
# Before each batch: its number of rows, and the CRC-32 of that number and the rows, which a torn batch does not match.
_BATCH_HEADER = struct.Struct("<QI")
_SIZE = struct.Struct("<Q")


def journal_path(path: Path) -> Path:
    """The unfinished file beside an output."""
    return path.with_name(f"{path.name}.partial")


class Journal:
    """Batches of rows on disk, in order. An open journal is the lock on its output.

    A damaged file in its place is set aside. The rows of a run with other settings are only discarded by `force`.
    """

    def __init__(self, path: Path, header: Header, force: bool = False) -> None:
        self.path = path
        self._record = _record_dtype(header.dtype, header.image_shape)
        self._preamble = _preamble(header)
        # Rows and offset of every batch.
        self._batches: list[tuple[int, int]] = []
        self.rows = 0
        self._end = 0
        self._open()
        try:
            self._resume(header, force)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        # A file object rather than a descriptor: garbage collection closes it and releases the lock.
        self._file = os.fdopen(lock(self.path), "r+b", buffering=0)
        self._fd = self._file.fileno()

    def append(self, columns: Mapping[str, Array]) -> None:
        count = len(columns["labels"])
        records = np.empty(count, dtype=self._record)
        for name in COLUMNS:
            records[name] = columns[name]
        data = records.tobytes()
        _write(self._fd, _BATCH_HEADER.pack(count, zlib.crc32(data, count)) + data, self._end)
        self._batches.append((count, self._end + _BATCH_HEADER.size))
        self._end += _BATCH_HEADER.size + len(data)
        self.rows += count

    @property
    def batch_sizes(self) -> list[int]:
        return [count for count, _ in self._batches]

    def batches(self) -> Iterator[Array]:
        """Structured arrays with one field per column, as appended."""
        for count, offset in self._batches:
            data = _read(self._fd, count * self._record.itemsize, offset)
            yield np.frombuffer(data, dtype=self._record)

    def remove(self) -> None:
        """Delete the file under its lock, so that no other writer can resume it."""
        if is_at(self._fd, self.path):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        if not self._file.closed:
            unlock(self._fd)
            self._file.close()
            self._fd = -1

    def _resume(self, header: Header, force: bool) -> None:
        size = os.fstat(self._fd).st_size
        start = _read(self._fd, len(self._preamble), 0)
        # New, or the disk was full before the first row.
        empty = size < len(self._preamble) and self._preamble.startswith(start)
        if start != self._preamble and not empty:
            self._make_way(header, size, force)
        elif not empty and not self._scan(size, header.rows):
            self._set_aside()
        if not self._end:
            self._batches, self.rows = [], 0
            os.ftruncate(self._fd, 0)
            _write(self._fd, self._preamble, 0)
            self._end = len(self._preamble)
        elif self.rows:
            log(f"{self.path} holds {self.rows} of {header.rows} rows: resuming from there.")

    def _make_way(self, header: Header, size: int, force: bool) -> None:
        """Discard the journal of another run, unless it holds rows; anything else is set aside."""
        other = _other_run(self._fd, size)
        if other is None:
            self._set_aside()
        elif other.rows and not force:
            raise other.refusal(self.path, header)
        else:
            log(f"{self.path} was begun with other settings: starting again from row 0.")

    def _set_aside(self) -> None:
        """Keep a file that is damaged, or not featuregen's, under another name."""
        set_aside(self.path, RecordError(f"{self.path} is damaged, or not featuregen's."))
        self.close()
        self._batches, self.rows = [], 0
        self._open()

    def _scan(self, size: int, rows: int) -> bool:
        """Find the complete batches and cut off a torn last one; False where the file is damaged otherwise."""
        offset = len(self._preamble)
        while size - offset >= _BATCH_HEADER.size:
            count, crc = _BATCH_HEADER.unpack(_read(self._fd, _BATCH_HEADER.size, offset))
            length = count * self._record.itemsize
            if count < 1 or self.rows + count > rows:
                return False
            end = offset + _BATCH_HEADER.size + length
            if end > size:
                break
            if zlib.crc32(_read(self._fd, length, offset + _BATCH_HEADER.size), count) != crc:
                if end < size:
                    return False
                break
            self._batches.append((count, offset + _BATCH_HEADER.size))
            self.rows += count
            offset = end
        os.ftruncate(self._fd, offset)
        self._end = offset
        return True


# Other files in its place ---------------------------------------------------------------------------


def begun_with(path: Path, header: Header) -> bool:
    """Whether the journal of this very output is there."""
    preamble = _preamble(header)
    if not is_file(path) or path.is_symlink():
        return False
    return read_start(path, len(preamble)) == preamble


def check_unfinished(path: Path, header: Header) -> None:
    """Refuse the rows of a run with other settings; called before the header may name a source model."""
    if not is_file(path) or path.is_symlink():
        return
    with open_file(path) as file:
        other = _other_run(file.fileno(), os.fstat(file.fileno()).st_size)
    if other and other.rows and other.differs_from(header):
        raise other.refusal(path, header)


_Side = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class _Identity(msgspec.Struct, rename={"image_shape": "image shape"}):
    """What must be known of a journal to count its rows."""

    dtype: Literal["uint8", "float16", "float32"]
    image_shape: tuple[_Side, _Side, _Side]


@dataclass(frozen=True)
class _OtherRun:
    """The identity of the output that a journal was begun for, and how many rows it holds."""

    identity: Mapping[str, Any]
    rows: int

    def differs_from(self, header: Header) -> str | None:
        """The first difference as a clause; a header without a source model agrees with any."""
        wanted = header.identity()
        if not header.source_model:
            wanted[SOURCE] = self.identity.get(SOURCE)
        return difference(self.identity, wanted, ("there", "here"))

    def refusal(self, path: Path, header: Header) -> UserError:
        clause = self.differs_from(header) or "another version wrote them"
        return UserError(
            f"{path} holds {self.rows} rows of a run with other settings ({clause}); finish it with those, or choose "
            "another output; --force discards the rows."
        )


def _other_run(fd: int, size: int) -> _OtherRun | None:
    """What a journal says of itself; None if it is damaged, or no journal."""
    start = len(MAGIC) + _SIZE.size
    head = _read(fd, start, 0)
    if len(head) < start or not head.startswith(MAGIC):
        return None
    (length,) = _SIZE.unpack(head[len(MAGIC) :])
    if length > size - start:
        return None
    try:
        identity = parse_json(_read(fd, length, start), "the journal")
        known = check_record(identity, _Identity, "the journal")
        row_bytes = _record_dtype(known.dtype, known.image_shape).itemsize
    # numpy refuses rows of gigabytes.
    except (RecordError, ValueError, OverflowError):
        return None
    offset, rows = start + length, 0
    while size - offset >= _BATCH_HEADER.size:
        count, _ = _BATCH_HEADER.unpack(_read(fd, _BATCH_HEADER.size, offset))
        offset += _BATCH_HEADER.size + count * row_bytes
        if count < 1:
            return None
        rows += count if offset <= size else 0
    return _OtherRun(identity, rows)


def _preamble(header: Header) -> bytes:
    identity = canonical_json(header.identity()).encode()
    return MAGIC + _SIZE.pack(len(identity)) + identity


def _record_dtype(dtype: str, image_shape: tuple[int, int, int]) -> np.dtype[Any]:
    return np.dtype([(name, column_dtype(name, dtype), column_shape(name, 1, image_shape)[1:]) for name in COLUMNS])


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _read(fd: int, length: int, offset: int) -> bytes:
    parts: list[Any] = []
    while length:
        part = os.pread(fd, min(length, 1 << 30), offset)
        if not part:
            break
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)
