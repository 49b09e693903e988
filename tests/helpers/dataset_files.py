"""Small files that keep every rule, and tools that break them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featuregen.errors import UserError
from featuregen.runtime.rng import RowRandom
from featuregen.storage.reader import attributes_of
from featuregen.storage.schema import Header, column_dtype, content_digest, record_digest
from featuregen.storage.verify import check_file
from featuregen.storage.writer import Writer

ROWS, BATCH, SHAPE, CLASSES = 10, 4, (1, 5, 5), 3
SEED, BASE_ROWS, EPS = 7, 20, 0.5
CREATED = "2026-01-02T03:04:05Z"
Columns = dict[str, np.ndarray[Any, Any]]


def header(**changes: Any) -> Header:
    default = Header(
        kind="det",
        rows=ROWS,
        image_shape=SHAPE,
        dtype="float32",
        classes=("nought", "one", "zwölf"),
        recipe={"seed": SEED, "synthesis": {"norm": "l2", "eps": EPS, "steps": 3}},
        base={"name": "toy", "split": "train", "rows": BASE_ROWS, "sha256": "00"},
        source_model={"architecture": "convnet", "weights_sha256": "ab"},
        software={"torch": "2", "device": "cpu"},
        citation="Someone, 2026.",
    )
    return replace(default, **changes)


def base_set() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    channels, height, width = SHAPE
    return rng.integers(0, 256, (BASE_ROWS, height, width, channels), np.uint8), rng.integers(0, CLASSES, BASE_ROWS)


def columns_of(head: Header) -> Columns:
    """Rows that keep every rule of their kind."""
    rng = np.random.default_rng(1)
    images, labels = base_set()
    index = np.sort(rng.permutation(BASE_ROWS)[: head.rows]).astype("<i8")
    base = images[index].transpose(0, 3, 1, 2) / 255
    noise = rng.normal(size=base.shape)
    noise *= 0.4 / np.linalg.norm(noise.reshape(len(noise), -1), axis=1)[:, None, None, None]
    stored = np.clip(base + noise, 0, 1)
    dtype = column_dtype("images", head.dtype)
    stored = np.floor(stored * 255).astype(dtype) if head.dtype == "uint8" else stored.astype(dtype)
    pixels = stored / 255 if head.dtype == "uint8" else stored.astype("f8")
    true = labels[index]
    targets = {"det": (true + 1) % CLASSES, "rand": RowRandom(SEED, "target").integers(index, CLASSES)}
    wanted = targets.get(head.kind, true)
    start = {"robust": RowRandom(SEED, "start").integers(index, BASE_ROWS), "robust-noise": np.full(len(index), -1)}
    return {
        "images": stored,
        "labels": wanted.astype("<i8"),
        "source_labels": true.astype("<i8"),
        "index": index,
        "start_index": start.get(head.kind, index).astype("<i8"),
        "norm": np.linalg.norm((pixels - base).reshape(len(base), -1), axis=1).astype("<f4"),
        "objective": rng.random(len(index)).astype("<f4"),
        "source_pred": wanted.astype("<i8"),
    }


def batches(columns: Columns, start: int = 0, size: int = BATCH) -> Iterator[Columns]:
    for first in range(start, len(columns["labels"]), size):
        yield {name: values[first : first + size] for name, values in columns.items()}


def write(path: Path, head: Header | None = None, changes: Columns | None = None, *, size: int = BATCH) -> str:
    head = head or header()
    columns = {**columns_of(head), **(changes or {})}
    with Writer.open(path, head) as writer:
        for batch in batches(columns, writer.rows_done, size):
            writer.append(batch)
        return writer.finish(CREATED)


def failed(path: Path) -> list[str]:
    return [check.name for check in check_file(path) if not check.ok]


def one_sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) > 20
    return text


def sealed(path: Path) -> None:
    """Make the digests agree again, as a liar would."""
    with h5py.File(path, "r+") as root:
        attributes = attributes_of(root, path)
        root.attrs["content_sha256"] = attributes["content_sha256"] = content_digest(root, attributes)
        root.attrs["record_sha256"] = record_digest(attributes)


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "r+") as root:
        yield root


def column(path: Path, name: str, value: Any) -> None:
    with edited(path) as root:
        root[name][2] = value


def attribute(path: Path, name: str, value: Any) -> None:
    with edited(path) as root:
        root.attrs[name] = value
