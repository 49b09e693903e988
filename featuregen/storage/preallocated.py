"""Writing HDF5 to a file whose space is reserved before: a full disk is then an ordinary error."""

from __future__ import annotations

import os
from typing import IO

from featuregen.storage.schema import BLOCK_BYTES


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
