"""`preview`: base image, start image and result of ten rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest
from PIL import Image

from tests.helpers.cli_runs import dataset, done, info, refused


def copy(path: Path, folder: Path) -> Path:
    return Path(shutil.copy(path, folder / path.name))


def test_preview_writes_to_out(tmp_path: Path) -> None:
    path = copy(dataset("rand"), tmp_path)
    assert done("preview", path).out.strip() == str(tmp_path / "rand.png")
    done("preview", path, "--out", tmp_path / "deep" / "it.png")
    drawn = [Image.open(at).tobytes() for at in (tmp_path / "rand.png", tmp_path / "deep" / "it.png")]
    assert drawn[0] == drawn[1]
    assert "should end in .png" in refused("preview", path, "--out", path)


@pytest.mark.parametrize("words", [("preview",), ("evaluate", "--out", "{}")], ids=["preview", "evaluate"])
def test_a_file_made_on_a_gpu_is_read_without_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = copy(dataset("det"), tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = file.attrs["config"].replace('"device":"cpu"', '"device":"cuda"')
    assert info(path)["config"]["runtime"]["device"] == "cuda"
    done(words[0], path, *(word.format(tmp_path) for word in words[1:]))
