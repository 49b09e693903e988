"""Outputs in the way, places that cannot be written, rows that cannot be."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featuregen.errors import UserError
from featuregen.storage.journal import journal_path
from featuregen.storage.reader import read_info
from featuregen.storage.writer import Writer
from tests.helpers.dataset_files import (
    BATCH,
    CLASSES,
    CREATED,
    ROWS,
    SEED,
    SHAPE,
    batches,
    columns_of,
    header,
    one_sentence,
    write,
)


def test_complete_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    before = path.read_bytes()
    writer = Writer.open(path, header(software={"torch": "other"}))
    assert writer.complete and writer.rows_done == ROWS
    with pytest.raises(UserError, match="finished"):
        writer.append(columns_of(header()))
    assert os.listdir(tmp_path) == ["a.h5"] and path.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"kind": "rand"}, 'kind is "det" there and "rand" here'),
        ({"recipe": {"seed": SEED, "synthesis": {"norm": "l2", "eps": 1, "steps": 3}}}, "recipe.synthesis.eps is 0.5"),
        ({"dtype": "float16"}, "dtype"),
        ({"source_model": {"weights_sha256": "cd"}}, "source model's weights"),
    ],
)
def test_other_output_needs_force(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.h5"
    write(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="--force") as error:
        Writer.open(path, header(**other))
    assert message in one_sentence(error)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.h5"]
    head = header(**other)
    with Writer.open(path, head, force=True) as writer:
        writer.append(columns_of(head))
        assert path.read_bytes() == before
        writer.finish()
    assert read_info(path).header() == head


@pytest.mark.parametrize("content", [b"my thesis", b"", b"\x89HDF\r\n\x1a\nbut not really"])
def test_strange_file_needs_force(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(UserError, match="--force") as error:
        Writer.open(path, header())
    one_sentence(error)
    assert path.read_bytes() == content
    with Writer.open(path, header(), force=True) as writer:
        assert not writer.complete


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with Writer.open(path, header()) as writer:
        with pytest.raises(UserError, match="another run") as error:
            Writer.open(path, header(), force=True)
        one_sentence(error)
        writer.append(columns_of(header()))
        writer.finish()
    assert os.listdir(tmp_path) == ["a.h5"]


def test_bad_places_are_refused_at_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "b.h5.partial").mkdir()
    for path in (tmp_path, tmp_path / "file" / "a.h5", tmp_path / "b.h5"):
        with pytest.raises(UserError) as error:
            Writer.open(path, header())
        assert str(tmp_path) in one_sentence(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        Writer.open(tmp_path / "a.h5", header())


def test_no_room_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="free") as error:
        Writer.open(tmp_path / "a.h5", header(rows=10**12))
    one_sentence(error)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Files cannot grow past this, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    first, second, third = batches(columns_of(header()))
    with Writer.open(path, header()) as writer:
        writer.append(first)
        with (
            file_limit(journal_path(path).stat().st_size + 100),
            pytest.raises(UserError, match="4 rows are kept") as error,
        ):
            writer.append(second)
        one_sentence(error)
    with Writer.open(path, header()) as writer:
        assert writer.rows_done == BATCH
        writer.append(second)
        writer.append(third)
        with file_limit(100_000), pytest.raises(UserError, match="all rows are kept") as error:
            writer.finish(CREATED)
        one_sentence(error)
        assert os.listdir(tmp_path) == ["a.h5.partial"]
        assert writer.finish(CREATED) == write(tmp_path / "whole.h5")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("labels", np.full(ROWS, CLASSES), "between 0 and 2"),
        ("labels", np.full(ROWS, -1), "between 0 and 2"),
        ("labels", np.zeros(ROWS, "i4"), "int64"),
        ("source_pred", np.full(ROWS, CLASSES), "between -1 and 2"),
        ("images", np.full((ROWS, *SHAPE), np.nan, "f4"), "nan"),
        ("images", np.full((ROWS, *SHAPE), 1.01, "f4"), "[0, 1]"),
        ("images", np.zeros((ROWS, 5, 5, 1), "f4"), "shape"),
        ("norm", np.full(ROWS, -1, "f4"), "not negative"),
        ("index", np.full(ROWS, -2), "at least -1"),
        ("index", np.zeros(ROWS - 1, "i8"), "shape"),
    ],
)
def test_append_refuses_bad_rows(tmp_path: Path, column: str, values: np.ndarray[Any, Any], message: str) -> None:
    with Writer.open(tmp_path / "a.h5", header()) as writer:
        with pytest.raises(UserError) as error:
            writer.append({**columns_of(header()), column: values})
        assert message in one_sentence(error) and column in str(error.value)
        assert writer.rows_done == 0


def test_protocol_mistakes(tmp_path: Path) -> None:
    columns = columns_of(header())
    with Writer.open(tmp_path / "a.h5", header()) as writer:
        with pytest.raises(UserError, match="norm"):
            writer.append({name: values for name, values in columns.items() if name != "norm"})
        writer.append(columns)
        with pytest.raises(UserError, match="1 to 0"):
            writer.append(columns)
    with Writer.open(tmp_path / "b.h5", header()) as writer, pytest.raises(UserError, match="0 of 10"):
        writer.finish()
    for change in ({"dtype": "int8"}, {"rows": 0}, {"classes": ("one",)}, {"recipe": {"x": float("nan")}}):
        with pytest.raises(UserError):
            header(**change)
