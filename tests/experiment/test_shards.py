"""Sets made in parts by the jobs of an array, and `merge`: the same file as from one run, or one sentence why not."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import featuregen.compute.autotune
import featuregen.storage.schema
import featuregen.synthesis.generate
from benchmarks.processes import Command, has_rows
from featuregen.experiment.dataset_job import Shard
from featuregen.experiment.shards import _one_job_at_a_time
from featuregen.storage.journal import journal_path
from featuregen.storage.reader import read_columns
from featuregen.storage.schema import COLUMNS
from featuregen.storage.writer import Writer
from tests.helpers.cli_runs import ROOM, dataset, done, info, model, refused, run, tiny
from tests.helpers.counting import calls_of
from tests.helpers.dataset_files import header, write
from tests.helpers.shard_runs import BATCH, ROWS, digest, merged, shards, three, whole, words

# The same file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("det", 1), ("det", 2), ("det", 3), ("det", 7), ("robust", 3)])
def test_any_number_of_shards_makes_the_file_of_a_single_run(tmp_path: Path, kind: str, count: int) -> None:
    paths = shards(tmp_path / "it.h5", count, kind)
    assert [path.name for path in paths] == [f"it.shard-{n:02}-of-{count:02}.h5" for n in range(1, count + 1)]
    assert sum(info(path)["rows"] for path in paths) == ROWS
    # In any order.
    ran = merged(paths[::-1])
    found = info(tmp_path / "it.h5")
    assert found["content_sha256"] == whole(kind) and whole(kind) in ran.out
    assert "shard" not in found["recipe"] and found["software"]["shards"] == str(count)
    assert found["software"]["batch"] == str(BATCH)
    assert {path.name for path in tmp_path.iterdir()} == {"it.h5", *(path.name for path in paths)}
    assert done("verify", tmp_path / "it.h5", "--source", model("robust" if kind == "robust" else "standard")).code == 0


def test_a_last_batch_that_is_not_full_is_that_of_a_single_run(tmp_path: Path) -> None:
    more = ("--rows", "37", "--dtype", "float32")
    done(*words("robust", tmp_path / "whole.h5", *more))
    merged(shards(tmp_path / "it.h5", 3, "robust", *more))
    assert digest(tmp_path / "it.h5") == digest(tmp_path / "whole.h5")
    # The last shard has one batch of five rows and one of two.
    assert info(tmp_path / "it.shard-03-of-03.h5")["software"]["batch"] == str(BATCH)


def test_a_shard_is_a_whole_file_of_its_own() -> None:
    second = three()[1]
    assert info(second)["recipe"]["shard"] == {"number": 2, "of": 3, "rows": ROWS, "first": 10}
    assert done("verify", second).code == 0
    assert "shard 2 of 3, 40 rows in all" in done("info", second).out
    table = done("evaluate", second, "--config", tiny(), "--out", ROOM / "of-a-shard").out
    assert second.name in table
    assert len({digest(path) for path in three()}) == 3


@pytest.mark.parametrize(
    ("total", "batch", "count"), [(40, 5, 7), (37, 5, 8), (1438, 512, 3), (1000, 7, 13), (3, 9, 1)]
)
def test_shards_are_runs_of_whole_batches_and_every_row_is_in_one(total: int, batch: int, count: int) -> None:
    parts = [Shard(number, count).rows(total, batch, "det") for number in range(1, count + 1)]
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == total
    assert all(part.start % batch == 0 and part.stop > part.start for part in parts)
    sizes = [-(-(part.stop - part.start) // batch) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_shards_stay_unless_they_are_to_go(tmp_path: Path) -> None:
    folder = shutil.copytree(three()[0].parent, tmp_path / "here")
    paths = sorted(folder.glob("*.shard-*.h5"))
    merged(paths, "--out", tmp_path / "other.h5")
    assert all(path.exists() for path in paths) and digest(tmp_path / "other.h5") == whole()
    merged(paths, "--remove")
    assert {path.name for path in folder.glob("*.h5")} == {"it.h5"} and digest(folder / "it.h5") == whole()


@pytest.mark.parametrize("found", ["by name", "by the shell"])
def test_a_merge_stopped_while_it_removed_shards_ends_when_it_is_run_again(tmp_path: Path, found: str) -> None:
    paths = [Path(shutil.copy(path, tmp_path / path.name)) for path in three()]
    merged(paths)
    paths[0].unlink()
    assert "does not exist" in refused("merge", *paths)
    merged(paths if found == "by name" else paths[1:], "--remove")
    assert [path.name for path in tmp_path.iterdir()] == ["it.h5"] and digest(tmp_path / "it.h5") == whole()
    assert whole() in merged(paths, "--remove").out
    assert "does not exist" in refused("merge", *paths[:2], "--remove")


# What cannot be ------------------------------------------------------------------------------------


def test_more_shards_than_batches_are_refused_before_any_work(tmp_path: Path) -> None:
    told = refused(*words("det", tmp_path / "it.h5", "--shard", "1/9"))
    assert "40 rows in 8 batches of 5" in told and "synthesis.det.batch_size to 4" in told
    more = ("--set", "synthesis.det.batch_size=4")
    assert done(*words("det", tmp_path / "it.h5", "--shard", "1/9", *more)).code == 0


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "1/3/5", "-1/3", "1.0/3"])
def test_a_shard_that_cannot_be_is_refused(tmp_path: Path, text: str) -> None:
    assert "such as 2/7" in refused(*words("det", tmp_path / "it.h5", f"--shard={text}"))
    assert not list(tmp_path.iterdir())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    told = refused("merge", three()[0], three()[2], "--out", tmp_path / "it.h5")
    assert "Of 3 shards, 2 is missing" in told and "--shard 2/3" in told
    assert not list(tmp_path.iterdir())


def test_a_shard_given_twice_is_named(tmp_path: Path) -> None:
    copy = shutil.copy(three()[1], tmp_path / "copy.h5")
    assert "are both shard 2 of 3" in refused("merge", *three(), copy, "--out", tmp_path / "it.h5")
    assert "is given twice" in refused("merge", *three(), three()[0], "--out", tmp_path / "it.h5")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--steps", "2"), "recipe.synthesis.steps is 2 in this one and 3 in the other"),
        (("--seed", "9"), "recipe.seed is 9 in this one and 0 in the other"),
        (("--dtype", "float32"), "dtype is"),
        (("--source", "robust"), "source model's weights"),
        (("--rows", "35"), "rows"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_shards_of_other_sets_are_refused(tmp_path: Path, more: tuple[str, str], why: str) -> None:
    option, value = more
    given = (option, model(value)) if option == "--source" else more
    done(*words("det", tmp_path / "it.h5", "--shard", "2/3", *given))
    odd = tmp_path / "it.shard-02-of-03.h5"
    told = refused("merge", three()[0], odd, three()[2], "--out", tmp_path / "whole.h5")
    assert why in told and str(odd) in told


def test_another_number_of_shards_is_another_division(tmp_path: Path) -> None:
    (other,) = (path for path in shards(tmp_path / "it.h5", 2) if "-02-" in path.name)
    assert "shards is 2 in this one and 3 in the other" in refused("merge", *three(), other, "--out", tmp_path / "w.h5")


def test_a_damaged_shard_is_refused_and_can_be_made_again(tmp_path: Path) -> None:
    paths = [Path(shutil.copy(path, tmp_path / path.name)) for path in three()]
    with h5py.File(paths[1], "r+") as root:
        root["images"][0, 0, 0, 0] ^= 1
    told = refused("merge", *paths)
    assert f"{paths[1]} is damaged (content_sha256" in told and "--shard 2/3 --force" in told
    assert not (tmp_path / "it.h5").exists()
    done(*words("det", tmp_path / "it.h5", "--shard", "2/3", "--force"))
    merged(paths)
    assert digest(tmp_path / "it.h5") == whole()


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    assert "is no shard" in refused("merge", dataset("det"), "--out", tmp_path / "it.h5")
    assert "is no HDF5 file" in refused("merge", tiny(), "--out", tmp_path / "it.h5")
    assert "name the file to write with --out" in refused("merge", dataset("det"))
    for mark in (True, {"number": 1}, {"number": "1", "of": 1, "rows": 10, "first": 0}, {"number": True, "of": 1}):
        write(tmp_path / "liar.h5", header(recipe={"seed": 7, "shard": mark}))
        assert "attribute 'recipe': shard" in refused("merge", tmp_path / "liar.h5", "--out", tmp_path / "it.h5")
        (tmp_path / "liar.h5").unlink()


def lying(path: Path, number: int, of: int, rows: int, first: int) -> Path:
    recipe = header().recipe
    write(path, header(recipe={**recipe, "shard": {"number": number, "of": of, "rows": rows, "first": first}}))
    return path


def test_shards_that_lie_about_their_rows_are_refused(tmp_path: Path) -> None:
    one, two = lying(tmp_path / "1.h5", 1, 2, 20, 0), lying(tmp_path / "2.h5", 2, 2, 20, 9)
    out = ("--out", tmp_path / "it.h5")
    assert "begins at row 9 where row 10 is missing" in refused("merge", one, two, *out)
    alone = lying(tmp_path / "alone.h5", 1, 1, 30, 0)
    assert "hold 10 of 30 rows" in refused("merge", alone, *out)
    huge = lying(tmp_path / "huge.h5", 1, 2**40, 2**40, 0)
    told, calls = calls_of(lambda: refused("merge", huge, *out))
    assert "2, 3, 4, 5, 6 and" in told and calls < 200_000


def test_a_shard_is_not_written_over_by_the_whole(tmp_path: Path) -> None:
    paths = [Path(shutil.copy(path, tmp_path / path.name)) for path in three()]
    assert "is one of the shards" in refused("merge", *paths, "--out", paths[0], "--force")
    done(*words("det", tmp_path / "it.h5", "--steps", "2"))
    assert "steps is 2 there and 3 here" in refused("merge", *paths)
    merged(paths, "--force")
    assert digest(tmp_path / "it.h5") == whole()


# What stops and goes on ----------------------------------------------------------------------------


def test_a_killed_shard_goes_on_to_the_same_file(tmp_path: Path) -> None:
    slow = ("--steps", "150")
    done(*words("det", tmp_path / "whole.h5", *slow))
    out = tmp_path / "it.h5"
    journal = journal_path(Shard(2, 2).path(out))
    killed = Command(tmp_path, *words("det", out, "--shard", "2/2", *slow))
    killed.stop_when(has_rows(journal), signal.SIGKILL)
    assert journal.exists() and not Shard(2, 2).path(out).exists()
    ran = done(*words("det", out, "--shard", "2/2", *slow))
    assert re.search(r"holds (5|10|15) of 20 rows: resuming", ran.err)
    merged([*shards(out, 2, "det", *slow)])
    assert digest(out) == digest(tmp_path / "whole.h5") and not list(tmp_path.glob("*.partial"))


def test_merge_copies_in_blocks_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = three()
    # Blocks are bounded by their size as float32.
    monkeypatch.setattr(featuregen.storage.schema, "BLOCK_BYTES", 4 * 4 * 64)
    real, taken = Writer.append, list[int]()

    def append(writer: Writer, columns: dict[str, np.ndarray[Any, Any]]) -> None:
        if len(taken) == 5:
            taken.append(0)
            raise KeyboardInterrupt
        taken.append(len(columns["labels"]))
        real(writer, columns)

    monkeypatch.setattr(Writer, "append", append)
    out = tmp_path / "it.h5"
    assert run("merge", *paths, "--out", out).code == 130 and not out.exists() and journal_path(out).exists()
    ran = merged(paths, "--out", out)
    assert "it.h5.partial holds 18 of 40 rows" in ran.err
    # Shards of 10, 15 and 15 rows, four at a time; stopped after 18 rows, that is 8 rows into the second.
    assert taken == [4, 4, 2, 4, 4, 0, 4, 3, 4, 4, 4, 3]
    assert digest(out) == whole() and [path.name for path in tmp_path.iterdir()] == ["it.h5"]


def test_a_shard_in_smaller_batches_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model("standard")
    monkeypatch.setattr(featuregen.compute.autotune, "bytes_per_image", lambda net: 100)
    monkeypatch.setattr(featuregen.compute.autotune, "free_memory", lambda device: 1000)
    told = refused(*words("det", tmp_path / "it.h5", "--shard", "1/2"))
    assert "synthesis.det.batch_size is 5" in told and "lower it to 3" in told


def test_memory_that_runs_out_in_one_shard_is_told_by_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a single run: the same rows, whose bytes alone may differ, since rounding depends on the batch."""
    paths = [Path(shutil.copy(path, tmp_path / path.name)) for path in three()[:2]]
    real = featuregen.synthesis.generate._synthesize_batch

    def short(*args: Any) -> Any:
        if len(args[6]) > 3:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(featuregen.synthesis.generate, "_synthesize_batch", short)
    done(*words("det", tmp_path / "it.h5", "--shard", "3/3"))
    merged([*paths, tmp_path / "it.shard-03-of-03.h5"])
    assert info(tmp_path / "it.h5")["software"]["batch"].startswith("5; 5, later 2, since memory ran out")
    assert done("verify", tmp_path / "it.h5", "--source", model("standard")).code == 0
    assert digest(ROOM / "unsharded-det.h5") == whole()
    here, there = (read_columns(path, list(COLUMNS)) for path in (tmp_path / "it.h5", ROOM / "unsharded-det.h5"))
    for column in ("labels", "source_labels", "index", "start_index"):
        assert np.array_equal(here[column], there[column])
    assert np.abs(here["images"].astype(int) - there["images"]).max() <= 1
    assert np.allclose(here["objective"], there["objective"], rtol=1e-3, atol=1e-4)


