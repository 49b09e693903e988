"""Writing files: what they hold, stopping and going on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featuregen.errors import UserError
from featuregen.runtime.atomic import partial_path
from featuregen.storage.journal import MAGIC, Journal, journal_path
from featuregen.storage.reader import read_columns, read_info
from featuregen.storage.schema import COLUMNS, column_dtype
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import check_against_base
from featuregen.storage.writer import Writer, check_compatible
from tests.helpers.dataset_files import (
    BATCH,
    CREATED,
    ROWS,
    SEED,
    base_set,
    batches,
    columns_of,
    failed,
    header,
    one_sentence,
    write,
)
from tests.helpers.foreign_files import put

# What they hold -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    path, head = tmp_path / "deep" / "er" / "det.h5", header(dtype=dtype)
    digest = write(path, head)
    wanted = columns_of(head)
    info = read_info(path)
    assert info.header() == head
    assert (info.content_sha256, info.created, info.success_rate) == (digest, CREATED, 1.0)
    assert info.value_range == ((0, 255) if dtype == "uint8" else (0, 1)) and info.size == path.stat().st_size
    for name, values in read_columns(path, list(COLUMNS)).items():
        assert values.dtype == wanted[name].dtype
        np.testing.assert_array_equal(values, wanted[name])
    pixels = wanted["images"].astype("f4") / (np.float32(255) if dtype == "uint8" else np.float32(1))
    np.testing.assert_array_equal(FeatureDataset(path).fetch(slice(3, 7)), pixels[3:7])
    assert failed(path) == []
    assert [check for check in check_against_base(path, *base_set()) if not check.ok] == []
    assert os.listdir(path.parent) == ["det.h5"]


def test_only_plain_row_aligned_data_sets(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as root:
        assert set(root) == set(COLUMNS)
        assert all(root[name].shape[0] == ROWS and root[name].fletcher32 and not root[name].attrs for name in COLUMNS)
        assert root["images"].compression is None
        assert json.loads(root.attrs["recipe"])["seed"] == SEED


def test_same_content_same_bytes(tmp_path: Path) -> None:
    digests = {write(tmp_path / "a.h5", size=4), write(tmp_path / "b.h5", size=10), write(tmp_path / "c.h5", size=1)}
    assert len(digests) == 1
    assert len({(tmp_path / name).read_bytes() for name in ("a.h5", "b.h5", "c.h5")}) == 1


def test_same_bytes_over_many_chunks(tmp_path: Path) -> None:
    head = header(rows=300, image_shape=(1, 100, 100))
    rng = np.random.default_rng(5)
    columns = {name: np.zeros(300, column_dtype(name, "float32")) for name in COLUMNS}
    columns["images"] = rng.random((300, 1, 100, 100), "f4")
    for name, size in (("a.h5", 300), ("b.h5", 7), ("c.h5", 129)):
        write(tmp_path / name, head, columns, size=size)
    with h5py.File(tmp_path / "a.h5") as root:
        assert root["images"].id.get_num_chunks() == 50
    assert len({(tmp_path / name).read_bytes() for name in ("a.h5", "b.h5", "c.h5")}) == 1
    np.testing.assert_array_equal(FeatureDataset(tmp_path / "b.h5").images, columns["images"])


def test_content_digest_ignores_software_and_time(tmp_path: Path) -> None:
    first = write(tmp_path / "a.h5")
    assert write(tmp_path / "b.h5", header(software={"torch": "9"})) == first
    assert write(tmp_path / "c.h5", header(citation="Other.")) != first
    unsure = {"source_pred": np.zeros(ROWS, "<i8")}
    assert write(tmp_path / "d.h5", changes=unsure) != first
    assert read_info(tmp_path / "d.h5").success_rate < 1
    assert read_info(tmp_path / "a.h5").record_sha256 != read_info(tmp_path / "b.h5").record_sha256


def test_attributes_beyond_64_kib(tmp_path: Path) -> None:
    head = header(classes=tuple(f"class {i}" for i in range(20_000)), recipe={"seed": 7, "long": "x" * 1_000_000})
    columns = {**columns_of(head), "labels": np.full(ROWS, 19_999), "source_pred": np.full(ROWS, 19_999)}
    columns["source_labels"] = np.full(ROWS, 19_998)
    write(tmp_path / "big.h5", head, columns)
    assert read_info(tmp_path / "big.h5").header() == head
    assert failed(tmp_path / "big.h5") == []


# Stopping and going on ----------------------------------------------------------------------------


def killed_after_two_batches(path: Path) -> None:
    writer = Writer.open(path, header())
    for batch in list(batches(columns_of(header())))[:2]:
        writer.append(batch)
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    run = multiprocessing.get_context("fork").Process(target=killed_after_two_batches, args=(path,))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert not path.exists()
    with pytest.raises(UserError, match="unfinished: run the same command again"):
        FeatureDataset(journal_path(path))
    with Writer.open(path, header()) as writer:
        assert (writer.rows_done, writer.complete) == (2 * BATCH, False)
    partial_path(path).write_bytes(b"left by a kill during finish")
    assert write(path) == write(tmp_path / "whole.h5")
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "whole.h5"]


def test_without_a_row_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Writer.open(tmp_path / "a.h5", header()):
        assert journal_path(tmp_path / "a.h5").exists()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("done", [1, 2, 3])
@pytest.mark.parametrize("cut", [0, 1, 50])
def test_torn_batch_costs_that_batch_only(tmp_path: Path, done: int, cut: int) -> None:
    path = tmp_path / "a.h5"
    whole = list(batches(columns_of(header())))
    with Writer.open(path, header()) as writer:
        sizes = [journal_path(path).stat().st_size]
        for batch in whole[:done]:
            writer.append(batch)
            sizes.append(journal_path(path).stat().st_size)
    os.truncate(journal_path(path), sizes[-1] - cut)
    with Writer.open(path, header()) as writer:
        kept = done - 1 if cut else done
        assert writer.rows_done == min(ROWS, kept * BATCH)
    assert write(path) == write(tmp_path / "whole.h5")
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "whole.h5"]


def test_interrupt_keeps_the_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(KeyboardInterrupt), Writer.open(path, header()) as writer:
        writer.append(next(batches(columns_of(header()))))
        raise KeyboardInterrupt
    with Writer.open(path, header()) as writer:
        assert writer.rows_done == BATCH


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-60] + bytes([data[-60] ^ 1]) + data[-59:], ""),
        (lambda data: data[:600] + bytes([data[600] ^ 1]) + data[601:], "damaged"),
        (lambda data: b"x" + data[1:], "damaged"),
        (lambda data: b"", ""),
    ],
)
def test_damaged_partial_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "a.h5"
    with Writer.open(path, header()) as writer:
        for batch in list(batches(columns_of(header())))[:2]:
            writer.append(batch)
    left = change(journal_path(path).read_bytes())
    journal_path(path).write_bytes(left)
    capsys.readouterr()
    assert write(path) == write(tmp_path / "whole.h5")
    assert message in capsys.readouterr().err
    aside = tmp_path / "a.h5.partial.damaged"
    assert aside.exists() == bool(message) and (not message or aside.read_bytes() == left)


@pytest.mark.parametrize(
    "left", [b"my thesis", b"\0", b"f\0", MAGIC + b"\xff" * 8, MAGIC + b"\x02" + b"\0" * 7 + b"{}", MAGIC + b"\0" * 8]
)
def test_what_is_no_journal_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str], left: bytes) -> None:
    path = tmp_path / "a.h5"
    journal_path(path).write_bytes(left)
    (tmp_path / "a.h5.partial.damaged").write_text("an earlier one")
    assert write(path) == write(tmp_path / "whole.h5")
    assert "it is set aside as a.h5.partial.2.damaged, and made again" in capsys.readouterr().err
    assert (tmp_path / "a.h5.partial.2.damaged").read_bytes() == left
    assert (tmp_path / "a.h5.partial.damaged").read_text() == "an earlier one"


def test_rows_of_another_run_are_discarded_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.h5"
    other = header(recipe={"seed": 1})
    with Writer.open(path, other) as writer:
        writer.append(next(batches(columns_of(header()))))
    before = journal_path(path).read_bytes()
    for opening in (lambda: Writer.open(path, header()), lambda: Journal(journal_path(path), header())):
        with pytest.raises(
            UserError, match=rf"holds {BATCH} rows of a run with other settings \(recipe\.seed is 1 there"
        ):
            opening()
    with pytest.raises(UserError, match="--force discards the rows"):
        check_compatible(path, header(source_model={}))
    assert journal_path(path).read_bytes() == before
    with Writer.open(path, other) as writer:
        assert writer.rows_done == BATCH
    with Writer.open(path, header(), force=True) as writer:
        assert writer.rows_done == 0
    assert "other settings" in capsys.readouterr().err


def test_a_finished_file_does_not_touch_another_runs_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    with Writer.open(path, header(recipe={"seed": 1}), force=True) as writer:
        writer.append(next(batches(columns_of(header()))))
    assert Writer.open(path, header()).complete and journal_path(path).exists()


def test_a_journal_without_rows_costs_nothing(tmp_path: Path) -> None:
    Journal(journal_path(tmp_path / "a.h5"), header(recipe={"seed": 1})).close()
    with Writer.open(tmp_path / "a.h5", header()) as writer:
        assert writer.rows_done == 0


@pytest.mark.parametrize("name", ["a.h5", "a.h5.partial", ".a.h5.featuregen-partial"])
@pytest.mark.parametrize("kind", ["link", "broken link", "hard link", "pipe", "folder"])
def test_nothing_is_written_through_what_is_no_own_file(tmp_path: Path, name: str, kind: str) -> None:
    outside, room = tmp_path / "outside", tmp_path / "room"
    room.mkdir()
    put(kind, room / name, outside)
    if (name, kind) == ("a.h5", "hard link"):
        # Replacing one name of a file leaves the other as it was.
        return
    with pytest.raises(UserError) as caught:
        write(room / "a.h5")
    assert str(room / name) in one_sentence(caught)
    assert list(room.iterdir()) == [room / name] or sorted(os.listdir(room)) == sorted([name, "a.h5.partial"])
    assert kind == "broken link" or not outside.is_file() or outside.read_text() == "mine"
    assert os.path.lexists(outside) == (kind in ("link", "hard link"))
