"""Base sets that stay on disk: an HDF5 file, or a folder of image files decoded row by row."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featuregen.config.serialize import shown_name
from featuregen.data.base_dataset import ImageSplit
from featuregen.data.lazy import HDF5_ERRORS, Hdf5Rows, Rows
from featuregen.data.npz import ARRAYS, check_class_ids, check_labels
from featuregen.errors import UserError, one_line
from featuregen.runtime.hdf5_guard import FileKey, key_of, open_hdf5
from featuregen.runtime.hdf5_probe import FILTERS, MAX_CHUNK
from featuregen.runtime.paths import check_file, is_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# No other format is decoded, whatever a file's name: for PostScript, say, Pillow would run Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Modes of Pillow's: grey, and with colours. Any other has more than 8 bits a channel, or other colours than RGB.
_GREY, _COLOURED = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA")
# Limits on what a small file may claim: pixels of one image, bytes of the labels as int64.
_MAX_PIXELS = 1 << 22
_MAX_LABEL_BYTES = 1 << 25
# How many bytes deflate unpacks from one, at best.
_DEFLATE_RATIO = 1032


# Pillow has no error type of its own, and its decoders raise many.
_DECODER_ERRORS = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, struct.error)


class FolderImages:
    """One image file per row, decoded to uint8 (N, H, W, C) when it is read."""

    def __init__(self, paths: Sequence[Path], mode: str, size: tuple[int, int]) -> None:
        self._paths, self._mode, self._size = list(paths), mode, size
        self.shape = (len(paths), size[1], size[0], 1 if mode == "L" else 3)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Rows) -> NDArray[np.uint8]:
        chosen = range(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        images = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for image, row in zip(images, chosen, strict=True):
            image[...] = self._decode(self._paths[int(row)])
        return images

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        with _open_image(path) as image:
            if image.size != self._size:
                raise UserError(
                    f"{path} is {_size_text(image.size)} pixels and the first image {_size_text(self._size)}."
                )
            try:
                if _is_see_through(image):
                    raise UserError(f"{path} has transparent pixels, whose colour nobody sees; make it opaque.")
                pixels = np.asarray(image.convert("L" if self._mode == image.mode == "L" else "RGB"), np.uint8)
            except _DECODER_ERRORS as error:
                raise UserError(f"{path} cannot be decoded ({one_line(error)}); get it again, or remove it.") from None
        if pixels.ndim == 2:
            return pixels[..., np.newaxis]
        if self._mode == "L":
            if (pixels != pixels[..., :1]).any():
                raise UserError(
                    f"{path} is coloured, and the first image of every class is grey; make all of them the same."
                )
            return pixels[..., :1]
        return pixels


def _open_image(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=_FORMATS)
        problem = _unlike_a_base_set(image)
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no readable image ({one_line(error)}); get it again, or remove it.") from None
    if math.prod(image.size) > _MAX_PIXELS:
        raise UserError(
            f"{path} claims {_size_text(image.size)} pixels, more than a base set's images may have ({_MAX_PIXELS:,}); "
            "make it smaller."
        )
    if problem:
        raise UserError(f"{path} {problem}; a base set has still images of 8 bits, grey or RGB: convert it.")
    return image


def _unlike_a_base_set(image: Image.Image) -> str:
    """Why an image would have to be changed to become 8 bits of grey or RGB; nothing if not."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        return f"has {frames} frames"
    # Of 16 bits for each of red, green and blue, Pillow drops 8 while it decodes.
    packed = [str(part[3]) for part in getattr(image, "tile", ())]
    if image.mode.startswith("I") or image.mode == "F" or any("16B" in raw for raw in packed):
        return "has more than 8 bits for each channel"
    return "" if image.mode in _GREY + _COLOURED else f"has the colours {image.mode}"


def _is_see_through(image: Image.Image) -> bool:
    if "A" not in image.mode and "transparency" not in image.info:
        return False
    return int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


# HDF5 ----------------------------------------------------------------------------------------------


def read_hdf5(path: Path) -> tuple[ImageSplit, ImageSplit]:
    """Training and test split of a file with x_train, y_train, x_test, y_test, as in a Keras-style `.npz`."""
    try:
        with open_hdf5(path, ARRAYS) as root:
            key = key_of(root)
            # Labels first: the number of images is compared with theirs.
            shapes = {name: _check_array(root, name, path) for name in sorted(ARRAYS, reverse=True)}
            labels = {name: check_labels(np.asarray(root[name]), f"{path}: {name}") for name in ("y_train", "y_test")}
    except HDF5_ERRORS as error:
        raise UserError(
            f"{path} cannot be read as HDF5 ({one_line(error)}); give a file with {', '.join(ARRAYS)}."
        ) from None
    if shapes["x_train"][1:] != shapes["x_test"][1:]:
        raise UserError(
            f"{path}: x_train has shape {shapes['x_train']} and x_test {shapes['x_test']}; give one image shape."
        )
    check_class_ids(labels["y_train"], labels["y_test"], path)
    train, test = (
        _lazy_split(_hdf5_images(path, f"x_{split}", shapes[f"x_{split}"], key), labels[f"y_{split}"])
        for split in ("train", "test")
    )
    return train, test


