"""A base dataset: its two splits, their digests, and their images as tensors."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featuregen.data.lazy import ImageSource, LazyImages

SPLITS = ("train", "test")
Rows = NDArray[np.int64] | slice
_ALL = slice(None)
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images and their labels, as stored: uint8 (N,H,W,C) and int64 (N,).

    In place of an array, images may be what is indexed by rows like one (images/stored.py) and stays on disk.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sha256(self) -> str:
        """Over shape, uint8 NHWC images and int64 labels, little-endian."""
        digest = hashlib.sha256(np.array(self.images.shape, dtype="<i8").tobytes())
        step = max(1, _BLOCK_BYTES // math.prod(self.images.shape[1:]))
        for first in range(0, len(self), step):
            digest.update(np.ascontiguousarray(self.images[first : first + step]).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def on(self, device: torch.device) -> ImageSource:
        """All images: there, where they are in memory, else fetched when they are asked for."""
        if isinstance(self.images, np.ndarray):
            return self.tensor(device)
        count, height, width, channels = self.images.shape
        return LazyImages(partial(self.tensor, device), (count, channels, height, width), device)

    def tensor(self, device: torch.device, rows: Rows | None = None) -> torch.Tensor:
        """Pixels as models see them: float32 (N,C,H,W) in [0, 1]."""
        chosen = torch.from_numpy(self.images[_ALL if rows is None else rows])
        pixels = chosen.to(device).permute(0, 3, 1, 2).contiguous().float()
        # CUDA divides by a plain number as a multiplication by its reciprocal, which rounds differently from the CPU.
        return pixels.div_(torch.tensor(255.0, device=device))

    def labels_tensor(self, device: torch.device, rows: Rows | None = None) -> torch.Tensor:
        return torch.tensor(self.labels[_ALL if rows is None else rows], device=device)


@dataclass(frozen=True)
class DatasetSize:
    """How large a base set is."""

    name: str
    train_rows: int
    test_rows: int
    image_shape: tuple[int, int, int]
    classes: int
    in_memory: bool = True


@dataclass(frozen=True, eq=False)
class BaseDataset:
    """A base set: what every dataset is made from and every model is tested on."""

    name: str
    train: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]
    licence: str
    citation: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self.train.images.shape
        return channels, height, width

    @property
    def size(self) -> DatasetSize:
        return DatasetSize(
            self.name, len(self.train), len(self.test), self.image_shape, len(self.classes), self.in_memory
        )

    @property
    def in_memory(self) -> bool:
        """Or read from disk, row by row."""
        return isinstance(self.train.images, np.ndarray)

    def part(self, name: str) -> ImageSplit:
        return {"train": self.train, "test": self.test}[name]

    def record(self, part: str = "train") -> dict[str, Any]:
        """What a dataset says of the images it was made from."""
        split = self.part(part)
        return {
            "name": self.name,
            "split": part,
            "rows": len(split),
            "sha256": split.sha256,
            "test_sha256": self.test.sha256,
            "licence": self.licence,
        }

    def description(self) -> dict[str, Any]:
        """What results record of the set that models are trained and tested on."""
        return {
            "name": self.name,
            "train_rows": len(self.train),
            "test_rows": len(self.test),
            "train_sha256": self.train.sha256,
            "test_sha256": self.test.sha256,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
        }

    @property
    def digest(self) -> dict[str, str]:
        return {"train": self.train.sha256, "test": self.test.sha256}
