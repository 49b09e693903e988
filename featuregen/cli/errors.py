"""How a command ends: an exit code, and on failure one line on standard error.

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted, 143 terminated (SIGTERM).
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import typer
from typer.core import TyperGroup

from featuregen.errors import CheckFailed, UserError, one_line, out_of_memory
from featuregen.runtime.console import library_messages, log, log_error, process_rank

_P = ParamSpec("_P")
_SLASHES = re.compile(r"(?<=[^/])(/+\.?)+$")
_FILE_ENDINGS = (".h5", ".hdf5", ".safetensors", ".png", ".json", ".npz", ".parquet", ".pt", ".py", ".yaml", ".yml")
# Seconds: long enough for torchrun to end this process if rank 0 has failed, too.
_OTHER_RANKS_WAIT = 10.0
# The exception that a signal handler raises inside a call of torch can be lost or come out as another error.
_received_signals: list[int] = []


class Terminated(KeyboardInterrupt):
    """The system asked this process to end."""


class OneLineErrors(TyperGroup):
    """Reports a mistyped option in one line, like every other error, instead of in typer's box."""

    def main(self, *args: Any, **extra: Any) -> Any:
        words = args[0] if args else extra.get("args")
        try:
            check_words(sys.argv[1:] if words is None else words)
            with library_messages():
                code = super().main(*args, **(extra | {"standalone_mode": False}))
        except UserError as error:
            _print_error(str(error))
            code = 2
        except Exception as error:
            # Depending on typer's version this is an exception of click or of typer's copy of click.
            if not hasattr(error, "format_message"):
                raise
            # Called without a command, typer has already printed the help.
            if type(error).__name__ != "NoArgsIsHelpError":
                # Newer versions of typer prefix the messages of their validation.
                message = error.format_message().replace("Value error, ", "").rstrip(".")
                context = getattr(error, "ctx", None)
                command = context.command_path if context else "featuregen"
                _print_error(f"{message}; see {command} --help.")
            code = 2
        return sys.exit(code or 0) if extra.get("standalone_mode", True) else code


def check_words(words: Sequence[str]) -> None:
    """Refuse words that name nothing, and names of files that end like those of folders."""
    for word in words:
        option, _, value = word.partition("=")
        if not word or (option.startswith("--") and word.endswith("=") and not value):
            place = f"{option} is given an empty value" if word else "One of the words is empty"
            raise UserError(f"{place}; leave it out, or give it a name or a number.")
        path = word.rpartition("=")[2]
        # `det.h5/` and `det.h5/.` name a folder, and Python drops their ends.
        name = _SLASHES.sub("", path)
        if name != path and not os.path.isdir(name) and (os.path.isfile(name) or name.endswith(_FILE_ENDINGS)):
            raise UserError(f"{path} names a folder, and {name} is a file; leave out what follows it.")


def with_exit_code(command: Callable[_P, None]) -> Callable[_P, None]:
    """The command, ending with an exit code and one line on standard error where it raises."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        if code := run_with_exit_code(lambda: command(*args, **kwargs)):
            raise typer.Exit(code)

    return run


def single_process(command: Callable[_P, None], name: str | None = None) -> Callable[_P, None]:
    """The command, refused where torchrun started several processes."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        if "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            title = name or command.__name__.replace("_", "-")
            raise UserError(
                f"{title} runs in one process; torchrun is for make-dataset, make-robust-dataset and train."
            )
        command(*args, **kwargs)

    return run


def run_with_exit_code(work: Callable[[], None]) -> int:
    """Do the work, report its error if it raises one, and return the exit code.

    Raises:
        Exception: Errors that no user caused, such as a bug, keep their traceback.
    """
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:
        code = _report(error)
        if code is None:
            raise
        return code
    return 0


def _report(error: BaseException) -> int | None:
    """Print what happened and return the exit code; None for an error that no user caused."""
    if code := _interrupt_code(error):
        log("stopped; everything finished so far is kept, and the same command resumes from there")
        return code
    if isinstance(error, UserError):
        _print_error(str(error))
        return 2
    if isinstance(error, CheckFailed):
        log_error(f"failed: {error}")
        return 1
    if out_of_memory(error):
        _print_error(
            "memory ran out; everything finished so far is kept, and the same command resumes from there: give it more "
            "memory, fewer or smaller images, or a smaller batch_size."
        )
        return 2
    if isinstance(error, ImportError):
        # Inside a command, whose own modules are there; so Python or a library cannot be read, or is incomplete.
        _print_error(f"Python cannot load a module ({one_line(error)}); install it again where this user can read it.")
        return 2
    # An OSError without a number is not the system's; a closed pipe is typer's to handle.
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        place = f"Cannot read or write {error.filename}" if error.filename else "Cannot read or write a file"
        _print_error(
            f"{place}: {error.strerror}; everything finished so far is kept, and the same command resumes from there."
        )
        return 2
    return None


def install_signal_handlers() -> None:
    """Handle SIGTERM, which batch systems send some time before they kill, like Ctrl-C."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    # A shell that runs the command in its background has it ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise_interrupt)


def _raise_interrupt(number: int, _: object) -> None:
    _received_signals.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def interrupt_code(error: KeyboardInterrupt) -> int:
    """143 for SIGTERM, and 130 for Ctrl-C."""
    return 143 if isinstance(error, Terminated) else 130


def _interrupt_code(error: BaseException | None) -> int | None:
    """130 for Ctrl-C and 143 for SIGTERM, also where a library's cleanup failed and raised another error."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if isinstance(error, KeyboardInterrupt):
        return interrupt_code(error)
    return 128 + _received_signals[-1] if _received_signals else None


def _print_error(message: str) -> None:
    """Print one line; an error that all ranks share is printed by rank 0, after which torchrun ends the others."""
    rank = process_rank()
    if rank:
        time.sleep(_OTHER_RANKS_WAIT)
    prefix = f"process {rank}: " if rank else ""
    log_error(f"{prefix}error: {' '.join(message.split())}")
