"""Runs commands of the featuregen on the path in forked processes, so that a run does not import torch again.

`crafted_runner.Server` starts this file with a checkout on PYTHONPATH. It imports nothing else of this repository. Each
line of standard input is a request in JSON; the answers are the process id of the run, and how the run ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

TRACEBACK_CODE = 99
# Beyond the addresses that the server has.
_ADDRESSES = 4 << 30
_PR_SET_CHILD_SUBREAPER = 36
# Seconds in which processes that a run has started may still end after it.
_GRACE = 3.0


def import_everything() -> Any:
    """The package's modules and what they load late; returns the package of the commands."""
    package = importlib.import_module("featuregen")
    for module in pkgutil.walk_packages(package.__path__, "featuregen."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    if "torch" not in sys.modules:
        # A stand-in, as the test of this trial has them.
        return importlib.import_module("featuregen.cli")
    for name in ("torch._dynamo", "sklearn.datasets", "matplotlib.font_manager", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("pyarrow.parquet")
    importlib.import_module("sklearn.datasets").load_digits()
    importlib.import_module("torch").set_num_threads(1)
    return importlib.import_module("featuregen.cli")


def commands(cli: Any) -> dict[str, list[dict[str, Any]]]:
    """Every command with its options and arguments, as the command line declares them."""
    if not hasattr(cli, "app"):
        return {}
    import typer

    group: Any = typer.main.get_command(cli.app)
    return {
        name: [
            {
                "name": each.name, "options": list(each.opts), "argument": each.param_type_name == "argument",
                "flag": bool(getattr(each, "is_flag", False)), "many": each.multiple or each.nargs != 1,
            }
            for each in command.params
        ]
        for name, command in group.commands.items()
    }  # fmt: skip


def _run(cli: Any, request: dict[str, Any]) -> NoReturn:
    """In the child: the command, and the end of the process."""
    os.setsid()
    for number, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for name in request["unset"]:
        os.environ.pop(name, None)
    addresses = _status("VmSize") + (request["memory_limit"] or _ADDRESSES)
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if request["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], request["file_limit"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in request["closed"]:
        os.close(number)
    if request["no_locks"]:
        import fcntl

        fcntl.flock = _no_lock
    if request["exec"]:
        os.execvp(request["exec"][0], request["exec"])
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    code: Any = TRACEBACK_CODE
    sys.argv = ["featuregen", *request["words"]]
    try:
        code = cli.main(request["words"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _no_lock(*_: object) -> NoReturn:
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(word) for word in (task / "children").read_text(encoding="ascii").split()]
    return found


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _answer(cli: Any, request: dict[str, Any], answers: int) -> None:
    before, started = _status("RssAnon"), time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        _run(cli, request)
    _tell(answers, {"pid": pid})
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    ended = poll.poll(request["timeout"] * 1000)
    if not ended:
        _kill(pid)
    os.close(handle)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - started
    deadline = time.monotonic() + (_GRACE if ended else 0.0)
    while (left := _children()) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.02)
    left_running = 0
    # Whoever loses its parent becomes a child of this process, in several rounds where there are generations.
    for _ in range(10):
        for child in (left := _children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        left_running += len(left) if ended else 0
        time.sleep(0.02 if left else 0)
        _reap()
        if not left:
            break
    code = os.waitstatus_to_exitcode(status)
    peak = max(0, usage.ru_maxrss * 1024 - before)
    _tell(answers, {"code": code, "hung": not ended, "seconds": seconds, "peak": peak, "left": left_running})


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _tell(answers: int, what: dict[str, Any]) -> None:
    os.write(answers, json.dumps(what).encode() + b"\n")


def serve() -> None:
    # Output of imports must not mix with the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cli = import_everything()
    gc.collect()
    gc.freeze()
    _tell(answers, {"commands": commands(cli), "featuregen": sys.modules["featuregen"].__file__})
    for line in sys.stdin:
        _answer(cli, json.loads(line), answers)


if __name__ == "__main__":
    serve()
