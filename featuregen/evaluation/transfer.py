"""Transfer of adversarial examples from a source model to other models."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featuregen.attacks.pgd import pgd
from featuregen.compute.folding import folded_copy
from featuregen.config.schema import PGD
from featuregen.evaluation.accuracy import fraction, predict
from featuregen.models.classifier import Classifier
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec


@dataclass(frozen=True, eq=False)
class AdversarialExamples:
    """Images that a source model classifies correctly and, once attacked, misclassifies.

    `success_rate` is their share of the images that it classifies correctly.
    """

    images: Tensor
    adversarial: Tensor
    labels: Tensor
    success_rate: float


def adversarial_examples(
    source: Classifier, images: Tensor, labels: Tensor, attack: PGD, *, batch_size: int, compute: ComputeSpec
) -> AdversarialExamples:
    """Attack the images that the source classifies correctly, and keep those that it then misclassifies."""
    correct = predict(source, images, batch_size) == labels
    images, labels = images[correct], labels[correct]
    folded = folded_copy(source, compute)
    log(f"attacking {len(images)} images")
    batches = [
        pgd(folded, x, y, attack, precision=compute.precision)
        for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    ]
    adversarial = torch.cat(batches) if batches else images
    fooled = predict(source, adversarial, batch_size) != labels
    return AdversarialExamples(images[fooled], adversarial[fooled], labels[fooled], fooled.float().mean().item())


def transfer_rate(
    model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor, batch_size: int = 500
) -> float:
    """The share of the images classified correctly that are misclassified once they are adversarial."""
    if not len(images):
        return float("nan")
    correct = predict(model, images, batch_size) == labels
    still_correct = predict(model, adversarial, batch_size) == labels
    return fraction(~still_correct[correct])


def transfer_correlation(rates: Sequence[float], accuracies: Sequence[float]) -> float | None:
    """Pearson's, over architectures; None for fewer than three of them, or where one of the two is constant."""
    if len(rates) < 3 or len(set(rates)) == 1 or len(set(accuracies)) == 1:
        return None
    return statistics.correlation(rates, accuracies)