def _hdf5_images(path: Path, name: str, shape: tuple[int, ...], key: FileKey) -> Hdf5Rows:
    """Images as (N, H, W, C); grey ones may be stored without the last axis."""
    return Hdf5Rows(path, name, shape if len(shape) == 4 else (*shape, 1), partial(_open_unchanged, path, key))


def _open_unchanged(path: Path, key: FileKey) -> h5py.File:
    root = open_hdf5(path, ARRAYS, known=key)
    # All but the last: another owner or one more name of the file change nothing that is read.
    if key_of(root)[:4] != key[:4]:
        root.close()
        raise UserError(f"{path} was replaced while it was in use; start again.")
    return root


def _lazy_split(images: Hdf5Rows | FolderImages, labels: NDArray[np.int64]) -> ImageSplit:
    """Both kinds are indexed by rows like an array, which is all that a split does with its images."""
    return ImageSplit(cast("NDArray[np.uint8]", images), labels)


def is_image_file(path: Path) -> bool:
    """Whether an HDF5 file is a base set rather than a featuregen dataset."""
    if not is_file(path):
        return False
    try:
        with open_hdf5(path, ARRAYS) as root:
            return ARRAYS[0] in root
    except HDF5_ERRORS:
        return False


def _check_array(root: h5py.File, name: str, path: Path) -> tuple[int, ...]:
    """The shape of an array that is stored in this very file and no larger than the file can hold."""
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
            raise UserError(f"{path}: {name} has {shape[0]} images and not as many labels; give one label per image.")
    if 0 in shape:
        raise UserError(f"{path}: {name} is empty.")
    chunk = math.prod(layout.get_chunk()) * dtype.itemsize if layout.get_layout() == h5py.h5d.CHUNKED else 0
    if chunk > MAX_CHUNK:
        raise UserError(
            f"{path}: {name} is stored in chunks of {chunk >> 20} MiB, and reading a row reads a chunk; rechunk it."
        )
    filters = {layout.get_filter(number)[0] for number in range(layout.get_nfilters())}
    if filters - FILTERS:
        raise UserError(f"{path}: {name} has a filter that is not supported; use gzip, lzf, shuffle or fletcher32.")
    compressed = layout.get_layout() == h5py.h5d.CHUNKED and bool(filters)
    if array.get_storage_size() * (_DEFLATE_RATIO if compressed else 1) < dtype.itemsize * math.prod(shape):
        raise UserError(f"{path}: {name} claims shape {shape}, and the file does not hold that many values.")
    if name.startswith("y_") and 8 * math.prod(shape) > max(_MAX_LABEL_BYTES, path.stat().st_size):
        raise UserError(f"{path}: {name} claims shape {shape}, more labels than a file of its size has images.")
    return shape


# Folders -------------------------------------------------------------------------------------------


def read_folder(path: Path) -> tuple[ImageSplit, ImageSplit, tuple[str, ...]]:
    """Splits and class names of train/CLASS/*.png and test/CLASS/*.png, as torchvision's ImageFolder orders them."""
    for split in ("train", "test"):
        if not (path / split).is_dir():
            raise UserError(f"{path} has no folder {split}; give one with train/CLASS/*.png and test/CLASS/*.png.")
    folders = sorted(folder.name for folder in (path / "train").iterdir() if folder.is_dir())
    classes = tuple(map(shown_name, folders))
    if len(classes) < 2:
        raise UserError(f"{path / 'train'} has {len(classes)} class folders; give at least two.")
    untrained = sorted({folder.name for folder in (path / "test").iterdir() if folder.is_dir()} - {*folders})
    if untrained:
        raise UserError(f"{path / 'test'} has the class {untrained[0]}, which has no training images.")
    mode, size = "L", (0, 0)
    for number, name in enumerate(folders):
        with _open_image(_image_files(path / "train" / name)[0]) as image:
            size = size if number else image.size
            mode = mode if image.mode in _GREY else "RGB"
    train, test = (_folder_split(path / split, folders, mode, size) for split in ("train", "test"))
    return train, test, classes


def _folder_split(folder: Path, classes: Sequence[str], mode: str, size: tuple[int, int]) -> ImageSplit:
    files = [_image_files(folder / name) if (folder / name).is_dir() else [] for name in classes]
    if not any(files):
        raise UserError(f"{folder} has no images.")
    labels = np.repeat(np.arange(len(classes)), [len(names) for names in files])
    return _lazy_split(FolderImages([file for names in files for file in names], mode, size), labels.astype(np.int64))


def _image_files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        pictures = [entry for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES]
        # What the folder lists costs no system call per file. Opening a pipe would wait for ever.
        for entry in pictures:
            if not entry.is_file():
                check_file(entry.path, "picture")
    files = sorted(folder / entry.name for entry in pictures)
    if not files:
        raise UserError(f"{folder} has no images; put some there ({', '.join(SUFFIXES)}), or remove the folder.")
    return files
