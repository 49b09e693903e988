"""Progress bars, apart from the printer: tqdm takes a while to load, and most commands never show a bar."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterable
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


def bar(items: Iterable[_T], label: str, total: int | None) -> Iterable[_T]:
    """The items, with a bar on standard error where that is a terminal or a notebook."""
    visible = _IN_NOTEBOOK or (sys.stderr is not None and sys.stderr.isatty())
    hidden = not visible or multiprocessing.parent_process() is not None or not dist_from_env().is_main
    return _Bar(
        items, desc=label, total=total, file=sys.stderr, disable=hidden, leave=False, mininterval=0.2, miniters=1
    )


def write(line: str) -> None:
    """A line on standard error, above the bars."""
    if sys.stderr is not None:
        tqdm.write(line, file=sys.stderr)
