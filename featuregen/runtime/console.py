"""What a run shows in a terminal or a notebook. Nothing else in featuregen prints.

Text may come from somebody else's file, so every line is made printable and short, whatever it holds.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, TypeVar

from featuregen.config.serialize import finite
from featuregen.errors import printable

_T = TypeVar("_T")
_BARS = "featuregen.runtime.progress_bar"


def show(text: str, *, beside_results: bool = False) -> None:
    """Lines on standard output, or on standard error where that holds results for machines."""
    stream = sys.stderr if beside_results else sys.stdout
    for line in text.split("\n"):
        _write_line(printable(line), stream)


def show_paths(paths: Iterable[object], *, beside_results: bool = False) -> None:
    """A line for each path, whose name may hold anything."""
    for path in paths:
        _write_line(printable(path), sys.stderr if beside_results else sys.stdout)


def show_json(value: Any) -> None:
    """JSON on standard output, in ASCII and of any length; what JSON has no number for, such as nan, is null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=True, allow_nan=False)
    # The one control character that JSON leaves as it is.
    _write_line(text.replace("\x7f", "\\u007f"), sys.stdout)


def log(message: str) -> None:
    """A line on standard error, from rank 0 alone; a run goes on where nobody can read it."""
    if process_rank() == 0:
        with suppress(OSError, ValueError):
            _write_beside_bars(printable(message))


def log_error(message: str) -> None:
    """A line on standard error about how this process ends, from any rank."""
    with suppress(OSError, ValueError):
        _write_line(printable(message), sys.stderr)


def log_traceback(error: BaseException) -> None:
    """The traceback of a bug, for the person who reports it."""
    with suppress(OSError, ValueError):
        for line in "".join(traceback.format_exception(error)).rstrip().split("\n"):
            _write_line(printable(line), sys.stderr)


def process_rank() -> int:
    """This process's rank among those that torchrun started, read without importing torch; 0 without torchrun."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and len(rank) < 10 and "LOCAL_RANK" in os.environ else 0


def progress(items: Iterable[_T], label: str, total: int | None = None) -> Iterator[_T]:
    """A bar on standard error; hidden if output goes to a file, in a worker process, and in all ranks but rank 0."""
    from featuregen.runtime.progress_bar import bar

    yield from bar(items, printable(label, 60), total)


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, with aligned cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def open_standard_streams() -> None:
    """Make a closed standard stream lead nowhere: else the next file that is opened would receive what is printed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the smallest free number, which is the one that is closed.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the whole process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show × or ─ prints a question mark instead of a traceback.
            stream.reconfigure(errors="replace")


def close_standard_streams() -> OSError | None:
    """Print what is still waiting; the error where standard output does not take it, as on a full disk."""
    lost = None
    for stream in (sys.stdout, sys.stderr):
        try:
            with suppress(ValueError):  # closed already
                stream.flush()
        except OSError as error:
            # Or Python would try once again as it ends, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                lost = error
    return lost


@contextmanager
def library_messages() -> Iterator[None]:
    """Warnings and log records of libraries as lines of ours: they quote names from files."""
    last_resort = logging.lastResort
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        logging.lastResort = _LogLines(logging.WARNING)
        try:
            yield
        finally:
            logging.lastResort = last_resort


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    log(f"note: {category.__name__}: {' '.join(str(message).split())}")


class _LogLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log(f"note: {' '.join(record.getMessage().split())}")


def _write_line(line: str, stream: TextIO | None) -> None:
    # A process may have no standard streams, as under pythonw.
    if stream is not None:
        print(line, file=stream, flush=True)


def _write_beside_bars(line: str) -> None:
    """Bars are drawn again below the line."""
    if bars := sys.modules.get(_BARS):
        bars.write(line)
    else:
        _write_line(line, sys.stderr)
