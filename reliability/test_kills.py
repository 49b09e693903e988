"""The kill test finds what is wrong, and stops what it says."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest

from benchmarks.processes import Command, Limits
from reliability import kills
from reliability.stoppable import JOBS, Job, differences, make_inputs, results_of
from tests.helpers.cli_runs import dataset

EXPORT = Job(lambda out, inputs: ["export", inputs, "--format", "npz", "--out", out / "it.npz"])


def test_other_results_and_files_left_are_told(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"seconds": 1, "rows": [{"correct": 5, "timings": 2}]}))
    (tmp_path / "it.png").write_bytes(b"a")
    expected = results_of(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"seconds": 3, "rows": [{"correct": 5, "timings": 4}]}))
    assert differences(expected, results_of(tmp_path)) == []
    (tmp_path / "results.json").write_text(json.dumps({"seconds": 3, "rows": [{"correct": 6, "timings": 4}]}))
    (tmp_path / "it.png").rename(tmp_path / "it.png.partial")
    told = differences(expected, results_of(tmp_path))
    assert told == ["it.png is missing", "it.png.partial is left over", "results.json differs"]


def test_a_job_is_stopped_in_several_ways_and_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "RACES", 2)
    record = kills.stop_repeatedly(EXPORT, dataset("det"), tmp_path, 6, Random(5))
    assert set(record.stopped) <= set(kills._WAYS) and len(record.stopped) > 1 and record.stops == 6
    assert record.wrong == [] and record.finished > 0 and 0 < record.before_operations <= 6
    assert 0 <= record.refused_of_two <= kills.RACES and record.largest_file > 1000


@pytest.mark.parametrize(
    ("way", "code", "err", "wrong"),
    [
        ("SIGKILL", 2, "error: A worker process ended early (SIGKILL)", ""),
        ("SIGINT", 0, "", ""),
        ("SIGINT", 2, "error: A worker process ended early (exit code 1)", "exit code 2 after SIGINT to a worker"),
        ("SIGSEGV", 2, "error: something else", "exit code 2 after SIGSEGV to a worker: error: something else"),
        ("SIGHUP", 1, "Traceback", "exit code 1 after SIGHUP to a worker: Traceback"),
        ("SIGTERM", -9, "", "it hung after SIGTERM to a worker"),
    ],
)
def test_a_signal_to_a_worker_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, code: int, err: str, wrong: str
) -> None:
    class Ran:
        hung = code == -9

        def __init__(self, *_: object) -> None:
            self.err = err

        def stop_worker(self, pick: Callable[[list[int]], int], *_: object) -> int:
            # Above any process.
            assert pick([1 << 30]) == 1 << 30
            return code

    monkeypatch.setattr(kills, "Command", Ran)
    monkeypatch.setattr(kills, "_WORKER_WAYS", (way,))
    record, stops = kills.Record(), list[kills.Stop]()
    assert kills._worker_was_stopped(tmp_path, [], record, Random(0), stops.append) == (code != 0)
    assert [each.startswith(wrong) for each in record.wrong] == ([True] if wrong else [])
    assert record.workers_stopped == ({way: 1} if code else {}) and record.workers_went_on == (code == 0)
    assert [(stop.way, stop.to, stop.code) for stop in stops] == [(way, "worker", code)]


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="workers need a second core")
def test_a_worker_is_stopped_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "RACES", 0)
    (tmp_path / "given").mkdir()
    inputs = make_inputs(tmp_path / "given" / "files")
    record = kills.stop_repeatedly(JOBS["reproduce"], inputs, tmp_path, 4, Random(1))
    assert record.wrong == [] and sum(record.workers_stopped.values()) > 0 and record.stops == 4


def test_finished_jobs_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "kills.json"
    options = kills.read_options(["--jobs", "export", "--stops", "3", "--out", str(out)])
    job = asdict(kills.Record(stopped={"SIGKILL": 3}, wrong=["it.png differs"])) | {"stops": 3}
    out.write_text(json.dumps({"stops": 3, "seed": 0, "jobs": {"export": job}}), encoding="utf-8")
    assert kills._finished_jobs(options) == {"export": job}
    assert kills.main(["--jobs", "export", "--stops", "4", "--out", str(out)]) == 2
    assert "give another --out" in capsys.readouterr().err
    kills._write(out, "export", kills.Stop("SIGKILL", "worker", 0.5, 2, 3.0))
    assert (tmp_path / "kills.log").read_text(encoding="utf-8").startswith("export SIGKILL to worker at 0.50: ")


def test_a_job_that_leaves_something_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second run writes elsewhere, so that the first one's file is left and another is there."""
    names = iter(range(100))
    monkeypatch.setattr(kills, "RACES", 1)
    wayward = Job(lambda out, inputs: ["export", inputs, "--format", "npz", "--out", out / f"{next(names)}.npz"])
    record = kills.stop_repeatedly(wayward, dataset("det"), tmp_path, 1, Random(0))
    assert any("is missing" in each for each in record.wrong) and any("is left over" in each for each in record.wrong)


def test_a_signal_comes_right_before_the_operation(tmp_path: Path) -> None:
    words = EXPORT.words(tmp_path, dataset("det"))
    counted = Command(tmp_path, *words)
    assert counted.wait() == 0 and counted.operations > 2 and counted.memory > 0
    (tmp_path / "it.npz").unlink()
    stopped = Command(tmp_path, *words, stop=(0, signal.SIGTERM))
    assert stopped.wait() == 143 and stopped.err.startswith("stopped; ") and not (tmp_path / "it.npz").exists()


def test_limits_hold(tmp_path: Path) -> None:
    words = EXPORT.words(tmp_path, dataset("det"))
    assert Command(tmp_path, *words, limits=Limits(file=1000)).wait() == 2
    assert Command(tmp_path, *words, limits=Limits(memory=4096)).wait() != 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "trian"], "--jobs has no 'trian'; did you mean 'train'?"),
        (["--stops", "0"], "--stops is 0; give at least 1."),
    ],
)
def test_wrong_options_are_a_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert kills.main(words) == 2 and said in capsys.readouterr().err
