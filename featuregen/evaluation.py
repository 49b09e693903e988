"""What a model is worth: accuracy under attack, and what different judges see in a dataset. Always in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featuregen.attacks import pgd
from featuregen.config import Attack, Evaluation, Norm
from featuregen.models import Classifier, frozen
from featuregen.rows import Pictures
from featuregen.runtime import Machine, RowRandom


@dataclass(frozen=True)
class Scores:
    """Accuracy on clean images and under attack; eps as text, so that JSON keeps it."""

    clean: float
    l2: dict[str, float]
    linf: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score(
    model: nn.Module,
    images: Pictures,
    labels: Tensor,
    settings: Evaluation,
    seed: int = 0,
    convolution: str = "direct",
    attacked: Tensor | None = None,
) -> Scores:
    """Clean accuracy of all images, attacked accuracy of those whose rows are `attacked` (None: all).

    `convolution` is the attack's; what counts is what the model itself says of the images found.
    """
    lean = frozen(model, Machine(images.device, convolution=convolution)) if isinstance(model, Classifier) else model
    right = _right(model, images, labels, settings.batch_size)
    clean = _share(right)
    if attacked is not None:
        images, labels, right = images[attacked], labels[attacked], right[attacked]
    return Scores(
        clean=clean,
        l2=_under_attack(model, lean, images, labels, right, "l2", settings.l2, settings, seed),
        linf=_under_attack(model, lean, images, labels, right, "linf", settings.linf, settings, seed),
    )


def _under_attack(
    model: nn.Module,
    lean: nn.Module,
    images: Pictures,
    labels: Tensor,
    right: Tensor,
    norm: Norm,
    radii: tuple[float, ...],
    settings: Evaluation,
    seed: int,
) -> dict[str, float]:
    """An image lost at one eps stays lost at every larger one, since its ball lies inside theirs."""
    standing = right.nonzero().flatten()
    accuracy: dict[str, float] = {}
    for eps in sorted(radii):
        attack = Attack(norm=norm, eps=eps, steps=settings.steps, restarts=settings.restarts)
        generator = RowRandom(seed, f"restarts {norm} {eps:g}").torch_generator(0, images.device)
        held = torch.empty_like(standing, dtype=torch.bool)
        for part in _batches(len(standing), settings.batch_size):
            rows = standing[part]
            found = pgd(lean, images[rows], labels[rows], attack, generator=generator)
            held[part] = _right(model, found, labels[rows], settings.batch_size)
        standing = standing[held]
        accuracy[_name(eps)] = len(standing) / len(images)
    return accuracy


@torch.no_grad()
def predict(model: nn.Module, images: Pictures, batch_size: int = 500) -> Tensor:
    model.eval()
    # Made before any batch: a small result kept behind each of them would keep the C library from using their memory
    # again, so that it grows with the images.
    found = torch.empty(len(images), dtype=torch.int64, device=images.device)
    for part in _batches(len(images), batch_size):
        found[part] = model(images[part]).argmax(1)
    return found


def fooled(model: nn.Module, images: Tensor, changed: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    """Of the images that the model gets right, the share that it gets wrong once they are changed."""
    if not len(images):
        return float("nan")
    right = _right(model, images, labels, batch_size)
    still = _right(model, changed, labels, batch_size)
    return _share(~still[right])


def _right(model: nn.Module, images: Pictures, labels: Tensor, batch_size: int) -> Tensor:
    return predict(model, images, batch_size) == labels


def nearest_neighbour(
    images: Pictures, own: Tensor, known: Pictures, labels: Tensor, batch_size: int = 500, block_size: int = 5000
) -> Tensor:
    """The class of each image's nearest known image, leaving out the one it was made from (row `own`).

    In blocks of known images, since distances from all at once take several times their own memory.
    """
    found = torch.empty(len(images), dtype=labels.dtype, device=labels.device)
    for part in _batches(len(images), batch_size):
        flat, left_out = images[part].flatten(1), own[part]
        least = torch.full_like(flat[:, 0], torch.inf)
        nearest = torch.zeros_like(left_out)
        for block in _batches(len(known), block_size):
            distance = torch.cdist(flat, known[block].flatten(1))
            here = ((left_out >= block.start) & (left_out < block.stop)).nonzero().flatten()
            distance[here, left_out[here] - block.start] = torch.inf
            size, place = distance.min(1)
            nearest = torch.where(size < least, place + block.start, nearest)
            least = torch.minimum(least, size)
        found[part] = labels[nearest]
    return found


def judged(seen: Tensor, true: Tensor, stored: Tensor) -> dict[str, float]:
    """Shares of images seen as their true class, as the stored label, as neither; only rows where the two differ."""
    differ = true != stored
    if not differ.any():
        return {"true": float("nan"), "stored": float("nan"), "neither": float("nan")}
    as_true = _share((seen == true)[differ])
    as_stored = _share((seen == stored)[differ])
    return {"true": as_true, "stored": as_stored, "neither": max(0.0, 1 - as_true - as_stored)}


def _share(which: Tensor) -> float:
    """Exact, so that shares of the same images compare; nan where there are none."""
    return int(which.sum()) / len(which) if len(which) else float("nan")


def _name(eps: float) -> str:
    """Short where that is exact, so that 8/255 is found again under its name."""
    return f"{eps:g}" if float(f"{eps:g}") == eps else repr(eps)


def _batches(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
