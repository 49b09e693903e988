"""Work that is done once for one dataset made with a given source, and the preview beside it."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.cli_runs import done, model, tiny

ROWS = 64
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are found in /proc")


@dataclass
class Work:
    """Opens of the finished file by HDF5, its checks, bytes of weights that were hashed and of the journal read."""

    opened: int = 0
    weights_hashed: int = 0
    journal_written: int = 0
    journal_read: int = 0
    calls: Counter[str] = field(default_factory=Counter, repr=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    source = model("standard")
    path, work = tmp_path_factory.mktemp("waste") / "det.h5", Work()
    sha256, pread, pwrite = hashlib.sha256, os.pread, os.pwrite

    class File(h5py.File):  # type: ignore[misc]  # h5py has no types
        def __init__(self, name: Any, *words: Any, **settings: Any) -> None:
            work.opened += isinstance(name, str | Path) and Path(name) == path
            super().__init__(name, *words, **settings)

    class Digest:
        """SHA-256 that counts what the modules of models feed it."""

        def __init__(self, data: Any = b"") -> None:
            self._inner = sha256()
            self.update(data)

        def update(self, data: Any) -> None:
            if caller().startswith("featuregen.models"):
                work.weights_hashed += memoryview(data).nbytes
            self._inner.update(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    def caller() -> str:
        frame: FrameType | None = sys._getframe(1)
        while frame and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
        return str(frame.f_globals.get("__name__")) if frame else ""

    def is_journal(fd: int) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(f"{path}.partial")

    def counted_read(fd: int, length: int, offset: int) -> bytes:
        data = pread(fd, length, offset)
        work.journal_read += len(data) * is_journal(fd)
        return data

    def counted_write(fd: int, data: Any, offset: int) -> int:
        count = pwrite(fd, data, offset)
        work.journal_written += count * is_journal(fd)
        return count

    def count_call(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("featuregen."):
            work.calls[frame.f_code.co_name] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py, "File", File)
        patch.setattr(hashlib, "sha256", Digest)
        patch.setattr(os, "pread", counted_read)
        patch.setattr(os, "pwrite", counted_write)
        previous = sys.getprofile()
        sys.setprofile(count_call)
        try:
            done("make-dataset", "det", "--config", tiny(), "--source", source, "--rows", str(ROWS), "--out", path)
        finally:
            sys.setprofile(previous)
    assert path.exists() and path.with_suffix(".png").exists()
    return work


def test_the_finished_file_is_opened_three_times_at_most(work: Work) -> None:
    assert 1 <= work.opened <= 3


def test_the_weights_of_the_source_are_hashed_once(work: Work) -> None:
    tensors = load_file(model("standard")).values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.dtype == torch.float32)
    assert 1 <= work.weights_hashed / size < 1.5


def test_the_finished_file_is_checked_once_and_read_by_no_other_process(work: Work) -> None:
    assert work.calls["check_columns"] == 1 and work.calls["_probe"] == 0


def test_the_journal_is_read_once(work: Work) -> None:
    assert 0.5 < work.journal_read / work.journal_written < 1.1
