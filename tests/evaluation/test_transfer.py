"""Transfer rates, and their correlation with what architectures learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from featuregen.evaluation.accuracy import predict
from featuregen.evaluation.transfer import transfer_correlation, transfer_rate
from featuregen.models.classifier import Classifier


def test_a_transfer_rate_is_of_the_images_classified_correctly(
    standard: Classifier, images: Tensor, labels: Tensor
) -> None:
    predicted = predict(standard, images)
    # Half of the labels are wrong; of those that are right, the first third gets another image.
    partly_wrong = torch.where(torch.arange(len(predicted)) % 2 == 0, predicted, (predicted + 1) % 10)
    correct = (partly_wrong == predicted).nonzero().flatten()
    other = images.clone()
    third = correct[: len(correct) // 3]
    other[third] = torch.stack([images[predicted != predicted[row]][0] for row in third])
    assert transfer_rate(standard, images, images, partly_wrong) == 0.0
    assert transfer_rate(standard, images, other, partly_wrong) == pytest.approx(len(third) / len(correct))
    assert math.isnan(transfer_rate(standard, images[:0], images[:0], labels[:0]))


def test_correlation_needs_three_that_differ() -> None:
    rates, accuracies = [0.1, 0.2, 0.3], [0.3, 0.4, 0.5]
    assert transfer_correlation(rates, accuracies) == pytest.approx(1.0)
    assert transfer_correlation(rates[:2], accuracies[:2]) is None
    assert transfer_correlation([0.1, 0.1, 0.1], accuracies) is None
    assert transfer_correlation(rates, [0.3, 0.3, 0.3]) is None
