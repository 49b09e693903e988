"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featuregen.errors import UserError
from featuregen.whole import whole, write_whole


def test_content_takes_the_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with whole(path) as partial:
        partial.write_text("é")
        assert not path.exists() and partial.parent == path.parent
    assert path.read_text() == "é" and os.listdir(path.parent) == ["file.txt"]
    write_whole(path, b"\x00")
    assert path.read_bytes() == b"\x00"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk"), ValueError])
def test_what_was_there_stays_if_writing_fails(tmp_path: Path, error: type[BaseException] | BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises((KeyboardInterrupt, UserError, ValueError)) as caught, whole(path) as partial:
        partial.write_text("ne")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]
    assert caught.type is not UserError or str(caught.value).startswith(f"Cannot write {path}: ")


def test_a_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "whole", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
