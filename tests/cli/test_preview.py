"""`preview`: base image, start image and result of ten rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
from PIL import Image

from tests.helpers.cli_runs import dataset, done, info, make, refused
from tests.helpers.dataset_files import attribute, edited, sealed


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


@pytest.mark.parametrize("column", ["index", "start_index"])
def test_a_row_beyond_the_base_set_is_refused(tmp_path: Path, column: str) -> None:
    make("robust", tmp_path / "robust.h5")
    with edited(tmp_path / "robust.h5") as root:
        root[column][3] = 1_000_067
    sealed(tmp_path / "robust.h5")
    told = refused("preview", tmp_path / "robust.h5")
    assert f"column '{column}' is damaged: row 3 holds 1000067, and digits has 1438 training images" in told


def test_without_the_noise_of_its_recipe_the_start_images_are_unknown(tmp_path: Path) -> None:
    make("robust-noise", tmp_path / "noise.h5")
    done("preview", tmp_path / "noise.h5")
    with_starts = Image.open(tmp_path / "noise.png").tobytes()
    recipe = info(tmp_path / "noise.h5")["recipe"]
    del recipe["synthesis"]["noise"]
    attribute(tmp_path / "noise.h5", "recipe", json.dumps(recipe))
    sealed(tmp_path / "noise.h5")
    done("preview", tmp_path / "noise.h5")
    assert Image.open(tmp_path / "noise.png").tobytes() != with_starts
