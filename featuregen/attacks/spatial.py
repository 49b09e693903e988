"""Rotations and translations (Engstrom et al. 2019): a whole grid, or a number of them drawn at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.problem import AttackProblem, first_success
from featuregen.compute import TINY
from featuregen.config import Spatial


def rotate_translate(task: AttackProblem, settings: Spatial) -> Tensor:
    """Each image turned and shifted until the goal is reached, else as it comes nearest; black comes in at the borders.

    The grid is gone through from its mildest move on.
    """
    if settings.tries:

        def change(part: AttackProblem, _: int, count: int) -> Tensor:
            moves = (part.draws.uniform(count, 3) * 2 - 1).flatten(0, 1)
            return turned(
                part.images.repeat_interleave(count, 0), moves[:, 0] * settings.degrees, moves[:, 1:] * settings.pixels
            )

        return first_success(task, settings.tries, change)

    moves = grid(settings).to(task.images.device)

    def next_moves(part: AttackProblem, first: int, count: int) -> Tensor:
        chosen = moves[first : first + count].repeat(len(part), 1)
        return turned(part.images.repeat_interleave(count, 0), chosen[:, 0], chosen[:, 1:])

    return first_success(task, len(moves), next_moves)


def grid(settings: Spatial) -> Tensor:
    """(angles · shifts², 3): degrees, pixels to the right, pixels down; the mildest first."""
    angles = _steps(settings.degrees, settings.angles)
    shifts = _steps(settings.pixels, settings.shifts)
    moves = torch.cartesian_prod(angles, shifts, shifts)
    size = moves.abs() / torch.tensor([settings.degrees, settings.pixels, settings.pixels]).clamp_min(TINY)
    return moves[size.square().sum(1).argsort(stable=True)]


def _steps(limit: float, count: int) -> Tensor:
    """Evenly from one limit to the other; a single one is none at all, and all are one where there is no room."""
    return torch.linspace(-limit, limit, count) if count > 1 and limit > 0 else torch.zeros(1)


def turned(images: Tensor, degrees: Tensor, pixels: Tensor) -> Tensor:
    """Rotated clockwise about the centre by degrees (N,), then moved by pixels (N, 2) to the right and down."""
    height, width = images.shape[2:]
    angle, pixels = (degrees * (math.pi / 180)).to(images.dtype), pixels.to(images.dtype)
    cosine, sine, aspect = angle.cos(), angle.sin(), height / width
    # An affine grid asks where a pixel comes from: shifted back, then turned back, each axis from -1 to 1.
    right, down = -2 * pixels[:, 0] / width, -2 * pixels[:, 1] / height
    across = [cosine, sine * aspect, cosine * right + sine * aspect * down]
    along = [-sine / aspect, cosine, -sine / aspect * right + cosine * down]
    places = F.affine_grid(
        torch.stack([torch.stack(across, 1), torch.stack(along, 1)], 1), list(images.shape), align_corners=False
    )
    # The weights of four neighbours may add up to a last bit more than one.
    return F.grid_sample(images, places, align_corners=False).clamp(0, 1)
