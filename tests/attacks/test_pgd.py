"""Attacks: what they promise, and their strength against Foolbox and torchattacks on the same trained nets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torchattacks
from foolbox.attacks.projected_gradient_descent import (
    L2ProjectedGradientDescentAttack,
    LinfProjectedGradientDescentAttack,
)
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.pgd import pgd, random_in_ball
from featuregen.compute.optimize import Ball, steepest
from featuregen.config.schema import PGD, Norm
from featuregen.evaluation.accuracy import predict
from featuregen.models.classifier import Classifier

NORMS: tuple[Norm, ...] = ("l2", "linf")
Nets = dict[str, Classifier]


@pytest.fixture
def nets(standard: Classifier, robust: Classifier) -> Nets:
    return {"standard": standard, "robust": robust}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    return (predict(model, images) == labels).float().mean().item()


@torch.no_grad()
def losses(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), labels, reduction="none")


def reach(norm: Norm, offset: Tensor) -> Tensor:
    return offset.flatten(1).abs().amax(1) if norm == "linf" else offset.flatten(1).norm(dim=1)


# What every attack promises -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "at_most"),
    [
        (PGD("l2", 0.5, steps=1), 0.60),
        (PGD("l2", 0.5, steps=10), 0.40),
        (PGD("l2", 0.5, steps=10, step_size=0.05), 0.45),
        (PGD("l2", 0.5, steps=10, random_start=True), 0.40),
        (PGD("l2", 0.5, steps=5, restarts=3), 0.40),
        (PGD("l2", 2.0, steps=10), 0.01),
        (PGD("linf", 0.1, steps=1), 0.50),
        (PGD("linf", 0.1, steps=10), 0.30),
        (PGD("linf", 0.1, steps=10, random_start=True), 0.30),
        (PGD("linf", 0.1, steps=5, restarts=3, random_start=True), 0.30),
    ],
)
def test_attack(standard: Classifier, images: Tensor, labels: Tensor, attack: PGD, at_most: float) -> None:
    before, weights = images.clone(), copy.deepcopy(standard.state_dict())
    gradients = [None if parameter.grad is None else parameter.grad.clone() for parameter in standard.parameters()]
    found = pgd(standard, images, labels, attack, generator=seeded())
    assert found.shape == images.shape and found.dtype == torch.float32 and not found.requires_grad
    assert found.min() >= 0 and found.max() <= 1
    assert (reach(attack.norm, found - images) <= attack.eps * (1 + 1e-5)).all()
    assert accuracy(standard, images, labels) > 0.95
    assert accuracy(standard, found, labels) <= at_most
    assert torch.equal(found, pgd(standard, images, labels, attack, generator=seeded()))
    assert torch.equal(images, before)
    assert all(torch.equal(value, weights[name]) for name, value in standard.state_dict().items())
    for parameter, gradient in zip(standard.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert (parameter.grad is None) == (gradient is None)
        assert parameter.grad is None or gradient is None or torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("step_size", [0.0, 0.1])
def test_one_step_is_fgsm(standard: Classifier, images: Tensor, labels: Tensor, norm: Norm, step_size: float) -> None:
    x, y = images[:64], labels[:64]
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(standard(leaf), y, reduction="sum"), leaf)
    plain = gradient.sign() if norm == "linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    found = pgd(standard, x, y, PGD(norm, 0.1, steps=1, step_size=step_size))
    assert (found - (x + 0.1 * plain).clamp(0, 1)).abs().max() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_returns_a_copy(standard: Classifier, images: Tensor, labels: Tensor, norm: Norm) -> None:
    found = pgd(standard, images, labels, PGD(norm, 0.0, random_start=True, restarts=2), generator=seeded())
    assert torch.equal(found, images) and found.data_ptr() != images.data_ptr()


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.25), ("linf", 0.25)])
def test_targets_are_reached(standard: Classifier, images: Tensor, labels: Tensor, norm: Norm, eps: float) -> None:
    targets = (labels + 1) % 10
    attack = PGD(norm, eps, steps=20)
    aimed = pgd(standard, images, labels, attack, targets=targets)
    free = pgd(standard, images, labels, attack)
    assert accuracy(standard, images, targets) < 0.05
    assert accuracy(standard, aimed, targets) > 0.85
    assert accuracy(standard, free, targets) < 0.5
    assert (losses(standard, aimed, targets) < losses(standard, images, targets)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_only_add_strength(
    standard: Classifier, images: Tensor, labels: Tensor, norm: Norm, targeted: bool
) -> None:
    eps = 0.5 if norm == "l2" else 0.1
    goal = (labels + 1) % 10 if targeted else labels
    lost, gains = [], []
    for restarts in (1, 2, 5):
        attack = PGD(norm, eps, steps=3, restarts=restarts)
        found = pgd(standard, images, labels, attack, targets=goal if targeted else None, generator=seeded())
        lost.append((predict(standard, found) == goal) == targeted)
        gains.append(losses(standard, found, goal) * (-1 if targeted else 1))
    # The same generator draws the same starts first, so each row's attempts contain those of the row before.
    for few, many in pairwise(range(3)):
        assert (lost[many] >= lost[few]).all()
        # What is lost counts before any loss: an attempt of less may have moved an image over the decision.
        assert ((gains[many] >= gains[few] - 1e-5) | (lost[many] & ~lost[few])).all()
    assert lost[2].sum() > lost[0].sum() and (gains[2] > gains[0] + 1e-4).float().mean() > 0.2


def test_random_starts_are_drawn_by_the_generator(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    attack = PGD("l2", 0.5, steps=2, random_start=True)
    first, again, other = (pgd(standard, images, labels, attack, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_model_in_training_is_attacked_in_eval_mode(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    attack = PGD("l2", 0.5, steps=3)
    model = copy.deepcopy(standard).train()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    found = pgd(model, images[:64], labels[:64], attack)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    assert torch.equal(found, pgd(standard, images[:64], labels[:64], attack))


@pytest.mark.parametrize("norm", NORMS)
def test_images_of_a_batch_do_not_touch_each_other(
    standard: Classifier, images: Tensor, labels: Tensor, norm: Norm
) -> None:
    # In float64, since the sign of a gradient near zero turns with float32's last bit.
    model = copy.deepcopy(standard).double()
    x, y = images[:8].double(), labels[:8]
    attack = PGD(norm, 0.1 if norm == "linf" else 0.5, steps=5)
    together = pgd(model, x, y, attack)
    for row in range(len(x)):
        alone = pgd(model, x[row : row + 1], y[row : row + 1], attack)
        assert (together[row] - alone[0]).abs().max() < 1e-9
    others = y.clone()
    others[1:] = (others[1:] + 3) % 10
    assert torch.equal(pgd(model, x, others, attack)[0], together[0])


# Random points ------------------------------------------------------------------------------------


def test_random_points_fill_the_l2_ball_evenly() -> None:
    centre = torch.full((3000, 1, 2, 2), 0.5)
    offset = random_in_ball(Ball("l2", 0.4, centre), seeded()) - centre
    radius = reach("l2", offset) / 0.4
    assert radius.max() <= 1 + 1e-6
    # In four dimensions the share of the volume within r is r ** 4.
    share = radius.pow(4).sort().values
    assert (share - torch.linspace(0, 1, 3000)).abs().max() < 0.03
    assert steepest(offset, "l2").mean(0).abs().max() < 0.03


def test_random_points_fill_the_linf_ball_evenly() -> None:
    centre = torch.full((3000, 1, 2, 2), 0.5)
    offset = (random_in_ball(Ball("linf", 0.4, centre), seeded()) - centre).flatten() / 0.4
    assert offset.abs().max() <= 1 + 1e-6
    assert (offset.sort().values - torch.linspace(-1, 1, len(offset))).abs().max() < 0.03


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_are_images_and_differ(images: Tensor, norm: Norm) -> None:
    ball = Ball(norm, 0.5, images)
    first, again, other = (random_in_ball(ball, seeded(seed)) for seed in (1, 1, 2))
    assert first.min() >= 0 and first.max() <= 1
    assert (reach(norm, first - images) <= 0.5 + 1e-6).all()
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(torch.unique(first - images, dim=0)) == len(images)


# Strength -----------------------------------------------------------------------------------------

STEPS = 10
# Radii at which accuracy is neither 0 nor 1, so that a weaker attack would show.
RADII = {("standard", "l2"): 0.4, ("standard", "linf"): 0.08, ("robust", "l2"): 0.75, ("robust", "linf"): 0.15}


def by_foolbox(model: Classifier, images: Tensor, labels: Tensor, norm: Norm, eps: float, size: float) -> Tensor:
    kind = L2ProjectedGradientDescentAttack if norm == "l2" else LinfProjectedGradientDescentAttack
    net = PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, clipped, _ = kind(steps=STEPS, abs_stepsize=size, random_start=False)(net, images, labels, epsilons=eps)
    found: Tensor = clipped
    return found


def by_torchattacks(model: Classifier, images: Tensor, labels: Tensor, norm: Norm, eps: float, size: float) -> Tensor:
    kind = torchattacks.PGDL2 if norm == "l2" else torchattacks.PGD
    found: Tensor = kind(model, eps=eps, alpha=size, steps=STEPS, random_start=False)(images, labels)
    return found


Peer = Callable[[Classifier, Tensor, Tensor, Norm, float, float], Tensor]


@pytest.mark.parametrize("peer", [by_foolbox, by_torchattacks])
@pytest.mark.parametrize(("net", "norm"), RADII)
def test_as_strong_as_peers(nets: Nets, images: Tensor, labels: Tensor, net: str, norm: Norm, peer: Peer) -> None:
    """Within a point, which on 359 images is three of them."""
    model, eps = nets[net], RADII[net, norm]
    size = 2.5 * eps / STEPS
    ours = accuracy(model, pgd(model, images, labels, PGD(norm, eps, STEPS, size)), labels)
    found = peer(model, images, labels, norm, eps, size)
    assert (reach(norm, found - images) <= eps * (1 + 1e-5)).all()
    assert 0.05 < ours < 0.8
    assert abs(ours - accuracy(model, found, labels)) <= 0.01


@pytest.mark.parametrize(("net", "norm"), RADII)
def test_ten_times_the_default_steps_find_little_more(
    nets: Nets, images: Tensor, labels: Tensor, net: str, norm: Norm
) -> None:
    """On every second image, to save time: two points of 180 images are three of them."""
    model, attack = nets[net], PGD(norm, RADII[net, norm])
    x, y = images[::2], labels[::2]
    held = predict(model, pgd(model, x, y, attack)) == y
    # Only images that held are tried again, which can but favour the longer attack.
    longer = pgd(model, x[held], y[held], replace(attack, steps=10 * attack.steps))
    lost = int((predict(model, longer) != y[held]).sum())
    assert lost / len(x) <= 0.02
