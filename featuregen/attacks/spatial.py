"""Rotations and translations (Engstrom et al. 2019): the worst of a grid, or of a number drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks.goals import Goal
from featuregen.config import Spatial
from featuregen.optimize import fixed


def rotate_translate(
    model: nn.Module, images: Tensor, goal: Goal, settings: Spatial, generator: torch.Generator | None = None
) -> Tensor:
    """Each image turned and shifted as it suits the goal best; black comes in at the borders."""
    with fixed(model), torch.no_grad():
        best, gain = images.clone(), goal.loss(model(images).float())
        lost = goal.reached(model(images))
        for angles, shifts in _moves(len(images), settings, images.device, generator):
            moved = turned(images, angles, shifts)
            logits = model(moved).float()
            reached, loss = goal.reached(logits), goal.loss(logits)
            # A move that loses the image beats every one that does not, whatever their losses.
            better = (reached & ~lost) | ((reached == lost) & (loss > gain))
            best = torch.where(better.view(-1, 1, 1, 1), moved, best)
            gain, lost = torch.where(better, loss, gain), lost | reached
    return best


def turned(images: Tensor, degrees: Tensor, shifts: Tensor) -> Tensor:
    """Rotated about the centre by degrees (N,) and moved by pixels (N, 2) to the right and down."""
    height, width = images.shape[2:]
    angle = degrees * (math.pi / 180)
    cosine, sine, aspect = angle.cos(), angle.sin(), height / width
    to_x, to_y = -2 * shifts[:, 0] / width, -2 * shifts[:, 1] / height
    # affine_grid asks where a pixel comes from: shifted back first, then turned back.
    first = torch.stack([cosine, sine * aspect, cosine * to_x + sine * aspect * to_y], 1)
    second = torch.stack([-sine / aspect, cosine, -sine / aspect * to_x + cosine * to_y], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _moves(
    count: int, settings: Spatial, device: torch.device, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    if settings.tries:
        for _ in range(settings.tries):
            drawn = torch.rand((count, 3), generator=generator, device=device) * 2 - 1
            yield drawn[:, 0] * settings.degrees, (drawn[:, 1:] * settings.pixels).round()
        return
    for angle in torch.linspace(-settings.degrees, settings.degrees, settings.angles).tolist():
        for x in torch.linspace(-settings.pixels, settings.pixels, settings.shifts).tolist():
            for y in torch.linspace(-settings.pixels, settings.pixels, settings.shifts).tolist():
                yield torch.full((count,), angle, device=device), torch.tensor([x, y], device=device).expand(count, 2)
