"""Every way a `.npz` can be wrong is refused in one sentence, and none of them runs code."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featuregen.config.schema import Data
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from tests.helpers.image_files import Arrays, load, make_arrays, save


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


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_packed_as_numpy_packs_them(tmp_path: Path, method: int) -> None:
    """Other packings can ask for gigabytes, and their errors are of other types."""
    arrays = make_arrays()
    path = save(tmp_path / "odd.npz", {k: v for k, v in arrays.items() if k != "x_train"})
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("x_train.npy", npy_header((12, 4, 5, 3)) + arrays["x_train"].tobytes())
    with pytest.raises(UserError, match=r"odd\.npz: x_train is packed in a way that numpy never uses"):
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
        ("nowhere.npz", r"No file nowhere\.npz: name the .npz file of the base set with --data"),
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
