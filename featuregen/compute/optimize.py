"""The one loop that moves pixels: objective, step rule, schedule, constraint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from featuregen.config import Norm
from featuregen.runtime import log

Schedule = Literal["constant", "cosine", "linear", "polyak"]
Objective = Callable[[Tensor], Tensor]

# Keeps a vanishing gradient from becoming 0/0; far below any gradient that still points somewhere.
TINY = 1e-12
# A graph is captured once its libraries have warmed up, and only for a walk long enough to repay that.
_EAGER_STEPS = 3
_WORTH_CAPTURING = 20


@dataclass(frozen=True)
class Ball:
    """All images within `eps` of `centre`, image by image."""

    norm: Norm
    eps: float
    centre: Tensor


def image_norms(x: Tensor) -> Tensor:
    """The L2 norm of every image, shaped to broadcast over it."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return norms


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of unit size in `norm` along which the objective grows fastest."""
    if norm == "linf":
        return gradient.sign()
    # Where a model is very sure, gradients are so small that their squares are zero.
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    lifted = torch.where(largest < TINY, gradient / largest.clamp_min(torch.finfo(largest.dtype).tiny), gradient)
    return lifted / image_norms(lifted).clamp_min(TINY)


def project(x: Tensor, ball: Ball | None) -> Tensor:
    """The nearest image inside the ball, then inside [0, 1] (which keeps it inside the ball)."""
    if ball is None:
        return x.clamp(0, 1)
    offset = x - ball.centre
    if ball.norm == "linf":
        offset = offset.clamp(-ball.eps, ball.eps)
    else:
        offset = offset * (ball.eps / image_norms(offset).clamp_min(TINY)).clamp_max(1)
    return (ball.centre + offset).clamp(0, 1)


def polyak_length(squared: Tensor, gradient: Tensor) -> Tensor:
    """How far down its gradient a distance would reach zero, were it a cone; given that distance squared.

    Polyak 1969. Near the goal it shrinks with the distance, so no schedule has to know how many steps there will be.
    """
    return 2 * squared.detach().view(-1, 1, 1, 1) / image_norms(gradient).clamp_min(TINY)


def step_sizes(size: float, steps: int, schedule: Schedule) -> list[float]:
    """The length of every step, or for `polyak` its limit; the decaying schedules end just above zero."""
    if schedule in ("constant", "polyak"):
        return [size] * steps
    if schedule == "linear":
        return [size * (1 - step / steps) for step in range(steps)]
    return [size * 0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


def move_pixels(
    start: Tensor,
    objective: Objective,
    *,
    sizes: Sequence[float],
    norm: Norm = "l2",
    ball: Ball | None = None,
    ascend: bool = False,
    momentum: float = 0.0,
    polyak: bool = False,
) -> Tensor:
    """Follow the objective's gradient one step per entry of `sizes`; the last iterate is the result.

    `objective` maps images to one number per image. With `momentum`, a step also repeats that share of what the
    step before it changed. With `polyak`, `sizes` are limits, and an image's own squared distance from its goal says
    how far it goes. Nothing in the loop waits for the device.
    """
    if polyak and ascend:
        raise ValueError("Polyak's lengths lead down to zero; nothing tells how far up to go.")
    x = start.detach().clone()
    drift = torch.zeros_like(x) if momentum else None
    lengths = torch.tensor([size if ascend else -size for size in sizes], device=x.device, dtype=x.dtype)
    length = torch.zeros((), device=x.device, dtype=x.dtype)

    def step() -> None:
        with torch.enable_grad():
            pixels = x.detach().requires_grad_(True)
            values = objective(pixels)
            (gradient,) = torch.autograd.grad(values.sum(), pixels)
        reach = length
        if polyak:
            reach = -polyak_length(values, gradient).mul(1 - momentum).minimum(-length)
        moved = x + steepest(gradient, norm) * reach
        moved = project(moved if drift is None else moved + momentum * drift, ball)
        if drift is not None:
            drift.copy_(moved - x)
        x.copy_(moved)

    with torch.no_grad():
        advance = step
        for number in range(len(sizes)):
            length.copy_(lengths[number])
            if number == _EAGER_STEPS and len(sizes) >= _WORTH_CAPTURING and x.is_cuda:
                advance = capture_cuda_graph(step)
            advance()
    return x


def capture_cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """One CUDA graph that does what the step does to the same tensors; the step itself where CUDA refuses."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        log(f"note: steps are launched one by one, since CUDA cannot capture them as a graph: {error}")
        return step
    return graph.replay


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with frozen parameters, so that only pixels get gradients; restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        # One by one, since a part may have been in another mode than the whole.
        for module, training in modes:
            module.training = training
        for parameter in learnt:
            parameter.requires_grad_(True)
