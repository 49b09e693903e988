"""A worker may die at any moment: its pool ends with an error, never waits, and leaves no process behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from featuregen.errors import UserError
from featuregen.runtime import worker_pool
from featuregen.runtime.worker_pool import WorkerLost, WorkerPool, WorkerTraceback
from tests.helpers import worker_tasks
from tests.helpers.worker_tasks import (
    EndsWhenUnpickled,
    end_as_task,
    fail,
    prepare,
    prepare_and_end,
    touch,
    wait_and_ignore_sigterm,
    wait_for,
)

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV]
# Far more than a pipe or a socket holds.
LARGE = bytes(3 << 20)


@pytest.fixture(autouse=True)
def hangup_ends_processes() -> Iterator[None]:
    """Where nohup runs the tests, it does not, and the workers would have it so too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def names(numbers: list[signal.Signals]) -> list[str]:
    return [number.name for number in numbers]


def processes(pool: WorkerPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers if worker.process.pid]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def run(pool: WorkerPool, *tasks: worker_pool.Task) -> int:
    with pool:
        return sum(1 for _ in pool.run(tasks))


def test_every_task_runs_once_with_what_was_prepared(tmp_path: Path) -> None:
    pool = WorkerPool(2, prepare, "prepared", LARGE)
    with pool:
        first = sum(1 for _ in pool.run([(touch, (tmp_path, f"{number}")) for number in range(5)]))
        again = sum(1 for _ in pool.run([(touch, (tmp_path, f"{number}")) for number in range(5, 7)]))
    assert (first, again) == (5, 2)
    said = [path.read_text(encoding="utf-8").split() for path in tmp_path.iterdir()]
    assert len(said) == 7 and {(what, int(parent)) for what, _, parent in said} == {("prepared", os.getpid())}
    assert {int(process) for _, process, _ in said} <= set(processes(pool))
    assert not any(map(is_alive, processes(pool)))


def at_once(pool: WorkerPool) -> None:
    """Before the worker has read anything."""


def once_it_is_up(pool: WorkerPool) -> None:
    """Before the worker gets what it prepares with."""
    assert pool._workers[1].connection.poll(60)


@pytest.mark.parametrize("number", [*SIGNALS], ids=names(SIGNALS))
@pytest.mark.parametrize("moment", [at_once, once_it_is_up])
def test_a_worker_that_dies_while_it_starts(
    number: signal.Signals, moment: Callable[[WorkerPool], None], tmp_path: Path
) -> None:
    pool = WorkerPool(2, prepare, "prepared", LARGE)
    with pytest.raises(WorkerLost, match=number.name), pool:
        moment(pool)
        os.kill(processes(pool)[1], number)
        for _ in pool.run([(touch, (tmp_path, f"{number}")) for number in range(9)]):
            pass
    assert not any(map(is_alive, processes(pool)))


@pytest.mark.parametrize("number", [*SIGNALS, -7], ids=[*names(SIGNALS), "exit"])
def test_a_worker_that_dies_in_a_task(number: int, tmp_path: Path) -> None:
    pool = WorkerPool(2, prepare, "prepared")
    told = "exit code 7" if number < 0 else signal.Signals(number).name
    with pytest.raises(WorkerLost, match=told):
        run(pool, (wait_for, (tmp_path / "never",)), (end_as_task, (number,)))
    assert not any(map(is_alive, processes(pool)))


def test_a_worker_that_dies_while_it_prepares() -> None:
    with pytest.raises(WorkerLost, match="SIGSEGV"):
        run(WorkerPool(2, prepare_and_end, signal.SIGSEGV), (fail, ("UserError",)))
    with pytest.raises(WorkerLost, match="SIGKILL"):
        run(WorkerPool(2, prepare, [LARGE, EndsWhenUnpickled(), LARGE]), (fail, ("UserError",)))


def test_ctrl_c_is_the_parents_alone(tmp_path: Path) -> None:
    """Also while the workers start."""
    pool = WorkerPool(2, prepare, "prepared")
    with pool:
        for process in processes(pool):
            os.kill(process, signal.SIGINT)
        for done, _ in enumerate(pool.run([(touch, (tmp_path, f"{number}")) for number in range(4)])):
            for process in processes(pool) if not done else ():
                os.kill(process, signal.SIGINT)
    assert len(list(tmp_path.iterdir())) == 4
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(
    ("kind", "error"), [("UserError", UserError), ("MemoryError", MemoryError), ("OSError", OSError)]
)
def test_an_error_is_raised_as_it_is(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        run(WorkerPool(1, prepare, "prepared"), (fail, (kind,)))
    with pytest.raises(error) as expected:
        fail(None, kind)
    assert (str(caught.value), caught.value.args) == (str(expected.value), expected.value.args)
    assert isinstance(caught.value.__cause__, WorkerTraceback) and "worker_tasks.py" in str(caught.value.__cause__)


def test_an_error_that_cannot_travel_comes_as_text() -> None:
    with pytest.raises(RuntimeError, match="Strange: a b"):
        run(WorkerPool(1, prepare, "prepared"), (fail, ("strange",)))


def test_a_worker_that_exits_is_lost() -> None:
    with pytest.raises(WorkerLost, match="exit code 5"):
        run(WorkerPool(1, prepare, "prepared"), (fail, ("SystemExit",)))


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_GRACE", 0.2)
    pool = WorkerPool(2, prepare, "prepared")
    begun = tmp_path / "begun"

    tasks: list[worker_pool.Task] = [(wait_and_ignore_sigterm, (tmp_path,)), (wait_for, (begun,))]
    with pytest.raises(KeyboardInterrupt), pool:
        for _ in pool.run(tasks):
            raise KeyboardInterrupt
    assert begun.exists() and not any(map(is_alive, processes(pool)))


def test_nothing_of_a_pool_is_left_when_its_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool(2, prepare, "prepared")

    def fails() -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(pool._workers[1], "start", fails)
    with pytest.raises(BlockingIOError), pool:
        pass
    assert len(processes(pool)) == 1 and not is_alive(*processes(pool))


def test_the_tasks_import_nothing_heavy() -> None:
    assert "torch" not in vars(worker_tasks)
