"""Images that stay on disk and are read row by row."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featuregen.errors import UserError, one_line
from featuregen.runtime.hdf5_guard import FileKey, key_of

Rows = NDArray[np.int64] | slice
# What h5py raises on bytes it cannot make sense of.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
# Reading a contiguous range and dropping rows costs less than reading single rows, up to this many read per row kept.
_SPARSE = 4
# Rows, and numbers, of which a few copies are in memory at once.
_BLOCK, _BLOCK_NUMBERS = 1000, 1 << 22


class ImageSource(Protocol):
    """Images on a device, float32 (N, C, H, W) in [0, 1]: a tensor, or `LazyImages`."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


class LazyImages:
    """Indexed like a tensor of images; only the rows of the current index are in memory."""

    def __init__(
        self, fetch: Callable[[NDArray[np.int64]], Tensor], shape: tuple[int, ...], device: torch.device | str
    ) -> None:
        self._fetch, self.shape, self.device = fetch, torch.Size(shape), torch.device(device)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        if isinstance(rows, slice):
            return self._fetch(np.arange(*rows.indices(len(self)))).to(self.device)
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return self._fetch(index.cpu().numpy()).to(self.device)


class Hdf5Rows:
    """One array of an HDF5 file, read by row. Every process opens the file itself, also after a fork or unpickling.

    `open_file` opens it, and raises if it is no longer the file that was checked at first.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], open_file: Callable[[], h5py.File]) -> None:
        self.path, self.name, self.shape = path, name, shape
        self._open_file = open_file
        self._handle: h5py.File | None = None
        self._key: FileKey | None = None
        self._process = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        try:
            array = self._open()[self.name]
            values = np.asarray(array[rows]) if isinstance(rows, slice) else h5_take(array, rows)
        except HDF5_ERRORS as error:
            raise UserError(f"{self.path}: {self.name} cannot be read ({one_line(error)}); get it again.") from None
        return values.reshape(len(values), *self.shape[1:])

    def column(self, name: str) -> NDArray[Any]:
        """Another array of the same file, whole."""
        try:
            return np.asarray(self._open()[name])
        except HDF5_ERRORS as error:
            raise UserError(f"{self.path}: {name} cannot be read ({one_line(error)}); get it again.") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _open(self) -> h5py.File:
        # HDF5 handles must not be shared with a forked child, and an open file can be written over in its place.
        if self._handle is None or self._process != os.getpid() or key_of(self._handle) != self._key:
            handle = self._open_file()
            self._handle, self._key, self._process = handle, key_of(handle), os.getpid()
        return self._handle


def h5_take(array: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an h5py data set in any order, repeated or not; h5py itself takes only increasing ones."""
    if not len(rows):
        return np.asarray(array[:0])
    increasing, inverse = np.unique(rows, return_inverse=True)
    low, high = int(increasing[0]), int(increasing[-1]) + 1
    if high - low <= _SPARSE * len(increasing):
        return np.asarray(np.asarray(array[low:high])[increasing - low][inverse])
    return np.asarray(np.asarray(array[increasing])[inverse])


def channel_statistics(images: ImageSource) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel.

    They are summed in blocks: in float64 the whole set would take four times its own memory.
    """
    step = max(1, min(_BLOCK, _BLOCK_NUMBERS // math.prod(images.shape[1:])))
    blocks = [slice(first, first + step) for first in range(0, len(images), step)]
    count = math.prod(images.shape) / images.shape[1]
    # Allocated before any block: a small result kept behind each block would keep the C library from reusing that
    # block's memory.
    sums = torch.empty((len(blocks), images.shape[1]), dtype=torch.float64, device=images.device)
    for total, block in zip(sums, blocks, strict=True):
        total.copy_(images[block].sum((0, 2, 3), dtype=torch.float64))
    mean = sums.sum(0) / count
    centre = mean.view(-1, 1, 1)
    for total, block in zip(sums, blocks, strict=True):
        total.copy_((images[block].double() - centre).square_().sum((0, 2, 3)))
    squares = sums.sum(0)
    # A constant channel has no spread to divide by.
    return mean.tolist(), (squares / (count - 1)).sqrt().clamp_min(1e-3).tolist()
