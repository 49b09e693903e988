"""Faster arithmetic changes no result: folded, Winograd and bf16 against the plain model, judged by what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featuregen.attacks.pgd import pgd
from featuregen.compute import winograd
from featuregen.compute.folding import folded_copy
from featuregen.compute.optimize import Ball, frozen_eval, move_pixels, quantize, step_sizes, to_unit_range
from featuregen.config.schema import PGD, Model, Synthesis, Training
from featuregen.data.base_dataset import BaseDataset, ImageSplit
from featuregen.evaluation.accuracy import predict
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier
from featuregen.runtime.device import ComputeSpec
from featuregen.synthesis.generate import class_loss, feature_distance, make_plan, synthesize
from featuregen.training.loop import train, train_many

CPU = torch.device("cpu")
FOLDED = ComputeSpec()
WINOGRAD = ComputeSpec(convolution="winograd")
BF16 = ComputeSpec(precision="bf16")
needs_compiler = pytest.mark.skipif(not winograd.available(), reason="no C compiler")
FP32 = [pytest.param(FOLDED, id="folded"), pytest.param(WINOGRAD, id="winograd", marks=needs_compiler)]

ROWS = 320
STANDARD = Training(epochs=4, batch_size=128, lr=0.1)
ROBUST = Training(epochs=4, batch_size=128, lr=0.1, attack=PGD(eps=1.0, steps=3))
FRESH = Training(epochs=12, batch_size=32, lr=0.1)
ATTACKS = [PGD(norm="l2", eps=1.0, steps=10), PGD(norm="linf", eps=0.1, steps=10)]
RECIPES = {
    "paper's steps": Synthesis(steps=40, step_size=0.1, batch_size=ROWS),
    "polyak": Synthesis(steps=20, step_size=1.0, schedule="polyak", momentum=0.9, batch_size=ROWS),
    "classes": Synthesis(
        steps=15, step_size=0.3, schedule="cosine", momentum=0.75, norm="l2", eps=2.0, batch_size=ROWS
    ),
}
Examples = tuple[Tensor, Tensor]


def larger(split: ImageSplit) -> ImageSplit:
    """16 pixels a side, the least that a ResNet-9 takes."""
    return ImageSplit(split.images.repeat(2, axis=1).repeat(2, axis=2), split.labels)


@pytest.fixture(scope="module")
def split(digits: BaseDataset) -> ImageSplit:
    return larger(digits.train)


@pytest.fixture(scope="module")
def unseen(digits: BaseDataset) -> Examples:
    split = larger(digits.test)
    return split.images_tensor(CPU), split.labels_tensor(CPU)


@pytest.fixture(scope="module")
def attacked(split: ImageSplit, unseen: Examples) -> Examples:
    """With images trained on: half a point is to be more than two images."""
    rows = np.arange(121)
    more = split.images_tensor(CPU, rows), torch.from_numpy(split.labels[rows])
    return torch.cat([unseen[0], more[0]]), torch.cat([unseen[1], more[1]])


def learnt(split: ImageSplit, recipe: Training, compute: ComputeSpec = FOLDED) -> Classifier:
    """Wide enough for Winograd's kernels to take six of its eight convolutions."""
    model = build_classifier(Model("resnet9", 16), (1, 16, 16), 10, [0.3], [0.37], seed=0)
    train(model, split.images_tensor(CPU), split.labels_tensor(CPU), recipe, seed=0, compute=compute)
    return model


@pytest.fixture(scope="module")
def wide_standard(split: ImageSplit) -> Classifier:
    return learnt(split, STANDARD)


@pytest.fixture(scope="module")
def wide_robust(split: ImageSplit) -> Classifier:
    return learnt(split, ROBUST)


def fooled(judge: Classifier, net: Classifier, examples: Examples, attack: PGD) -> float:
    """The share, in points, that attacked images of `net` take from the plain model."""
    images, labels = examples
    return 100 * (predict(judge, pgd(net, images, labels, attack)) != labels).float().mean().item()


def kernels(net: Classifier) -> int:
    return sum(isinstance(layer, winograd.WinogradConv) for layer in net.modules())


@needs_compiler
def test_the_kernels_compared_here_are_in_use(wide_standard: Classifier) -> None:
    assert [kernels(folded_copy(wide_standard, compute)) for compute in (FOLDED, WINOGRAD)] == [0, 6]


@pytest.mark.parametrize("compute", FP32)
def test_batch_norms_are_folded_here(wide_standard: Classifier, wide_robust: Classifier, compute: ComputeSpec) -> None:
    """A fold that went wrong would be refused, and nothing but the plain net be compared with itself."""
    for model in (wide_standard, wide_robust):
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded_copy(model, compute).modules())


def test_bf16_is_what_it_says(standard: Classifier, images: Tensor) -> None:
    folded, plain = folded_copy(standard, BF16), standard.features(images[:8]).detach()
    found = folded.features(images[:8])
    assert found.dtype == torch.bfloat16 and {each.dtype for each in folded.net.parameters()} == {torch.bfloat16}
    # Rounded results alone would be within 2^-9 of the plain ones; here every layer has rounded.
    assert 2**-9 < float((found.float() - plain).norm() / plain.norm()) < 0.1


