"""The loop that optimises pixels: objective, step rule, schedule, constraint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from featuregen.config.schema import Norm
from featuregen.errors import CheckFailed, UserError
from featuregen.runtime.console import log

Schedule = Literal["constant", "cosine", "linear", "polyak"]
Objective = Callable[[Tensor], Tensor]

# Keeps a vanishing gradient from becoming 0/0; far below any gradient with a direction.
TINY = 1e-12
# A CUDA graph is captured after warm-up, and only if there are enough steps to repay it.
_EAGER_STEPS = 3
_MIN_CAPTURED_STEPS = 20


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
    """The direction of steepest ascent, of unit size in `norm`."""
    if norm == "linf":
        return gradient.sign()
    # The gradients of a very confident model are so small that their squares underflow.
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    rescaled = torch.where(largest < TINY, gradient / largest.clamp_min(torch.finfo(largest.dtype).tiny), gradient)
    return rescaled / image_norms(rescaled).clamp_min(TINY)


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
    """The step size of Polyak (1969) for a distance whose minimum is zero, from that distance squared.

    It shrinks with the distance, so it needs no schedule.
    """
    return 2 * squared.detach().view(-1, 1, 1, 1) / image_norms(gradient).clamp_min(TINY)


def step_sizes(size: float, steps: int, schedule: Schedule) -> list[float]:
    """The size of every step, or for `polyak` its limit; decaying schedules end just above zero."""
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

    `objective` maps images to one number per image. With `momentum`, a step also repeats that fraction of the change
    of the step before it. With `polyak`, `sizes` are limits, and the objective must be a squared distance. Nothing in
    the loop waits for the device.
    """
    if polyak and ascend:
        raise ValueError("Polyak step sizes minimise; they cannot be used with ascend.")
    x = start.detach().clone()
    change = torch.zeros_like(x) if momentum else None
    signed_sizes = torch.tensor([size if ascend else -size for size in sizes], device=x.device, dtype=x.dtype)
    signed_size = torch.zeros((), device=x.device, dtype=x.dtype)

    def step() -> None:
        with torch.enable_grad():
            pixels = x.detach().requires_grad_(True)
            values = objective(pixels)
            (gradient,) = torch.autograd.grad(values.sum(), pixels)
        step_size = signed_size
        if polyak:
            step_size = -polyak_length(values, gradient).mul(1 - momentum).minimum(-signed_size)
        moved = x + steepest(gradient, norm) * step_size
        moved = project(moved if change is None else moved + momentum * change, ball)
        if change is not None:
            change.copy_(moved - x)
        x.copy_(moved)

    with torch.no_grad():
        take_step = step
        for number in range(len(sizes)):
            signed_size.copy_(signed_sizes[number])
            if number == _EAGER_STEPS and len(sizes) >= _MIN_CAPTURED_STEPS and x.is_cuda:
                take_step = capture_cuda_graph(step)
            take_step()
    return x


def capture_cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of the step, on the same tensors; the step itself where CUDA cannot capture it."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        log(f"note: steps run without a CUDA graph, which cannot be captured: {error}")
        return step
    return graph.replay


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with frozen parameters, so that only pixels get gradients; restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        # One by one, since a submodule may have been in another mode than the model.
        for module, training in modes:
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


def to_unit_range(stored: Tensor) -> Tensor:
    """Stored values as float32 in [0, 1]."""
    # By a tensor: CUDA divides by a Python number as a multiplication by its reciprocal, unlike readers of the file.
    return stored.float() / torch.tensor(255.0, device=stored.device) if stored.dtype == torch.uint8 else stored.float()


def quantize(images: Tensor, dtype: str, ball: Ball | None) -> Tensor:
    """Images in the stored type, still inside the ball: a row that rounding pushes out is shrunk towards the centre."""

    def rounded(x: Tensor) -> Tensor:
        return (x * 255).round().to(torch.uint8) if dtype == "uint8" else x.to(getattr(torch, dtype))

    if not bool(images.isfinite().all()):
        raise CheckFailed("the model's gradient moved pixels to NaN, so its weights are of no use; take another model.")
    stored = rounded(images)
    if ball is None:
        return stored
    if _outside(to_unit_range(rounded(ball.centre)), ball).any():
        raise UserError(
            f"eps {ball.eps:g} ({ball.norm}) is less than rounding to {dtype} moves an image; "
            "raise eps or store as float32."
        )
    shrink = torch.ones(len(images), 1, 1, 1, device=images.device)
    while (outside := _outside(to_unit_range(stored), ball)).any():
        shrink = torch.where(outside.view(-1, 1, 1, 1), shrink * 0.995, shrink)
        stored = rounded(ball.centre + (images - ball.centre) * shrink)
    return stored


def _outside(images: Tensor, ball: Ball) -> Tensor:
    """Which images lie outside the ball, beyond rounding errors."""
    offset = (images - ball.centre).flatten(1)
    distance = offset.abs().amax(1) if ball.norm == "linf" else offset.norm(dim=1)
    # Pixels near 1 have rounding errors of 2**-24, which in a small Linf ball exceed any fraction of eps.
    return distance > ball.eps * (1 + 5e-7) + 2**-23
