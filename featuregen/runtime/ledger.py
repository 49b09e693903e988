"""What featuregen has made or measured for this user on this machine, as a list of digests in the user's state folder.

Folders of results are exchanged, and anyone can write numbers into one. What is found in a folder is believed only if
this list has it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from featuregen.config.serialize import canonical_json

_FILE = "made-here"
# Where no folder can be written, what this process has made is remembered until it ends.
_known: set[str] = set()
_read_bytes = 0


def remember(what: str, value: Any) -> None:
    """Enter something that was just made; `what` says what it is, so that equal values of two sorts differ."""
    digest = _digest(what, value)
    _known.add(digest)
    if path := _path():
        # One write of a short line is atomic, so runs at the same time need no lock.
        with suppress(OSError), open(path, "ab", buffering=0, opener=_open_private) as file:
            file.write(f"{digest}\n".encode())


def is_remembered(what: str, value: Any) -> bool:
    """Whether this user made it on this machine, in any run."""
    digest = _digest(what, value)
    if digest not in _known:
        _read_new_lines()
    return digest in _known


def _digest(what: str, value: Any) -> str:
    return hashlib.sha256(f"{what}\n{canonical_json(value)}".encode()).hexdigest()


def _read_new_lines() -> None:
    global _read_bytes
    path = _path()
    if path is None:
        return
    with suppress(OSError), path.open("rb") as file:
        # A list that was removed and begun again is shorter than what was read of the former one.
        file.seek(_read_bytes if _read_bytes <= os.fstat(file.fileno()).st_size else 0)
        lines = file.read().split(b"\n")
        # A line that another run has not written in full is read the next time.
        _known.update(line.decode("ascii", "replace") for line in lines[:-1])
        _read_bytes = file.tell() - len(lines[-1])


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@cache
def _path() -> Path | None:
    """The list in the first folder that belongs to this user alone."""
    for folder in _candidates():
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
            ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
            if ours and os.access(folder, os.W_OK):
                return folder / _FILE
    return None


def _candidates() -> list[Path]:
    folders = []
    if state := os.environ.get("XDG_STATE_HOME", ""):
        folders.append(Path(state) / "featuregen")
    with suppress(RuntimeError):
        folders.append(Path.home() / ".local" / "state" / "featuregen")
    # Without a home, as in many containers.
    return [folder for folder in folders if folder.is_absolute()] + [
        Path(tempfile.gettempdir()) / f"featuregen-{os.geteuid()}"
    ]
