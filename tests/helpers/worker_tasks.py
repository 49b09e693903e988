"""What workers do in tests of the pool; importing this takes no time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from featuregen.errors import UserError


def prepare(value: Any, *_: object) -> Any:
    return value


def prepare_and_end(how: int) -> None:
    end(how)


def touch(prepared: object, folder: Path, name: str) -> None:
    (folder / name).write_text(f"{prepared} {os.getpid()} {os.getppid()}", encoding="utf-8")


def end(how: int) -> None:
    """By a signal, or with an exit code where the number is negative."""
    if how < 0:
        os._exit(-how)
    signal.signal(how, signal.SIG_DFL) if how not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), how)
    time.sleep(600)


def end_as_task(_: object, how: int) -> None:
    end(how)


def fail(_: object, kind: str) -> None:
    errors: dict[str, BaseException] = {
        "UserError": UserError("The value is 7; give 8."),
        "MemoryError": MemoryError("too much"),
        "OSError": OSError(28, "No space left on device", "a.h5"),
        "strange": Strange("a", "b"),
        "SystemExit": SystemExit(5),
    }
    raise errors[kind]


class Strange(Exception):
    """It cannot be rebuilt from its message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class EndsWhenUnpickled:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (end, (signal.SIGKILL,))


def wait_and_ignore_sigterm(_: object, folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "begun").touch()
    time.sleep(600)


def wait_for(_: object, path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
