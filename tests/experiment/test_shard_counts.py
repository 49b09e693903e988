"""A set begun in so many parts and gone on with by another number of processes: reused, or named; never lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.processes import has_rows
from featuregen.experiment.dataset_job import find_shards
from tests.helpers.cli_runs import done, info, model, refused
from tests.helpers.shard_runs import digest, shards, three, whole, words
from tests.helpers.torchrun_runs import in_proc, stopped_at, together, torchrun


def begun(folder: Path, *numbers: int) -> Path:
    """The place of a whole beside which these of three shards lie."""
    for number in numbers:
        shutil.copy(three()[number - 1], folder)
    return folder / "it.h5"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_parts_are_known_by_their_names(tmp_path: Path) -> None:
    parts = ["it.shard-01-of-03.h5", "it.shard-02-of-03.h5.partial", "it.shard-002-of-100.h5"]
    others = ["it.h5", "it.shard-1-of-3.h5", "it.shard-04-of-03.h5", "at.shard-01-of-03.h5", "it.shard-01-of-03.png"]
    for name in (*parts, *others):
        (tmp_path / name).touch()
    found = find_shards(tmp_path / "it.h5")
    assert {of: [path.name for path in paths] for of, paths in found.items()} == {3: parts[:2], 100: parts[2:]}


def test_two_processes_go_on_with_three_shards(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    out = begun(tmp_path / "o", 2)
    first, second = together(tmp_path, *words("det", out))
    assert (first.wait(), second.wait()) == (0, 0), first.err + second.err
    assert "going on with the 3 shards of an earlier run, 2 of them to make\n" in first.err
    assert digest(out) == whole() and info(out)["software"]["shards"] == "3"
    assert names(tmp_path / "o") == {"it.h5", "it.png"}


def test_a_single_process_names_the_parts_that_it_leaves(tmp_path: Path) -> None:
    out = begun(tmp_path, 1, 3)
    ran = done(*words("det", out))
    told = [line for line in ran.err.splitlines() if "of a division into 3" in line]
    assert len(told) == 1 and f"{tmp_path / 'it.shard-01-of-03.h5'} and 1 more" in told[0]
    assert "--shard i/3 or torchrun" in told[0]
    assert digest(out) == whole() and len(list(tmp_path.glob("*.shard-*"))) == 2


def test_a_job_of_another_array_names_the_parts_that_it_leaves(tmp_path: Path) -> None:
    out = begun(tmp_path, 1)
    ran = done(*words("det", out, "--shard", "1/2"))
    assert "of a division into 3, stays unused here" in ran.err
    assert "division" not in done(*words("det", out, "--shard", "2/3")).err.replace("of a division into 2", "")
    # Mixed up, they are refused.
    assert "shards is" in refused("merge", *tmp_path.glob("*.shard-*"))


def test_parts_of_another_set_are_neither_used_nor_removed(tmp_path: Path) -> None:
    out = tmp_path / "it.h5"
    shards(out, 2, "det", "--steps", "2")
    runs = together(tmp_path, *words("det", out))
    assert all(run.wait() != 0 for run in runs) and not out.exists()
    assert "steps is 2 there and 3 here" in "".join(run.err for run in runs)
    # Where the whole is there, made in one piece, they are nobody's to remove.
    done(*words("det", out))
    first, second = together(tmp_path, *words("det", out))
    assert (first.wait(), second.wait()) == (0, 0) and "of a division into 2" in first.err
    assert len(list(tmp_path.glob("*.shard-*"))) == 2


@pytest.mark.slow
@in_proc
def test_three_processes_go_on_with_what_two_have_begun(tmp_path: Path) -> None:
    out, slow = tmp_path / "two" / "it.h5", ("--steps", "200", "--source", model("standard"))
    done(*words("det", tmp_path / "one" / "it.h5", *slow))
    stopped_at(has_rows(out.with_name("it.shard-01-of-02.h5.partial")), 1, *words("det", out, *slow))
    assert find_shards(out).keys() == {2} and not out.exists()
    ran = torchrun("-m", "featuregen", *words("det", out, *slow), processes=3)
    assert ran.returncode == 0, ran.stderr
    assert "of them to make; 1 of 3 processes has nothing to do" in ran.stderr
    assert "20 rows: resuming from there" in ran.stderr
    assert digest(out) == digest(tmp_path / "one" / "it.h5") and names(out.parent) == {"it.h5", "it.png"}
