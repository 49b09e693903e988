"""A case of the trial: the files that a person finds, the command that the person gives, and how it may end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FINE, FAILED, REFUSED = 0, 1, 2
ANY = frozenset({FINE, FAILED, REFUSED})
ONLY_REFUSED = frozenset({REFUSED})
FINE_OR_REFUSED = frozenset({FINE, REFUSED})
NOT_FINE = frozenset({FAILED, REFUSED})
# The exit codes of a command that was asked to end; it may have been done before.
STOPPED = {"SIGINT": frozenset({0, 130}), "SIGTERM": frozenset({0, 130, 143}), "SIGKILL": frozenset({0, -9})}


@dataclass(frozen=True)
class Place:
    """The folders of one run: the person works in `work`, and nothing may happen to `outside`.

    `world` holds valid files of every kind, made by the checkout under test.
    """

    work: Path
    outside: Path
    home: Path
    world: Path

    def give(self, name: str, to: str = "") -> Path:
        """A copy of a file or folder of `world`, in `work`."""
        source, target = self.world / name, self.work / (to or Path(name).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copyfile(source, target)
        return target

    def write(self, name: str, content: bytes | str) -> Path:
        target = self.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        return target

    def decoy(self, name: str = "precious.txt", content: bytes = b"precious\n") -> Path:
        """A file of somebody else, which nothing in `work` may lead a command to change."""
        target = self.outside / name
        target.write_bytes(content)
        return target

    def link(self, name: str, to: Path) -> Path:
        target = self.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(to)
        return target

    def fifo(self, name: str) -> Path:
        target = self.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(target)
        return target


@dataclass(frozen=True)
class Run:
    """How a command ended. `peak` counts the bytes beyond what the process had once everything was imported."""

    code: int
    out: bytes
    err: bytes
    seconds: float = 0.0
    peak: int = 0
    hung: bool = False
    left: int = 0

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")

    @property
    def last_line(self) -> str:
        lines = (self.err or self.out).decode("utf-8", "replace").strip().splitlines()
        return "".join(letter if letter.isprintable() else "?" for letter in lines[-1][:120]) if lines else ""


@dataclass(frozen=True)
class Step:
    """One command of a case. `process` means a Python of its own, with `flags`, instead of a fork with all imported."""

    words: Sequence[str]
    codes: frozenset[int] = ANY
    process: bool = False
    flags: Sequence[str] = ()
    prefix: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    unset: Sequence[str] = ()
    closed: Sequence[int] = ()
    file_limit: int = 0
    # Bytes beyond those of the server; 0 for 4 GiB.
    memory_limit: int = 0
    # Whether the file system refuses locks.
    no_locks: bool = False
    # How many times as long as others this may take.
    patience: float = 1.0
    # Called with the process id while the command runs; it returns when it has done what it is for.
    during: Callable[[int, Place], None] | None = None
    # What else is wrong, or nothing.
    check: Callable[[Place, Run], str] | None = None


Prepare = Callable[[Place], object]


@dataclass(frozen=True)
class Case:
    """`may_change` are patterns, relative to `work`, of files that the command is asked to change."""

    name: str
    steps: tuple[Step, ...]
    prepare: Prepare
    may_change: tuple[str, ...] = ()


def case(
    name: str, words: Sequence[str], prepare: Prepare, codes: frozenset[int] = ANY, *,
    may_change: Sequence[str] = (), check: Callable[[Place, Run], str] | None = None,
    environment: Mapping[str, str] | None = None, process: bool = False,
) -> Case:  # fmt: skip
    """A case of a single command."""
    step = Step(tuple(words), codes, process=process, environment=environment or {}, check=check)
    return Case(name, (step,), prepare, tuple(may_change))
