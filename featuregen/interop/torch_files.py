"""Files of torch.save, read without running anything in them: tensors and plain containers come out, or an error.

Both layouts are read: the zip archive of torch 1.6 and later, and the row of pickles before it.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.errors import UserError
from featuregen.interop.unpickle import Reader, Refused

# What begins every file of either layout; of the old one, torch's magic number as a pickle, after its protocol.
_ZIP = b"PK\x03\x04"
_OLD = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def begins_as_torch_file(path: Path) -> bool:
    with path.open("rb") as file:
        return _layout(file) is not None


def _layout(file: Any) -> Callable[[Any, int], Any] | None:
    # A pickle's protocol takes two bytes, and from protocol 4 on the length of a frame nine more.
    start = file.read(11 + len(_OLD))
    file.seek(0)
    if start.startswith(_ZIP):
        return _read_zip
    return _read_old if start[:1] == b"\x80" and _OLD in start else None


def read_torch_file(path: Path) -> Any:
    """What torch.save wrote, on the CPU; a UserError for anything else."""
    if not path.is_file():
        raise UserError(f"No file {path}: {'that is no file' if path.exists() else 'it does not exist'}.")
    with _one_sentence(path), path.open("rb") as file:
        if read := _layout(file):
            return read(file, path.stat().st_size)
    raise UserError(f"{path} is no file of torch.save: it begins neither as a zip archive nor as torch's pickles.")


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise UserError(f"{path} is not loaded: {error}.") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory.") from None
    # A damaged pickle can make the reader do anything with its stack and so raise nearly anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as a file of torch.save ({reason}); it may be truncated.") from None


# The two layouts -----------------------------------------------------------------------------------


def _read_zip(file: Any, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("it is a zip archive without torch's data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names or any(name.startswith(f"{folder}code/") for name in names):
            raise Refused("it is a TorchScript program; give a state dict saved by torch.save")

        def member(name: str) -> bytes:
            info = names.get(folder + name)
            if info is None:
                raise Refused(f"its part {name} is missing")
            # Compressed or overlapping parts could claim more than the file holds.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise Refused(f"its part {name} is compressed, which torch never does")
            return archive.read(info)

        if folder + "byteorder" in names and member("byteorder") != b"little":
            raise Refused("its numbers are big-endian; save it again on a common machine")
        buffers = _Buffers(size)

        def find(dtype: torch.dtype, key: str, count: int) -> Tensor:
            if key not in buffers.known:
                buffers.fill(buffers.make(key, dtype, count), member(f"data/{key}"))
            return buffers.get(key, dtype, count)

        return Reader(io.BytesIO(member("data.pkl")), find).load()


class _Bounded:
    """A file that is asked for no more than it holds, since Python sets aside what is asked for."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        return bytes(self._file.read(max(0, min(count, self._size - self._file.tell()))))


def _read_old(opened: Any, size: int) -> Any:
    file = _Bounded(opened, size)
    buffers = _Buffers(size)

    def find(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if key not in buffers.known:
            buffers.make(key, dtype, count)
        return buffers.get(key, dtype, count)

    parts = [Reader(file, find).load() for _ in range(4)]
    keys = Reader(file, find).load()
    if parts[1] != 1001 or not parts[2].get("little_endian", False):
        raise Refused("it is of an unknown version or big-endian; save it again with a current torch")
    for key in keys:
        buffer = buffers.known[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        if count != buffer.numel():
            raise Refused(f"its storage {key} has {count} numbers where {buffer.numel()} are declared")
        buffers.fill(buffer, file.read(count * buffer.element_size()))
    if {str(key) for key in keys} != set(buffers.known):
        raise Refused("some of its tensors have no numbers")
    return parts[3]


class _Buffers:
    """The storages of a file by key, which together are no larger than the file."""

    def __init__(self, limit: int) -> None:
        self.known: dict[str, Tensor] = {}
        self._left = limit

    def make(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        self._left -= count * dtype.itemsize
        if count < 0 or self._left < 0:
            raise Refused("it declares more numbers than it holds")
        self.known[key] = torch.empty(count, dtype=dtype)
        return self.known[key]

    def get(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        found = self.known[key]
        if (found.dtype, found.numel()) != (dtype, count):
            raise Refused(f"its storage {key} is declared twice, and differently")
        return found

    @staticmethod
    def fill(buffer: Tensor, content: bytes) -> None:
        if len(content) != buffer.numel() * buffer.element_size():
            raise Refused("one of its storages is shorter or longer than declared")
        if content:
            buffer.view(torch.uint8).copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
