"""Compiling the kernels: once, aside, and with a word where it cannot be done."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from featuregen.compute.winograd import load_kernels

CODE = "int twice(int x) { return 2 * x; }\n"
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="needs a C compiler")


@pytest.fixture(autouse=True)
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "twice.c"
    file.write_text(CODE, encoding="utf-8")
    return file


def elsewhere(source: Path, count: int) -> list[int]:
    """What the compiled function returns in so many other processes, which load it at the same time."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(count), context.SimpleQueue()

    def load() -> None:
        barrier.wait()
        library = load_kernels(source)
        answers.put(library.twice(21) if library else 0)

    processes = [context.Process(target=load) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [answers.get() for _ in processes]


@needs_compiler
def test_compiled_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = load_kernels(source)
    assert library is not None and library.twice(21) == 42
    assert [file.suffix for file in (tmp_path / "cache" / "featuregen").iterdir()] == [".so"]
    load_kernels.cache_clear()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(subprocess, "run", never)
    again = load_kernels(source)
    assert again is not None and again.twice(4) == 8


@needs_compiler
def test_other_code_is_compiled_anew(source: Path, tmp_path: Path) -> None:
    load_kernels(source)
    load_kernels.cache_clear()
    source.write_text(CODE.replace("2 *", "3 *"), encoding="utf-8")
    library = load_kernels(source)
    assert library is not None and library.twice(21) == 63
    assert len(list((tmp_path / "cache" / "featuregen").iterdir())) == 2


def test_no_compiler_is_said(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert load_kernels(source) is None
    assert "no C compiler here" in capsys.readouterr().err


@needs_compiler
def test_code_that_does_not_compile_is_said(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_text("int twice(", encoding="utf-8")
    assert load_kernels(source) is None
    assert "cannot compile twice.c" in capsys.readouterr().err


@needs_compiler
def test_no_room_for_the_library_is_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_kernels(source) is None
    assert "convolutions use torch" in capsys.readouterr().err


@needs_compiler
def test_a_torn_library_is_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Loaded in another process, since this one would remember it.
    assert elsewhere(source, 1) == [42]
    (library,) = (tmp_path / "cache" / "featuregen").iterdir()
    library.write_bytes(b"\x7fELF")
    assert load_kernels(source) is None
    assert "convolutions use torch" in capsys.readouterr().err


@needs_compiler
def test_two_processes_may_compile_at_once(source: Path, tmp_path: Path) -> None:
    assert elsewhere(source, 2) == [42, 42]
    assert len(list((tmp_path / "cache" / "featuregen").iterdir())) == 1
