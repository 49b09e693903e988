"""Clean and robust accuracy of a model, always in fp32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from featuregen.attacks.pgd import pgd
from featuregen.compute.folding import folded_copy
from featuregen.config.schema import PGD, Evaluation, Norm
from featuregen.data.lazy import ImageSource
from featuregen.errors import CheckFailed
from featuregen.models.classifier import Classifier
from featuregen.models.io import Accuracy
from featuregen.runtime.device import ComputeSpec
from featuregen.runtime.rng import RowRandom


def evaluate(
    model: nn.Module,
    images: ImageSource,
    labels: Tensor,
    settings: Evaluation | None = None,
    seed: int = 0,
    convolution: str = "direct",
    attacked_rows: Tensor | None = None,
) -> Accuracy:
    """Measure the clean accuracy of a model and its accuracy under PGD.

    An image misclassified at one radius is counted as misclassified at every larger radius of the same norm.

    Args:
        model: Any network that maps images to logits; it is set to eval mode.
        images: float32 (N, C, H, W) in [0, 1].
        labels: The class of each image, int64 (N,).
        settings: Radii, steps, restarts and batch size; L2 at 0.25 and 0.5 with 20 steps where left out.
        seed: Seeds the random starts of the restarts.
        convolution: How the attack convolves. Predictions come from the model itself.
        attacked_rows: The rows to attack; all where left out. Clean accuracy is always that of all images.

    Returns:
        Clean accuracy, and accuracy by radius for each norm.

    Example:
        >>> import torch
        >>> import featuregen as fg
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> images = fg.load_images("digits").test.images_tensor()[:20]
        >>> labels = model(images).argmax(1)
        >>> accuracy = fg.evaluate(model, images, labels, fg.Evaluation(l2=(0, 0.5), steps=2))
        >>> accuracy.clean, accuracy.l2["0"], accuracy.l2["0.5"] <= 1
        (1.0, 1.0, True)
    """
    chosen, device = settings or Evaluation(), images.device
    attacked = (
        folded_copy(model, ComputeSpec(device, convolution=convolution)) if isinstance(model, Classifier) else model
    )
    correct = predict(model, images, chosen.batch_size) == labels
    clean = fraction(correct)
    if attacked_rows is not None:
        images, labels, correct = images[attacked_rows], labels[attacked_rows], correct[attacked_rows]

    def robust(norm: Norm, radii: tuple[float, ...]) -> dict[str, float]:
        remaining = correct.nonzero().flatten()
        accuracy: dict[str, float] = {}
        for eps in sorted(radii):
            attack = PGD(norm=norm, eps=eps, steps=chosen.steps, restarts=chosen.restarts)
            generator = RowRandom(seed, f"restarts {norm} {eps:g}").torch_generator(0, device)
            survived = torch.empty_like(remaining, dtype=torch.bool)
            for batch in batch_slices(len(remaining), chosen.batch_size):
                rows = remaining[batch]
                adversarial = pgd(attacked, images[rows], labels[rows], attack, generator=generator)
                survived[batch] = predict(model, adversarial, chosen.batch_size) == labels[rows]
            # A misclassified image stays one at every larger eps, since its ball lies inside theirs.
            remaining = remaining[survived]
            accuracy[radius_text(eps)] = len(remaining) / len(images)
        return accuracy

    return Accuracy(clean, robust("l2", chosen.l2), robust("linf", chosen.linf))


@torch.no_grad()
def predict(model: nn.Module, images: ImageSource, batch_size: int = 500) -> Tensor:
    """The class that the model, set to eval mode, assigns to each image; CheckFailed where it gives NaN or infinity."""
    model.eval()
    # Allocated before any batch: a small result kept behind each of them would keep the C library from using their
    # memory again, so that it grows with the images.
    classes = torch.empty(len(images), dtype=torch.int64, device=images.device)
    usable = torch.ones((), dtype=torch.bool, device=images.device)
    for batch in batch_slices(len(images), batch_size):
        logits = model(images[batch])
        classes[batch] = logits.argmax(1)
        # A class that is ruled out has a logit of minus infinity.
        usable &= logits.amax(1).isfinite().all()
    if not bool(usable):
        raise CheckFailed(
            "the model gives NaN or infinity for some images, which predicts nothing; take another model."
        )
    return classes


def fraction(rows: Tensor) -> float:
    """The exact share of rows that are true, so that shares of the same images compare; nan where there are none."""
    return int(rows.sum()) / len(rows) if len(rows) else float("nan")


def radius_text(eps: float) -> str:
    """Short where that is exact, so that 8/255 is found again under its name."""
    return f"{eps:g}" if float(f"{eps:g}") == eps else repr(eps)


def batch_slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
