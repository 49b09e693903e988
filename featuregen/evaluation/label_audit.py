"""Label audit: which class independent judges assign to mislabelled images."""

from __future__ import annotations

import torch
from torch import Tensor

from featuregen.data import ImageSource
from featuregen.evaluation.accuracy import batch_slices, fraction


def nearest_neighbour(
    images: ImageSource, own: Tensor, known: ImageSource, labels: Tensor, batch_size: int = 500, block_size: int = 5000
) -> Tensor:
    """The class of each image's nearest known image, leaving out the one it was made from (row `own`).

    In blocks of known images, since distances from all at once take several times their own memory.
    """
    found = torch.empty(len(images), dtype=labels.dtype, device=labels.device)
    for part in batch_slices(len(images), batch_size):
        flat, left_out = images[part].flatten(1), own[part]
        least = torch.full_like(flat[:, 0], torch.inf)
        nearest = torch.zeros_like(left_out)
        for block in batch_slices(len(known), block_size):
            distance = torch.cdist(flat, known[block].flatten(1))
            here = ((left_out >= block.start) & (left_out < block.stop)).nonzero().flatten()
            distance[here, left_out[here] - block.start] = torch.inf
            size, place = distance.min(1)
            nearest = torch.where(size < least, place + block.start, nearest)
            least = torch.minimum(least, size)
        found[part] = labels[nearest]
    return found


def label_agreement(seen: Tensor, true: Tensor, stored: Tensor) -> dict[str, float]:
    """Shares of images seen as their true class, as the stored label, as neither; only rows where the two differ."""
    differ = true != stored
    if not differ.any():
        return {"true": float("nan"), "stored": float("nan"), "neither": float("nan")}
    as_true = fraction((seen == true)[differ])
    as_stored = fraction((seen == stored)[differ])
    return {"true": as_true, "stored": as_stored, "neither": max(0.0, 1 - as_true - as_stored)}
