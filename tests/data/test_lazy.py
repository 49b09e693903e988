"""Image sets that stay on disk: the same images, models and datasets, and no more memory for more rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from featuregen.data.base_dataset import BaseDataset
from featuregen.data.lazy import Hdf5Rows
from featuregen.errors import UserError
from featuregen.storage.reader import read_columns
from tests.helpers.cli_runs import TINY, done, info, refused
from tests.helpers.image_files import Arrays, load, make_arrays, save

CPU = torch.device("cpu")


def as_hdf5(path: Path, arrays: Arrays, **options: Any) -> Path:
    with h5py.File(path, "w") as root:
        for name, array in arrays.items():
            root.create_dataset(name, data=array, **(options if name.startswith("x_") else {}))
    return path


def as_folder(path: Path, arrays: Arrays) -> Path:
    """In order of class, as a folder is read."""
    for part in ("train", "test"):
        for number, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            place = path / part / f"class {label}" / f"{number:04}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(place)
    return path


def by_class(arrays: Arrays) -> Arrays:
    order = {part: np.argsort(arrays[f"y_{part}"], kind="stable") for part in ("train", "test")}
    return {name: array[order[name[2:]]] for name, array in arrays.items()}


@pytest.fixture(scope="module")
def small(digits: BaseDataset) -> Arrays:
    """Two hundred digits, enough for a tiny net to learn from."""
    return by_class({
        "x_train": digits.train.images[:200], "y_train": digits.train.labels[:200],
        "x_test": digits.test.images[:50], "y_test": digits.test.labels[:50],
    })  # fmt: skip


# The same images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"chunks": (5, 4, 5, 3)}, {"chunks": (1, 4, 5, 3), "compression": "gzip"}])
def test_hdf5_holds_what_an_npz_holds(tmp_path: Path, options: dict[str, Any]) -> None:
    arrays = make_arrays(30)
    there, here = load(save(tmp_path / "a.npz", arrays)), load(as_hdf5(tmp_path / "a.h5", arrays, **options))
    assert here.digest == there.digest and here.size == there.size.__class__(**vars(there.size) | {"in_memory": False})
    assert here.train.labels.tolist() == there.train.labels.tolist()
    for rows in (slice(3, 9), slice(None), np.array([7, 7, 0, 29, 3]), np.array([], dtype=np.int64), np.array([29, 0])):
        assert torch.equal(here.train.images_tensor(CPU, rows), there.train.images_tensor(CPU, rows))
    pictures, tensor = here.train.to(CPU), there.train.images_tensor(CPU)
    assert len(pictures) == 30 and pictures.shape == tensor.shape and pictures.device == CPU
    for chosen in (slice(2, 30, 3), torch.tensor([4, 1, 4]), tensor.flatten(1).mean(1) > 0.5):
        assert torch.equal(pictures[chosen], tensor[chosen])


def test_grey_images_without_a_channel_axis(tmp_path: Path) -> None:
    arrays = make_arrays(12, shape=(4, 5))
    there, here = load(save(tmp_path / "a.npz", arrays)), load(as_hdf5(tmp_path / "a.hdf5", arrays))
    assert here.digest == there.digest and here.image_shape == (1, 4, 5)


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5)])
def test_a_folder_holds_what_an_npz_holds(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = by_class(make_arrays(30, shape))
    there, here = load(save(tmp_path / "a.npz", arrays)), load(as_folder(tmp_path / "pictures", arrays))
    assert here.digest == there.digest and here.classes == ("class 0", "class 1", "class 2")
    assert here.name == "pictures" and not here.in_memory
    rows = np.array([11, 2, 2])
    assert torch.equal(here.test.images_tensor(CPU, rows), there.test.images_tensor(CPU, rows))


def test_known_sets_are_known_by_the_file_too(tmp_path: Path, digits: BaseDataset) -> None:
    arrays = make_arrays(20, shape=(4, 5), classes=10)
    assert load(as_hdf5(tmp_path / "fashion_mnist.h5", arrays)).classes[0] == "T-shirt/top"


def test_other_processes_read_for_themselves(tmp_path: Path) -> None:
    import pickle

    arrays = make_arrays(12)
    images = load(as_hdf5(tmp_path / "a.h5", arrays)).train.images
    assert isinstance(images, Hdf5Rows)
    first = images[slice(0, 2)]
    again = pickle.loads(pickle.dumps(images))
    assert np.array_equal(again[slice(0, 2)], first)


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    base = load(as_hdf5(tmp_path / "a.h5", make_arrays(12)))
    as_hdf5(tmp_path / "b.h5", make_arrays(13))
    os.replace(tmp_path / "b.h5", tmp_path / "a.h5")
    with pytest.raises(UserError, match=r"a\.h5 was replaced while it was in use; start again\."):
        base.train.images_tensor()


def test_a_file_written_over_between_two_reads_is_noticed(tmp_path: Path) -> None:
    arrays = make_arrays(12)
    path = as_hdf5(tmp_path / "a.h5", arrays)
    base, content = load(path), path.read_bytes()
    base.train.images_tensor(CPU, np.array([0]))
    path.chmod(0o600)
    base.train.images_tensor(CPU, np.array([1]))
    path.write_bytes(content.replace(arrays["x_train"].tobytes(), bytes(arrays["x_train"].nbytes)))
    with pytest.raises(UserError, match=r"a\.h5 was replaced while it was in use; start again\."):
        base.train.images_tensor(CPU, np.array([2]))


# The same models and datasets ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["robust", "det"])
def test_models_and_datasets_are_the_same(tmp_path: Path, small: Arrays, kind: str) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    places = {
        "npz": save(tmp_path / "few.npz", small), "h5": as_hdf5(tmp_path / "few.h5", small),
        "folder": as_folder(tmp_path / "few", small),
    }  # fmt: skip
    columns, weights = {}, {}
    for name, data in places.items():
        out = tmp_path / name / f"{kind}.h5"
        done("make-dataset", kind, "--config", tmp_path / "tiny.yaml", "--data", data, "--out", out)
        done("verify", out)
        columns[name] = read_columns(out, ["images", "labels", "index", "start_index", "objective"])
        weights[name] = info(out)["source_model"]["weights_sha256"]
    assert len(set(weights.values())) == 1
    for name in ("h5", "folder"):
        assert all(np.array_equal(columns[name][column], columns["npz"][column]) for column in columns["npz"])


def test_a_fresh_model_is_the_same(tmp_path: Path, small: Arrays) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    scores = []
    for data in (save(tmp_path / "few.npz", small), as_hdf5(tmp_path / "few.h5", small)):
        out = tmp_path / data.suffix / "det.h5"
        done("make-dataset", "det", "--config", tmp_path / "tiny.yaml", "--data", data, "--out", out)
        run = done("evaluate", out, "--data", data, "--out", out.parent, "--json").json()["models"][0]["runs"][0]
        scores.append({name: run[name] for name in ("clean", "l2", "linf", "train_accuracy")})
    assert scores[0] == scores[1]


def test_an_image_set_can_be_attacked(tmp_path: Path, small: Arrays) -> None:
    """It has the ending of a dataset."""
    data, net = as_hdf5(tmp_path / "few.h5", small), tmp_path / "net.safetensors"
    (tmp_path / "tiny.yaml").write_text(TINY)
    done("train", "--config", tmp_path / "tiny.yaml", "--data", data, "--out", net)
    words: list[str | Path] = [
        "--attack",
        "fgsm",
        "--eps",
        "0.2",
        "--rows",
        "20",
        "--json",
        "--out",
        tmp_path / "fgsm.h5",
    ]
    results = done("attack", net, *words, "--data", data).json()
    assert results["images"] == {"name": "few", "split": "test", "count": 20}


def test_the_plan_counts_no_images_that_stay_on_disk(tmp_path: Path, small: Arrays) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    words: list[str | Path] = [
        "reproduce",
        "--config",
        tmp_path / "tiny.yaml",
        "--dry-run",
        "--json",
        "--out",
        tmp_path / "out",
    ]
    whole, streamed = (
        done(*words, "--data", data).json()["memory"]
        for data in (save(tmp_path / "few.npz", small), as_hdf5(tmp_path / "few.h5", small))
    )
    assert streamed < whole


# Bad input -----------------------------------------------------------------------------------------


def test_hdf5_that_makes_no_set_is_a_sentence(tmp_path: Path) -> None:
    good = make_arrays(12)
    path = tmp_path / "a.h5"

    def error_of(**changes: Any) -> str:
        as_hdf5(path, {**good, **changes})
        with pytest.raises(UserError) as caught:
            load(path)
        return str(caught.value)

    assert "x_train is float32 of shape (12, 4, 5, 3); give uint8" in error_of(x_train=good["x_train"].astype("f4"))
    assert "C 1 or 3" in error_of(x_train=np.zeros((12, 4, 5, 2), np.uint8))
    assert "has 11 images and not as many labels" in error_of(x_train=good["x_train"][:11])
    assert "give one image shape" in error_of(x_test=np.zeros((12, 4, 4, 3), np.uint8))
    assert "y_test is empty" in error_of(x_test=np.zeros((0, 4, 5, 3), np.uint8), y_test=np.zeros(0, np.int64))
    assert "give integer labels" in error_of(y_train=good["y_train"].astype("f4"))
    assert "has no 1; number the classes from 0" in error_of(y_train=np.where(good["y_train"] == 1, 2, good["y_train"]))
    assert "the training set ends at 2" in error_of(y_test=np.full(12, 5))
    with h5py.File(path, "w") as root:
        root["x_train"] = good["x_train"]
    assert "has no array y_train of its own" in refused("make-dataset", "det", "--data", path)
    path.write_bytes(b"no HDF5 file at all, only words")
    assert "cannot be read as HDF5" in refused("make-dataset", "det", "--data", path)
    assert "No image set" in refused("make-dataset", "det", "--data", tmp_path / "none.h5")


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    other = as_hdf5(tmp_path / "other.h5", make_arrays(12))
    arrays = make_arrays(12)
    linked = as_hdf5(tmp_path / "linked.h5", {name: array for name, array in arrays.items() if name != "x_train"})
    with h5py.File(linked, "a") as root:
        root["x_train"] = h5py.ExternalLink(str(other), "x_train")
    with pytest.raises(UserError, match="has no array x_train of its own"):
        load(linked)
    with h5py.File(linked, "a") as root:
        del root["x_train"]
        layout = h5py.VirtualLayout((12, 4, 5, 3), np.uint8)
        layout[:] = h5py.VirtualSource(str(other), "x_train", (12, 4, 5, 3))
        root.create_virtual_dataset("x_train", layout)
    with pytest.raises(UserError, match="lies in other files, which are not followed"):
        load(linked)
    (tmp_path / "raw").write_bytes(arrays["x_train"].tobytes())
    with h5py.File(linked, "a") as root:
        del root["x_train"]
        places = [(str(tmp_path / "raw"), 0, arrays["x_train"].nbytes)]
        root.create_dataset("x_train", (12, 4, 5, 3), np.uint8, external=places)
    with pytest.raises(UserError, match="lies in other files, which are not followed"):
        load(linked)


def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = as_hdf5(tmp_path / "a.h5", make_arrays(12))
    with h5py.File(path, "a") as root:
        del root["x_train"], root["y_train"]
        root.create_dataset("x_train", (10**9, 4, 5, 3), np.uint8, chunks=(1, 4, 5, 3))
        root.create_dataset("y_train", (10**9,), np.uint8, chunks=(1000,))
    with pytest.raises(UserError, match="the file does not hold that many values"):
        load(path)
    path = as_hdf5(tmp_path / "b.h5", make_arrays(12))
    with h5py.File(path, "a") as root:
        del root["x_train"]
        root.create_dataset("x_train", (12, 30000, 30000, 1), np.uint8, chunks=(1, 30000, 30000, 1), compression="gzip")
    with pytest.raises(UserError, match="in chunks of 858 MiB, and reading a row reads a chunk"):
        load(path)


def test_damaged_rows_are_a_sentence_when_they_are_read(tmp_path: Path) -> None:
    path = as_hdf5(tmp_path / "a.h5", make_arrays(12), chunks=(1, 4, 5, 3), fletcher32=True)
    content = bytearray(path.read_bytes())
    at = content.find(make_arrays(12)["x_train"][5].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    base = load(path)
    with pytest.raises(UserError, match="x_train cannot be read"):
        base.train.images_tensor(CPU, np.array([5]))


def test_folders_that_make_no_set_are_a_sentence(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "a", make_arrays(12))

    def error_of() -> str:
        with pytest.raises(UserError) as caught:
            load(path).digest  # noqa: B018 - pictures are decoded when they are asked for
        return str(caught.value)

    (path / "test" / "another").mkdir()
    assert "has the class another, which has no training images" in error_of()
    (path / "test" / "another").rmdir()
    (path / "train" / "empty").mkdir()
    assert "has no images; put some there" in error_of()
    (path / "train" / "empty").rmdir()
    odd = path / "train" / "class 1" / "0001.png"
    Image.new("RGB", (7, 7)).save(odd)
    assert f"{odd} is 7×7 pixels and the first image 5×4" in error_of()
    odd.write_bytes(odd.read_bytes()[:50])
    assert str(odd) in error_of()
    odd.write_bytes(b"words")
    assert f"{odd} is no readable image" in error_of()
    shutil.rmtree(path / "test")
    assert f"{path} has no folder test" in error_of()
    shutil.rmtree(path / "train" / "class 1")
    (path / "test").mkdir()
    shutil.rmtree(path / "train" / "class 2")
    assert "has 1 class folders; give at least two" in error_of()


# Memory --------------------------------------------------------------------------------------------

_MEASURED = """
import json, resource, sys
from pathlib import Path
from featuregen import Experiment, load_config
config = load_config(sys.argv[1], ["runtime.threads=1"], {"data.name": sys.argv[2]})
experiment = Experiment(config, Path(sys.argv[3]))
det = experiment.make_dataset("det", Path(sys.argv[3]) / "det.h5")
experiment.train_fresh(det, 1)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""
LARGE = TINY.replace("rows: 40", "rows: 0").replace("epochs: 2", "epochs: 1").replace("steps: 3", "steps: 1")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_base_set(tmp_path: Path) -> None:
    """Source, dataset of all rows, fresh model: 37 and 147 MB of images, which as floats are 147 and 590.

    Fewer rows end before the C library holds as much memory as it will ever keep for batches that come and go. How much
    that is varies from run to run by as much as is allowed here, so the lower of two peaks counts.
    """
    config = tmp_path / "large.yaml"
    config.write_text(LARGE.replace("batch_size: 64", "batch_size: 500").replace("batch_size: 20", "batch_size: 500"))
    peaks = []
    for rows in (12_000, 48_000):
        draw, data = np.random.default_rng(0), tmp_path / f"{rows}.h5"
        with h5py.File(data, "w") as root:
            for part, count in (("train", rows), ("test", 100)):
                root[f"y_{part}"] = np.arange(count) % 10
                array = root.create_dataset(f"x_{part}", (count, 32, 32, 3), np.uint8, chunks=(10, 32, 32, 3))
                for first in range(0, count, 1000):
                    array[first : first + 1000] = draw.integers(0, 256, (min(1000, count), 32, 32, 3), np.uint8)
        outs = [str(tmp_path / f"{rows} {run}") for run in (1, 2)]
        runs = [[sys.executable, "-c", _MEASURED, str(config), str(data), out] for out in outs]
        outputs = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in runs]
        peaks.append(min(map(json.loads, outputs)))
    print(f"peak memory: {[round(peak / 1e6) for peak in peaks]} MB")
    assert peaks[1] < peaks[0] + 60e6
