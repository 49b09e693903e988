"""Fewer steps: momentum, Polyak step sizes, and the captured CUDA graph of a step."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.compute.optimize import Ball, capture_cuda_graph, frozen_eval, move_pixels, polyak_length, step_sizes
from featuregen.config.loader import load_config
from featuregen.config.recipes import RECIPES, recipe_values
from featuregen.config.schema import Norm, Synthesis
from featuregen.models.classifier import Classifier
from featuregen.synthesis.generate import feature_distance


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def towards(goal: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x - goal).square().flatten(1).sum(1)


def bent(x: Tensor) -> Tensor:
    """An objective whose gradient turns from step to step."""
    return (torch.sin(7 * x) * x.cumsum(-1)).flatten(1).sum(1)


def wavy(x: Tensor) -> Tensor:
    """A squared distance whose gradient turns too, and that no image brings to zero."""
    return (torch.sin(7 * x) * x.cumsum(-1) - 1.5).square().flatten(1).sum(1)


def plain_walk(x: Tensor, norm: Norm, eps: float, size: float, momentum: float, polyak: bool = False) -> Tensor:
    """Twelve steps of one image, written without the code under test."""
    here, before = x.clone(), x.clone()
    for _ in range(12):
        pixels = here.clone().requires_grad_(True)
        value = (wavy if polyak else bent)(pixels).sum()
        (gradient,) = torch.autograd.grad(value, pixels)
        steep = float(gradient.pow(2).sum().sqrt())
        move = gradient.sign() if norm == "linf" else gradient / steep
        reach = min(size, (1 - momentum) * 2 * value.item() / steep) if polyak else size
        offset = here - reach * move + momentum * (here - before) - x
        length = float(offset.pow(2).sum().sqrt())
        offset = offset.clamp(-eps, eps) if norm == "linf" else offset * min(1.0, eps / length)
        before, here = here, (x + offset).clamp(0, 1)
    return here


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("norm", "eps", "size"), [("l2", 0.4, 0.1), ("linf", 0.1, 0.03)])
def test_momentum_equals_a_plain_loop(norm: Norm, eps: float, size: float, momentum: float) -> None:
    x = rand(5, 1, 4, 4)
    moved = move_pixels(x, bent, sizes=[size] * 12, norm=norm, ball=Ball(norm, eps, x), momentum=momentum)
    expected = torch.cat([plain_walk(each[None], norm, eps, size, momentum) for each in x])
    assert (moved - expected).abs().max() < 1e-12
    assert moved.min() >= 0 and moved.max() <= 1 and (moved - x).abs().max() > 0.01


@pytest.mark.parametrize(("momentum", "size"), [(0.0, 0.4), (0.9, 0.05)])
@pytest.mark.parametrize("eps", [0.6, 9.0])
def test_polyak_equals_a_plain_loop(eps: float, momentum: float, size: float) -> None:
    x = rand(5, 1, 4, 4)
    moved, constant, unlimited = (
        move_pixels(x, wavy, sizes=[limit] * 12, ball=Ball("l2", eps, x), momentum=momentum, polyak=polyak)
        for limit, polyak in ((size, True), (size, False), (99.0, True))
    )
    expected = torch.cat([plain_walk(each[None], "l2", eps, size, momentum, polyak=True) for each in x])
    assert (moved - expected).abs().max() < 1e-12
    # The limit held some steps back, and Polyak's own length others.
    assert (moved - constant).abs().max() > 0.01 and (moved - unlimited).abs().max() > 0.01


def test_momentum_goes_further() -> None:
    goal, start = torch.full((1, 1, 4, 4), 0.9), torch.full((1, 1, 4, 4), 0.1)
    near, far = (
        (move_pixels(start, towards(goal), sizes=[0.1] * 10, momentum=momentum) - start).norm()
        for momentum in (0.0, 0.5)
    )
    assert near == pytest.approx(1.0, rel=1e-5) and far > 1.5


def test_where_a_cone_is_a_cone_one_polyak_step_is_enough() -> None:
    """Every image its own way, no further than its limit, and who is there stays there."""
    start, goal = 0.3 + 0.4 * rand(6, 1, 4, 4), 0.3 + 0.4 * rand(6, 1, 4, 4, seed=1)
    goal[0] = start[0]
    far = (goal - start).flatten(1).norm(dim=1)
    # Of a squared distance, Polyak's length on the distance itself: 2 d^2 / |2 d| = d.
    assert torch.allclose(polyak_length(far**2, 2 * (start - goal)).flatten()[1:], far[1:])
    there = move_pixels(start, towards(goal), sizes=[9.0], polyak=True)
    assert torch.allclose(there, goal) and torch.equal(there[0], start[0])
    often = move_pixels(start, towards(goal), sizes=[1.0] * 9, momentum=0.9, polyak=True)
    assert torch.equal(often[0], start[0]) and torch.isfinite(often).all() and not torch.equal(often, start)
    limited = move_pixels(start, towards(goal), sizes=[float(far.median())], polyak=True)
    assert torch.allclose((limited - start).flatten(1).norm(dim=1), far.clamp_max(float(far.median())))


def test_polyak_steps_do_not_depend_on_the_batch() -> None:
    start, goal = rand(4, 1, 4, 4), rand(4, 1, 4, 4, seed=1)

    def walk(rows: slice) -> Tensor:
        objective = lambda x: (torch.sin(5 * x) - torch.sin(5 * goal[rows])).square().flatten(1).sum(1)  # noqa: E731
        return move_pixels(start[rows], objective, sizes=[0.3] * 8, momentum=0.8, polyak=True)

    together = walk(slice(None))
    assert torch.allclose(together, torch.cat([walk(slice(i, i + 1)) for i in range(4)]), atol=1e-12)
    assert (together - start).abs().max() > 0.1


def test_polyak_leads_nowhere_but_down() -> None:
    with pytest.raises(ValueError, match="cannot be used with ascend"):
        move_pixels(rand(1, 1, 2, 2), bent, sizes=[0.1], polyak=True, ascend=True)


def away(model: Classifier, images: Tensor, recipe: Synthesis) -> float:
    """How far 64 images stay from the features of others, as a share of these."""
    with frozen_eval(model), torch.no_grad():
        aim = model.features(images[:64])
        moved = move_pixels(
            images[64:128],
            feature_distance(model, aim),
            sizes=step_sizes(recipe.step_size, recipe.steps, recipe.schedule),
            momentum=recipe.momentum,
            polyak=recipe.schedule == "polyak",
        )
        return float(((model.features(moved) - aim).norm(dim=1) / aim.norm(dim=1)).mean())


def test_sixty_steps_come_as_near_as_a_thousand(robust: Classifier, images: Tensor) -> None:
    paper, fast = (
        away(robust, images, load_config("digits", values=recipe_values(name, "robust")).synthesis["robust"])
        for name in ("paper", "fast")
    )
    assert fast < 1.1 * paper < 0.3


def test_sixty_steps_come_nearer_than_sixty_of_any_one_length(robust: Classifier, images: Tensor) -> None:
    """Nor would Polyak's lengths alone do, without momentum."""
    fast = load_config("digits", values=recipe_values("fast", "robust")).synthesis["robust"]
    constant = [away(robust, images, Synthesis(steps=fast.steps, step_size=size)) for size in (0.1, 0.15, 0.2, 0.3)]
    reached = away(robust, images, fast)
    assert reached < 0.6 * min(constant) and max(constant) < 0.1
    assert reached < 0.8 * away(robust, images, dataclasses.replace(fast, momentum=0.0))


