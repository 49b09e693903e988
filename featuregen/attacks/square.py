"""The Square attack (Andriushchenko et al. 2020): random squares of change, kept where they help; no gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem, where
from featuregen.compute import TINY, Ball, image_norms, project
from featuregen.config import Square
from featuregen.runtime import RowDraws

# Shares of all queries after which the squares get half as large in area.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(task: AttackProblem, settings: Square) -> Tensor:
    """At most `queries` passes per image; an image leaves the search once it is lost."""
    found, rows = task.images.clone(), task.unsolved()
    if not len(rows):
        return found
    part = task[rows]
    start, change = (_stripes, _recoloured) if settings.norm == "linf" else (_tiles, _moved)
    x = start(part.images, settings.eps, part.draws)
    cost = part.goal.margin(part.logits(x))
    for query in range(1, settings.queries):
        lost = cost < 0
        if lost.any():
            found[rows[lost]] = x[lost]
            rows, part, x, cost = rows[~lost], part[~lost], x[~lost], cost[~lost]
            if not len(rows):
                break
        side = _side(query / settings.queries, settings.share, x.shape)
        tried = change(x, Ball(settings.norm, settings.eps, part.images), side, part.draws)
        tried_cost = part.goal.margin(part.logits(tried))
        x, cost = where(tried_cost < cost, tried, x), torch.minimum(tried_cost, cost)
    found[rows] = x
    return found


def _side(done: float, share: float, shape: torch.Size) -> int:
    share /= 2 ** sum(done > halving for halving in _HALVINGS)
    height, width = shape[2:]
    return max(1, min(round(math.sqrt(share * height * width)), min(height, width) - 1))


def _window(side: int, like: Tensor, draws: RowDraws) -> tuple[Tensor, Tensor]:
    """A square at random in every image: its upper left corners (N, 2), and (N, 1, H, W) which pixels lie in it."""
    height, width = like.shape[2:]
    top, left = draws.integers(height - side + 1, 1), draws.integers(width - side + 1, 1)
    rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
    tall, wide = (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)
    return torch.cat([top, left], 1), (tall.unsqueeze(2) & wide.unsqueeze(1)).unsqueeze(1)


# Linf ----------------------------------------------------------------------------------------------


def _stripes(images: Tensor, eps: float, draws: RowDraws) -> Tensor:
    """Up or down by the radius, column by column."""
    _, channels, _, width = images.shape
    return (images + eps * draws.signs(channels, 1, width).to(images.dtype)).clamp(0, 1)


def _recoloured(x: Tensor, ball: Ball, side: int, draws: RowDraws) -> Tensor:
    """One square up or down by the radius, channel by channel."""
    _, inside = _window(side, x, draws)
    sign = draws.signs(x.shape[1], 1, 1).to(x.dtype)
    return torch.where(inside, (ball.centre + ball.eps * sign).clamp(0, 1), x)


# L2 ------------------------------------------------------------------------------------------------


def _bump(side: int, like: Tensor) -> Tensor:
    """(side, side) of norm one: a hill beside a pit."""
    half = side // 2
    bump = torch.cat([_hill(half, side, like), -_hill(side - half, side, like)])
    norm: Tensor = torch.linalg.vector_norm(bump)
    return bump / norm


def _hill(height: int, width: int, like: Tensor) -> Tensor:
    """Rings around the middle; a ring is higher than the next by one over the square of its number, from within."""
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    ring = torch.maximum(down.view(-1, 1), across)
    rises = torch.arange(1, max(height, width) // 2 + 2, device=like.device, dtype=like.dtype).square().reciprocal()
    return rises.flip(0).cumsum(0).flip(0)[ring]


def _tiles(images: Tensor, eps: float, draws: RowDraws) -> Tensor:
    """Five bumps by five or some more, as many as fit, on the ball's border."""
    _, channels, height, width = images.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    signs = draws.signs(channels, down, 1, across, 1).to(images.dtype)
    bumps = (signs * _bump(side, images).view(1, 1, 1, side, 1, side)).flatten(4, 5).flatten(2, 3)
    offset = torch.zeros_like(images)
    offset[:, :, : down * side, : across * side] = bumps
    return _on_border(offset, Ball("l2", eps, images))


def _moved(x: Tensor, ball: Ball, side: int, draws: RowDraws) -> Tensor:
    """Take the change out of one square and put it, with what the ball has left, into another as a bump."""
    limit = min(x.shape[2:])
    side = min(max(side, 3) // 2 * 2 + 1, limit)
    corners, inside = _window(side, x, draws)
    _, emptied = _window(side, x, draws)
    offset = x - ball.centre
    moved = (offset.square() * (inside | emptied)).sum((2, 3), keepdim=True)
    left = (ball.eps**2 - image_norms(offset).square()).clamp_min(0) / x.shape[1]
    kept = offset * inside
    kept = kept / kept.norm(dim=(2, 3), keepdim=True).clamp_min(TINY)
    bump = _placed(side, corners, x, draws) * draws.signs(x.shape[1], 1, 1).to(x.dtype)
    new = bump + kept
    new = new / new.norm(dim=(2, 3), keepdim=True).clamp_min(TINY) * (moved + left).sqrt()
    return _on_border(torch.where(inside, new, offset.masked_fill(emptied, 0)), ball)


def _on_border(offset: Tensor, ball: Ball) -> Tensor:
    return project(ball.centre + offset * (ball.eps / image_norms(offset).clamp_min(TINY)), ball)


def _placed(side: int, corners: Tensor, like: Tensor, draws: RowDraws) -> Tensor:
    """(N, 1, H, W): a bump at each image's own corner, upright or lying as it falls."""
    bump = _bump(side, like)
    upright = draws.signs(1, 1) > 0
    bumps = torch.where(upright, bump, bump.T)
    steps, each = torch.arange(side, device=like.device), torch.arange(len(corners), device=like.device)
    rows, columns = corners[:, :1] + steps, corners[:, 1:] + steps
    out = torch.zeros_like(like[:, :1])
    out[each.view(-1, 1, 1), 0, rows.unsqueeze(2), columns.unsqueeze(1)] = bumps
    return out
