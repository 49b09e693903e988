"""A full disk, simulated by a limit on the size of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.processes import Command, Limits
from tests.helpers.cli_runs import dataset, model, tiny


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("train --config {tiny} --out {out}/it.safetensors", 10_000),
        ("make-dataset det --config {tiny} --out {out}/it.h5", 10_000),
        ("make-dataset det --config {tiny} --source {standard} --rows 1000 --out {out}/it.h5", 50_000),
        ("preview {det} --out {out}/it.png", 1_000),
        ("evaluate {det} --out {out}", 10_000),
        ("reproduce --config {tiny} --out {out}", 10_000),
        ("export {det} --format madry --out {out}/madry", 2_000),
        ("export {det} --format npz --out {out}/it.npz", 1_000),
        ("export {det} --format imagefolder --out {out}/images", 400),
        ("export {det} --format parquet --out {out}/it.parquet", 1_000),
        ("share {det} --out {out}/it", 20_000),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_broken(tmp_path: Path, words: str, limit: int) -> None:
    names = {"tiny": tiny(), "standard": model("standard"), "det": dataset("det"), "out": tmp_path / "o"}
    command = Command(tmp_path, *(word.format(**names) for word in words.split()), limits=Limits(file=limit))
    assert command.wait() == 2, command.err
    messages = [line for line in command.err.splitlines() if not line.startswith(("training ", "note: "))]
    assert len(messages) == 1 and messages[0].startswith("error: ") and "large" in messages[0], command.err
    left = [path.name for path in (tmp_path / "o").rglob("*") if path.is_file()]
    assert left in ([], ["it.h5.partial"])
