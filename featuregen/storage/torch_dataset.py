"""The file as a torch `Dataset`."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any, SupportsIndex

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from featuregen.data import ImageSource, LazyImages, h5_take
from featuregen.errors import UserError
from featuregen.storage.reader import (
    READ_ERRORS,
    check_columns,
    read_columns,
    read_images,
    read_info,
    to_pixels,
)
from featuregen.storage.schema import BLOCK_BYTES, row_blocks, value_problem


class FeatureDataset(Dataset[tuple[Tensor, int]]):
    """Images and the labels to train on. `.images` and `.labels` are the whole set; rows are read one by one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        self.labels = torch.from_numpy(read_columns(self.path, ["labels"])["labels"])
        self._images: Tensor | None = None
        self._handle: h5py.File | None = None
        self._process = 0

    @property
    def images(self) -> Tensor:
        """float32 (N, C, H, W) in [0, 1], read on first use."""
        if self._images is None:
            images = torch.empty((len(self), *self.info.image_shape))
            for rows in row_blocks(len(self), min(BLOCK_BYTES, 4 * images[0].numel())):
                images[rows] = torch.from_numpy(read_images(self.path, rows.start, rows.stop))
            self._images = images
        return self._images

    def on(self, device: torch.device) -> ImageSource:
        """All images on a device, fetched when they are asked for: nothing is kept in memory."""
        return LazyImages(self.fetch, (len(self), *self.info.image_shape), device)

    def __len__(self) -> int:
        return self.info.rows

    def __getitem__(self, item: SupportsIndex) -> tuple[Tensor, int]:
        row = operator.index(item)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} in {self.path}")
        row %= len(self)
        image = self._images[row] if self._images is not None else self.fetch(np.array([row]))[0]
        return image, int(self.labels[row])

    def __repr__(self) -> str:
        info = self.info
        held = f"{info.rows} images {info.image_shape} {info.dtype}, {len(info.classes)} classes"
        return f"FeatureDataset({str(self.path)!r}: {info.kind}, {held})"

    def __getstate__(self) -> dict[str, Any]:
        # Workers read for themselves: neither an open file nor all pixels travel to them.
        return {**self.__dict__, "_images": None, "_handle": None}

    def fetch(self, rows: NDArray[np.int64]) -> Tensor:
        """These rows, float32 in [0, 1]."""
        try:
            stored = h5_take(self._open()["images"], rows)
        except READ_ERRORS as error:
            raise UserError(f"{self.path}: images cannot be read: {' '.join(str(error).split())}.") from None
        if value_problem("images", stored, len(self.info.classes)):
            problems = ((row, value_problem("images", own[None], 0)) for row, own in zip(rows, stored, strict=True))
            row, problem = next((row, problem) for row, problem in problems if problem)
            raise UserError(f"{self.path}: image {row} is broken: {problem}.")
        return torch.from_numpy(to_pixels(stored))

    def _open(self) -> h5py.File:
        """This process's own handle: a forked worker must not use its parent's."""
        if self._handle is None or self._process != os.getpid():
            handle = h5py.File(self.path, "r", locking=False)
            check_columns(handle, self.path)
            if handle.attrs["content_sha256"] != self.info.content_sha256:
                raise UserError(f"{self.path} was replaced while it was in use; open it again.")
            self._handle, self._process = handle, os.getpid()
        return self._handle
