"""Commands in several processes that work together: started by torchrun, one of them killed, or forked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from benchmarks.processes import Command

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def torchrun(*words: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, str(processes), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment())


def together(folder: Path, *words: str | Path, processes: int = 2) -> list[Command]:
    """A command of featuregen in several processes, as torchrun starts them, without seconds of imports in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    runs = [
        Command(folder, *words, environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    waiting = [run.process for run in runs]
    while waiting:
        wait([process.sentinel for process in waiting])
        waiting = [process for process in waiting if process.exitcode is None]
        if any(run.process.exitcode for run in runs):
            # As torchrun does.
            for process in waiting:
                process.terminate()
    return runs


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in tasks.read_text(encoding="utf-8").split()]


def stopped_at(moment: Callable[[], bool], victim: int, *words: str | Path) -> None:
    """One of the two processes gets SIGKILL as soon as the moment has come; then all have ended, with an error."""
    command = [*TORCHRUN, "2", "-m", "featuregen", *map(str, words)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
    # It ends a hang; no machine is that slow.
    deadline = time.monotonic() + 600
    while not moment():
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    ranks = children(running.pid)
    os.kill(owner(ranks, victim), signal.SIGKILL)
    running.communicate(timeout=600)
    assert running.returncode != 0
    assert not [each for each in ranks if Path(f"/proc/{each}").exists()], "the other one still works"


in_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")


def owner(processes: list[int], rank: int) -> int:
    """Which of them has that number."""
    wanted = f"RANK={rank}".encode()
    (found,) = (each for each in processes if wanted in Path(f"/proc/{each}/environ").read_bytes().split(b"\0"))
    return found
