"""What a run shows in a terminal: progress bars, log lines and aligned columns."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from featuregen.runtime.distributed import dist_from_env

_T = TypeVar("_T")


class _Bar(tqdm):  # type: ignore[type-arg]  # it takes none when it runs
    """Without the thread that watches over every bar: where memory runs out as it starts, it is waited for forever."""

    monitor_interval = 0


def progress(items: Iterable[_T], label: str, total: int | None = None) -> Iterator[_T]:
    """A bar on standard error; nothing when output goes to a file, or in a process that works for another."""
    hidden = not sys.stderr.isatty() or multiprocessing.parent_process() is not None or not dist_from_env().is_main
    yield from _Bar(
        items, desc=label, total=total, file=sys.stderr, disable=hidden, leave=False, mininterval=0.2, miniters=1
    )


def log(message: str) -> None:
    """Progress in words, on standard error; of several processes, the first one speaks for all."""
    if dist_from_env().is_main:
        tqdm.write(message, file=sys.stderr)
