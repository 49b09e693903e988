"""Traps for what an input must not cause while it is opened: code that runs, other files, memory. Linux only."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Beyond what the process had before: pages touched, and addresses asked for, whether touched or not.
TOUCHED, ASKED, PER_BYTE = 96 << 20, 512 << 20, 16
# What is asked for beyond this fails, and is known by the words of the failure.
CEILING = 4 << 30
STARVED = re.compile(r"\bmemory\b|\ballocat")

_RUNS = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.", "socket.", "urllib.",
    "http.", "ftplib.", "smtplib.", "pty.", "pickle.", "ctypes.", "marshal.", "code.", "webbrowser.", "os.kill",
)  # fmt: skip
_CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
# Type hints are text that Python evaluates, here as everywhere; numpy has the head of an array parsed, and no more.
_OWN = {("exec", "typing"), ("compile", "typing"), ("compile", "ast")}
_OPENED, _READ = 0x20, 0x1
_EVENT = struct.Struct("iIII")


class Traps:
    """Set around every input; `caught` lists what happened that must not.

    `folder` holds the input, and files inside it may be read and written; `decoys` holds files that inputs point to.
    Python's own files and featuregen's may be read.
    """

    def __init__(self, folder: Path, decoys: Path) -> None:
        # What featuregen has made on this machine is listed in the user's state folder, whatever the input says.
        state = os.environ.get("XDG_STATE_HOME")
        self._own = (str(folder), state) if state else (str(folder),)
        self._readable = (*self._own, sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]))
        self.caught: list[str] = []
        self._armed = False
        libc = ctypes.CDLL(None, use_errno=True)
        # HDF5 opens files without Python's audit events, so the kernel is asked.
        self._inotify = libc.inotify_init1(os.O_NONBLOCK)
        if libc.inotify_add_watch(self._inotify, os.fsencode(decoys), _OPENED | _READ) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {decoys}")
        sys.addaudithook(self._on_audit_event)

    @contextmanager
    def armed(self) -> Iterator[None]:
        # Files opened while the input was made do not count.
        self._opened_decoys()
        self.caught = []
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            self.caught += [f"opened the decoy {name}" for name in self._opened_decoys()]

    def _opened_decoys(self) -> list[str]:
        try:
            data = os.read(self._inotify, 1 << 16)
        except BlockingIOError:
            return []
        names, at = set(), 0
        while at < len(data):
            *_, length = _EVENT.unpack_from(data, at)
            names.add(data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode() or "folder")
            at += _EVENT.size + length
        return sorted(names)

    def _on_audit_event(self, event: str, details: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        if event.startswith(_RUNS):
            self.caught.append(f"{event} {_shown(details)}")
        elif event in ("exec", "compile"):
            # The frame above this one is that of whoever does it.
            if (event, sys._getframe(1).f_globals.get("__name__")) not in _OWN:
                self.caught.append(f"{event} {_shown(details)}")
        elif event == "import":
            if details[0] not in sys.modules:
                self.caught.append(f"import {details[0]}")
        elif event == "open":
            path, _, flags = details
            self._judge(event, path, bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        elif event in _CHANGES:
            self._judge(event, details[0], True)

    def _judge(self, event: str, path: Any, writes: bool) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        place = os.path.abspath(os.fsdecode(path))
        allowed = self._own if writes else self._readable
        if not any(place == folder or place.startswith(folder + os.sep) for folder in allowed):
            self.caught.append(f"{event} {place}")


def _shown(details: tuple[Any, ...]) -> str:
    return repr(details)[:80]


# Memory --------------------------------------------------------------------------------------------


class Memory:
    """Peaks of this process since the object was created, beyond what it used before."""

    def __init__(self) -> None:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
        self._before = _status()

    def touched(self) -> int:
        return max(0, _status()["VmHWM"] - self._before["VmRSS"])

    def asked(self) -> int:
        """0 if it is no more than at some earlier time, since the kernel keeps only the largest value."""
        largest = _status()["VmPeak"]
        return largest - self._before["VmSize"] if largest > self._before["VmPeak"] else 0


def _status() -> dict[str, int]:
    with open("/proc/self/status", encoding="ascii") as file:
        pairs = (line.split()[:2] for line in file if line.startswith("Vm"))
        return {name.rstrip(":"): 1024 * int(size) for name, size in pairs}


def return_memory() -> None:
    """Memory that was freed and kept before the fork could be used again unnoticed, so it is given back."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def limit_memory() -> None:
    largest = _status()["VmSize"] + CEILING
    resource.setrlimit(resource.RLIMIT_AS, (largest, largest))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
