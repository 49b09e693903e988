"""Files appear whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from featuregen.errors import UserError
from featuregen.runtime import atomic as module
from featuregen.runtime.atomic import atomic_folder, atomic_path, atomic_write, lock, locked, partial_path


def test_content_takes_the_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as partial:
        partial.write_text("é")
        assert not path.exists() and partial.parent == path.parent
    assert path.read_text() == "é" and os.listdir(path.parent) == ["file.txt"]
    atomic_write(path, b"\x00")
    assert path.read_bytes() == b"\x00"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk"), ValueError])
def test_what_was_there_stays_if_writing_fails(tmp_path: Path, error: type[BaseException] | BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises((KeyboardInterrupt, UserError, ValueError)) as caught, atomic_path(path) as partial:
        partial.write_text("ne")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]
    assert caught.type is not UserError or str(caught.value).startswith(f"Cannot write {path}: ")


def test_two_runs_never_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.05)
    with atomic_path(path) as partial:
        partial.write_text("first")
        with pytest.raises(UserError) as caught:
            atomic_write(path, "second")
    assert str(caught.value) == f"{path} is being written by another run; wait for it or choose another output."
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["file.txt"]


def test_who_is_at_a_small_file_is_waited_for(tmp_path: Path) -> None:
    path, begun = tmp_path / "file.txt", threading.Event()

    def write() -> None:
        with atomic_path(path) as partial:
            partial.write_text("first")
            begun.set()
            time.sleep(0.2)

    other = threading.Thread(target=write)
    other.start()
    begun.wait()
    atomic_write(path, "second")
    other.join()
    assert path.read_text() == "second" and os.listdir(tmp_path) == ["file.txt"]


def test_what_a_killed_run_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    partial_path(path).write_text("half of something that is far longer")
    atomic_write(path, "whole")
    assert path.read_text() == "whole" and os.listdir(tmp_path) == ["file.txt"]


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "work.training"
    with locked(path):
        assert path.exists()
        with pytest.raises(UserError, match=r"work\.training is being written by another run"):
            lock(path)
        assert path.exists()
    assert not path.exists()
    with locked(path):
        path.rename(tmp_path / "elsewhere")
    assert os.listdir(tmp_path) == ["elsewhere"]


def killed_at(operation: str, target: Path) -> None:
    """A process of its own ends itself right before its first call of an operation on the folder."""

    def run() -> None:
        def look(event: str, arguments: tuple[object, ...]) -> None:
            if event == operation and "folder" in str(arguments[0]):
                os.kill(os.getpid(), signal.SIGKILL)

        with atomic_folder(target) as partial:
            (partial / "b").write_text("half")
            sys.addaudithook(look)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("left", ["nothing", "half", "old", "both", "unmarked"])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, left: str) -> None:
    """Also after a run that was killed while it filled the new one, or when the old one was out of the way."""
    target = tmp_path / "folder"
    target.mkdir()
    (target / "a").write_text("old")
    if left == "half":
        killed_at("os.rename", target)
        assert (target / "a").exists()
    if left == "old":
        killed_at("os.rename", target)
        target.rename(partial_path(target) / "old")
    if left == "both":
        killed_at("shutil.rmtree", target)
        assert (target / "b").exists() and (partial_path(target) / "old" / "a").exists()
        (target / "b").unlink()
        (target / "a").write_text("old")
    if left == "unmarked":
        partial_path(target).mkdir()
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as partial:
        (partial / "b").write_text("new")
        assert (target / "a").read_text() == "old"
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(target) == ["a"]
    with atomic_folder(target) as partial:
        (partial / "b").write_text("new")
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(target) == ["b"]


def test_a_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    atomic_write(tmp_path / "whole", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
