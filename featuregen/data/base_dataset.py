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

from featuregen.data.lazy import ImageSource, LazyImages, Rows
from featuregen.errors import UserError
from featuregen.runtime.rng import RowRandom


def balanced_rows(labels: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.int64]:
    """A class-balanced sample of row numbers, in order; 0 means all. A larger sample contains every smaller one."""
    if not 0 <= rows <= len(labels):
        raise UserError(f"{rows} rows were asked for; give a number up to {len(labels)}, or 0 for all of them.")
    if rows == 0:
        return np.arange(len(labels), dtype=np.int64)
    class_order = RowRandom(seed, "balanced classes").permutation(0, int(labels.max()) + 1)
    order = np.lexsort((class_order[labels], class_ranks(labels, seed, "balanced rows")))
    return np.sort(order[:rows]).astype(np.int64)


def class_ranks(labels: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.int64]:
    """The position of each row in a random order of the rows of its class."""
    random = RowRandom(seed, purpose)
    ranks = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = random.permutation(int(label), len(members))
    return ranks


SPLITS = ("train", "test")
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images and their labels, as stored: uint8 (N, H, W, C) and int64 (N,).

    `images` is an array, or an object of `data.on_disk` that is indexed by rows like one and reads them from disk.

    Example:
        >>> import featuregen as fg
        >>> test = fg.load_images("digits").test
        >>> test.images_tensor().shape, test.labels_tensor().shape
        (torch.Size([359, 1, 8, 8]), torch.Size([359]))
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """False where rows are read from disk."""
        return isinstance(self.images, np.ndarray)

    @cached_property
    def sha256(self) -> str:
        """Digest of shape, uint8 NHWC images and int64 labels, little-endian."""
        digest = hashlib.sha256(np.array(self.images.shape, dtype="<i8").tobytes())
        step = max(1, _BLOCK_BYTES // math.prod(self.images.shape[1:]))
        for first in range(0, len(self), step):
            digest.update(np.ascontiguousarray(self.images[first : first + step]).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> ImageSource:
        """All images on a device: as one tensor where they are in memory, else `LazyImages`."""
        if self.in_memory:
            return self.images_tensor(device)
        count, height, width, channels = self.images.shape
        return LazyImages(partial(self.images_tensor, device), (count, channels, height, width), device)

    def images_tensor(self, device: torch.device | str = "cpu", rows: Rows | None = None) -> torch.Tensor:
        """Pixels as models take them: float32 (N, C, H, W) in [0, 1]; all rows by default."""
        stored = torch.from_numpy(self.images[slice(None) if rows is None else rows])
        pixels = stored.to(device).permute(0, 3, 1, 2).contiguous().float()
        # By a tensor: CUDA divides by a Python number as a multiplication by its reciprocal, unlike the CPU.
        return pixels.div_(torch.tensor(255.0, device=device))

    def labels_tensor(self, device: torch.device | str = "cpu", rows: Rows | None = None) -> torch.Tensor:
        """Labels as int64 (N,); all rows by default."""
        return torch.tensor(self.labels[slice(None) if rows is None else rows], device=device)


@dataclass(frozen=True)
class DatasetSize:
    """How large a base set is, as far as that is known without downloading it."""

    name: str
    train_rows: int
    test_rows: int
    image_shape: tuple[int, int, int]
    classes: int
    in_memory: bool = True


@dataclass(frozen=True, eq=False)
class BaseDataset:
    """The images that every dataset is made from and every model is tested on.

    Example:
        >>> import featuregen as fg
        >>> base = fg.load_images("digits")
        >>> tuple(base.test.images_tensor().shape), len(base.classes)
        ((359, 1, 8, 8), 10)
    """

    name: str
    train: ImageSplit
    test: ImageSplit
    classes: tuple[str, ...]
    licence: str
    citation: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, height, width, channels = self.train.images.shape
        return channels, height, width

    @property
    def size(self) -> DatasetSize:
        rows = len(self.train), len(self.test)
        return DatasetSize(self.name, *rows, self.image_shape, len(self.classes), self.in_memory)

    @property
    def in_memory(self) -> bool:
        """False where rows are read from disk."""
        return self.train.in_memory

    def split(self, name: str) -> ImageSplit:
        """The split of that name: "train" or "test"."""
        return {"train": self.train, "test": self.test}[name]

    def record(self, split: str = "train") -> dict[str, Any]:
        """What a dataset file records about the images it was made from."""
        images = self.split(split)
        return {
            "name": self.name,
            "split": split,
            "rows": len(images),
            "sha256": images.sha256,
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
