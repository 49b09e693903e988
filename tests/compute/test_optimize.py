"""The loop that moves pixels, against `robustness`' step rules, a plain reference loop and paths known in advance."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from robustness.attack_steps import L2Step, LinfStep, UnconstrainedStep
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.compute.optimize import (
    Ball,
    Schedule,
    frozen_eval,
    image_norms,
    move_pixels,
    project,
    steepest,
    step_sizes,
)
from featuregen.config.schema import Norm
from featuregen.models.classifier import Classifier

RULES = {"l2": L2Step, "linf": LinfStep}
NORMS: tuple[Norm, ...] = ("l2", "linf")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def size_in(norm: Norm, offset: Tensor) -> Tensor:
    return offset.flatten(1).abs().amax(1) if norm == "linf" else offset.flatten(1).norm(dim=1)


# Step rules and projection ------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
def test_a_step_is_that_of_robustness(norm: Norm, scale: float) -> None:
    x, gradient = rand(16, 3, 8, 8), randn(16, 3, 8, 8, seed=1) * scale
    ours = x + 0.1 * steepest(gradient, norm)
    theirs = RULES[norm](x, 0.5, 0.1).step(x, gradient)
    assert (ours - theirs).abs().max() < 1e-6
    assert torch.allclose(size_in(norm, steepest(gradient, norm)), torch.ones(16), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-14, 1e-25, 1e-36])
def test_a_step_is_as_long_where_a_gradient_is_faint(scale: float) -> None:
    gradient = randn(16, 3, 8, 8)
    assert torch.allclose(steepest(gradient * scale, "l2"), steepest(gradient, "l2"), atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.03, 0.5, 5.0])
@pytest.mark.parametrize("spread", [0.01, 0.1, 3.0])
def test_projection_is_that_of_robustness(norm: Norm, eps: float, spread: float) -> None:
    centre = rand(16, 3, 8, 8)
    x = centre + spread * randn(16, 3, 8, 8, seed=1)
    ours = project(x, Ball(norm, eps, centre))
    assert (ours - RULES[norm](centre, eps, 0.1).project(x)).abs().max() < 1e-6


def test_free_images_are_clamped_as_in_robustness() -> None:
    x = 3 * randn(16, 3, 8, 8)
    assert torch.equal(project(x, None), x.clamp(0, 1))
    # Their rule clamps when it makes an image of its variable, not when it projects.
    assert torch.equal(project(x, None), UnconstrainedStep(x, 1.0, 0.1).to_image(x).clamp(0, 1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.3, 1.0, 20.0])
def test_projection_ends_inside_ball_and_box_and_is_final(norm: Norm, eps: float) -> None:
    centre = torch.cat([rand(8, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)])
    ball = Ball(norm, eps, centre)
    inside = project(centre + randn(10, 1, 8, 8, seed=2), ball)
    assert (size_in(norm, inside - centre) <= eps * (1 + 1e-6) + 2e-7).all()
    assert inside.min() >= 0 and inside.max() <= 1
    assert torch.allclose(project(inside, ball), inside, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_points_already_inside_stay(norm: Norm) -> None:
    centre = 0.25 + 0.5 * rand(8, 1, 8, 8)
    x = centre + 0.01 * steepest(randn(8, 1, 8, 8, seed=3), norm)
    assert torch.allclose(project(x, Ball(norm, 0.02, centre)), x, atol=1e-7)


# The loop -----------------------------------------------------------------------------------------


def plain_loop(model: nn.Module, x: Tensor, label: Tensor, norm: Norm, eps: float, size: float) -> Tensor:
    """Ten steps for one image, written without any of the code under test."""
    z = x.clone()
    for _ in range(10):
        z = z.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(z), label), z)
        move = gradient.sign() if norm == "linf" else gradient / gradient.pow(2).sum().sqrt()
        offset = z.detach() + size * move - x
        length = float(offset.pow(2).sum().sqrt())
        offset = offset.clamp(-eps, eps) if norm == "linf" else offset * min(1.0, eps / length)
        z = (x + offset).clamp(0, 1)
    return z


@pytest.mark.parametrize(("norm", "eps", "size"), [("l2", 0.5, 0.1), ("linf", 0.1, 0.03), ("l2", 9.0, 0.2)])
def test_ten_steps_equal_a_plain_loop(
    standard: Classifier, images: Tensor, labels: Tensor, norm: Norm, eps: float, size: float
) -> None:
    model = copy.deepcopy(standard).double()
    x, y = images[:6].double(), labels[:6]
    with frozen_eval(model):
        moved = move_pixels(
            x,
            lambda z: F.cross_entropy(model(z), y, reduction="none"),
            sizes=[size] * 10,
            norm=norm,
            ball=Ball(norm, eps, x),
            ascend=True,
        )
    expected = torch.cat([plain_loop(model, x[i : i + 1], y[i : i + 1], norm, eps, size) for i in range(6)])
    assert moved.dtype == torch.float64
    assert (moved - expected).abs().max() < 1e-9
    assert (moved - x).abs().max() > 0.01


@pytest.mark.parametrize("ascend", [False, True])
def test_every_step_covers_its_own_length_along_a_straight_path(ascend: bool) -> None:
    goal = torch.full((4, 1, 4, 4), 0.5, dtype=torch.float64)
    direction = steepest(randn(4, 1, 4, 4).double(), "l2")
    start = goal + 0.3 * direction
    sizes = [0.1, 0.05, 0.02]
    moved = move_pixels(start, lambda z: (z - goal).square().sum((1, 2, 3)), sizes=sizes, ascend=ascend)
    expected = goal + (0.3 + (sum(sizes) if ascend else -sum(sizes))) * direction
    assert torch.allclose(moved, expected, atol=1e-12)


def test_the_scale_of_an_objective_does_not_change_the_path() -> None:
    goal, start = rand(3, 1, 6, 6), rand(3, 1, 6, 6, seed=1)

    def path(scale: Tensor) -> Tensor:
        return move_pixels(start, lambda z: scale * (z - goal).square().sum((1, 2, 3)), sizes=[0.1] * 5)

    assert torch.allclose(path(torch.ones(3)), path(torch.tensor([1.0, 1e3, 1e-3])), atol=1e-5)


def test_no_steps_return_the_start_and_nothing_given_is_changed() -> None:
    start, goal = rand(3, 1, 6, 6), torch.zeros(3, 1, 6, 6)
    before = start.clone()
    assert torch.equal(move_pixels(start, lambda z: z.sum((1, 2, 3)), sizes=[]), start)
    moved = move_pixels(start, lambda z: (z - goal).square().sum((1, 2, 3)), sizes=[0.1])
    assert torch.equal(start, before) and not start.requires_grad and not moved.requires_grad
    assert not torch.equal(moved, start)


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_without_gradient_stays_while_others_move(norm: Norm) -> None:
    start, weight = 0.2 + 0.6 * rand(3, 1, 6, 6), torch.tensor([1.0, 0.0, 1.0])
    moved = move_pixels(start, lambda z: weight * z.sum((1, 2, 3)), sizes=[0.05] * 3, norm=norm)
    assert torch.isfinite(moved).all()
    assert torch.equal(moved[1], start[1])
    assert (moved[[0, 2]] != start[[0, 2]]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_at_all_is_no_nan(norm: Norm) -> None:
    zero = torch.zeros(2, 1, 6, 6)
    assert torch.equal(steepest(zero, norm), zero)
    assert torch.equal(project(zero, Ball(norm, 0.0, zero)), zero)
    assert torch.equal(image_norms(zero), torch.zeros(2, 1, 1, 1))


# Momentum and Polyak's lengths (their paths: test_momentum.py) --------------------------------------


def far_off(x: Tensor) -> Tensor:
    """The squared distance from a point no image reaches, so that every walk keeps pressing outwards."""
    return (x - torch.linspace(-1, 2, 16, dtype=x.dtype).view(1, 1, 4, 4)).square().sum((1, 2, 3))


@pytest.mark.parametrize(("norm", "eps", "polyak"), [("l2", 0.4, False), ("linf", 0.1, False), ("l2", 0.4, True)])
def test_no_step_of_a_walk_leaves_ball_or_box(norm: Norm, eps: float, polyak: bool) -> None:
    x = rand(6, 1, 4, 4).double()
    seen: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return far_off(z)

    ball = Ball(norm, eps, x)
    seen.append(move_pixels(x, watched, sizes=[0.07] * 20, norm=norm, ball=ball, momentum=0.95, polyak=polyak))
    assert len(seen) == 21
    reached = torch.stack([size_in(norm, z - x) for z in seen])
    assert reached.max() <= eps + 1e-12 and reached.max() > eps - 1e-3
    assert min(float(z.min()) for z in seen) == 0 and max(float(z.max()) for z in seen) == 1


@pytest.mark.parametrize("polyak", [False, True])
def test_a_momentum_of_nothing_changes_no_bit(polyak: bool) -> None:
    x = rand(6, 1, 4, 4).double()
    plain = move_pixels(x, far_off, sizes=[0.05] * 8, polyak=polyak)
    none, hardly, some = (
        move_pixels(x, far_off, sizes=[0.05] * 8, polyak=polyak, momentum=momentum) for momentum in (0.0, 1e-30, 0.5)
    )
    assert torch.equal(plain, none) and torch.equal(plain, hardly) and not torch.equal(plain, some)


@pytest.mark.parametrize(("steps", "captures"), [(19, 0), (20, 1)])
def test_only_a_long_walk_on_cuda_is_captured_and_only_once(
    steps: int, captures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, sizes, asked = rand(3, 1, 4, 4), step_sizes(0.1, steps, "cosine"), []

    def noted(step: Callable[[], None]) -> Callable[[], None]:
        asked.append(step)
        return step

    monkeypatch.setattr("featuregen.compute.optimize.capture_cuda_graph", noted)
    expected = move_pixels(x, far_off, sizes=sizes, momentum=0.5)
    assert not asked
    monkeypatch.setattr(Tensor, "is_cuda", True)
    assert torch.equal(move_pixels(x, far_off, sizes=sizes, momentum=0.5), expected) and len(asked) == captures


# Schedules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.4, 0.4, 0.4, 0.4]),
        ("linear", [0.4, 0.3, 0.2, 0.1]),
        ("cosine", [0.4, 0.341421356, 0.2, 0.058578644]),
    ],
)
def test_schedules(schedule: Schedule, expected: list[float]) -> None:
    assert step_sizes(0.4, 4, schedule) == pytest.approx(expected)
    assert step_sizes(0.4, 0, schedule) == []
    assert step_sizes(0.4, 1, schedule) == [0.4]
    long = step_sizes(0.4, 1000, schedule)
    assert len(long) == 1000 and min(long) > 0
    assert all(later <= earlier for earlier, later in pairwise(long))


# Models are left as they were ---------------------------------------------------------------------


def mixed_model() -> nn.Sequential:
    """In training mode with one part in eval mode and one parameter frozen."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    model.train()
    model[1].eval()
    model.get_parameter("0.weight").requires_grad_(False)
    return model


def state(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [part.training for part in model.modules()], [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("fails", [False, True])
def test_fixed_gives_back_modes_and_gradients(fails: bool) -> None:
    model = mixed_model()
    before = state(model)
    try:
        with frozen_eval(model) as held:
            assert held is model
            assert not any(part.training for part in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert state(model) == before


def test_fixed_leaves_an_evaluated_model_evaluated() -> None:
    model = mixed_model().eval()
    with frozen_eval(model), frozen_eval(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(part.training for part in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 5


@pytest.mark.parametrize("hold", [False, True])
def test_parameters_receive_no_gradient(hold: bool) -> None:
    model = mixed_model().eval()
    last = model.get_parameter("3.weight")
    kept = torch.full_like(last, 7)
    last.grad = kept.clone()

    def objective(z: Tensor) -> Tensor:
        squares: Tensor = model(z).square().sum(1)
        return squares

    x = rand(4, 1, 6, 6)
    if hold:
        with frozen_eval(model):
            moved = move_pixels(x, objective, sizes=[0.1, 0.1])
    else:
        moved = move_pixels(x, objective, sizes=[0.1, 0.1])
    assert not torch.equal(moved, x)
    assert last.grad is not None and torch.equal(last.grad, kept)
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "3.weight")
