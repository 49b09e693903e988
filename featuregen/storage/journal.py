"""The unfinished file beside an output: a locked, append-only journal of batches.

It is deliberately not HDF5: a batch is appended completely or not at all however the process ends, earlier batches are
never rewritten, and a full disk is an ordinary error (HDF5 aborts the process when it cannot flush).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from featuregen.config.serialize import canonical_json
from featuregen.runtime.atomic import lock, unlock
from featuregen.runtime.console import log
from featuregen.storage.schema import BLOCK_BYTES, COLUMNS, Array, Header, column_dtype, column_shape


class PreallocatedFile:
    """The file interface of h5py. HDF5 aborts the process if it cannot flush, so a full disk must be noticed before."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        _allocate(file, size)
        self._file = file
        self._end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(self._end + offset if whence == os.SEEK_END else offset)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: memoryview) -> int:
        count = self._file.write(data)
        self._end = max(self._end, self._file.tell())
        return count

    def truncate(self, size: int) -> None:
        self._end = size

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> None:
        """Cut the file to what was written, and flush it to disk."""
        self._file.truncate(self._end)
        self._file.flush()
        os.fsync(self._file.fileno())


def _allocate(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    # macOS has no such call.
    for start in range(0, size, BLOCK_BYTES):
        file.write(bytes(min(BLOCK_BYTES, size - start)))
    file.flush()


MAGIC = b"featuregen unfinished 1\n"
# Before each batch: its number of rows, and the CRC-32 of that number and the rows, which a torn batch does not match.
_BATCH_HEADER = struct.Struct("<QI")
_SIZE = struct.Struct("<Q")


class Journal:
    """Batches of rows on disk, in order. An open journal is the lock on its output."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        fields = [(n, column_dtype(n, header.dtype), column_shape(n, 1, header.image_shape)[1:]) for n in COLUMNS]
        self._record = np.dtype(fields)
        identity = canonical_json(header.identity()).encode()
        self._preamble = MAGIC + _SIZE.pack(len(identity)) + identity
        # Rows and offset of every batch.
        self._batches: list[tuple[int, int]] = []
        self.rows = 0
        self._end = 0
        # A file object rather than a descriptor: garbage collection closes it and releases the lock.
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
            self._batches, self.rows = [], 0
            os.ftruncate(self._fd, 0)
            _write(self._fd, self._preamble, 0)
            self._end = len(self._preamble)
        elif self.rows:
            log(f"{self.path} holds {self.rows} of {rows} rows: resuming from there.")

    def _scan(self, size: int, rows: int) -> str | None:
        """Find the complete batches and cut off a torn last one; any other damage is returned as a clause."""
        if _read(self._fd, len(self._preamble), 0) != self._preamble:
            ours = _read(self._fd, len(MAGIC), 0) == MAGIC
            return "was begun with other settings" if ours else "is damaged or no unfinished file of featuregen"
        offset = len(self._preamble)
        while size - offset >= _BATCH_HEADER.size:
            count, crc = _BATCH_HEADER.unpack(_read(self._fd, _BATCH_HEADER.size, offset))
            length = count * self._record.itemsize
            if count < 1 or self.rows + count > rows:
                return "is damaged"
            end = offset + _BATCH_HEADER.size + length
            if end > size:
                break
            if zlib.crc32(_read(self._fd, length, offset + _BATCH_HEADER.size), count) != crc:
                if end < size:
                    return "is damaged"
                break
            self._batches.append((count, offset + _BATCH_HEADER.size))
            self.rows += count
            offset = end
        os.ftruncate(self._fd, offset)
        self._end = offset
        return None


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
