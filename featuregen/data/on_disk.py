"""Images that stay on disk: an HDF5 file or a folder of pictures, of which rows are read when they are asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featuregen.data.base_dataset import ImageSplit, Rows
from featuregen.data.lazy import h5_take
from featuregen.data.npz import ARRAYS, check_class_ids, labels_of, one_line
from featuregen.errors import UserError
from featuregen.runtime import has_oversized_local_heap

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Whatever the name says, nothing else is decoded: for PostScript, say, Pillow would run Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# A picture's pixels, which a few bytes may claim to hold.
_LARGEST_PICTURE = 1 << 24
# What is read for a single row.
_LARGEST_CHUNK = 1 << 26
# Bytes of labels as int64, which packed ones could be far more than the file's.
_MOST_LABELS = 1 << 25
# Into one byte, at best, by deflate.
_PACKED = 1032
# Those that come with HDF5 and h5py; any other number has HDF5 look for a library of that name and run it.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
# What h5py raises on bytes it cannot make sense of.
_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)


class Hdf5Images:
    """uint8 (N, H, W, C), or (N, H, W) for grey ones, of one array in a file; every process opens it for itself."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        self._path, self._name = path, name
        self._grey = len(shape) == 3
        self.shape = (*shape, 1) if self._grey else shape
        self._handle: h5py.File | None = None
        self._process = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> NDArray[np.uint8]:
        try:
            found = self._read(rows)
        except _BROKEN as error:
            raise UserError(f"{self._path}: {self._name} cannot be read ({one_line(error)}); get it again.") from None
        return found[..., np.newaxis] if self._grey else found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _read(self, rows: Rows) -> NDArray[np.uint8]:
        array = self._open()[self._name]
        if isinstance(rows, slice):
            return np.asarray(array[rows])
        return h5_take(array, rows)

    def _open(self) -> h5py.File:
        # A forked child must not use its parent's.
        if self._handle is None or self._process != os.getpid():
            self._handle, self._process = h5py.File(self._path, "r", locking=False), os.getpid()
        return self._handle


