"""What is set aside is damaged, and nothing of it, or of others, is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from featuregen.errors import UserError
from featuregen.runtime.kept_files import set_aside


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("unable to mmap 44747128 bytes from file <a>: Cannot allocate memory (12)"),
        PermissionError(13, "Permission denied"),
        OSError(24, "Too many open files"),
    ],
)
def test_what_the_system_refuses_is_no_damage(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(type(error)):
        set_aside(path, error)
    told = UserError("a.json cannot be read; try again.")
    told.__context__ = error
    with pytest.raises(UserError):
        set_aside(path, told)
    interrupted = RuntimeError("a call of torch was interrupted")
    interrupted.__context__ = KeyboardInterrupt()
    with pytest.raises(RuntimeError):
        set_aside(path, interrupted)
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_process_has_set_aside_leaves_no_trace(tmp_path: Path) -> None:
    set_aside(tmp_path / "a.json", UserError("a.json is damaged; get it again."))
    assert list(tmp_path.iterdir()) == []


def test_the_note_says_what_is_wrong_without_its_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    set_aside(tmp_path / "a.json", UserError("a; b.json is damaged; get it again."))
    assert capsys.readouterr().err == "note: a; b.json is damaged; it is set aside as a.json.damaged, and made again\n"
    (tmp_path / "a.json").mkdir()
    (tmp_path / "a.json" / "inside").touch()
    set_aside(tmp_path / "a.json", UserError("a.json is a folder"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json.2.damaged", "a.json.damaged", "inside"]
