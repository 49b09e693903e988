"""Reading files of torch.save without executing anything in them: only tensors, containers and numbers are loaded.

Both layouts are read: the zip archive of torch 1.6 and later, and the sequence of pickles before it.
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

from featuregen.errors import UserError, one_line
from featuregen.interop.unpickle import Refused, Unpickler
from featuregen.runtime.paths import is_file, open_file

# The first bytes of either layout; in the old one, torch's magic number as a pickle, after its protocol.
_SUFFIXES = (".pt", ".pth", ".ckpt", ".best", ".latest", ".tar")
_ZIP = b"PK\x03\x04"
_OLD = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def begins_as_torch_file(path: Path) -> bool:
    """Whether the first bytes are those of a file of torch.save."""
    with open_file(path) as file:
        return _reader_for(file) is not None


def _reader_for(file: Any) -> Callable[[Any, int], Any] | None:
    # The magic number follows the protocol, 2 bytes, and from protocol 4 on the length of a frame, 9 bytes.
    start = file.read(11 + len(_OLD))
    file.seek(0)
    if start.startswith(_ZIP):
        return _read_zip
    return _read_old if start[:1] == b"\x80" and _OLD in start else None


def read_torch_file(path: Path) -> Any:
    """The content of a file of torch.save, on the CPU; UserError for anything else."""
    if not is_file(path):
        raise UserError(f"No file {path}: {'that is no file' if path.exists() else 'it does not exist'}.")
    with open_file(path) as file, _errors_as_user_errors(path):
        if read := _reader_for(file):
            return read(file, path.stat().st_size)
    raise UserError(f"{path} is no file of torch.save: it begins neither as a zip archive nor as torch's pickles.")


@contextmanager
def _errors_as_user_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise UserError(f"{path} is not loaded: {error}.") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory.") from None
    # A damaged pickle makes the unpickler raise nearly anything.
    except Exception as error:
        reason = one_line(error)[:200]
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
            # Compressed or overlapping members could claim more than the file holds.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise Refused(f"its part {name} is compressed, which torch never does")
            return archive.read(info)

        if folder + "byteorder" in names and member("byteorder") != b"little":
            raise Refused("its numbers are big-endian; save it again on a little-endian machine")
        storages = _Storages(size)

        def find(dtype: torch.dtype, key: str, count: int) -> Tensor:
            if key not in storages.by_key:
                storages.fill(storages.allocate(key, dtype, count), member(f"data/{key}"))
            return storages.get(key, dtype, count)

        return Unpickler(io.BytesIO(member("data.pkl")), find).load()


class _Bounded:
    """A file of which no more is read than it holds, since Python allocates the requested size."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        return bytes(self._file.read(max(0, min(count, self._size - self._file.tell()))))


def _read_old(opened: Any, size: int) -> Any:
    file = _Bounded(opened, size)
    storages = _Storages(size)

    def find(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if key not in storages.by_key:
            storages.allocate(key, dtype, count)
        return storages.get(key, dtype, count)

    parts = [Unpickler(file, find).load() for _ in range(4)]
    keys = Unpickler(file, find).load()
    if parts[1] != 1001 or not parts[2].get("little_endian", False):
        raise Refused("it is of an unknown version or big-endian; save it again with a current torch")
    for key in keys:
        storage = storages.by_key[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.numel():
            raise Refused(f"its storage {key} has {count} numbers where {storage.numel()} are declared")
        storages.fill(storage, file.read(count * storage.element_size()))
    if {str(key) for key in keys} != set(storages.by_key):
        raise Refused("some of its tensors have no numbers")
    return parts[3]


class _Storages:
    """The storages of a file by key, together no larger than the file."""

    def __init__(self, limit: int) -> None:
        self.by_key: dict[str, Tensor] = {}
        self._left = limit

    def allocate(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        self._left -= count * dtype.itemsize
        if count < 0 or self._left < 0:
            raise Refused("it declares more numbers than it holds")
        self.by_key[key] = torch.empty(count, dtype=dtype)
        return self.by_key[key]

    def get(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        storage = self.by_key[key]
        if (storage.dtype, storage.numel()) != (dtype, count):
            raise Refused(f"its storage {key} is declared twice, and differently")
        return storage

    @staticmethod
    def fill(storage: Tensor, content: bytes) -> None:
        if len(content) != storage.numel() * storage.element_size():
            raise Refused("one of its storages is shorter or longer than declared")
        if content:
            storage.view(torch.uint8).copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one of torch.save: by its first bytes, or by its suffix where it does not exist."""
    return begins_as_torch_file(path) if is_file(path) else path.suffix in _SUFFIXES
