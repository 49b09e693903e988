"""Image sets: the embedded one, torchvision's formats from generated files, and every way a `.npz` can be wrong."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featuregen.config import Data
from featuregen.errors import UserError
from featuregen.images import Base, Split, balanced_rows, load_images

CPU = torch.device("cpu")
Arrays = dict[str, Any]


def make_arrays(rows: int = 12, shape: tuple[int, ...] = (4, 5, 3), classes: int = 3) -> Arrays:
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = random.integers(0, 256, (rows, *shape), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(rows, dtype=np.uint8) % classes
    return arrays


def save(path: Path, arrays: Arrays, **changes: Any) -> Path:
    np.savez(path, **{**arrays, **changes})
    return path


def load(path: Path) -> Base:
    return load_images(Data(name=str(path)))


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
    assert Split(images, labels).sha256 == hashlib.sha256(parts).hexdigest()
    turned = np.asfortranarray(images)
    assert Split(turned, labels).sha256 == Split(images, labels).sha256
    assert Split(images, labels[::-1]).sha256 != Split(images, labels).sha256


@pytest.mark.parametrize("rows", [None, slice(1, 4), np.array([5, 0, 2])])
def test_tensors_are_nchw_between_0_and_1(rows: Any) -> None:
    arrays = make_arrays()
    split = Split(arrays["x_train"], arrays["y_train"].astype(np.int64))
    pixels, labels = split.tensor(CPU, rows), split.label_tensor(CPU, rows)
    chosen = split.images if rows is None else split.images[rows]
    assert pixels.dtype == torch.float32 and pixels.is_contiguous() and labels.dtype == torch.int64
    expected = chosen.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert np.array_equal(pixels.numpy(), expected)
    assert labels.tolist() == list(split.labels if rows is None else split.labels[rows])
    assert np.array_equal(np.rint(pixels.numpy() * 255).astype(np.uint8), chosen.transpose(0, 3, 1, 2))


def test_tensors_are_copies() -> None:
    arrays = make_arrays(shape=(4, 4, 1))
    split = Split(arrays["x_train"], arrays["y_train"].astype(np.int64))
    before = split.images.copy(), split.labels.copy()
    split.tensor(CPU).zero_()
    split.label_tensor(CPU).zero_()
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
def test_class_names_of_well_known_files(tmp_path: Path, stem: str, third: str) -> None:
    ten = load(save(tmp_path / f"{stem}.npz", make_arrays(classes=10)))
    assert ten.name == stem and ten.classes[2] == third and ten.citation
    assert load(save(tmp_path / f"{stem}.npz", make_arrays(classes=3))).classes == ("0", "1", "2")


def changed(name: str, change: Callable[[NDArray[Any]], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: change(arrays[name])}


def with_pixel(value: float, dtype: str = "f4") -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array = (array / (255 if dtype[0] == "f" else 1)).astype(dtype)
        array[3, 1, 1, 1] = value
        return array

    return change


def both(change: Callable[[NDArray[Any]], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, "x_train": change(arrays["x_train"]), "x_test": change(arrays["x_test"])}


WRONG: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "missing": (lambda a: {k: a[k] for k in ("x_train", "y_train", "x_test")}, r"no array y_test;"),
    "all missing": (lambda a: {"images": a["x_train"]}, r"no array x_train, y_train, x_test, y_test;"),
    "objects": (changed("x_train", lambda x: x.astype(object)), r"x_train holds Python objects"),
    "NaN": (both(with_pixel(np.nan)), r"x_train holds NaN"),
    "infinite": (both(with_pixel(np.inf)), r"x_train holds NaN or infinite"),
    "negative float": (both(with_pixel(-0.5)), r"x_train has pixels from -0\.5 to .*0 to 1"),
    "fraction": (both(with_pixel(1.5)), r"x_train has fractions above 1"),
    "float above 255": (both(with_pixel(256.0)), r"x_train has pixels from 0 to 256.*0 to 255"),
    "test beyond 1": (lambda a: {**both(with_pixel(0.5))(a), "x_test": np.full((12, 4, 5, 3), 9.0)}, "as in x_train"),
    "integer above 255": (changed("x_test", with_pixel(256, "i4")), r"x_test has pixels from 0 to 256"),
    "negative integer": (changed("x_train", with_pixel(-1, "i2")), r"x_train has pixels from -1"),
    "mixed types": (changed("x_test", lambda x: x / 255), r"x_train is uint8 and x_test float64"),
    "boolean": (both(lambda x: x > 9), r"x_train is bool; give uint8"),
    "complex": (both(lambda x: x.astype("c8")), r"x_train is complex64"),
    "text": (both(lambda x: x.astype("U3")), r"x_train is <U3"),
    "channels first": (both(lambda x: np.moveaxis(x, 3, 1)), r"shape \(12, 3, 4, 5\); give \(N,H,W\)"),
    "flat": (both(lambda x: x.reshape(12, -1)), r"x_train has shape \(12, 60\)"),
    "other size": (
        changed("x_test", lambda x: x[:, :3]),
        r"x_train has shape \(12, 4, 5, 3\) and x_test \(12, 3, 5, 3\)",
    ),
    "other channels": (changed("x_test", lambda x: x[..., 0]), r"give one image shape"),
    "rows differ": (
        changed("y_test", lambda y: y[:-1]),
        r"x_test \(12, 4, 5, 3\), y_test \(11,\); give a label per image",
    ),
    "empty": (lambda a: {**a, "x_test": a["x_test"][:0], "y_test": a["y_test"][:0]}, r"the test set is empty"),
    "no pixels": (both(lambda x: x[:, :0]), r"the train set is empty"),
    "scalar": (changed("y_train", lambda _: np.int64(3)), r"y_train \(\)"),
    "negative label": (changed("y_train", lambda y: y.astype("i8") - 1), r"y_train holds the negative label -1"),
    "float label": (changed("y_test", lambda y: y.astype("f4")), r"y_test is float32; give integer labels"),
    "one hot": (changed("y_train", lambda y: np.eye(3, dtype=int)[y]), r"y_train has shape \(12, 3\)"),
    "one class": (changed("y_train", np.zeros_like), r"the single class 0"),
    "gap": (changed("y_train", lambda y: y * 2), r"y_train goes up to 4 and has no 1"),
    "one-based": (lambda a: {**a, "y_train": a["y_train"] + 1}, r"has no 0; number the classes from 0"),
    "huge label": (changed("y_train", lambda y: y.astype("i8") + (2**60) * (y == 2)), r"has no 2"),
    "test label beyond": (changed("y_test", lambda y: y + 1), r"y_test holds label 3; the training set ends at 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_npz_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    path = tmp_path / "wrong.npz"
    np.savez(path, **change(make_arrays()))
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def npy_header(shape: tuple[int, ...], dtype: str = "|u1", version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    writer = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    writer(stream, header)
    return stream.getvalue()


@pytest.mark.parametrize(
    "member",
    [
        npy_header((10**9, 32, 32, 3)) + bytes(100),
        npy_header((10**6, 10**6, 10**6), "<f8"),
        npy_header((-12, -60)) + bytes(720),
        npy_header((12, 4, 5, 3)) + bytes(721),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_claims_other_sizes_is_refused(tmp_path: Path, member: bytes, method: int) -> None:
    path = save(tmp_path / "bomb.npz", {k: v for k, v in make_arrays().items() if k != "x_train"})
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("x_train.npy", member)
    with pytest.raises(UserError, match=r"bomb\.npz: x_train claims shape .* does not hold that many"):
        load(path)


def test_a_member_that_declares_more_than_deflate_can_pack_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "bomb.npz", {k: v for k, v in make_arrays().items() if k != "x_train"})
    header = npy_header((10**6, 40, 50))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", header + bytes(1000))
        archive.getinfo("x_train.npy").file_size = len(header) + 2 * 10**9  # the directory at the end will say so
    with pytest.raises(UserError, match="x_train claims shape"):
        load(path)


def test_version_2_headers_are_read(tmp_path: Path) -> None:
    arrays = make_arrays()
    path = save(tmp_path / "v2.npz", {k: v for k, v in arrays.items() if k != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", npy_header((12, 4, 5, 3), version=(2, 0)) + arrays["x_train"].tobytes())
    assert np.array_equal(load(path).train.images, arrays["x_train"])


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_truncated_files_are_refused(tmp_path: Path, saver: Callable[..., None]) -> None:
    whole = tmp_path / "whole.npz"
    saver(whole, **make_arrays())
    data, path = whole.read_bytes(), tmp_path / "cut.npz"
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.npz is truncated, damaged or no \.npz file"):
            load(path)


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused_or_harmless(tmp_path: Path, saver: Callable[..., None]) -> None:
    """A flipped byte never gives other images and never anything but a `UserError`."""
    whole = tmp_path / "whole.npz"
    saver(whole, **make_arrays())
    data, path, digest, refused = whole.read_bytes(), tmp_path / "damaged.npz", load(whole).digest, 0
    for place in range(0, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            assert load(path).digest == digest
        except UserError:
            refused += 1
    assert refused > len(data) / 5 * 0.8


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "pickle.npz"
    path.write_bytes(pickle.dumps(make_arrays()))
    with pytest.raises(UserError, match=r"no \.npz file"):
        load(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.npz", r"No file nowhere\.npz: give an existing"),
        ("cifer10", r"No image set 'cifer10': .* did you mean 'cifar10'\?"),
        ("CIFAR10", r"did you mean 'cifar10'\?"),
        ("fashion_mnist", r"did you mean 'fashion-mnist'\?"),
        ("imagenet-22k", r"known: digits, cifar10, mnist, fashion-mnist"),
        ("", r"is no \.npz file"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_images(Data(name=name))


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images.png").write_bytes(b"\x89PNG")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match=r"images\.png is no \.npz file"):
        load(tmp_path / "images.png")
    with pytest.raises(UserError, match=r"No file .*folder\.npz"):
        load(tmp_path / "folder.npz")


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
    with pytest.raises(UserError, match=r"Cannot get mnist .*replacing damaged ones"):
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
    assert ".npz file with arrays x_train, y_train, x_test, y_test as --data path.npz." in message