@pytest.fixture(scope="module")
def plainly_fooled(wide_standard: Classifier, attacked: Examples) -> dict[PGD, float]:
    return {attack: fooled(wide_standard, wide_standard, attacked, attack) for attack in ATTACKS}


@pytest.mark.parametrize("attack", ATTACKS, ids=["l2", "linf"])
@pytest.mark.parametrize("compute", FP32)
def test_attacks_are_as_strong(
    wide_standard: Classifier, attacked: Examples, plainly_fooled: dict[PGD, float], compute: ComputeSpec, attack: PGD
) -> None:
    assert len(attacked[1]) >= 400 and 10 < plainly_fooled[attack] < 90
    lost = fooled(wide_standard, folded_copy(wide_standard, compute), attacked, attack)
    assert abs(lost - plainly_fooled[attack]) <= 0.5


# Emulated bf16 is slow, hence the small net, but on all 1797 digits: roundings move images both ways across the
# boundary, and on the 359 test images alone two of them more or less are already beyond half a point.
@pytest.mark.parametrize(
    "attack", [PGD(norm="l2", eps=0.4, steps=20), PGD(norm="linf", eps=0.1, steps=20)], ids=["l2", "linf"]
)
def test_attacks_in_bf16_are_as_strong(standard: Classifier, digits: BaseDataset, attack: PGD) -> None:
    parts = (digits.test, digits.train)
    examples = (
        torch.cat([part.images_tensor(CPU) for part in parts]),
        torch.cat([part.labels_tensor(CPU) for part in parts]),
    )
    plain = fooled(standard, standard, examples, attack)
    assert 10 < plain < 90
    assert abs(fooled(standard, folded_copy(standard, BF16), examples, attack) - plain) <= 0.5


def made_plainly(kind: str, recipe: Synthesis, model: Classifier, split: ImageSplit, rows: int) -> Tensor:
    """A set as stored, from the model as it is."""
    plan = make_plan(kind, split.labels, np.arange(rows), 10, seed=0)
    base, start = split.images_tensor(CPU, plan.index), split.images_tensor(CPU, plan.start_index)
    with frozen_eval(model):
        with torch.no_grad():
            aim = model.features(base)
        towards = class_loss(model, torch.from_numpy(plan.labels)) if kind == "det" else feature_distance(model, aim)
        ball = Ball("l2", recipe.eps, base) if kind == "det" else None
        sizes = step_sizes(recipe.step_size, recipe.steps, recipe.schedule)
        moved = move_pixels(
            start, towards, sizes=sizes, ball=ball, momentum=recipe.momentum, polyak=recipe.schedule == "polyak"
        )
    return quantize(moved, "uint8", ball)


def made(kind: str, recipe: Synthesis, model: Classifier, split: ImageSplit, rows: int, compute: ComputeSpec) -> Tensor:
    plan = make_plan(kind, split.labels, np.arange(rows), 10, seed=0)
    batches = [each["images"] for each in synthesize(kind, recipe, model, split, plan, seed=0, compute=compute)]
    return torch.from_numpy(np.concatenate(batches))


@torch.no_grad()
def distance(model: Classifier, split: ImageSplit, stored: Tensor) -> float:
    """The mean relative feature distance from the base images, as the plain model sees it."""
    aim = model.features(split.images_tensor(CPU, np.arange(len(stored))))
    away: Tensor = (model.features(to_unit_range(stored)) - aim).norm(dim=1) / aim.norm(dim=1)
    return away.mean().item()


@pytest.fixture(scope="module")
def plain_sets(wide_robust: Classifier, wide_standard: Classifier, split: ImageSplit) -> dict[str, Tensor]:
    return {
        name: made_plainly("det", recipe, wide_standard, split, ROWS)
        if name == "classes"
        else made_plainly("robust", recipe, wide_robust, split, ROWS)
        for name, recipe in RECIPES.items()
    }


def taught(stored: Tensor, labels: Tensor, unseen: Examples) -> list[float]:
    """Accuracies, in points, of three models trained on nothing else."""
    images, true = unseen
    shape = (images.shape[1], images.shape[2], images.shape[3])
    models = [build_classifier(Model("convnet", 8), shape, 10, [0.3], [0.37], seed) for seed in range(3)]
    train_many(models, to_unit_range(stored), labels, FRESH, seeds=range(3))
    return [100 * (predict(model, images) == true).float().mean().item() for model in models]


def labels_of(name: str, split: ImageSplit) -> Tensor:
    kind = "det" if name == "classes" else "robust"
    return torch.from_numpy(make_plan(kind, split.labels, np.arange(ROWS), 10, seed=0).labels)


@pytest.fixture(scope="module")
def plainly_taught(plain_sets: dict[str, Tensor], split: ImageSplit, unseen: Examples) -> dict[str, list[float]]:
    return {name: taught(stored, labels_of(name, split), unseen) for name, stored in plain_sets.items()}


