"""Square (Andriushchenko et al. 2020): a random search by squares, without gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem, where_images
from featuregen.attacks.registry import register_attack
from featuregen.compute.optimize import TINY, Ball, image_norms, project
from featuregen.config.schema import Norm, bounded
from featuregen.runtime.rng import RowDraws

# Shares of all queries after which the squares get half as large in area.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Square:
    """Random squares; `share` is the part of the image that the first ones cover."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, low=0)
    queries: int = bounded(5000, low=1)
    share: float = bounded(0.8, above=0, high=1)


@register_attack(
    "square", settings=Square, meaning="random search by squares (Andriushchenko et al. 2020)", threat="query"
)
def square(problem: AttackProblem, settings: Square) -> Tensor:
    """At most `queries` forward passes per image; a solved image leaves the search."""
    best, rows = problem.images.clone(), problem.unsolved()
    if not len(rows):
        return best
    left = problem[rows]
    start, propose = (_stripes, _linf_proposal) if settings.norm == "linf" else (_tiles, _l2_proposal)
    x = start(left.images, settings.eps, left.draws)
    margin = left.criterion.margin(left.logits(x))
    for query in range(1, settings.queries):
        solved = margin < 0
        if solved.any():
            best[rows[solved]] = x[solved]
            rows, left, x, margin = rows[~solved], left[~solved], x[~solved], margin[~solved]
            if not len(rows):
                break
        side = _side(query / settings.queries, settings.share, x.shape)
        proposal = propose(x, Ball(settings.norm, settings.eps, left.images), side, left.draws)
        new_margin = left.criterion.margin(left.logits(proposal))
        x, margin = where_images(new_margin < margin, proposal, x), torch.minimum(new_margin, margin)
    best[rows] = x
    return best


def _side(done: float, share: float, shape: torch.Size) -> int:
    """Of the square to try after this share of the queries."""
    share /= 2 ** sum(done > halving for halving in _HALVINGS)
    height, width = shape[2:]
    return max(1, min(round(math.sqrt(share * height * width)), min(height, width) - 1))


def _window(side: int, like: Tensor, draws: RowDraws) -> tuple[Tensor, Tensor]:
    """A random square in every image: its upper left corners (N, 2), and a mask of its pixels (N, 1, H, W)."""
    height, width = like.shape[2:]
    top, left = draws.integers(height - side + 1, 1), draws.integers(width - side + 1, 1)
    rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
    tall, wide = (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)
    return torch.cat([top, left], 1), (tall.unsqueeze(2) & wide.unsqueeze(1)).unsqueeze(1)


# Linf ----------------------------------------------------------------------------------------------


def _stripes(images: Tensor, eps: float, draws: RowDraws) -> Tensor:
    """Every column of each channel up or down by the radius."""
    _, channels, _, width = images.shape
    return (images + eps * draws.signs(channels, 1, width).to(images.dtype)).clamp(0, 1)


def _linf_proposal(x: Tensor, ball: Ball, side: int, draws: RowDraws) -> Tensor:
    """One square up or down by the radius, each channel by itself."""
    _, inside = _window(side, x, draws)
    sign = draws.signs(x.shape[1], 1, 1).to(x.dtype)
    return torch.where(inside, (ball.centre + ball.eps * sign).clamp(0, 1), x)


# L2 ------------------------------------------------------------------------------------------------


def _bump(side: int, like: Tensor) -> Tensor:
    """A hill beside a pit, (side, side), of norm one."""
    half = side // 2
    bump = torch.cat([_hill(half, side, like), -_hill(side - half, side, like)])
    norm: Tensor = torch.linalg.vector_norm(bump)
    return bump / norm


def _hill(height: int, width: int, like: Tensor) -> Tensor:
    """Rings around the middle; each is higher than the next by one over the square of its number from within."""
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    ring = torch.maximum(down.view(-1, 1), across)
    rises = torch.arange(1, max(height, width) // 2 + 2, device=like.device, dtype=like.dtype).square().reciprocal()
    return rises.flip(0).cumsum(0).flip(0)[ring]


def _tiles(images: Tensor, eps: float, draws: RowDraws) -> Tensor:
    """A grid of at least five by five bumps, on the surface of the ball."""
    _, channels, height, width = images.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    signs = draws.signs(channels, down, 1, across, 1).to(images.dtype)
    bumps = (signs * _bump(side, images).view(1, 1, 1, side, 1, side)).flatten(4, 5).flatten(2, 3)
    offset = torch.zeros_like(images)
    offset[:, :, : down * side, : across * side] = bumps
    return _on_surface(offset, Ball("l2", eps, images))


def _l2_proposal(x: Tensor, ball: Ball, side: int, draws: RowDraws) -> Tensor:
    """Move the perturbation of one square, with what the ball has left, into another as a bump."""
    limit = min(x.shape[2:])
    side = min(max(side, 3) // 2 * 2 + 1, limit)
    corners, inside = _window(side, x, draws)
    _, cleared = _window(side, x, draws)
    offset = x - ball.centre
    moved = (offset.square() * (inside | cleared)).sum((2, 3), keepdim=True)
    left = (ball.eps**2 - image_norms(offset).square()).clamp_min(0) / x.shape[1]
    kept = offset * inside
    kept = kept / kept.norm(dim=(2, 3), keepdim=True).clamp_min(TINY)
    bump = _place_bumps(side, corners, x, draws) * draws.signs(x.shape[1], 1, 1).to(x.dtype)
    new = bump + kept
    new = new / new.norm(dim=(2, 3), keepdim=True).clamp_min(TINY) * (moved + left).sqrt()
    return _on_surface(torch.where(inside, new, offset.masked_fill(cleared, 0)), ball)


def _on_surface(offset: Tensor, ball: Ball) -> Tensor:
    return project(ball.centre + offset * (ball.eps / image_norms(offset).clamp_min(TINY)), ball)


def _place_bumps(side: int, corners: Tensor, like: Tensor, draws: RowDraws) -> Tensor:
    """One bump per image at its corner, (N, 1, H, W), upright or turned at random."""
    bump = _bump(side, like)
    upright = draws.signs(1, 1) > 0
    bumps = torch.where(upright, bump, bump.T)
    steps, image = torch.arange(side, device=like.device), torch.arange(len(corners), device=like.device)
    rows, columns = corners[:, :1] + steps, corners[:, 1:] + steps
    out = torch.zeros_like(like[:, :1])
    out[image.view(-1, 1, 1), 0, rows.unsqueeze(2), columns.unsqueeze(1)] = bumps
    return out
