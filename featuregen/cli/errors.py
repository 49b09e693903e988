"""What a command says when it cannot do what was asked: one line on standard error, and an exit code.

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted, 143 asked to end (SIGTERM).
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, ParamSpec

import typer
from typer.core import TyperGroup

from featuregen.errors import CheckFailed, UserError

_P = ParamSpec("_P")
# Long enough for torchrun to end this process if the first one has failed, too.
_PAUSE = 10.0
# Others would have several processes do the same work and write the same files.
_SHARED = ("make_dataset", "make_robust_dataset", "train")
# Signals that came: inside a call of torch, what they raise can be lost, or come out as that call's own mistake.
_asked: list[int] = []


class Terminated(KeyboardInterrupt):
    """The system asked this process to end."""


class OneLineErrors(TyperGroup):
    """A mistyped option is told like every other mistake, instead of in typer's box."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            code = super().main(*args, **(extra | {"standalone_mode": False}))
        except Exception as error:
            # Depending on typer's version the class is click's or its own, so it is known by what it can do.
            if not hasattr(error, "format_message"):
                raise
            # Called without a command, typer has printed the help already and has nothing more to say.
            if type(error).__name__ != "NoArgsIsHelpError":
                _tell(f"{_sentence(error.format_message())}; see {_command_of(error)} --help.")
            code = 2
        return sys.exit(code or 0) if extra.get("standalone_mode", True) else code


def with_exit_code(command: Callable[_P, None]) -> Callable[_P, None]:
    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        def alone() -> None:
            _check_alone(command.__name__)
            command(*args, **kwargs)

        if code := run_with_exit_code(alone):
            raise typer.Exit(code)

    return run


def run_with_exit_code(work: Callable[[], None]) -> int:
    """The exit code of some work, once it is said why it ended, if it did not simply end."""
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:
        code = _explained(error)
        # What no user did is a bug, or a machine too small: its traceback is needed.
        if code is None:
            raise
        return code
    return 0


def _explained(error: BaseException) -> int | None:
    """Say what happened and give the exit code; None for what is no user's doing."""
    if code := _stop_code(error):
        if process_number() == 0:
            print(
                "stopped; everything finished so far is kept, and the same command goes on from there", file=sys.stderr
            )
        return code
    if isinstance(error, UserError):
        _tell(str(error))
        return 2
    if isinstance(error, CheckFailed):
        print(f"failed: {error}", file=sys.stderr)
        return 1
    # Without a number it did not come from the system; a closed pipe is typer's to handle.
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        where = f"Cannot read or write {error.filename}" if error.filename else "Cannot read or write a file"
        _tell(f"{where}: {error.strerror}; what is finished is kept, and the same command goes on from there.")
        return 2
    return None


def install_signal_handlers() -> None:
    """Batch systems send SIGTERM some time before they kill: time enough to end as on Ctrl-C."""
    signal.signal(signal.SIGTERM, _stop)
    # A shell that runs the command in its background has it ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def _stop(number: int, _: object) -> None:
    _asked.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _stop_code(error: BaseException | None) -> int | None:
    """130 or 143 for Ctrl-C and SIGTERM, also where a library's cleaning up failed and raised something else."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error:
        return 143 if isinstance(error, Terminated) else 130
    return 128 + _asked[-1] if _asked else None


def process_number() -> int:
    """Which one of the processes this is that torchrun has started together; 0 also for the only one."""
    number = os.environ.get("RANK", "")
    return int(number) if number.isdigit() and "LOCAL_RANK" in os.environ else 0


def _check_alone(name: str) -> None:
    together = "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    if together and name not in _SHARED:
        names = ", ".join(each.replace("_", "-") for each in _SHARED)
        raise UserError(f"{name.replace('_', '-')} is one process's work; torchrun is for {names}.")


def _tell(message: str) -> None:
    """What all processes of torchrun find wrong is told by the first; what one alone does, with its number."""
    number = process_number()
    if number:
        time.sleep(_PAUSE)
    who = f"process {number}: " if number else ""
    print(f"{who}error: {' '.join(message.split())}", file=sys.stderr)


def _sentence(message: str) -> str:
    # Words of the validation that newer versions of typer do.
    return message.replace("Value error, ", "").rstrip(".")


def _command_of(error: Any) -> str:
    return error.ctx.command_path if getattr(error, "ctx", None) else "featuregen"
