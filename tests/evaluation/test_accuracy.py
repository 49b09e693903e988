"""Clean accuracy, and accuracy under attack."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featuregen.attacks.pgd import pgd
from featuregen.config.schema import PGD, Evaluation
from featuregen.errors import CheckFailed
from featuregen.evaluation.accuracy import evaluate, predict
from featuregen.models.classifier import Classifier
from featuregen.models.io import Accuracy

RADII = Evaluation(l2=(0.5, 0.25, 1.0, 0.0), linf=(0.1, 0.05), steps=5)


@torch.no_grad()
def by_hand(model: Classifier, images: Tensor, labels: Tensor) -> float:
    right = sum(int(model(image[None]).argmax()) == int(label) for image, label in zip(images, labels, strict=True))
    return right / len(images)


@pytest.fixture(scope="module")
def scores(standard: Classifier, images: Tensor, labels: Tensor) -> Accuracy:
    return evaluate(standard, images, labels, RADII)


def test_clean_accuracy_is_that_of_image_by_image(
    scores: Accuracy, standard: Classifier, images: Tensor, labels: Tensor
) -> None:
    assert scores.clean == pytest.approx(by_hand(standard, images, labels))
    assert scores.l2["0"] == pytest.approx(scores.clean)


def test_accuracy_falls_with_eps(scores: Accuracy) -> None:
    assert list(scores.l2) == ["0", "0.25", "0.5", "1"] and list(scores.linf) == ["0.05", "0.1"]
    for found in (scores.l2, scores.linf):
        falling = [scores.clean, *found.values()]
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] < 0.5 * scores.clean
    assert scores.to_dict() == {"clean": scores.clean, "l2": scores.l2, "linf": scores.linf}


def test_an_attacked_accuracy_is_that_of_the_attack(
    scores: Accuracy, standard: Classifier, images: Tensor, labels: Tensor
) -> None:
    found = pgd(standard, images, labels, PGD("linf", 0.05, steps=5))
    assert scores.linf["0.05"] == pytest.approx(by_hand(standard, found, labels), abs=1 / len(images))
    # Images once lost stay lost, so a larger eps is never below its own attack alone by more than those.
    alone = by_hand(standard, pgd(standard, images, labels, PGD("linf", 0.1, steps=5)), labels)
    assert scores.linf["0.1"] <= alone + 1 / len(images)


def test_a_robust_net_scores_higher(scores: Accuracy, robust: Classifier, images: Tensor, labels: Tensor) -> None:
    hardened = evaluate(robust, images, labels, RADII)
    assert hardened.l2["0.5"] > scores.l2["0.5"] + 0.15
    assert hardened.linf["0.1"] > scores.linf["0.1"] + 0.15


def test_the_batch_size_changes_nothing(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    x, y = images[:60], labels[:60]
    small, large = (evaluate(standard, x, y, replace(RADII, batch_size=size)) for size in (7, 500))
    assert small.clean == large.clean
    for name in ("l2", "linf"):
        for eps, value in getattr(small, name).items():
            assert getattr(large, name)[eps] == pytest.approx(value, abs=1 / 60 + 1e-9)


def test_restarts_lose_more_images(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    settings = Evaluation(l2=(0.4,), linf=(0.08,), steps=2)
    x, y = images[:150], labels[:150]
    once, more, again = (evaluate(standard, x, y, replace(settings, restarts=count)) for count in (1, 5, 5))
    assert more.l2["0.4"] < once.l2["0.4"] and more.linf["0.08"] < once.linf["0.08"]
    assert more == again


def test_steps_matter(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    settings = Evaluation(l2=(0.5,), steps=1)
    assert (
        evaluate(standard, images, labels, replace(settings, steps=10)).l2["0.5"]
        < evaluate(standard, images, labels, settings).l2["0.5"]
    )


def test_nothing_right_means_nothing_to_attack(standard: Classifier, images: Tensor) -> None:
    wrong = (predict(standard, images) + 1) % 10
    assert evaluate(standard, images, wrong, RADII) == Accuracy(
        0.0, dict.fromkeys(["0", "0.25", "0.5", "1"], 0.0), dict.fromkeys(["0.05", "0.1"], 0.0)
    )


def test_no_radii_are_a_clean_accuracy_alone(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    found = evaluate(standard, images, labels, Evaluation(l2=(), linf=()))
    assert found.clean > 0.95 and found.l2 == {} and found.linf == {}


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_predictions_are_made_in_eval_mode(standard: Classifier, images: Tensor, batch_size: int) -> None:
    x = images[:20]
    expected = torch.cat([standard(image[None]).argmax(1) for image in x])
    model = copy.deepcopy(standard).train()
    assert torch.equal(predict(model, x, batch_size), expected)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), standard.buffers(), strict=True))


def test_a_radius_is_found_again_under_its_name(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    settings = Evaluation(l2=(128 / 255, 0.25), headline=0.25, steps=1)
    found = evaluate(standard, images[:20], labels[:20], settings).l2
    assert [float(name) for name in found] == [0.25, 128 / 255] and "0.25" in found


def test_accuracy_has_a_table_for_notebooks() -> None:
    html = Accuracy(0.5, {"0.25": 0.4}, {})._repr_html_()
    assert "<td>L2 eps 0.25</td><td>40.0%</td>" in html and "Linf" not in html


def test_settings_may_be_left_out(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    assert evaluate(standard, images[:8], labels[:8]) == evaluate(standard, images[:8], labels[:8], Evaluation())


class Constant(nn.Module):
    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize("logits", [[0.0, float("nan")], [0.0, float("inf")], [-float("inf")] * 2])
def test_logits_that_predict_nothing_are_a_failed_check(logits: list[float]) -> None:
    with pytest.raises(CheckFailed, match="gives NaN or infinity for some images"):
        predict(Constant(logits), torch.zeros(3, 1, 2, 2))


def test_a_class_may_be_ruled_out() -> None:
    assert predict(Constant([-float("inf"), 0.0]), torch.zeros(3, 1, 2, 2)).tolist() == [1, 1, 1]
