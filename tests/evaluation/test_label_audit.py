"""Label audits: judges by name, agreement with the true class and the stored label, and the nearest neighbour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from featuregen import audit_labels
from featuregen.evaluation.accuracy import predict
from featuregen.evaluation.label_audit import label_agreement, nearest_neighbour
from featuregen.models.classifier import Classifier


@pytest.mark.parametrize(("batch_size", "block_size"), [(7, 5000), (500, 100), (7, 1)])
def test_the_nearest_neighbour_is_that_of_brute_force(
    images: Tensor, labels: Tensor, batch_size: int, block_size: int
) -> None:
    excluded = torch.arange(0, 359, 6)
    noise = 0.05 * torch.randn(len(excluded), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mislabelled = (images[excluded] + noise).clamp(0, 1)
    found = nearest_neighbour(mislabelled, excluded, images, labels, batch_size, block_size)
    pixels, reference = mislabelled.flatten(1).double().numpy(), images.flatten(1).double().numpy()
    expected = []
    for row, (image, left_out) in enumerate(zip(pixels, excluded.tolist(), strict=True)):
        distances = np.sqrt(((reference - image) ** 2).sum(1))
        assert distances.argmin() == left_out, row
        distances[left_out] = np.inf
        expected.append(int(labels[distances.argmin()]))
    assert found.tolist() == expected


def test_only_the_excluded_row_is_left_out() -> None:
    reference = torch.tensor([0.0, 0.1, 0.9]).view(3, 1, 1, 1)
    labels = torch.tensor([5, 6, 7])
    mislabelled = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1)
    for block_size in (1, 2, 5000):
        found = nearest_neighbour(mislabelled, torch.tensor([0, 1, 2]), reference, labels, block_size=block_size)
        assert found.tolist() == [6, 5, 6]


@pytest.mark.parametrize(
    ("assigned", "true", "stored", "expected"),
    [
        ([0, 1, 2, 3], [0, 0, 0, 0], [1, 1, 1, 1], {"true": 0.25, "stored": 0.25, "neither": 0.5}),
        # Rows whose label was not changed do not count.
        ([0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1], {"true": 0.0, "stored": 1.0, "neither": 0.0}),
        ([4, 0, 1, 0], [4, 0, 0, 0], [4, 1, 1, 1], {"true": 2 / 3, "stored": 1 / 3, "neither": 0.0}),
    ],
)
def test_agreement_is_over_mislabelled_rows(
    assigned: list[int], true: list[int], stored: list[int], expected: dict[str, float]
) -> None:
    found = label_agreement(torch.tensor(assigned), torch.tensor(true), torch.tensor(stored))
    assert found.to_dict() == pytest.approx(expected)


def test_agreement_needs_mislabelled_rows() -> None:
    same = torch.tensor([1, 2])
    assert all(np.isnan(value) for value in label_agreement(same, same, same).to_dict().values())


def test_judges_are_models_or_the_classes_that_others_assign(
    standard: Classifier, images: Tensor, labels: Tensor
) -> None:
    stored = (labels + 1) % 10
    found = audit_labels(images, labels, stored, {"standard": standard, "fooled": stored, "right": labels})
    assert list(found) == ["standard", "fooled", "right"]
    assert found["standard"] == label_agreement(predict(standard, images), labels, stored)
    assert found["fooled"].stored == found["right"].true == 1.0
