"""Storing images as uint8, float16 or float32 without leaving the ball."""

from __future__ import annotations

import torch
from torch import Tensor

from featuregen.compute import Ball
from featuregen.errors import UserError


def to_unit_range(stored: Tensor) -> Tensor:
    """Stored values as float32 in [0, 1]."""
    # By a tensor: CUDA divides by a Python number as a multiplication by its reciprocal, unlike readers of the file.
    return stored.float() / torch.tensor(255.0, device=stored.device) if stored.dtype == torch.uint8 else stored.float()


def quantize(images: Tensor, dtype: str, ball: Ball | None) -> Tensor:
    """Images in the stored type, still inside the ball: a row that rounding pushes out is shrunk towards the centre."""

    def rounded(x: Tensor) -> Tensor:
        return (x * 255).round().to(torch.uint8) if dtype == "uint8" else x.to(getattr(torch, dtype))

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
