"""Reading files of torch.save without executing anything in them: only tensors, containers and numbers are loaded.

Both layouts are read: the zip archive of torch 1.6 and later, and the sequence of pickles before it. `torch.load` with
`weights_only=True` executes nothing either, but it does not end on some files of a few hundred bytes.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from featuregen.errors import UserError, one_line, out_of_memory
from featuregen.runtime.paths import is_file, open_file
from featuregen.runtime.pickled_objects import Program, Refused, is_name
from featuregen.runtime.unpickle import Unpickler, check_size

# The first bytes of either layout; in the old one, torch's magic number as a pickle, after its protocol.
_SUFFIXES = (".pt", ".pth", ".ckpt", ".best", ".latest", ".tar")
_ZIP = b"PK\x03\x04"
_OLD = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Bytes of a zip archive's directory, where a checkpoint of ResNet-50 takes 30 KB, and of a header of one of its parts.
_MAX_DIRECTORY, _PART_HEADER = 2 << 20, 30
_PIECE = 1 << 20


def begins_as_torch_file(path: Path) -> bool:
    """Whether the first bytes are those of a file of torch.save."""
    with open_file(path) as file:
        return _reader_for(file) is not None


def _reader_for(file: BinaryIO) -> Callable[[BinaryIO, int], Any] | None:
    # The magic number follows the protocol, 2 bytes, and from protocol 4 on the length of a frame, 9 bytes.
    start = file.read(11 + len(_OLD))
    file.seek(0)
    if start.startswith(_ZIP):
        return _read_zip
    return _read_old if start[:1] == b"\x80" and _OLD in start else None


def read_torch_file(path: Path) -> Any:
    """The content of a file of torch.save, on the CPU; UserError for anything else.

    It can be gone through quickly: it is a small and shallow tree, and its tensors are not much larger than the file.
    """
    if not path.is_file():
        raise UserError(f"No file {path}: {'that is no file' if path.exists() else 'it does not exist'}.")
    with open_file(path) as file, _errors_as_user_errors(path):
        if read := _reader_for(file):
            size = path.stat().st_size
            content = read(file, size)
            check_size(content, size)
            return content
    raise UserError(f"{path} is no file of torch.save: it begins neither as a zip archive nor as torch's pickles.")


@contextmanager
def _errors_as_user_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise UserError(f"{path} is not loaded: {error}.") from None
    # A damaged pickle makes the unpickler raise nearly anything.
    except Exception as error:
        if out_of_memory(error):
            raise UserError(f"{path} does not fit into memory.") from None
        reason = one_line(error)[:200]
        raise UserError(f"{path} cannot be read as a file of torch.save ({reason}); it may be truncated.") from None


# The two layouts -----------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(_SmallReads(file)) as archive:
        parts = _Parts(archive)
        if "byteorder" in parts and parts.read("byteorder") != b"little":
            raise Refused("its numbers are big-endian; save it again on a little-endian machine")
        storages = _Storages(size)

        def find(dtype: torch.dtype, key: str, count: int) -> Tensor:
            if key not in storages.by_key:
                storage = storages.allocate(key, dtype, count)
                with parts.open(f"data/{key}", count * dtype.itemsize) as part:
                    _fill(storage, part)
            return storages.get(key, dtype, count)

        return Unpickler(Program(io.BytesIO(parts.read("data.pkl"))), find).load()


class _SmallReads:
    """A file of which a zip archive cannot have all read at once: its directory says how long it is itself."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count > _MAX_DIRECTORY:
            raise Refused(
                f"its directory has more than {_MAX_DIRECTORY >> 20} MiB, and no checkpoint has so many parts"
            )
        return self._file.read(count)


class _Parts:
    """The parts of a zip archive in torch's folder, each stored as it is, once, and by itself."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive, self._by_name = archive, {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self._by_name if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("it is a zip archive without torch's data.pkl")
        self._folder = pickles[0].removesuffix("data.pkl")
        if "constants.pkl" in self or any(name.startswith(f"{self._folder}code/") for name in self._by_name):
            raise Refused("it is a TorchScript program; give a state dict saved by torch.save")
        if len(self._by_name) < len(archive.infolist()):
            raise Refused("two of its parts have the same name")
        end = 0
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise Refused("its parts overlap")
            end = info.header_offset + _PART_HEADER + info.compress_size

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._by_name

    def open(self, name: str, length: int | None = None) -> Any:
        """A part to be read, if it has the length; the directory is read already, and says it."""
        if name not in self:
            raise Refused(f"its part {name} is missing")
        info = self._by_name[self._folder + name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Refused(f"its part {name} is compressed, which torch never does")
        if info.flag_bits & 1:
            raise Refused(f"its part {name} is encrypted, which torch never does")
        if length is not None and info.file_size != length:
            raise Refused("one of its storages is shorter or longer than declared")
        return self._archive.open(info)

    def read(self, name: str) -> bytes:
        """A part that is not numbers."""
        with self.open(name) as part:
            return bytes(part.read(_MAX_DIRECTORY))


def _read_old(file: BinaryIO, size: int) -> Any:
    storages, program = _Storages(size), Program(file)

    def find(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if key not in storages.by_key:
            storages.allocate(key, dtype, count)
        return storages.get(key, dtype, count)

    _, version, machine, content, keys = (Unpickler(program, find).load() for _ in range(5))
    little = isinstance(machine, dict) and machine.get("little_endian") is True
    if type(version) is not int or version != 1001 or not little:
        raise Refused("it is of an unknown version or big-endian; save it again with a current torch")
    if type(keys) is not list or not all(map(is_name, keys)) or sorted(keys) != sorted(storages.by_key):
        raise Refused("some of its tensors have no numbers")
    for key in keys:
        storage = storages.by_key[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.numel():
            raise Refused(f"its storage {key} has {count} numbers where {storage.numel()} are declared")
        _fill(storage, file)
    return content


class _Storages:
    """The storages of a file by key, together no larger than the file."""

    def __init__(self, limit: int) -> None:
        self.by_key: dict[str, Tensor] = {}
        self._left = limit

    def allocate(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        self._left -= count * dtype.itemsize
        if self._left < 0:
            raise Refused("it declares more numbers than it holds")
        self.by_key[key] = torch.empty(count, dtype=dtype)
        return self.by_key[key]

    def get(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        storage = self.by_key[key]
        if (storage.dtype, storage.numel()) != (dtype, count):
            raise Refused(f"its storage {key} is declared twice, and differently")
        return storage


def _fill(storage: Tensor, file: Any) -> None:
    """Read the numbers of a storage into it, in pieces, so that they are never in memory twice."""
    target = storage.view(torch.uint8).numpy().data
    done = 0
    while done < len(target):
        read = file.readinto(target[done : done + _PIECE])
        if not read:
            raise Refused("one of its storages is shorter or longer than declared")
        done += read


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one of torch.save: by its first bytes, or by its suffix where it does not exist."""
    return begins_as_torch_file(path) if is_file(path) else path.suffix in _SUFFIXES
