"""Image sets: the embedded one, `.npz` files, and torchvision's formats from generated files."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featuregen.config.schema import Data
from featuregen.data.base_dataset import BaseDataset, ImageSplit, balanced_rows
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from tests.helpers.image_files import Arrays, load, make_arrays, save

CPU = torch.device("cpu")


# The embedded digits


def test_digits_are_pinned() -> None:
    base = load_images(Data())
    assert (len(base.train), len(base.test), base.image_shape) == (1438, 359, (1, 8, 8))
    assert base.classes == tuple("0123456789")
    assert base.digest == {
        "train": "5dd56d3b83cb67ab95fc47c430fca04198dd6fade9f97b644ca627a2e271599d",
        "test": "38c9fc3a65a612eb4771565d0c1970b37ef880de7c9820d734f9b7a2ae318cac",
    }


def test_digits_are_split_within_each_class() -> None:
    base = load_images(Data())
    train, test = np.bincount(base.train.labels), np.bincount(base.test.labels)
    assert np.all(np.abs(test / (train + test) - 0.2) < 0.01)
    both = np.concatenate([base.train.images, base.test.images]).reshape(1797, -1)
    assert set(np.unique(both)) == {round(v * 255 / 16) for v in range(17)}
    trained = {image.tobytes() for image in base.train.images}
    assert not any(image.tobytes() in trained for image in base.test.images)


# A split


def test_sha256_follows_its_definition() -> None:
    images = np.arange(2 * 3 * 2 * 1, dtype=np.uint8).reshape(2, 3, 2, 1)
    labels = np.array([1, 0])
    parts = struct.pack("<4q", 2, 3, 2, 1) + images.tobytes() + struct.pack("<2q", 1, 0)
    assert ImageSplit(images, labels).sha256 == hashlib.sha256(parts).hexdigest()
    turned = np.asfortranarray(images)
    assert ImageSplit(turned, labels).sha256 == ImageSplit(images, labels).sha256
    assert ImageSplit(images, labels[::-1]).sha256 != ImageSplit(images, labels).sha256


def test_a_name_or_a_path_is_enough(tmp_path: Path, digits: BaseDataset) -> None:
    path = save(tmp_path / "mine.npz", make_arrays())
    assert load_images("digits").digest == digits.digest
    assert load_images(str(path)).digest == load_images(path).digest == load(path).digest


@pytest.mark.parametrize("rows", [None, slice(1, 4), np.array([5, 0, 2])])
def test_tensors_are_nchw_between_0_and_1(rows: Any) -> None:
    arrays = make_arrays()
    split = ImageSplit(arrays["x_train"], arrays["y_train"].astype(np.int64))
    pixels, labels = split.images_tensor(CPU, rows), split.labels_tensor(CPU, rows)
    chosen = split.images if rows is None else split.images[rows]
    assert pixels.dtype == torch.float32 and pixels.is_contiguous() and labels.dtype == torch.int64
    expected = chosen.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert np.array_equal(pixels.numpy(), expected)
    assert labels.tolist() == list(split.labels if rows is None else split.labels[rows])
    assert np.array_equal(np.rint(pixels.numpy() * 255).astype(np.uint8), chosen.transpose(0, 3, 1, 2))


def test_tensors_are_copies() -> None:
    arrays = make_arrays(shape=(4, 4, 1))
    split = ImageSplit(arrays["x_train"], arrays["y_train"].astype(np.int64))
    before = split.images.copy(), split.labels.copy()
    split.images_tensor(CPU).zero_()
    split.labels_tensor(CPU).zero_()
    assert np.array_equal(split.images, before[0]) and np.array_equal(split.labels, before[1])


# Balanced rows


LABELS = np.array([0] * 50 + [1] * 50 + [2] * 3)


@pytest.mark.parametrize(("rows", "counts"), [(9, [3, 3, 3]), (30, [13, 14, 3]), (0, [50, 50, 3]), (103, [50, 50, 3])])
def test_balanced_rows(rows: int, counts: list[int]) -> None:
    chosen = balanced_rows(LABELS, rows, seed=0)
    assert sorted(np.bincount(LABELS[chosen])) == sorted(counts)
    assert np.all(np.diff(chosen) > 0)


def test_balanced_rows_depend_on_the_seed_and_are_nested() -> None:
    first, second = balanced_rows(LABELS, 20, seed=0), balanced_rows(LABELS, 20, seed=1)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, balanced_rows(LABELS, 20, seed=0))
    assert set(first) < set(balanced_rows(LABELS, 31, seed=0))


@pytest.mark.parametrize("rows", [-1, 104])
def test_impossible_numbers_of_rows_are_refused(rows: int) -> None:
    with pytest.raises(UserError, match=rf"{rows} rows .* up to 103"):
        balanced_rows(LABELS, rows, seed=0)


# .npz files


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, shape: tuple[int, ...], saver: Callable[..., None]) -> None:
    arrays = make_arrays(shape=shape)
    saver(tmp_path / "mine.npz", **{**arrays, "y_test": arrays["y_test"][:, None]}, extra=np.zeros(3))
    base = load(tmp_path / "mine.npz")
    assert (base.name, base.classes) == ("mine", ("0", "1", "2"))
    assert base.image_shape == (shape[2] if len(shape) == 3 else 1, 4, 5)
    assert np.array_equal(base.train.images.reshape(12, -1), arrays["x_train"].reshape(12, -1))
    assert base.test.labels.dtype == np.int64 and np.array_equal(base.test.labels, arrays["y_test"])


@pytest.mark.parametrize("dtype", ["u1", "i4", ">i8", "f2", "f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_of_any_number_type_is_the_same_set(tmp_path: Path, dtype: str, order: Any) -> None:
    arrays = make_arrays()
    other = {name: np.asarray(arrays[name].astype(dtype), order=order) for name in ("x_train", "x_test")}
    assert load(save(tmp_path / "b.npz", arrays, **other)).digest == load(save(tmp_path / "a.npz", arrays)).digest


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_between_0_and_1_are_rounded_to_uint8(tmp_path: Path, dtype: str) -> None:
    arrays = make_arrays()
    scaled = {name: (arrays[name] / 255).astype(dtype) for name in ("x_train", "x_test")}
    assert load(save(tmp_path / "b.npz", arrays, **scaled)).digest == load(save(tmp_path / "a.npz", arrays)).digest


def test_a_dark_test_set_is_scaled_as_its_training_set(tmp_path: Path) -> None:
    arrays = make_arrays()
    dark = np.ones((12, 4, 5, 3))
    base = load(save(tmp_path / "a.npz", arrays, x_train=arrays["x_train"].astype("f8"), x_test=dark))
    assert base.test.images.max() == 1


@pytest.mark.parametrize(("stem", "third"), [("cifar10", "bird"), ("fashion_mnist", "Pullover"), ("mnist", "2")])
def test_well_known_files_have_the_names_of_their_sets_and_classes(tmp_path: Path, stem: str, third: str) -> None:
    ten = load(save(tmp_path / f"{stem}.npz", make_arrays(classes=10)))
    assert ten.name == stem.replace("_", "-") and ten.classes[2] == third and ten.citation
    other = load(save(tmp_path / f"{stem}.npz", make_arrays(classes=3)))
    assert (other.name, other.classes) == (stem, ("0", "1", "2"))


# torchvision's sets, from files in their official formats


def write_idx(folder: Path, arrays: Arrays) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for kind, name in (("images-idx3", f"x_{part}"), ("labels-idx1", f"y_{part}")):
            array = arrays[name].astype(np.uint8)
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("name", "place"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
def test_idx_files(tmp_path: Path, name: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = make_arrays(rows=20, shape=(28, 28), classes=10)
    write_idx(tmp_path / place, arrays)
    base = load_images(Data(name=name, folder=str(tmp_path)))
    assert (base.name, base.image_shape, len(base.classes)) == (name, (1, 28, 28), 10)
    assert base.licence and base.citation
    assert np.array_equal(base.train.images[..., 0], arrays["x_train"])
    assert np.array_equal(base.test.labels, arrays["y_test"])
    assert base.digest == load(save(tmp_path / "same.npz", arrays)).digest
    assert capsys.readouterr().out == ""


def test_damaged_idx_files(tmp_path: Path) -> None:
    arrays = make_arrays(rows=20, shape=(28, 28), classes=10)
    write_idx(tmp_path / "MNIST/raw", arrays)
    images = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"Cannot get mnist .*put the official files into"):
        load_images(Data(name="mnist", folder=str(tmp_path)))
    write_idx(tmp_path / "MNIST/raw", {**arrays, "y_train": arrays["y_train"][:-1]})
    with pytest.raises(UserError, match=r"x_train \(20, 28, 28\), y_train \(19,\)"):
        load_images(Data(name="mnist", folder=str(tmp_path)))


def write_batches(folder: Path, arrays: Arrays) -> dict[str, str]:
    """CIFAR-10's pickled batches; returns the md5 of each."""
    folder.mkdir(parents=True)
    contents: dict[str, Any] = {"batches.meta": {"label_names": list("abcdefghij")}}
    for part, files in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        pixels = np.split(arrays[f"x_{part}"].transpose(0, 3, 1, 2).reshape(-1, 3072), len(files))
        labels = np.split(arrays[f"y_{part}"], len(files))
        for file, x, y in zip(files, pixels, labels, strict=True):
            contents[file] = {"data": x, "labels": y.tolist()}
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content))
    return {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in contents}


