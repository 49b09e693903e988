"""Rotations and translations (Engstrom et al. 2019), from a grid or at random."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.problem import AttackProblem, first_success
from featuregen.attacks.registry import register_attack
from featuregen.compute.optimize import TINY
from featuregen.config.schema import bounded


@dataclass(frozen=True)
class Spatial:
    """Rotations of up to `degrees` and shifts of up to `pixels`: a grid of them, or `tries` random ones.

    The grid has `angles` rotations and `shifts` shifts along each axis; it is used where `tries` is 0.
    """

    degrees: float = bounded(30.0, low=0, high=180)
    pixels: float = bounded(3.0, low=0)
    angles: int = bounded(31, low=1, high=1000)
    shifts: int = bounded(5, low=1, high=1000)
    tries: int = bounded(0, low=0)


@register_attack("spatial", settings=Spatial, meaning="rotations and shifts (Engstrom et al. 2019)", threat="query")
def rotate_translate(problem: AttackProblem, settings: Spatial) -> Tensor:
    """Each image moved until the criterion is met, else by the move of highest loss; borders are filled with black.

    A grid is tried from its mildest move on.
    """
    moves = grid(settings).to(problem.images.device)

    def random_moves(left: AttackProblem, _: int, count: int) -> Tensor:
        drawn = (left.draws.uniform(count, 3) * 2 - 1).flatten(0, 1)
        images = left.images.repeat_interleave(count, 0)
        return transform(images, drawn[:, 0] * settings.degrees, drawn[:, 1:] * settings.pixels)

    def next_moves(left: AttackProblem, first: int, count: int) -> Tensor:
        chosen = moves[first : first + count].repeat(len(left), 1)
        return transform(left.images.repeat_interleave(count, 0), chosen[:, 0], chosen[:, 1:])

    if settings.tries:
        return first_success(problem, settings.tries, random_moves)
    return first_success(problem, len(moves), next_moves)


def grid(settings: Spatial) -> Tensor:
    """(angles · shifts², 3): degrees, pixels to the right, pixels down; the mildest first."""
    angles = _evenly(settings.degrees, settings.angles)
    shifts = _evenly(settings.pixels, settings.shifts)
    moves = torch.cartesian_prod(angles, shifts, shifts)
    share = moves.abs() / torch.tensor([settings.degrees, settings.pixels, settings.pixels]).clamp_min(TINY)
    return moves[share.square().sum(1).argsort(stable=True)]


def _evenly(limit: float, count: int) -> Tensor:
    """Evenly from -limit to limit; just 0 where one is asked for or the limit is 0."""
    return torch.linspace(-limit, limit, count) if count > 1 and limit > 0 else torch.zeros(1)


def transform(images: Tensor, degrees: Tensor, pixels: Tensor) -> Tensor:
    """Rotated clockwise about the centre by degrees (N,), then moved by pixels (N, 2) to the right and down."""
    height, width = images.shape[2:]
    angle, pixels = (degrees * (math.pi / 180)).to(images.dtype), pixels.to(images.dtype)
    cosine, sine, aspect = angle.cos(), angle.sin(), height / width
    # An affine grid says where a pixel comes from: shifted back, then rotated back, each axis from -1 to 1.
    right, down = -2 * pixels[:, 0] / width, -2 * pixels[:, 1] / height
    x_row = [cosine, sine * aspect, cosine * right + sine * aspect * down]
    y_row = [-sine / aspect, cosine, -sine / aspect * right + cosine * down]
    sources = F.affine_grid(
        torch.stack([torch.stack(x_row, 1), torch.stack(y_row, 1)], 1), list(images.shape), align_corners=False
    )
    # The weights of four neighbours may add up to a last bit more than one.
    return F.grid_sample(images, sources, align_corners=False).clamp(0, 1)
