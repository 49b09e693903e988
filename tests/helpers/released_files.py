"""The authors' layout in small, and the base set its images come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featuregen.data.base_dataset import BaseDataset, ImageSplit

ROWS, SHAPE, CLASSES = 30, (3, 4, 5), 3


def base() -> BaseDataset:
    """Random images, so that any two of them are far apart."""
    draw, (channels, height, width) = np.random.default_rng(0), SHAPE
    images = draw.integers(0, 256, (ROWS + 6, height, width, channels), np.uint8)
    labels = np.concatenate([draw.permutation(np.arange(ROWS) % CLASSES), np.arange(6) % CLASSES])
    splits = ImageSplit(images[:ROWS], labels[:ROWS]), ImageSplit(images[ROWS:], labels[ROWS:])
    return BaseDataset("toy", *splits, ("nought", "one", "two"), "free", "Someone, 2026.")


def near(rows: Any, distance: float = 0.4) -> Tensor:
    """Images at this L2 distance from these base rows, moved towards grey so that pixels stay in [0, 1]."""
    there = base().train.images_tensor(torch.device("cpu"), np.asarray(rows))
    noise = torch.rand(there.shape, generator=torch.Generator().manual_seed(1)) * (0.5 - there).sign()
    lengths: Tensor = noise.flatten(1).norm(dim=1)
    return there + distance * noise / lengths.view(-1, 1, 1, 1)


def labels_of(kind: str, rows: Any) -> Tensor:
    true = torch.from_numpy(base().train.labels[np.asarray(rows)])
    return {"det": (true + 1) % CLASSES, "rand": torch.arange(len(true)) % CLASSES}.get(kind, true)


def batches(whole: Tensor, size: int = 7) -> list[Tensor]:
    return [part.clone() for part in torch.split(whole, size)]


def release(folder: Path, images: Any, labels: Any, **how: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (("CIFAR_ims", images), ("CIFAR_lab", labels)):
        torch.save(content, folder / name, **how)
    return folder
