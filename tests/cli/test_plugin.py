"""`featuregen --plugin FILE COMMAND`: the file runs before the command, and only when one runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featuregen.config import plugins
from tests.helpers.cli_runs import done, refused


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plugins, "_loaded", {})
    yield


def plugin(folder: Path, name: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(f"print('{name} is loaded')\n", encoding="utf-8")
    return path


def test_plugins_are_loaded_in_order_before_the_command(tmp_path: Path) -> None:
    first, second = plugin(tmp_path, "first"), plugin(tmp_path, "second")
    lines = done("--plugin", second, "--plugin", first, "models").out.splitlines()
    assert lines[:2] == ["second is loaded", "first is loaded"] and len(lines) > 4


def test_help_loads_no_plugin(tmp_path: Path) -> None:
    assert "is loaded" not in done("--plugin", plugin(tmp_path, "first"), "--help").out


def test_a_broken_plugin_is_one_sentence_and_the_command_does_not_run(tmp_path: Path) -> None:
    path = plugin(tmp_path, "first")
    path.write_text("1 / 0\n", encoding="utf-8")
    message = refused("--plugin", path, "models")
    assert message == f"error: {path} failed with ZeroDivisionError: division by zero (line 1); correct it."
    assert "nowhere.py is no Python file" in refused("--plugin", tmp_path / "nowhere.py", "models")
    assert "--plugin" in refused("--plugin")
