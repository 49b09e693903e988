"""What a run shows in a terminal or a notebook: progress bars, log lines and aligned columns."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm.asyncio import tqdm_asyncio
from tqdm.auto import tqdm

from featuregen.runtime.distributed import dist_from_env

_T = TypeVar("_T")
# tqdm.auto chooses another class in a notebook, where standard error is no terminal.
_IN_NOTEBOOK = tqdm is not tqdm_asyncio

# tqdm's default lock starts a process of its own.
tqdm.set_lock(threading.RLock())


class _Bar(tqdm):  # type: ignore[type-arg]  # it takes none at run time
    """A bar without tqdm's monitor thread: if memory runs out while it starts, the process would wait for ever."""

    monitor_interval = 0


def progress(items: Iterable[_T], label: str, total: int | None = None) -> Iterator[_T]:
    """A bar on standard error; hidden if output goes to a file, in a worker process, and in all ranks but rank 0."""
    visible = sys.stderr.isatty() or _IN_NOTEBOOK
    hidden = not visible or multiprocessing.parent_process() is not None or not dist_from_env().is_main
    yield from _Bar(
        items, desc=label, total=total, file=sys.stderr, disable=hidden, leave=False, mininterval=0.2, miniters=1
    )


def log(message: str) -> None:
    """A line on standard error, from rank 0 alone."""
    if dist_from_env().is_main:
        tqdm.write(message, file=sys.stderr)


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, with aligned cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
