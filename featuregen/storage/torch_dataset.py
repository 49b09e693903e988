"""A dataset file as a torch `Dataset`."""

from __future__ import annotations

import base64
import html
import io
import operator
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from featuregen.data.lazy import Hdf5Rows, LazyImages, Rows
from featuregen.errors import UserError, printable
from featuregen.runtime.hdf5_guard import FileKey, key_of, open_hdf5
from featuregen.storage.reader import attributes_of, check_columns, columns_of, info_of, open_file, to_pixels
from featuregen.storage.schema import (
    BLOCK_BYTES,
    COLUMNS,
    Array,
    Attribute,
    CorruptFile,
    content_digest,
    record_digest,
    row_blocks,
    value_problem,
)

# In a notebook: how many images are shown, their side in pixels, and the characters of a text from the file.
_SHOWN, _SIDE, _MAX_TEXT = 10, 64, 60


class FeatureDataset(Dataset[tuple[Any, int]]):
    """A dataset file as pairs of an image and the label to train on.

    Rows are read from disk one by one; `.images` reads all of them into memory. Workers of a `DataLoader` open the file
    themselves.

    Args:
        path: A file that featuregen wrote.
        transform: Applied to every image that indexing returns, as in torchvision. It is called with a float32 tensor
            (C, H, W) in [0, 1]. `.images`, `.labels` and `fetch` are not transformed.

    Attributes:
        info: What the file records about itself: kind, recipe, base set, source model, digests.
        labels: All labels, int64 (N,).

    Raises:
        UserError: The file is missing, damaged, or no featuregen dataset.

    Example:
        >>> import featuregen as fg
        >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2"]
        >>> path = fg.Experiment("digits", out="out", overrides=tiny).make_dataset("det").path
        >>> data = fg.FeatureDataset(path, transform=lambda image: image.flip(-1))
        >>> image, label = data[0]
        >>> len(data), tuple(image.shape), bool((image == data.images[0].flip(-1)).all())
        (20, (1, 8, 8), True)
    """

    def __init__(self, path: str | os.PathLike[str], transform: Callable[[Tensor], Any] | None = None) -> None:
        self.path = Path(path)
        self.transform = transform
        with open_file(self.path) as root:
            self.info = info_of(root, self.path)
            labels = columns_of(root, self.info, ["labels"])["labels"]
            reopen = partial(_reopen, self.path, key_of(root), attributes_of(root, self.path), labels)
        self.labels = torch.from_numpy(labels.copy())
        self._stored = Hdf5Rows(self.path, "images", (self.info.rows, *self.info.image_shape), reopen)
        self._images: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """All images, float32 (N, C, H, W) in [0, 1], read on first use."""
        if self._images is None:
            images = torch.empty((len(self), *self.info.image_shape))
            for rows in row_blocks(len(self), min(BLOCK_BYTES, 4 * images[0].numel())):
                images[rows] = self.fetch(rows)
            self._images = images
        return self._images

    def lazy_images(self, device: torch.device | str = "cpu") -> LazyImages:
        """All images on a device, of which only the rows of the current index are in memory."""
        return LazyImages(self.fetch, self._stored.shape, device)

    def fetch(self, rows: Rows) -> Tensor:
        """The images of these rows, float32 (N, C, H, W) in [0, 1], read from disk."""
        stored = self._stored[rows]
        if value_problem("images", stored, len(self.info.classes)):
            numbers = np.arange(len(self))[rows]
            problems = (
                (row, value_problem("images", image[None], 0)) for row, image in zip(numbers, stored, strict=True)
            )
            row, problem = next((row, problem) for row, problem in problems if problem)
            raise CorruptFile(f"{self.path}: image {row} is damaged: {problem}.")
        return torch.from_numpy(to_pixels(stored))

    def columns(self, *names: str) -> dict[str, Array]:
        """Columns by name, whole and as stored, such as index, source_labels, norm and source_pred."""
        columns = {name: self._stored.column(name) for name in names}
        for name, values in columns.items():
            if problem := value_problem(name, values, len(self.info.classes)):
                raise CorruptFile(f"{self.path}: column '{name}' is damaged: {problem}.")
        return columns

    def check_content(self) -> None:
        """Refuse a file whose content is not what its digest says: results are kept by that digest."""
        with open_file(self.path) as root:
            computed = content_digest(root, attributes_of(root, self.path))
        if computed != self.info.content_sha256:
            raise CorruptFile(
                f"{self.path} is damaged: its content gives sha256 {computed[:12]}, recorded is "
                f"{self.info.content_sha256[:12]}; get it again, or make it again."
            )

    def __len__(self) -> int:
        return self.info.rows

    def __getitem__(self, item: SupportsIndex) -> tuple[Any, int]:
        row = operator.index(item)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} in {self.path}")
        row %= len(self)
        image = self.fetch(np.array([row]))[0] if self._images is None else self._images[row]
        if self.transform:
            # A transform may work in place.
            image = self.transform(image if self._images is None else image.clone())
        return image, int(self.labels[row])

    def __getstate__(self) -> dict[str, Any]:
        # Workers read for themselves rather than receive all pixels.
        return {**self.__dict__, "_images": None}

    def __repr__(self) -> str:
        info = self.info
        content = f"{info.rows} images {info.image_shape} {info.dtype}, {len(info.classes)} classes"
        return f"FeatureDataset({str(self.path)!r}: {info.kind}, {content})"

    def _repr_html_(self) -> str:
        """A table of what the file records, and up to ten images with their labels, for notebooks."""
        info = self.info
        base, source = info.base, info.source_model
        facts = {
            "kind": info.kind,
            "images": f"{info.rows} of shape {info.image_shape}, {info.dtype}, {len(info.classes)} classes",
            "base set": f"{base.get('name')}, {base.get('split', 'train')}" if "name" in base else "not recorded",
            "source model": f"{source.get('architecture')}, {source.get('weights_sha256')}"
            if source
            else "not recorded",
            "success rate": "not recorded" if np.isnan(info.success_rate) else f"{info.success_rate:.1%}",
            "file": str(self.path),
        }
        table = "".join(f"<tr><th>{name}</th><td>{_escaped(value)}</td></tr>" for name, value in facts.items())
        rows = _one_per_class(self.labels.numpy())
        try:
            images = self.fetch(rows).numpy()
        except UserError as error:
            return f"<table>{table}</table><p>{html.escape(str(error))}</p>"
        figures = "".join(
            '<figure style="display:inline-block;margin:4px;text-align:center">'
            f'<img src="{_png_uri(image)}" alt="row {row}" style="width:{_SIDE}px;image-rendering:pixelated">'
            f"<figcaption>{_escaped(info.classes[int(self.labels[row])])}</figcaption></figure>"
            for row, image in zip(rows.tolist(), images, strict=True)
        )
        return f"<table>{table}</table><div>{figures}</div>"


