"""Label audit: which class independent judges assign to mislabelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from featuregen.data.lazy import ImageSource
from featuregen.evaluation.accuracy import batch_slices, fraction, predict


@dataclass(frozen=True)
class LabelAgreement:
    """Shares of the mislabelled images that a judge assigns to their true class, their stored label, or neither.

    All are nan where no label differs from the true class.
    """

    true: float
    stored: float
    neither: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def audit_labels(
    images: ImageSource, true: Tensor, stored: Tensor, judges: Mapping[str, nn.Module | Tensor], batch_size: int = 500
) -> dict[str, LabelAgreement]:
    """Compare the labels of a dataset with the classes that independent judges assign to its images.

    Args:
        images: float32 (N, C, H, W) in [0, 1].
        true: The class of the image that each was made from, int64 (N,).
        stored: The label that the dataset gives each image, int64 (N,).
        judges: Models by name; in place of a model, the classes that another kind of judge assigns.
        batch_size: Images per forward pass.

    Returns:
        The agreement of each judge, over the images whose stored label is not their true class.

    Example:
        >>> import torch
        >>> import featuregen as fg
        >>> test = fg.load_images("digits").test
        >>> images, true = test.images_tensor()[:20], test.labels_tensor()[:20]
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> agreement = fg.audit_labels(images, true, (true + 1) % 10, {"untrained": model, "human": true})
        >>> agreement["human"]
        LabelAgreement(true=1.0, stored=0.0, neither=0.0)
    """
    assigned = {
        name: judge if isinstance(judge, Tensor) else predict(judge, images, batch_size)
        for name, judge in judges.items()
    }
    return {name: label_agreement(classes, true, stored) for name, classes in assigned.items()}


def label_agreement(assigned: Tensor, true: Tensor, stored: Tensor) -> LabelAgreement:
    """The agreement of the assigned classes with both labels, over the rows where these differ."""
    differ = true != stored
    if not differ.any():
        return LabelAgreement(float("nan"), float("nan"), float("nan"))
    as_true = fraction((assigned == true)[differ])
    as_stored = fraction((assigned == stored)[differ])
    return LabelAgreement(as_true, as_stored, max(0.0, 1 - as_true - as_stored))


def nearest_neighbour(
    images: ImageSource,
    excluded: Tensor,
    reference_images: ImageSource,
    reference_labels: Tensor,
    batch_size: int = 500,
    block_size: int = 5000,
) -> Tensor:
    """The class of each image's nearest reference image other than the one it was made from, the row `excluded`.

    Reference images are taken in blocks, since distances to all at once take several times their own memory.
    """
    classes = torch.empty(len(images), dtype=reference_labels.dtype, device=reference_labels.device)
    for batch in batch_slices(len(images), batch_size):
        flat, left_out = images[batch].flatten(1), excluded[batch]
        least = torch.full_like(flat[:, 0], torch.inf)
        nearest = torch.zeros_like(left_out)
        for block in batch_slices(len(reference_images), block_size):
            distances = torch.cdist(flat, reference_images[block].flatten(1))
            here = ((left_out >= block.start) & (left_out < block.stop)).nonzero().flatten()
            distances[here, left_out[here] - block.start] = torch.inf
            distance, column = distances.min(1)
            nearest = torch.where(distance < least, column + block.start, nearest)
            least = torch.minimum(least, distance)
        classes[batch] = reference_labels[nearest]
    return classes
