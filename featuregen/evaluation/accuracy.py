"""Clean and robust accuracy of a model, always in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featuregen.attacks import pgd
from featuregen.compute import folded_copy
from featuregen.config import PGD, Evaluation, Norm
from featuregen.data import ImageSource
from featuregen.models import Classifier
from featuregen.runtime import ComputeSpec, RowRandom


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on clean images and under attack; eps as text, so that JSON keeps it."""

    clean: float
    l2: dict[str, float]
    linf: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    model: nn.Module,
    images: ImageSource,
    labels: Tensor,
    settings: Evaluation,
    seed: int = 0,
    convolution: str = "direct",
    attacked: Tensor | None = None,
) -> Accuracy:
    """Clean accuracy of all images, attacked accuracy of those whose rows are `attacked` (None: all).

    `convolution` is the attack's; what counts is what the model itself says of the images found.
    """
    lean = (
        folded_copy(model, ComputeSpec(images.device, convolution=convolution))
        if isinstance(model, Classifier)
        else model
    )
    right = _right(model, images, labels, settings.batch_size)
    clean = fraction(right)
    if attacked is not None:
        images, labels, right = images[attacked], labels[attacked], right[attacked]
    return Accuracy(
        clean=clean,
        l2=_under_attack(model, lean, images, labels, right, "l2", settings.l2, settings, seed),
        linf=_under_attack(model, lean, images, labels, right, "linf", settings.linf, settings, seed),
    )


def _under_attack(
    model: nn.Module,
    lean: nn.Module,
    images: ImageSource,
    labels: Tensor,
    right: Tensor,
    norm: Norm,
    radii: tuple[float, ...],
    settings: Evaluation,
    seed: int,
) -> dict[str, float]:
    """An image lost at one eps stays lost at every larger one, since its ball lies inside theirs."""
    unsolved = right.nonzero().flatten()
    accuracy: dict[str, float] = {}
    for eps in sorted(radii):
        attack = PGD(norm=norm, eps=eps, steps=settings.steps, restarts=settings.restarts)
        generator = RowRandom(seed, f"restarts {norm} {eps:g}").torch_generator(0, images.device)
        held = torch.empty_like(unsolved, dtype=torch.bool)
        for part in batch_slices(len(unsolved), settings.batch_size):
            rows = unsolved[part]
            found = pgd(lean, images[rows], labels[rows], attack, generator=generator)
            held[part] = _right(model, found, labels[rows], settings.batch_size)
        unsolved = unsolved[held]
        accuracy[_name(eps)] = len(unsolved) / len(images)
    return accuracy


@torch.no_grad()
def predict(model: nn.Module, images: ImageSource, batch_size: int = 500) -> Tensor:
    model.eval()
    # Made before any batch: a small result kept behind each of them would keep the C library from using their memory
    # again, so that it grows with the images.
    found = torch.empty(len(images), dtype=torch.int64, device=images.device)
    for part in batch_slices(len(images), batch_size):
        found[part] = model(images[part]).argmax(1)
    return found


def transfer_rate(model: nn.Module, images: Tensor, changed: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    """Of the images that the model gets right, the share that it gets wrong once they are changed."""
    if not len(images):
        return float("nan")
    right = _right(model, images, labels, batch_size)
    still = _right(model, changed, labels, batch_size)
    return fraction(~still[right])


def _right(model: nn.Module, images: ImageSource, labels: Tensor, batch_size: int) -> Tensor:
    return predict(model, images, batch_size) == labels


def fraction(which: Tensor) -> float:
    """Exact, so that shares of the same images compare; nan where there are none."""
    return int(which.sum()) / len(which) if len(which) else float("nan")


def _name(eps: float) -> str:
    """Short where that is exact, so that 8/255 is found again under its name."""
    return f"{eps:g}" if float(f"{eps:g}") == eps else repr(eps)


def batch_slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