def _reopen(path: Path, key: FileKey, attributes: Mapping[str, Attribute], labels: Array) -> h5py.File:
    """The file that was read at first, or one with the same content, as on another machine."""
    root = open_hdf5(path, tuple(COLUMNS), known=key)
    try:
        if key_of(root) != key:
            check_columns(root, path)
            # All content is compared, since a digest can be written into any file.
            same = record_digest(attributes_of(root, path)) == record_digest(attributes)
            same = same and content_digest(root, attributes) == attributes["content_sha256"]
            if not same or not np.array_equal(root["labels"], labels):
                raise UserError(f"{path} was replaced while it was in use; open it again.")
    except BaseException:
        root.close()
        raise
    return root


def _one_per_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row of each class, then further rows, up to the number that is shown; in order of class."""
    first = np.unique(labels, return_index=True)[1][:_SHOWN]
    others = np.setdiff1d(np.arange(min(len(labels), 2 * _SHOWN)), first)
    return np.concatenate([first, others])[:_SHOWN].astype(np.int64)


def _escaped(text: str) -> str:
    """Text from somebody else's file: cut, and with nothing that a page would interpret."""
    return html.escape(printable(text, _MAX_TEXT))


def _png_uri(image: NDArray[np.float32]) -> str:
    """A small PNG inside a URI; images of neither 1 nor 3 channels are shown grey."""
    pixels = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels.mean(2).astype(np.uint8))
    picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
