"""The unfinished file beside an output: a locked, append-only journal of batches.

It is no HDF5 file on purpose. A batch lands in it whole or not at all whatever kills the run, finished batches
are never touched again, and a full disk is an ordinary error (HDF5 ends the process when it cannot flush).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featuregen.config import canonical_json
from featuregen.runtime import lock, log, unlock
from featuregen.storage.schema import COLUMNS, Array, Header, column_dtype, column_shape

MAGIC = b"featuregen unfinished 1\n"
# Rows in the batch, and the CRC-32 of that count and of the rows: a torn or damaged batch does not match.
_FRAME = struct.Struct("<QI")
_SIZE = struct.Struct("<Q")


class Journal:
    """Batches of rows on disk, in order; holding it is holding the lock on the output."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        fields = [(n, column_dtype(n, header.dtype), column_shape(n, 1, header.image_shape)[1:]) for n in COLUMNS]
        self._record = np.dtype(fields)
        self._head = _head(header)
        self._frames: list[tuple[int, int]] = []
        self.rows = 0
        self._end = 0
        # A file object, not a bare number: it lets go of the lock when it is dropped.
        self._file = os.fdopen(lock(path), "r+b", buffering=0)
        self._fd = self._file.fileno()
        try:
            self._resume(header.rows)
        except BaseException:
            self.close()
            raise

    def append(self, columns: Mapping[str, Array]) -> None:
        count = len(columns["labels"])
        records = np.empty(count, dtype=self._record)
        for name in COLUMNS:
            records[name] = columns[name]
        data = records.tobytes()
        _write(self._fd, _FRAME.pack(count, zlib.crc32(data, count)) + data, self._end)
        self._frames.append((count, self._end + _FRAME.size))
        self._end += _FRAME.size + len(data)
        self.rows += count

    @property
    def batch_sizes(self) -> list[int]:
        return [count for count, _ in self._frames]

    def batches(self) -> Iterator[Array]:
        """Records with one field per column, as appended."""
        for count, offset in self._frames:
            data = _read(self._fd, count * self._record.itemsize, offset)
            yield np.frombuffer(data, dtype=self._record)

    def remove(self) -> None:
        """Delete the file while still holding its lock, so that no other writer can pick it up."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        if not self._file.closed:
            unlock(self._fd)
            self._file.close()
            self._fd = -1

    def _resume(self, rows: int) -> None:
        size = os.fstat(self._fd).st_size
        if size:
            problem = self._scan(size, rows)
            if problem:
                log(f"{self.path} {problem}: starting again from row 0.")
        if not self._end:
            self._frames, self.rows = [], 0
            os.ftruncate(self._fd, 0)
            _write(self._fd, self._head, 0)
            self._end = len(self._head)
        elif self.rows:
            log(f"{self.path} holds {self.rows} of {rows} rows: going on from there.")

    def _scan(self, size: int, rows: int) -> str | None:
        """Find the whole batches; a torn last one is cut off, anything else that is wrong is named."""
        if _read(self._fd, len(self._head), 0) != self._head:
            known = _read(self._fd, len(MAGIC), 0) == MAGIC
            return "was begun with other settings" if known else "is damaged or no unfinished file of featuregen"
        offset = len(self._head)
        while size - offset >= _FRAME.size:
            count, crc = _FRAME.unpack(_read(self._fd, _FRAME.size, offset))
            length = count * self._record.itemsize
            if count < 1 or self.rows + count > rows:
                return "is damaged"
            after = offset + _FRAME.size + length
            if after > size:
                break
            if zlib.crc32(_read(self._fd, length, offset + _FRAME.size), count) != crc:
                if after < size:
                    return "is damaged"
                break
            self._frames.append((count, offset + _FRAME.size))
            self.rows += count
            offset = after
        os.ftruncate(self._fd, offset)
        self._end = offset
        return None


def _head(header: Header) -> bytes:
    identity = canonical_json(header.identity()).encode()
    return MAGIC + _SIZE.pack(len(identity)) + identity


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