def within_spread(found: list[float], plain: list[float]) -> bool:
    # One test image more or less is no difference.
    return min(plain) - 0.3 <= sum(found) / len(found) <= max(plain) + 0.3


def test_a_set_that_teaches_less_is_noticed(
    plain_sets: dict[str, Tensor], plainly_taught: dict[str, list[float]], split: ImageSplit, unseen: Examples
) -> None:
    stored, labels = plain_sets["polyak"], torch.from_numpy(split.labels[:ROWS])
    blurred = stored.float().mean((2, 3), keepdim=True).expand_as(stored) * 0.3 + stored * 0.7
    plain = plainly_taught["polyak"]
    assert within_spread(plain, plain)
    assert not within_spread(taught(blurred.to(torch.uint8), labels, unseen), plain)


# Each way of computing meets features and classes; both schedules of features with both would take ten seconds more.
@pytest.mark.parametrize(
    ("name", "compute"),
    [
        pytest.param("paper's steps", FOLDED, id="paper's steps-folded"),
        pytest.param("polyak", WINOGRAD, id="polyak-winograd", marks=needs_compiler),
        pytest.param("classes", FOLDED, id="classes-folded"),
        pytest.param("classes", WINOGRAD, id="classes-winograd", marks=needs_compiler),
    ],
)
def test_sets_teach_the_same(
    name: str,
    compute: ComputeSpec,
    plain_sets: dict[str, Tensor],
    plainly_taught: dict[str, list[float]],
    wide_robust: Classifier,
    wide_standard: Classifier,
    split: ImageSplit,
    unseen: Examples,
) -> None:
    kind, maker = ("det", wide_standard) if name == "classes" else ("robust", wide_robust)
    stored, plain = made(kind, RECIPES[name], maker, split, ROWS, compute), plain_sets[name]
    labels = labels_of(name, split)
    if kind == "det":
        success = [
            100 * (predict(maker, to_unit_range(each)) == labels).float().mean().item() for each in (stored, plain)
        ]
        assert success[1] > 60 and abs(success[0] - success[1]) <= 0.5
    else:
        away = [distance(maker, split, each) for each in (stored, plain)]
        assert 0 < away[1] < 0.5 and abs(away[0] / away[1] - 1) <= 0.02
    assert within_spread(taught(stored, labels, unseen), plainly_taught[name])


@pytest.mark.parametrize("name", ["paper's steps", "polyak"])
def test_sets_in_bf16_teach_the_same(
    name: str, robust: Classifier, digits: BaseDataset, images: Tensor, labels: Tensor
) -> None:
    own, recipe = torch.from_numpy(digits.train.labels[:ROWS]), RECIPES[name]
    plain = made_plainly("robust", recipe, robust, digits.train, ROWS)
    stored = made("robust", recipe, robust, digits.train, ROWS, BF16)
    away = [distance(robust, digits.train, each) for each in (stored, plain)]
    assert 0 < away[1] < 0.5 and abs(away[0] / away[1] - 1) <= 0.02
    assert within_spread(taught(stored, own, (images, labels)), taught(plain, own, (images, labels)))


def test_success_in_bf16_is_the_same(standard: Classifier, digits: BaseDataset, images: Tensor, labels: Tensor) -> None:
    """On all 1438 rows, of which half a point is seven; of 320 it would be one, and two change sides by rounding."""
    split, rows = digits.train, len(digits.train)
    wanted = torch.from_numpy(make_plan("det", split.labels, np.arange(rows), 10, seed=0).labels)
    recipe = replace(RECIPES["classes"], eps=0.75, step_size=0.15, batch_size=rows)
    plain, stored = made_plainly("det", recipe, standard, split, rows), made("det", recipe, standard, split, rows, BF16)
    success = [
        100 * (predict(standard, to_unit_range(each)) == wanted).float().mean().item() for each in (stored, plain)
    ]
    assert 10 < success[1] < 90 and abs(success[0] - success[1]) <= 0.5
    found, plainly = (taught(each[:ROWS], wanted[:ROWS], (images, labels)) for each in (stored, plain))
    assert within_spread(found, plainly)


@needs_compiler
def test_models_trained_against_attacks_of_the_stand_in_are_as_robust(
    digits: BaseDataset, images: Tensor, labels: Tensor
) -> None:
    recipe = Training(epochs=3, batch_size=64, lr=0.1, attack=PGD(eps=0.75, steps=2))
    held: dict[ComputeSpec, list[float]] = {}
    for compute in (FOLDED, WINOGRAD):
        for seed in range(3):
            model = build_classifier(Model("convnet", 16), (1, 8, 8), 10, [0.3], [0.37], seed)
            assert kernels(folded_copy(model.eval(), compute)) == (compute == WINOGRAD)
            train(
                model,
                digits.train.images_tensor(CPU),
                digits.train.labels_tensor(CPU),
                recipe,
                seed=seed,
                compute=compute,
            )
            lost = fooled(model, model, (images, labels), replace(ATTACKS[0], eps=0.5))
            held.setdefault(compute, []).append(100 - lost)
    assert min(held[FOLDED]) > 50 and within_spread(held[WINOGRAD], held[FOLDED])
