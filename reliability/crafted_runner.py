"""Runs cases of the trial against a checkout of featuregen, through a server that has imported it once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featuregen.errors import UserError
from reliability.crafted_case import Case, Place, Run, Step
from reliability.crafted_watch import problems_of, trace

# Seconds; only a hang takes as long.
TIMEOUT = 60.0
_IMPORTS = 3
_SERVER = Path(__file__).with_name("crafted_process.py")
# What a user's own environment may hold, and what would make runs differ.
_UNSET = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "MPLCONFIGDIR", "PYTHONOPTIMIZE")


@dataclass
class Verdict:
    """What a case did that it should not have done; `made` is false where the trial could not make the input."""

    name: str
    problems: list[str] = field(default_factory=list[str])
    codes: list[int] = field(default_factory=list[int])
    seconds: float = 0.0
    peak_mib: int = 0
    last_line: str = ""
    made: bool = True

    @property
    def kind(self) -> str:
        """The class of the case."""
        return self.name.partition("/")[0]


class Server:
    """A process that has imported the featuregen of a checkout and forks for each run."""

    def __init__(self, package: Path, folder: Path) -> None:
        if not (package / "featuregen" / "cli").is_dir():
            raise UserError(f"{package} holds no featuregen; name the folder of a checkout with --package.")
        self.package = package
        home = folder / "server-home"
        home.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "PYTHONPATH": str(package), "HOME": str(home), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0", "COLUMNS": "100", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        command = [sys.executable, "-P", str(_SERVER)]
        self._log = (folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment, cwd=folder
        )
        try:
            hello = self._answer()
        except EOFError:
            lines = (folder / "server.log").read_text(errors="replace").splitlines()
            reason = lines[-1] if lines else "it says nothing"
            raise UserError(f"The featuregen of {package} cannot be imported: {reason}.") from None
        self.commands: dict[str, list[dict[str, Any]]] = hello["commands"]
        if Path(hello["featuregen"]).parents[1].resolve() != package.resolve():
            self.close()
            raise UserError(f"{hello['featuregen']} is imported instead of the featuregen of {package}.")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("the server is gone")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, step: Step, place: Place, said: Path, timeout: float = TIMEOUT) -> Run:
        """Run one command in a place; `said` is a folder for what it says."""
        out, err = said / "stdout", said / "stderr"
        # A Python of its own imports everything first.
        timeout *= step.patience * (_IMPORTS if step.process else 1)
        for path in (out, err):
            path.unlink(missing_ok=True)
        words = [str(word) for word in step.words]
        python = [sys.executable, "-P", *step.flags, "-m", "featuregen", *words]
        environment = {"HOME": str(place.home), "TMPDIR": str(place.home.parent), "MPLBACKEND": "Agg"}
        request = {
            "words": words, "folder": str(place.work), "out": str(out), "err": str(err), "timeout": timeout,
            "environment": environment | dict(step.environment), "unset": [*_UNSET, *step.unset],
            "file_limit": step.file_limit, "closed": list(step.closed), "no_locks": step.no_locks,
            "memory_limit": step.memory_limit,
            "exec": [*step.prefix, *python] if step.process else [],
        }  # fmt: skip
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._answer()["pid"]
        watcher = None
        if step.during:
            watcher = threading.Thread(target=_tolerantly, args=(step.during, pid, place), daemon=True)
            watcher.start()
        end = self._answer()
        if watcher:
            watcher.join(timeout)
        told, complained = (path.read_bytes() if path.exists() else b"" for path in (out, err))
        return Run(end["code"], told, complained, end["seconds"], end["peak"], end["hung"], end["left"])

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._log.close()


def _tolerantly(during: Any, pid: int, place: Place) -> None:
    # Whatever it waits for may be gone with the process.
    with contextlib.suppress(OSError):
        during(pid, place)


def judge(server: Server, case: Case, world: Path, folder: Path, timeout: float = TIMEOUT) -> Verdict:
    """Run the steps of a case in a fresh place below `folder`."""
    verdict = Verdict(case.name)
    root = Path(tempfile.mkdtemp(prefix="r", dir=folder))
    place = Place(root / "w", root / "o", root / "h", world)
    for each in (place.work, place.outside, place.home):
        each.mkdir()
    try:
        try:
            case.prepare(place)
        except Exception as error:
            verdict.made, verdict.last_line = False, f"not made: {type(error).__name__}: {str(error)[:100]}"
            return verdict
        for number, step in enumerate(case.steps):
            work, outside = trace(place.work), trace(place.outside)
            run = server.run(step, place, root, timeout)
            which = f"step {number + 1}: " if len(case.steps) > 1 else ""
            verdict.problems += [which + what for what in problems_of(case, step, run, place, work, outside)]
            verdict.codes.append(run.code)
            verdict.seconds = round(max(verdict.seconds, run.seconds), 2)
            verdict.peak_mib = max(verdict.peak_mib, run.peak >> 20)
            verdict.last_line = run.last_line
    finally:
        _remove(root)
    return verdict


def _remove(root: Path) -> None:
    for path, folders, _ in os.walk(root):
        for name in folders:
            with contextlib.suppress(OSError):
                os.chmod(os.path.join(path, name), 0o700, follow_symlinks=True) if not os.path.islink(
                    os.path.join(path, name)
                ) else None
    shutil.rmtree(root, ignore_errors=True)
