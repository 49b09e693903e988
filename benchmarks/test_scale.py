"""The benchmarks of sets made in parts, of base sets that stay on disk, and of opening files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import open_cost, shard_throughput, streaming
from benchmarks.processes import resident

# Shards in two processes ---------------------------------------------------------------------------


def test_the_throughput_of_shards_is_that_of_the_steps_and_of_the_whole_command() -> None:
    times = shard_throughput.Times
    found = {"one": [times(12, 10), times(12, 10)], "two": [times(8, 5), times(8, 4)]}
    _, one, two, _ = shard_throughput.told(found, rows=90, steps=7)
    assert one.split() == ["one", "9.0", "1.00", "(1.00–1.00)", "1.00"]
    assert two.split() == ["two", "20.0", "2.25", "(2.00–2.50)", "1.50"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--processes", "1"], "--processes is 1; give at least 2"),
        (["--steps", "0"], "--steps is 0"),
        (["--rounds", "-1"], "--rounds is -1"),
        (["--rows", "96"], "96 rows in batches of 32 are 3 batches, which 2 processes cannot share evenly"),
    ],
)
def test_a_throughput_that_cannot_be_measured_is_refused(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shard_throughput.main(words) == 2
    assert expected in capsys.readouterr().err


def test_contenders_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[int, int, int]] = []

    def seconds(folder: Path, contender: shard_throughput.Contender, steps: int) -> float:
        turns.append((contender.processes, contender.threads, steps))
        return float(len(turns))

    monkeypatch.setattr(shard_throughput, "seconds", seconds)
    one, two = shard_throughput.Contender("one", 1, 1), shard_throughput.Contender("two", 2, 1)
    found = shard_throughput.measured(tmp_path, [one, two], steps=9, rounds=2)
    assert turns == [(1, 1, 1), (1, 1, 9), (2, 1, 1), (2, 1, 9)] * 2
    assert [each.steps for each in found["one"]] == [1.125, 1.125]


@pytest.mark.slow
def test_throughput_is_measured_and_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rows", "16", "--batch", "4", "--steps", "2", "--rounds", "1", "--out", str(tmp_path / "all.json")]
    assert shard_throughput.main(words) == 0
    record = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert list(record["contenders"]) == [
        "one process, 1 thread",
        "2 processes, 1 thread each",
        "one process, 2 threads",
    ]
    assert all(len(runs) == 1 and runs[0]["whole"] > 0 for runs in record["contenders"].values())
    assert record["same_digest"] and "the same content digest: yes" in capsys.readouterr().out


# Base sets that stay on disk -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--gib", "1"], "at least two sizes"),
        (["--gib", "4,1"], "ascending"),
        (["--gib", "a,b"], "--gib is 'a,b'"),
        (["--gib", "1,nan"], "at least two sizes, ascending, from 0.02 on"),
        (["--limit", "0"], "a limit above 0"),
        (["--runs", "0"], "at least one run"),
        (["--gib", "1,1e9"], "GiB of disk are needed"),
        (["--folder", "none"], "--folder none is no folder"),
    ],
)
def test_streams_that_cannot_be_measured_are_refused(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert streaming.main(words) == 2
    assert expected in capsys.readouterr().err


def test_growth_is_from_the_highest_peak_to_the_highest() -> None:
    assert streaming.grown({"1": [800.0, 900.0], "4": [950.0, 920.0]}) == 50


@pytest.mark.parametrize(("peak", "code", "wanted"), [(900.0, 0, 0), (1300.0, 0, 1), (900.0, 2, 1)])
def test_growth_and_failures_are_told(
    peak: float, code: int, wanted: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A tenth of 3 GiB more of images is 307 MiB."""

    def alone(job: Any, *values: Any) -> Any:
        if job is streaming.can_be_held:
            return False
        return (code, peak) if size[0] == 4 else (0, 900.0)

    size = [0.0]
    monkeypatch.setattr(streaming, "alone", alone)
    monkeypatch.setattr(streaming, "write_set", lambda path, gib: (size.__setitem__(0, gib), path.touch()))
    assert streaming.main(["--gib", "1,4", "--folder", str(tmp_path), "--out", str(tmp_path / "all.json")]) == wanted
    record = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert record["peak_mib"]["train"] == {"1": [900.0], "4": [peak]} and not record["largest_can_be_held"]
    assert len(record["failed"]) == (4 if code else 0)
    assert [path.name for path in tmp_path.iterdir()] == ["all.json"]


@pytest.mark.slow
@pytest.mark.skipif(resident("VmHWM") is None, reason="this system does not tell a process' peak")
def test_streams_are_measured_under_their_limit(tmp_path: Path) -> None:
    words = ["--gib", "0.02,0.04", "--folder", str(tmp_path), "--out", str(tmp_path / "it.json")]
    assert streaming.main(words) in (0, 1)
    record = json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))
    assert record["failed"] == [] and record["largest_can_be_held"]
    assert all(peak[0] > 100 for peaks in record["peak_mib"].values() for peak in peaks.values())
    streaming.write_set(tmp_path / "it.h5", 0.2)
    assert not streaming.alone(streaming.can_be_held, tmp_path / "it.h5", 200 << 20)
    assert streaming.alone(streaming.limited, ["info", str(tmp_path / "none.h5")], 2 << 30)[0] == 2


# Files that another process reads first ------------------------------------------------------------


def test_the_cost_of_opening_is_measured_call_by_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--mb", "0.05", "--runs", "1", "--folder", str(tmp_path), "--out", str(tmp_path / "cost.json")]
    assert open_cost.main(words) == 0
    record = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    assert list(record["milliseconds"]["now"]["0.05"]) == list(open_cost.CALLS)
    assert "now, 0.05 MB" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]
    monkeypatch.setattr(open_cost, "PROGRAM", "raise ValueError('no such code')")
    assert open_cost.main(words) == 2
    assert "no such code" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--mb", "0"], ["--mb", "x"], ["--runs", "0"], ["--before", "nowhere"]])
def test_a_cost_of_opening_that_cannot_be_measured_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_cost.main(words) == 2
    assert words[0] in capsys.readouterr().err
