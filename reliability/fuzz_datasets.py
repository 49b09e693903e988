"""Small whole datasets, shards, journals and checksums, and how a user comes to open them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from featuregen.cli.info import info
from featuregen.cli.verify import verify
from featuregen.config.loader import load_config
from featuregen.config.schema import Data
from featuregen.config.serialize import to_dict
from featuregen.data.base_dataset import BaseDataset
from featuregen.data.sources import load_images
from featuregen.experiment.files import recorded_config
from featuregen.runtime.rng import RowRandom
from featuregen.storage.checksums import check_sums
from featuregen.storage.diff import diff
from featuregen.storage.journal import journal_path
from featuregen.storage.merge import merge
from featuregen.storage.schema import Header
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.writer import Writer

Files = dict[str, bytes]
ROWS, SHAPE = 10, (1, 8, 8)


def written(write: Callable[[Path], object], name: str = "x") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


@cache
def _digits() -> BaseDataset:
    return load_images(Data("digits"))


def header(**changes: Any) -> Header:
    plain = {
        "kind": "det", "rows": ROWS, "image_shape": SHAPE, "dtype": "float32", "classes": _digits().classes,
        "recipe": {"seed": 7,
        "synthesis": {"norm": "l2", "eps": 0.5, "steps": 3, "step_size": 0.1, "schedule": "constant"}},
        "base": _digits().record(),
        "source_model": {"architecture": "convnet", "weights_sha256": "ab"},
        "software": {"torch": "2", "device": "cpu", "threads": "1", "batch": "4"}, "citation": "Someone, 2026.",
        "config": to_dict(load_config("digits")),
    }  # fmt: skip
    return Header(**(plain | changes))


def columns(head: Header, first: int = 0) -> dict[str, Any]:
    """The base images themselves, with the labels and starts of the kind."""
    index, split = np.arange(first, first + ROWS), _digits().train
    pixels, own = split.images[index].transpose(0, 3, 1, 2), split.labels[index]
    drawn = {"det": (own + 1) % 10, "rand": RowRandom(head.recipe.get("seed", 0), "target").integers(index, 10)}
    labels = drawn.get(head.kind, own)
    return {
        "images": np.ascontiguousarray(pixels if head.dtype == "uint8" else (pixels / 255).astype("<f4")),
        "labels": labels, "source_labels": own, "index": index,
        "start_index": np.full(ROWS, -1) if head.kind.endswith("-noise") else index,
        "norm": np.zeros(ROWS, "<f4"), "objective": np.full(ROWS, 0.5, "<f4"), "source_pred": labels,
    }  # fmt: skip


def dataset(**changes: Any) -> bytes:
    head = header(**changes)
    first = head.recipe.get("shard", {}).get("first", 0)

    def write(path: Path) -> None:
        with Writer.open(path, head) as writer:
            writer.append(columns(head, first))
            writer.finish("2026-01-02T03:04:05Z")

    return written(write, "a.h5")


def datasets() -> tuple[Files, ...]:
    attack = {"name": "pgd", "norm": "l2", "eps": 0.5, "target": "", "steps": 3}
    recipes: tuple[dict[str, Any], ...] = (
        {}, {"dtype": "uint8", "kind": "rand"}, {"kind": "attack", "recipe": {"seed": 1, "attack": attack}},
        {"recipe": {"imported": {"layout": "x"}}, "source_model": {}, "kind": "robust"},
        {"recipe": {"seed": 7, "synthesis": {}, "shard": {"number": 1, "of": 2, "rows": 20, "first": 0}}},
    )  # fmt: skip
    return tuple({"a.h5": dataset(**changes)} for changes in recipes)


def load_dataset(folder: Path) -> None:
    path = folder / "a.h5"
    info(path)
    info(path, json_=True)
    data = FeatureDataset(path)
    data[0], data.images.sum()
    recorded_config(path)
    diff(path, path)


def verify_dataset(folder: Path) -> None:
    verify(folder / "a.h5", data="digits")


def merge_files(folder: Path) -> None:
    merge([folder / "a.h5", folder / "b.h5"], folder / "out.h5")


def shards() -> Files:
    marks = ({"number": number, "of": 2, "rows": 2 * ROWS, "first": ROWS * (number - 1)} for number in (1, 2))
    recipes = ({"seed": 7, "synthesis": {"norm": "none"}, "shard": mark} for mark in marks)
    return {
        name: dataset(recipe=recipe, kind="robust-noise")
        for name, recipe in zip(("a.h5", "b.h5"), recipes, strict=True)
    }


def journal() -> Files:
    def write(path: Path) -> None:
        writer = Writer.open(path.with_name("a.h5"), header())
        whole = columns(header())
        for rows in (slice(0, 4), slice(4, 7)):
            writer.append({name: values[rows] for name, values in whole.items()})
        writer.close()
        path.write_bytes(journal_path(path.with_name("a.h5")).read_bytes())

    return {"a.h5.partial": written(write)}


def go_on(folder: Path) -> None:
    with Writer.open(folder / "a.h5", header()) as writer:
        done = writer.rows_done
        writer.append({name: values[done:] for name, values in columns(header()).items()})
        writer.finish()


def look_at_sums(folder: Path) -> None:
    check_sums(folder / "a.h5")
