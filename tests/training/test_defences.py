"""Defences in the training loop: clean and attacked images together, single steps, and early stopping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.pgd import pgd
from featuregen.config.loader import from_dict, load_config
from featuregen.config.schema import PGD, Config, Model, Training
from featuregen.config.serialize import canonical_json, to_dict
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import predict
from featuregen.models.classifier import Classifier
from featuregen.models.io import weights_sha256
from featuregen.models.registry import build_classifier
from featuregen.runtime.rng import RowRandom
from featuregen.training.early_stopping import hold_out
from featuregen.training.loop import TrainingLog, can_group, train, train_many
from featuregen.training.optimizer import learning_rate

CPU = torch.device("cpu")
ATTACK = PGD(eps=0.5, steps=2)
QUICK = Training(epochs=2, batch_size=32, lr=0.05, attack=ATTACK)
STOPPING = replace(QUICK, epochs=6, lr=0.4, schedule="constant", early_stop="adversarial")
Few = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def few(digits: BaseDataset) -> Few:
    return digits.train.images_tensor(CPU, slice(0, 100)), digits.train.labels_tensor(CPU, slice(0, 100))


def fresh(seed: int = 0) -> Classifier:
    return build_classifier(Model(width=4), (1, 8, 8), 10, [0.3], [0.37], seed)


def run(few: Few, recipe: Training, seed: int = 0) -> tuple[Classifier, TrainingLog]:
    model = fresh()
    return model, train(model, *few, recipe, seed=seed)


# Clean and attacked images together ---------------------------------------------------------------


def mixed_loop(model: Classifier, images: Tensor, labels: Tensor, recipe: Training, seed: int) -> list[float]:
    """Without the code under test but for the attack, the rate and the order of rows; the loss of every batch."""
    assert recipe.attack
    chosen = torch.optim.SGD(model.parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    losses = []
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(RowRandom(seed, "order").permutation(epoch, len(images)))
        for step, rows in enumerate(torch.split(order, recipe.batch_size)[:3]):
            chosen.param_groups[0]["lr"] = learning_rate(recipe, (3 * epoch + step) / (3 * recipe.epochs))
            found = pgd(model, images[rows], labels[rows], recipe.attack)
            logs = model.train()(torch.cat([images[rows], found])).log_softmax(1)
            each = -logs.gather(1, labels[rows].repeat(2).view(-1, 1)).flatten()
            clean, attacked = each[: len(rows)].mean(), each[len(rows) :].mean()
            loss = recipe.alpha * clean + (1 - recipe.alpha) * attacked
            chosen.zero_grad()
            torch.autograd.backward(loss)
            chosen.step()
            losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_the_mixed_loss_equals_a_plain_loop(few: Few, alpha: float) -> None:
    recipe = replace(QUICK, alpha=alpha)
    model, log = run(few, recipe, seed=5)
    expected = fresh()
    losses = mixed_loop(expected, *few, recipe, seed=5)
    assert [epoch.loss for epoch in log.epochs] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-3)
    for name, value in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-3, atol=1e-4), name


def test_models_that_see_both_kinds_learn_side_by_side_as_they_do_alone(few: Few) -> None:
    recipe = replace(QUICK, alpha=0.3)
    assert can_group("convnet", recipe)
    together = [fresh(seed) for seed in (1, 2)]
    logs = train_many(together, *few, recipe, seeds=(1, 2))
    for seed, model, log in zip((1, 2), together, logs, strict=True):
        alone = fresh(seed)
        alone_log = train(alone, *few, recipe, seed=seed)
        assert [epoch.loss for epoch in log.epochs] == pytest.approx(
            [epoch.loss for epoch in alone_log.epochs], rel=1e-3
        )
        for name, value in alone.state_dict().items():
            assert torch.allclose(model.state_dict()[name], value, rtol=1e-3, atol=1e-4), (seed, name)


def test_the_log_weighs_both_accuracies(few: Few) -> None:
    """One batch of all rows, whose accuracies can be had before training."""
    recipe = Training(epochs=1, batch_size=100, attack=ATTACK, alpha=0.75)
    _, log = run(few, recipe)
    start = fresh()
    found = pgd(start, *few, ATTACK)
    with torch.no_grad():
        logits = start.train()(torch.cat([few[0], found]))
    right = (logits.argmax(1) == few[1].repeat(2)).float().view(2, 100).mean(1)
    losses = F.cross_entropy(logits, few[1].repeat(2), reduction="none").view(2, 100).mean(1)
    assert log.epochs[0].accuracy == pytest.approx(float(0.75 * right[0] + 0.25 * right[1]), abs=1e-6)
    assert log.epochs[0].loss == pytest.approx(float(0.75 * losses[0] + 0.25 * losses[1]), rel=1e-3)


def test_more_weight_on_clean_images_makes_them_easier(digits: BaseDataset, images: Tensor, labels: Tensor) -> None:
    rows = slice(0, 600)
    known = digits.train.images_tensor(CPU, rows), digits.train.labels_tensor(CPU, rows)
    right: dict[float, list[float]] = {}
    for alpha in (0.0, 0.9):
        model = fresh()
        train(model, *known, Training(epochs=8, batch_size=32, attack=PGD(eps=1.5, steps=3), alpha=alpha), seed=0)
        found = pgd(model, images, labels, PGD(eps=0.75, steps=5))
        right[alpha] = [(predict(model, x) == labels).float().mean().item() for x in (images, found)]
    assert right[0.9][0] > right[0.0][0] + 0.02 and right[0.9][1] < right[0.0][1]


@pytest.mark.parametrize("settings", [{"alpha": 0.5}, {"early_stop": "adversarial"}])
def test_what_needs_an_attack_is_refused_without_one(few: Few, settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(UserError, match=rf"^the recipe\.{name} is .* has no attack; choose one with an attack"):
        run(few, replace(QUICK, attack=None, **settings))
    with pytest.raises(UserError, match=rf"^sources\.standard\.{name} is .* has no attack"):
        load_config("digits", [f"sources.standard.{key}={value}" for key, value in settings.items()])
    with pytest.raises(UserError, match=rf"^fresh\.det\.{name} is .* has no attack"):
        load_config("digits", [f"fresh.det.{key}={value}" for key, value in settings.items()])
    assert load_config("digits", [f"sources.robust.{key}={value}" for key, value in settings.items()])


# A single step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fgsm_with_a_random_start_is_one_step_as_long_as_the_radius(few: Few, norm: Any) -> None:
    eps = 0.5 if norm == "l2" else 0.1
    once = PGD(norm, eps, steps=1, step_size=eps, random_start=True)
    images, labels = 0.25 + 0.5 * few[0], few[1]
    for attack, inside in ((once, 0.5), (replace(once, step_size=0.0), 0.0)):
        found = pgd(fresh().eval(), images, labels, attack, generator=torch.Generator().manual_seed(3))
        offset = (found - images).flatten(1)
        size = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
        assert float(size.max()) <= eps * (1 + 1e-5)
        if norm == "linf":
            # From a random point a step of one radius leaves half the pixels inside, the default length none.
            assert (offset.abs() < 0.999 * eps).float().mean() == pytest.approx(inside, abs=0.05)
    first, log = run(few, replace(QUICK, attack=once))
    other, _ = run(few, replace(QUICK, attack=replace(once, step_size=0.0)))
    assert len(log.epochs) == 2 and weights_sha256(first) != weights_sha256(other)


# Early stopping -----------------------------------------------------------------------------------


def test_the_same_share_of_every_class_is_held_out_as_the_seed_says() -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((40, 20, 5, 1))])
    others, held = hold_out(labels, 0.2, seed=3)
    assert torch.equal(torch.cat([others, held]).sort().values, torch.arange(66))
    assert labels[held].bincount(minlength=4).tolist() == [8, 4, 1, 0]
    assert torch.equal(hold_out(labels, 0.2, seed=3)[1], held)
    assert not torch.equal(hold_out(labels, 0.2, seed=4)[1], held)
    assert labels[hold_out(labels, 0.9, seed=0)[0]].bincount(minlength=4).tolist() == [4, 2, 1, 1]
    with pytest.raises(UserError, match="the 10 given have one per class"):
        hold_out(torch.arange(10), 0.5, seed=0)


@pytest.mark.parametrize("kind", ["clean", "adversarial"])
def test_the_weights_of_the_best_epoch_are_kept_and_the_log_says_so(few: Few, kind: Any) -> None:
    recipe = replace(STOPPING, early_stop=kind, held_out=0.3)
    model, log = run(few, recipe, seed=2)
    errors = [epoch.error for epoch in log.epochs]
    assert len(errors) == 6 and log.ended == "all epochs are run"
    assert all(error is not None and 0 <= error <= 1 for error in errors) and len(set(errors)) > 2
    assert log.kept == 1 + errors.index(min(error for error in errors if error is not None))
    assert log.train_accuracy == log.epochs[log.kept - 1].accuracy
    held = hold_out(few[1], 0.3, seed=2)[1]
    x, y = few[0][held], few[1][held]
    right = predict(model, x) == y
    if kind == "adversarial":
        right &= predict(model, pgd(model, x, y, ATTACK)) == y
    assert errors[log.kept - 1] == pytest.approx(1 - right.float().mean().item())
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_images_held_out_are_never_learnt_from(few: Few) -> None:
    """Other images and labels in their place change no weight but for which epoch is kept."""
    recipe = replace(STOPPING, epochs=1)
    held = hold_out(few[1], recipe.held_out, seed=0)[1]
    images = few[0].clone()
    images[held] = 1 - images[held]
    assert weights_sha256(run((images, few[1]), recipe)[0]) == weights_sha256(run(few, recipe)[0])
    others = hold_out(few[1], recipe.held_out, seed=0)[0]
    images[others[:5]] = 1 - images[others[:5]]
    assert weights_sha256(run((images, few[1]), recipe)[0]) != weights_sha256(run(few, recipe)[0])


def test_looking_at_images_held_out_does_not_change_training(few: Few) -> None:
    """The last epoch of a run is that of a run without early stopping on the same rows."""
    recipe = replace(STOPPING, epochs=3, attack=replace(ATTACK, random_start=True))
    _, log = run(few, recipe)
    others = hold_out(few[1], recipe.held_out, seed=0)[0]
    _, plain = run((few[0][others], few[1][others]), replace(recipe, early_stop="none"))
    assert [epoch.loss for epoch in log.epochs] == [epoch.loss for epoch in plain.epochs]
    assert all(epoch.error is None for epoch in plain.epochs)
    assert (plain.kept, plain.ended) == (3, "all epochs are run")


def pretend_correct(monkeypatch: pytest.MonkeyPatch, counts: list[int]) -> None:
    """So many of the ten held-out images are classified correctly after each epoch."""
    left = iter(counts)
    monkeypatch.setattr("featuregen.training.early_stopping.EarlyStopping._count_correct", lambda self: next(left))


@pytest.mark.parametrize(
    ("correct", "patience", "kept", "ended"),
    [
        ([4, 7, 5, 7, 6], 0, 2, "all epochs are run"),
        ([4, 7, 5, 7, 6], 3, 2, "all epochs are run"),
        ([4, 7, 5, 7], 2, 2, "no smaller error in 2 epochs"),
        ([4, 3], 1, 1, "no smaller error in 1 epoch"),
        ([1, 2, 3, 4, 5], 1, 5, "all epochs are run"),
    ],
)
def test_the_earliest_of_the_best_epochs_is_kept_and_patience_ends_training(
    few: Few, monkeypatch: pytest.MonkeyPatch, correct: list[int], patience: int, kept: int, ended: str
) -> None:
    pretend_correct(monkeypatch, correct)
    model, log = run(few, replace(STOPPING, epochs=5, patience=patience))
    assert (log.kept, log.ended) == (kept, ended)
    assert [epoch.error for epoch in log.epochs] == pytest.approx([1 - count / 10 for count in correct])
    pretend_correct(monkeypatch, [0] * (kept - 1) + [1])
    # The rate is constant here, so training that was shorter from the start ends with the weights that were kept.
    assert weights_sha256(model) == weights_sha256(run(few, replace(STOPPING, epochs=kept))[0])


def test_models_that_stop_early_are_trained_one_after_the_other(few: Few) -> None:
    recipe = replace(STOPPING, epochs=3)
    assert not can_group("convnet", recipe) and can_group("convnet", replace(recipe, early_stop="none"))
    models = [fresh(seed) for seed in (1, 2)]
    logs = train_many(models, *few, recipe, seeds=(1, 2))
    for seed, model, log in zip((1, 2), models, logs, strict=True):
        alone = fresh(seed)
        assert replace(train(alone, *few, recipe, seed=seed), seconds=0) == replace(log, seconds=0)
        assert weights_sha256(alone) == weights_sha256(model)


# Records ------------------------------------------------------------------------------------------

OLDER = {
    "epochs": 30, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
    "schedule": "onecycle", "milestones": [1 / 3, 2 / 3], "label_smoothing": 0.0,
    "augment": {"crop": 0, "flip": False, "jitter": 0.0, "rotate": 0.0}, "attack": None,
}  # fmt: skip


def test_settings_that_came_later_are_left_out_of_records_while_at_their_default() -> None:
    assert to_dict(Training()) == OLDER and list(to_dict(Training())) == list(OLDER)
    assert from_dict(Training, OLDER, "a file") == Training()
    later = {"alpha": 0.5, "early_stop": "clean", "held_out": 0.2, "patience": 3}
    for name, value in later.items():
        changed = replace(Training(attack=ATTACK), **{name: value})  # type: ignore[arg-type]  # one of them at a time
        assert to_dict(changed) == OLDER | {"attack": to_dict(ATTACK), name: value}
        assert from_dict(Training, to_dict(changed), "a file") == changed
    written = {"alpha": 0.0, "early_stop": "none", "held_out": 0.1, "patience": 0}
    assert canonical_json(from_dict(Training, OLDER | written, "a file")) == canonical_json(Training())


def test_shipped_configs_record_what_they_did() -> None:
    later = {"alpha", "early_stop", "held_out", "patience"}
    for name in ("digits", "cifar10-paper"):
        tree = to_dict(load_config(name))
        recipes = [tree["sources"]["standard"], tree["sources"]["robust"], *tree["fresh"].values()]
        assert len(recipes) > 2 and not any(later & recipe.keys() for recipe in recipes)
        assert from_dict(Config, tree, name) == load_config(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha=1", "alpha is 1; it must be at most 0.99."),
        ("alpha=-0.1", "alpha is -0.1; it must be at least 0."),
        ("early_stop=robust", "early_stop is 'robust'; known: none, clean, adversarial."),
        ("held_out=0", "held_out is 0; it must be above 0."),
        ("held_out=1", "held_out is 1; it must be at most 0.9."),
        ("patience=-1", "patience is -1; it must be at least 0."),
        ("patience=1.5", "patience is 1.5; give a whole number."),
    ],
)
def test_defences_out_of_range(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("digits", [f"sources.robust.{text}"])
    assert message in str(caught.value)