# Several jobs at once ------------------------------------------------------------------------------


def test_who_waits_says_so_and_then_has_its_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock, seen = tmp_path / "models" / "it.lock", list[str]()

    def second() -> None:
        with _one_job_at_a_time(lock, "waiting for the first"):
            seen.append("second")

    with _one_job_at_a_time(lock, "never said"):
        other = threading.Thread(target=second)
        other.start()
        while "waiting" not in (told := capsys.readouterr().err):
            time.sleep(0.01)
        seen.append("first")
    other.join(600)
    assert seen == ["first", "second"] and told == "waiting for the first\n"
    assert not lock.exists()


def test_of_jobs_that_start_together_one_trains_the_source(tmp_path: Path) -> None:
    plain = [word for word in words("det", tmp_path / "it.h5") if word not in ("--source", model("standard"))]
    jobs = [Command(tmp_path, *plain, "--shard", f"{number}/2") for number in (1, 2)]
    assert [job.wait() for job in jobs] == [0, 0], [job.err for job in jobs]
    assert sorted(job.err.count("training standard model") for job in jobs) == [0, 1]
    assert len(list((tmp_path / "models").iterdir())) == 1, "neither locks nor a second model"
    merged(sorted(tmp_path.glob("*.shard-*.h5")))
    assert digest(tmp_path / "it.h5") == whole()
