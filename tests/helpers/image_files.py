"""Image sets in files, whole and small, for the tests that read or spoil them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from featuregen.config.schema import Data
from featuregen.data.base_dataset import BaseDataset
from featuregen.data.sources import load_images

Arrays = dict[str, Any]


def make_arrays(rows: int = 12, shape: tuple[int, ...] = (4, 5, 3), classes: int = 3) -> Arrays:
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = random.integers(0, 256, (rows, *shape), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(rows, dtype=np.uint8) % classes
    return arrays


def save(path: Path, arrays: Arrays, **changes: Any) -> Path:
    np.savez(path, **{**arrays, **changes})
    return path


def load(path: Path) -> BaseDataset:
    return load_images(Data(name=str(path)))
