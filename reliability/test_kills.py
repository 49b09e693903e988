"""The kill test finds what is wrong, and stops what it says."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from random import Random

import pytest

from benchmarks.processes import Command, Limits
from reliability import kills
from reliability.stoppable import Job, differences, results_of
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
