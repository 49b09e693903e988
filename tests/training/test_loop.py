"""The training loop: what it learns, what decides the weights, and every setting against a plain loop."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.pgd import pgd
from featuregen.config.schema import PGD, Augment, Model, Training
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import predict
from featuregen.models.classifier import Classifier
from featuregen.models.io import weights_sha256
from featuregen.models.registry import build_classifier
from featuregen.runtime.rng import RowRandom
from featuregen.training.loop import TrainingLog, train, train_many
from featuregen.training.optimizer import learning_rate

CPU = torch.device("cpu")
QUICK = Training(epochs=2, batch_size=32, lr=0.05)


@pytest.fixture(scope="module")
def few(digits: BaseDataset) -> tuple[Tensor, Tensor]:
    """A hundred training images, so three batches of 32 and a rest."""
    return digits.train.images_tensor(CPU, slice(0, 100)), digits.train.labels_tensor(CPU, slice(0, 100))


def fresh(seed: int = 0) -> Classifier:
    return build_classifier(Model(width=4), (1, 8, 8), 10, [0.3], [0.37], seed)


def run(few: tuple[Tensor, Tensor], recipe: Training, seed: int = 0) -> tuple[Classifier, TrainingLog]:
    model = fresh()
    return model, train(model, *few, recipe, seed=seed)


# What it learns -----------------------------------------------------------------------------------


def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    return (predict(model, images) == labels).float().mean().item()


def test_a_small_net_learns_digits_in_seconds(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    assert not standard.training
    assert accuracy(standard, images, labels) > 0.95


def test_adversarial_training_makes_a_net_robust(
    standard: Classifier, robust: Classifier, images: Tensor, labels: Tensor
) -> None:
    attack = PGD("l2", 0.5, steps=20)
    plain, hardened = (accuracy(model, pgd(model, images, labels, attack), labels) for model in (standard, robust))
    assert hardened > plain + 0.15
    assert accuracy(robust, images, labels) > 0.9


def test_the_log_shows_learning(few: tuple[Tensor, Tensor]) -> None:
    _, log = run(few, replace(QUICK, epochs=6))
    assert len(log.epochs) == 6 and log.seconds > 0
    assert log.epochs[-1].loss < log.epochs[0].loss
    assert log.train_accuracy == log.epochs[-1].accuracy > max(0.3, log.epochs[0].accuracy)


def test_an_attack_makes_the_batches_harder(few: tuple[Tensor, Tensor]) -> None:
    recipe = replace(QUICK, epochs=4)
    _, easy = run(few, recipe)
    _, hard = run(few, replace(recipe, attack=PGD(eps=1.0, steps=3)))
    assert hard.epochs[-1].loss > easy.epochs[-1].loss + 0.1


# What decides the weights -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        QUICK,
        replace(QUICK, augment=Augment(crop=1, flip=True, jitter=0.2, rotate=5)),
        replace(QUICK, attack=PGD(eps=0.5, steps=2, random_start=True)),
        replace(QUICK, optimizer="adamw", lr=1e-3),
    ],
    ids=["plain", "augmented", "adversarial", "adamw"],
)
def test_the_seed_decides_the_weights(few: tuple[Tensor, Tensor], recipe: Training) -> None:
    first, _ = run(few, recipe, seed=1)
    torch.rand(7)
    again, _ = run(few, recipe, seed=1)
    other, _ = run(few, recipe, seed=2)
    assert weights_sha256(first) == weights_sha256(again)
    assert weights_sha256(first) != weights_sha256(other) != weights_sha256(fresh())


@pytest.mark.parametrize(
    "recipe",
    [
        QUICK,
        replace(QUICK, optimizer="adamw", lr=1e-3, augment=Augment(crop=1, flip=True)),
        replace(QUICK, attack=PGD(eps=0.5, steps=2)),
    ],
    ids=["plain", "augmented", "adversarial"],
)
def test_models_trained_together_become_what_they_become_alone(few: tuple[Tensor, Tensor], recipe: Training) -> None:
    together = [fresh(seed) for seed in (1, 2, 3)]
    logs = train_many(together, *few, recipe, seeds=(1, 2, 3))
    assert len({weights_sha256(model) for model in together}) == 3
    for seed, model, log in zip((1, 2, 3), together, logs, strict=True):
        alone = fresh(seed)
        alone_log = train(alone, *few, recipe, seed=seed)
        assert [epoch.loss for epoch in log.epochs] == pytest.approx(
            [epoch.loss for epoch in alone_log.epochs], rel=1e-3
        )
        assert not any(part.training for part in model.modules())
        for name, value in alone.state_dict().items():
            assert torch.allclose(model.state_dict()[name], value, rtol=1e-3, atol=1e-4), (seed, name)


def test_training_leaves_torch_s_own_random_numbers_alone(few: tuple[Tensor, Tensor]) -> None:
    before = torch.get_rng_state()
    run(few, replace(QUICK, epochs=1, augment=Augment(crop=1, flip=True), attack=PGD(steps=1, random_start=True)))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_and_labels_are_left_as_they_were(few: tuple[Tensor, Tensor]) -> None:
    images, labels = few[0].clone(), few[1].clone()
    run(few, replace(QUICK, epochs=1, augment=Augment(crop=1, jitter=0.5), attack=PGD(steps=1)))
    assert torch.equal(few[0], images) and torch.equal(few[1], labels)


# Every setting against a plain loop ---------------------------------------------------------------


def plain_loop(model: Classifier, images: Tensor, labels: Tensor, recipe: Training, seed: int) -> None:
    """Three batches an epoch, written without the code under test but for the rate and the order of rows."""
    chosen: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        chosen = torch.optim.SGD(model.parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        chosen = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=recipe.weight_decay)
    model.train()
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(RowRandom(seed, "order").permutation(epoch, len(images)))
        for step, rows in enumerate(torch.split(order, recipe.batch_size)[:3]):
            chosen.param_groups[0]["lr"] = learning_rate(recipe, (3 * epoch + step) / (3 * recipe.epochs))
            logs = model(images[rows]).log_softmax(1)
            right = logs.gather(1, labels[rows].view(-1, 1)).mean()
            loss = -(1 - recipe.label_smoothing) * right - recipe.label_smoothing * logs.mean()
            chosen.zero_grad()
            torch.autograd.backward(loss)
            chosen.step()


@pytest.mark.parametrize(
    "recipe",
    [
        QUICK,
        replace(QUICK, momentum=0.0, weight_decay=0.0, schedule="constant"),
        replace(QUICK, schedule="steps", milestones=(0.4,), weight_decay=0.05),
        replace(QUICK, schedule="cosine", label_smoothing=0.2),
        replace(QUICK, optimizer="adamw", lr=1e-3, weight_decay=0.1),
    ],
)
def test_training_equals_a_plain_loop(few: tuple[Tensor, Tensor], recipe: Training) -> None:
    model, _ = run(few, recipe, seed=5)
    expected = fresh()
    plain_loop(expected, *few, recipe, seed=5)
    for name, value in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-4, atol=2e-5), name


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {0.0: 0.4, 0.5: 0.4, 0.99: 0.4}),
        ("cosine", {0.0: 0.4, 0.25: 0.341421356, 0.5: 0.2, 0.75: 0.058578644}),
        ("onecycle", {0.0: 0.0004, 0.1: 0.2, 0.2: 0.4, 0.6: 0.2, 0.8: 0.1, 1.0: 0.0004}),
        ("steps", {0.0: 0.4, 0.33: 0.4, 0.34: 0.04, 0.66: 0.04, 0.67: 0.004, 0.99: 0.004}),
    ],
)
def test_rates(schedule: Any, rates: dict[float, float]) -> None:
    recipe = replace(Training(lr=0.4), schedule=schedule)
    assert {done: learning_rate(recipe, done) for done in rates} == pytest.approx(rates)


def test_milestones_may_be_many_or_none() -> None:
    recipe = Training(lr=1.0, schedule="steps", milestones=(0.1, 0.2, 0.9))
    assert [learning_rate(recipe, done) for done in (0.05, 0.1, 0.2, 0.95)] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert learning_rate(replace(recipe, milestones=()), 0.95) == 1.0


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothing_is_part_of_the_loss(few: tuple[Tensor, Tensor], smoothing: float) -> None:
    """One batch of all rows, whose loss can be written down before training."""
    images, labels = few
    _, log = run(few, Training(epochs=1, batch_size=100, label_smoothing=smoothing))
    with torch.no_grad():
        logs = fresh().train()(images).log_softmax(1)
    expected = (1 - smoothing) * F.nll_loss(logs, labels) - smoothing * logs.mean()
    assert log.epochs[0].loss == pytest.approx(float(expected), rel=1e-4)


def test_a_batch_larger_than_the_set_is_the_whole_set(few: tuple[Tensor, Tensor]) -> None:
    larger, log = run(few, Training(epochs=3, batch_size=5000, lr=0.05))
    whole, _ = run(few, Training(epochs=3, batch_size=100, lr=0.05))
    assert len(log.epochs) == 3
    assert weights_sha256(larger) == weights_sha256(whole)


# Attacks while training ---------------------------------------------------------------------------


def test_the_attack_does_not_touch_batch_norm_s_statistics(few: tuple[Tensor, Tensor]) -> None:
    """Three batches an epoch are counted, however many steps the attack takes."""
    model, _ = run(few, replace(QUICK, attack=PGD(eps=0.5, steps=4, restarts=2)))
    counted = {name: int(value) for name, value in model.state_dict().items() if "num_batches" in name}
    assert len(counted) == 3 and set(counted.values()) == {6}
    # One that moves nothing leaves training as it was, bit by bit.
    idle, _ = run(few, replace(QUICK, attack=PGD(eps=1e-30, steps=4)))
    plain, _ = run(few, QUICK)
    assert weights_sha256(idle) == weights_sha256(plain)


def test_every_batch_is_attacked_at_the_weights_of_its_moment(few: tuple[Tensor, Tensor]) -> None:
    attack = PGD(eps=0.5, steps=3)
    recipe = Training(epochs=1, batch_size=100, attack=attack)
    _, log = run(few, recipe)
    start = fresh()
    found = pgd(start, *few, attack)
    with torch.no_grad():
        expected = F.cross_entropy(start.train()(found), few[1])
    assert log.epochs[0].loss == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("attack", [None, PGD(steps=1)])
def test_training_ends_in_eval_mode_with_learnable_weights(few: tuple[Tensor, Tensor], attack: PGD | None) -> None:
    model, _ = run(few, replace(QUICK, epochs=1, attack=attack))
    assert not any(part.training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_training_clears_the_record_of_the_former_weights(few: tuple[Tensor, Tensor]) -> None:
    model = fresh()
    model.record = {"accuracy": {"clean": 0.9}}
    train(model, *few, replace(QUICK, epochs=1))
    assert model.record == {}


def test_training_starts_from_the_weights_of_the_model(few: tuple[Tensor, Tensor]) -> None:
    first, _ = run(few, QUICK)
    second = copy.deepcopy(first)
    log = train(second, *few, replace(QUICK, epochs=4), seed=1)
    assert log.epochs[-1].loss < run(few, QUICK)[1].epochs[-1].loss
    assert weights_sha256(first) != weights_sha256(second)


def test_divergence_is_a_user_error_that_names_the_rate(few: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match=r"the source diverged in epoch \d+ at lr 1e\+30; lower lr"):
        train(fresh(), *few, replace(QUICK, epochs=3, lr=1e30), seed=0, title="the source")
