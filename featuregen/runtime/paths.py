"""Paths that users and files name: what is there, said in one sentence before anything is opened.

Opening a pipe waits for a writer that may never come, and opening a device may do anything. So only regular files are
opened for reading, and nothing is written through a link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from featuregen.errors import UserError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}
# Far above any text that is read whole: records, lists of checksums, configs.
_MAX_TEXT = 1 << 26


def kind_of(status: os.stat_result) -> str:
    """ "a named pipe", "a folder" and so on; nothing for a regular file."""
    return "" if stat.S_ISREG(status.st_mode) else _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~user` replaced by a home folder."""
    text = os.fspath(path)
    if "\0" in text:
        raise _zero_byte(path)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = text.partition("/")[0]
        raise UserError(f"{text}: there is no home folder {user} here; write the folder out.") from None


# Reading -------------------------------------------------------------------------------------------


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is there, also where the system will not say."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_file(path: str | os.PathLike[str], what: str = "file") -> None:
    """Refuse anything but a regular file, for libraries that open files themselves."""
    with _one_sentence(path):
        _check_regular(path, os.stat(path), what)


def open_file(path: str | os.PathLike[str], what: str = "file") -> BinaryIO:
    """A regular file, open for reading; `what` names what should have been there."""
    with _one_sentence(path):
        _check_regular(path, os.stat(path), what)
        # Another kind of file may have taken the name since: a pipe opened like this does not wait.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_regular(path, os.fstat(handle), what)
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise


def read_start(path: str | os.PathLike[str], count: int, what: str = "file") -> bytes:
    """The first bytes of a regular file, all of them where `count` is -1."""
    with open_file(path, what) as file, _one_sentence(path):
        return file.read(count)


def read_bytes(path: str | os.PathLike[str], limit: int = 0) -> bytes:
    """The content of a regular file; one of more than `limit` bytes is refused, where a limit is given."""
    content = read_start(path, limit + 1 if limit else -1)
    if limit and len(content) > limit:
        raise UserError(f"{path} is larger than {limit >> 10} KiB, more than such a file ever is; check its name.")
    return content


def read_text(path: str | os.PathLike[str], limit: int = _MAX_TEXT) -> str:
    """The text of a regular file in UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8; check its name.") from None


# Writing -------------------------------------------------------------------------------------------


def check_utf8(path: str | os.PathLike[str], what: str) -> None:
    """Refuse a name in another encoding, which safetensors cannot open."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path} is no name in UTF-8, which {what} needs; choose another name.") from None


def check_output_file(path: str | os.PathLike[str]) -> None:
    """Refuse to write a file where a link, a folder, a pipe or a device is."""
    if kind := _kind_at(path):
        raise _no_output(path, kind)


def check_output_folder(path: str | os.PathLike[str]) -> None:
    """Refuse to write into a folder where a link, a file, a pipe or a device is."""
    kind = _kind_at(path, "a file")
    if kind not in ("", "a folder"):
        raise _no_output(path, kind, "folder")


def _kind_at(path: str | os.PathLike[str], regular: str = "") -> str:
    """What is at a path, the link itself where it is one; nothing where nothing is."""
    try:
        return kind_of(os.lstat(path)) or regular
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except ValueError:
        raise _zero_byte(path) from None
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}; choose another output.") from None


def _no_output(path: str | os.PathLike[str], kind: str, wanted: str = "file") -> UserError:
    if kind == "a link":
        return UserError(
            f"Cannot write {path}: it is a link to {os.readlink(path)}, which outputs do not follow; name that "
            f"{wanted}, or remove the link."
        )
    return UserError(f"Cannot write {path}: it is {kind}; name a {wanted} to write.")


# Refusing ------------------------------------------------------------------------------------------


@contextmanager
def _one_sentence(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system says against reading a path becomes one sentence."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist; check its name.") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError:
        raise _zero_byte(path) from None


def _check_regular(path: str | os.PathLike[str], status: os.stat_result, what: str) -> None:
    if kind := kind_of(status):
        raise UserError(f"{path} is {kind}; name the {what} itself.")


def _unreadable(path: str | os.PathLike[str], error: OSError) -> UserError:
    return UserError(f"Cannot read {path}: {error.strerror}; check its name and permissions.")


def _zero_byte(path: str | os.PathLike[str]) -> UserError:
    return UserError(f"The path {os.fspath(path)!r} holds a zero byte, which no name has; check it.")