def test_thirty_steps_fool_as_many_as_a_hundred(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    wanted, share = (labels + 1) % 10, {}
    with frozen_eval(standard):
        for name in RECIPES:
            recipe = load_config("digits", values=recipe_values(name, "det")).synthesis["det"]
            moved = move_pixels(
                images,
                lambda x: F.cross_entropy(standard.logits(x), wanted, reduction="none"),
                sizes=step_sizes(recipe.step_size, recipe.steps, recipe.schedule),
                ball=Ball("l2", 0.75, images),
                momentum=recipe.momentum,
            )
            with torch.no_grad():
                share[name] = (standard(moved).argmax(1) == wanted).float().mean().item()
    assert 0.2 < share["paper"] < 0.95 and share["fast"] > share["paper"] - 0.01


# The captured step ------------------------------------------------------------------------------


class Graph:
    def __init__(self) -> None:
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1


def test_what_is_captured_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Graph] = []
    steps: list[int] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(Graph()) or graphs[-1])  # type: ignore[func-returns-value]
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())
    advance = capture_cuda_graph(lambda: steps.append(1))
    advance()
    advance()
    assert len(steps) == 1 and graphs[0].replayed == 2


def test_where_nothing_can_be_captured_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def refusing(graph: object) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", refusing)
    steps: list[int] = []
    capture_cuda_graph(lambda: steps.append(1))()
    assert len(steps) == 1 and "steps run without a CUDA graph" in capsys.readouterr().err