def test_cifar_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    arrays = make_arrays(rows=30, shape=(32, 32, 3), classes=10)
    sums = write_batches(tmp_path / "cifar-10-batches-py", arrays)
    # The generated batches have other checksums than the official ones; all else is torchvision's own reading.
    monkeypatch.setattr(CIFAR10, "train_list", [[file, sums[file]] for file, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[file, sums[file]] for file, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    base = load_images(Data(name="cifar10", folder=str(tmp_path)))
    assert base.classes[:3] == ("airplane", "automobile", "bird")
    assert base.digest == load(save(tmp_path / "cifar10.npz", arrays)).digest


@pytest.mark.parametrize(("name", "place"), [("cifar10", "cifar-10-batches-py"), ("mnist", "MNIST/raw")])
def test_a_failed_download_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    from torchvision import datasets

    nowhere = "http://127.0.0.1:9/"  # the discard port: refused at once
    monkeypatch.setattr(datasets.CIFAR10, "url", nowhere + "cifar-10-python.tar.gz")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [nowhere])
    with pytest.raises(UserError) as caught:
        load_images(Data(name=name, folder=str(tmp_path)))
    message = str(caught.value)
    assert f"Cannot get {name}" in message and str(tmp_path / place) in message and "\n" not in message
    assert "or give a .npz file with --data" in message
