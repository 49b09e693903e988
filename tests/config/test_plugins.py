"""Plugins: a user's file is run once, and what is wrong with it is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featuregen.config import plugins
from featuregen.config.plugins import load_plugin, loaded_plugins
from featuregen.errors import UserError


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plugins, "_loaded", {})
    yield


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_run_once_and_remembered(tmp_path: Path) -> None:
    path = write(tmp_path, f"with open({str(tmp_path / 'log')!r}, 'a') as log:\n    log.write('x')\n")
    load_plugin(path)
    load_plugin(tmp_path / ".." / tmp_path.name / "mine.py")
    assert (tmp_path / "log").read_text() == "x" and loaded_plugins() == (path.resolve(),)


def test_a_file_may_define_dataclasses_and_two_files_may_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
    )
    for folder in (tmp_path, tmp_path / "other"):
        load_plugin(write(folder, text + "assert A().x == 1\n"))
    assert len(loaded_plugins()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nprint(nowhere)\n", "mine.py failed with NameError: name 'nowhere' is not defined (line 2)"),
        ("x = (\n", "mine.py failed with SyntaxError: "),
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name' (line 1)"),
        ("raise SystemExit(3)\n", "mine.py failed with SystemExit: 3 (line 1)"),
        ("from featuregen import UserError\nraise UserError('told by the file')\n", "told by the file"),
    ],
)
def test_a_file_that_fails_is_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_plugin(write(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert loaded_plugins() == ()


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    with pytest.raises(UserError, match=r"loop\.py is no Python file"):
        load_plugin(tmp_path / "loop.py")


@pytest.mark.parametrize("name", ["nowhere.py", "", "letter.txt"])
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "x = 1", "letter.txt")
    with pytest.raises(UserError, match="is no Python file"):
        load_plugin(tmp_path / name)