class FolderImages:
    """One picture per row, decoded to uint8 (N, H, W, C) when it is asked for."""

    def __init__(self, paths: Sequence[Path], mode: str, size: tuple[int, int]) -> None:
        self._paths, self._mode, self._size = list(paths), mode, size
        self.shape = (len(paths), size[1], size[0], 1 if mode == "L" else 3)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Rows) -> NDArray[np.uint8]:
        chosen = range(*rows.indices(len(self))) if isinstance(rows, slice) else [int(row) for row in rows]
        found = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen):
            found[place] = self._decoded(self._paths[row])
        return found

    def _decoded(self, path: Path) -> NDArray[np.uint8]:
        with opened(path) as picture:
            if picture.size != self._size:
                raise UserError(f"{path} is {_sides(picture.size)} pixels and the first picture {_sides(self._size)}.")
            try:
                pixels = np.asarray(picture.convert(self._mode), np.uint8)
            except (OSError, ValueError, SyntaxError) as error:
                raise UserError(f"{path} cannot be decoded ({one_line(error)}); get it again, or remove it.") from None
        return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def opened(path: Path) -> Image.Image:
    try:
        picture = Image.open(path, formats=_FORMATS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        told = f"{path} is no picture that can be read ({one_line(error)})"
        raise UserError(f"{told}; get it again, or remove it.") from None
    if math.prod(picture.size) > _LARGEST_PICTURE:
        raise UserError(f"{path} claims {_sides(picture.size)} pixels, more than a base set has; make it smaller.")
    return picture


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


# HDF5 ----------------------------------------------------------------------------------------------


def read_hdf5(path: Path) -> tuple[ImageSplit, ImageSplit]:
    """x_train, y_train, x_test, y_test, named and laid out as in a Keras-style `.npz`, pixels in uint8."""
    if has_oversized_local_heap(path):
        raise UserError(f"{path} is damaged: its table of names does not add up; get it again.")
    try:
        with h5py.File(path, "r", locking=False) as root:
            # Labels first, whose number the images' is held against.
            shapes = {name: _checked_array(root, name, path) for name in sorted(ARRAYS, reverse=True)}
            labels = {name: labels_of(np.asarray(root[name]), f"{path}: {name}") for name in ("y_train", "y_test")}
    except _BROKEN as error:
        told = f"{path} cannot be read as HDF5 ({one_line(error)})"
        raise UserError(f"{told}; give one with {', '.join(ARRAYS)}.") from None
    if shapes["x_train"][1:] != shapes["x_test"][1:]:
        raise UserError(
            f"{path}: x_train has shape {shapes['x_train']} and x_test {shapes['x_test']}; give one image shape."
        )
    check_class_ids(labels["y_train"], labels["y_test"], path)
    train, test = (
        _split(Hdf5Images(path, f"x_{part}", shapes[f"x_{part}"]), labels[f"y_{part}"]) for part in ("train", "test")
    )
    return train, test


def _split(images: Hdf5Images | FolderImages, labels: NDArray[np.int64]) -> ImageSplit:
    """Rows are all that anybody asks a split for."""
    return ImageSplit(cast("NDArray[np.uint8]", images), labels)


def is_image_file(path: Path) -> bool:
    """Whether an HDF5 file is meant as an image set, and not as a dataset of featuregen's."""
    try:
        with h5py.File(path, "r", locking=False) as root:
            return ARRAYS[0] in root
    except _BROKEN:
        return False


def _checked_array(root: h5py.File, name: str, path: Path) -> tuple[int, ...]:
    """Its shape; only what lies in this very file is read, and no more of it than there is."""
    link = root.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink) or root.get(name, getclass=True) is not h5py.Dataset:
        raise UserError(f"{path} has no array {name} of its own; give one with {', '.join(ARRAYS)}.")
    array = h5py.h5d.open(root.id, name.encode())
    layout = array.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise UserError(f"{path}: {name} lies in other files, which are not followed; store it in this one.")
    shape, dtype = tuple(map(int, array.shape)), array.dtype
    if name.startswith("x_"):
        fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
        if dtype != np.uint8 or not fits:
            raise UserError(f"{path}: {name} is {dtype} of shape {shape}; give uint8 (N,H,W) or (N,H,W,C), C 1 or 3.")
        if shape[:1] != root[f"y_{name[2:]}"].shape[:1]:
            raise UserError(f"{path}: {name} has {shape[0]} images and not as many labels; give a label per image.")
    if 0 in shape:
        raise UserError(f"{path}: {name} is empty.")
    chunk = math.prod(layout.get_chunk()) * dtype.itemsize if layout.get_layout() == h5py.h5d.CHUNKED else 0
    if chunk > _LARGEST_CHUNK:
        raise UserError(
            f"{path}: {name} is stored in chunks of {chunk >> 20} MiB, of which a row takes one; rechunk it."
        )
    filters = {layout.get_filter(number)[0] for number in range(layout.get_nfilters())}
    if filters - _FILTERS:
        raise UserError(f"{path}: {name} is packed by a filter that is not read; use gzip, lzf, shuffle or fletcher32.")
    packed = layout.get_layout() == h5py.h5d.CHUNKED and bool(filters)
    held = array.get_storage_size() * (_PACKED if packed else 1)
    if held < dtype.itemsize * math.prod(shape):
        raise UserError(f"{path}: {name} claims shape {shape}, and the file does not hold that many values.")
    if name.startswith("y_") and 8 * math.prod(shape) > max(_MOST_LABELS, path.stat().st_size):
        raise UserError(f"{path}: {name} claims shape {shape}, more labels than a file of its size has images.")
    return shape


# Folders -------------------------------------------------------------------------------------------


def read_folder(path: Path) -> tuple[ImageSplit, ImageSplit, tuple[str, ...]]:
    """train/CLASS/*.png and test/CLASS/*.png, as torchvision's ImageFolder has them; the classes in order of name."""
    for part in ("train", "test"):
        if not (path / part).is_dir():
            raise UserError(f"{path} has no folder {part}; give one with train/CLASS/*.png and test/CLASS/*.png.")
    classes = tuple(sorted(folder.name for folder in (path / "train").iterdir() if folder.is_dir()))
    if len(classes) < 2:
        raise UserError(f"{path / 'train'} has {len(classes)} folders of classes; two are needed at least.")
    strange = sorted({folder.name for folder in (path / "test").iterdir() if folder.is_dir()} - {*classes})
    if strange:
        raise UserError(f"{path / 'test'} has the class {strange[0]}, of which there are no training images.")
    first = _pictures(path / "train" / classes[0])[0]
    with opened(first) as picture:
        size, mode = picture.size, "L" if picture.mode in ("1", "L", "LA", "I;16") else "RGB"
    train, test = (_folder_split(path / part, classes, mode, size) for part in ("train", "test"))
    return train, test, classes


def _folder_split(folder: Path, classes: Sequence[str], mode: str, size: tuple[int, int]) -> ImageSplit:
    paths: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        own = _pictures(folder / name) if (folder / name).is_dir() else []
        paths += own
        labels += [number] * len(own)
    if not paths:
        raise UserError(f"{folder} has no pictures.")
    return _split(FolderImages(paths, mode, size), np.array(labels, dtype=np.int64))


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise UserError(f"{folder} has no pictures; put some there ({', '.join(PICTURES)}), or remove the folder.")
    return found
