"""Reading a base set from the arrays of a `.npz` file; anything that is none is refused in one sentence."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from featuregen.data.base_dataset import ImageSplit
from featuregen.errors import UserError, one_line

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
# Bytes that any array may unpack to, and how many times its compressed size a larger one may.
_SMALL, _MAX_RATIO = 1 << 25, 100
EXPECTED = f"arrays {', '.join(ARRAYS)}"


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The four arrays of a Keras-style `.npz` file; nothing is unpickled."""
    if not path.is_file():
        raise UserError(f"No file {path}: name the .npz file of the base set with --data.")
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [name for name in ARRAYS if f"{name}.npy" not in archive.namelist()]
            if missing:
                raise UserError(f"{path} has no array {', '.join(missing)}; save {EXPECTED} with numpy.savez.")
            return {name: _read_member(archive, name, path) for name in ARRAYS}
    except PermissionError:
        raise UserError(f"{path} cannot be read; check its permissions.") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory; use a smaller set.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError, ArithmeticError) as error:
        raise UserError(
            f"{path} is truncated, damaged or no .npz file ({one_line(error)}); save {EXPECTED} with numpy.savez."
        ) from None


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {name} is packed in a way that numpy never uses; write it with numpy.savez.")
    with archive.open(info) as stream:
        shape, dtype = _npy_header(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise UserError(f"{path}: {name} holds Python objects; save plain numbers.")
    # Before anything is allocated: the file must hold what the header claims, compressed no better than images are.
    claimed, compressed = start + math.prod(shape) * dtype.itemsize, min(info.compress_size, path.stat().st_size)
    if claimed != info.file_size or min(shape, default=0) < 0 or claimed > max(_SMALL, _MAX_RATIO * compressed):
        raise UserError(f"{path}: {name} claims shape {shape}, and the file does not hold that many values.")
    with archive.open(info) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    # The header is parsed as a Python literal, and a hostile one makes the parser raise any of these.
    except (SyntaxError, tokenize.TokenError, MemoryError, TypeError, LookupError) as error:
        raise ValueError(f"the header of an array is broken: {one_line(error)}") from None
    return shape, dtype


def make_splits(arrays: Mapping[str, NDArray[Any]], where: Path) -> tuple[ImageSplit, ImageSplit]:
    """Training and test split of checked arrays; `where` names their file in errors."""
    for split in ("train", "test"):
        pixels, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if pixels.size == 0 or labels.size == 0:
            raise UserError(f"{where}: the {split} set is empty.")
        if pixels.shape[:1] != labels.shape[:1]:
            raise UserError(
                f"{where}: shapes are x_{split} {pixels.shape}, y_{split} {labels.shape}; give a label per image."
            )
    train_labels, test_labels = (check_labels(arrays[name], f"{where}: {name}") for name in ("y_train", "y_test"))
    check_class_ids(train_labels, test_labels, where)
    train_images, test_images = _pixels(arrays["x_train"], arrays["x_test"], where)
    return ImageSplit(train_images, train_labels), ImageSplit(test_images, test_labels)


def check_class_ids(train_labels: NDArray[np.int64], test_labels: NDArray[np.int64], where: Path) -> None:
    """Refuse fewer than two classes, gaps in their numbers from 0 on, and test labels without training images."""
    present = np.unique(train_labels)
    if len(present) < 2:
        raise UserError(f"{where}: y_train holds the single class {present[0]}; give at least two classes.")
    if present[-1] != len(present) - 1:
        absent = next(number for number, label in enumerate(present) if number != label)
        raise UserError(f"{where}: y_train goes up to {present[-1]} and has no {absent}; number the classes from 0.")
    if test_labels.max() > present[-1]:
        raise UserError(f"{where}: y_test holds label {test_labels.max()}; the training set ends at {present[-1]}.")


def check_labels(array: NDArray[Any], where: str) -> NDArray[np.int64]:
    """One label per image as int64; `where` names the array in errors."""
    if array.dtype.kind not in "iu":
        raise UserError(f"{where} is {array.dtype}; give integer labels.")
    if array.shape[1:] not in ((), (1,)):
        raise UserError(f"{where} has shape {array.shape}; give one label per image, shape (N,) or (N,1).")
    labels = array.reshape(-1).astype(np.int64)
    if labels.min() < 0:
        raise UserError(f"{where} holds the negative label {labels.min()}; number the classes from 0.")
    return labels


def _pixels(train: NDArray[Any], test: NDArray[Any], where: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both as uint8 NHWC. The training images decide whether floats are in [0, 1] or 0 to 255."""
    if train.shape[1:] != test.shape[1:]:
        raise UserError(f"{where}: x_train has shape {train.shape} and x_test {test.shape}; give one image shape.")
    if (train.dtype.kind == "f") != (test.dtype.kind == "f"):
        raise UserError(f"{where}: x_train is {train.dtype} and x_test {test.dtype}; give both in the same type.")
    unit = train.dtype.kind == "f" and bool(train.max() <= 1)
    return _to_uint8(train, f"{where}: x_train", unit), _to_uint8(test, f"{where}: x_test", unit)


def _to_uint8(array: NDArray[Any], where: str, unit: bool) -> NDArray[np.uint8]:
    if array.dtype.kind not in "iuf":
        raise UserError(f"{where} is {array.dtype}; give uint8 pixels.")
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise UserError(f"{where} has shape {array.shape}; give (N,H,W) or (N,H,W,C) with 1 or 3 channels.")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{where} holds NaN or infinite pixels; give numbers from 0 to 255.")
    if low < 0 or high > (1 if unit else 255):
        bounds = "0 to 1, as in x_train" if unit else "0 to 255"
        raise UserError(f"{where} has pixels from {low:g} to {high:g}; they must lie in {bounds}.")
    values = np.rint(array * 255) if unit else array
    if not unit and array.dtype.kind == "f" and bool((np.rint(array) != array).any()):
        raise UserError(f"{where} has fractions above 1; give floats in [0, 1], or whole numbers from 0 to 255.")
    return np.ascontiguousarray(values, dtype=np.uint8)
