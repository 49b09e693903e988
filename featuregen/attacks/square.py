"""The Square attack (Andriushchenko et al. 2020): random squares of change, kept where they help; no gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from featuregen.attacks.goals import Goal
from featuregen.config import Square
from featuregen.optimize import TINY, Ball, fixed, project

# Shares of all queries after which the squares get half as large.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    model: nn.Module, images: Tensor, goal: Goal, settings: Square, generator: torch.Generator | None = None
) -> Tensor:
    """At most `queries` forward passes per image; an image leaves the search once it is lost."""
    found = images.clone()
    with fixed(model), torch.no_grad():
        rows = (~goal.reached(model(images).float())).nonzero().flatten()
        if not len(rows):
            return found
        first = _stripes if settings.norm == "linf" else _tiles
        x = first(images[rows], settings.eps, generator)
        cost = goal[rows].margin(model(x).float())
        for query in range(1, settings.queries):
            found[rows] = x
            going = cost >= 0
            rows, x, cost = rows[going], x[going], cost[going]
            if not len(rows):
                return found
            side = _side(query / settings.queries, settings.share, x.shape)
            change = _linf if settings.norm == "linf" else _l2
            tried = change(x, Ball(settings.norm, settings.eps, images[rows]), side, generator)
            tried_cost = goal[rows].margin(model(tried).float())
            better = tried_cost < cost
            x = torch.where(better.view(-1, 1, 1, 1), tried, x)
            cost = torch.minimum(tried_cost, cost)
        found[rows] = x
    return found


def _side(done: float, share: float, shape: torch.Size) -> int:
    share /= 2 ** sum(done > halving for halving in _HALVINGS)
    return max(1, min(round(math.sqrt(share * shape[2] * shape[3])), min(shape[2:]) - 1))


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def _corners(count: int, side: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    height, width = like.shape[2:]
    tops = torch.randint(0, height - side + 1, (count,), generator=generator, device=like.device)
    lefts = torch.randint(0, width - side + 1, (count,), generator=generator, device=like.device)
    return torch.stack([tops, lefts], 1)


def _window(corners: Tensor, side: int, like: Tensor) -> Tensor:
    """(N, 1, H, W): which pixels lie in the square."""
    rows, columns = (torch.arange(size, device=like.device).view(1, -1) for size in like.shape[2:])
    tall = (rows >= corners[:, :1]) & (rows < corners[:, :1] + side)
    wide = (columns >= corners[:, 1:]) & (columns < corners[:, 1:] + side)
    return (tall.unsqueeze(2) & wide.unsqueeze(1)).unsqueeze(1)


# Linf ----------------------------------------------------------------------------------------------


def _stripes(images: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    count, channels, _, width = images.shape
    return (images + eps * _signs((count, channels, 1, width), images, generator)).clamp(0, 1)


def _linf(x: Tensor, ball: Ball, side: int, generator: torch.Generator | None) -> Tensor:
    inside = _window(_corners(len(x), side, x, generator), side, x)
    sign = _signs((len(x), x.shape[1], 1, 1), x, generator)
    return torch.where(inside, ball.centre + ball.eps * sign, x).clamp(0, 1)


# L2 ------------------------------------------------------------------------------------------------


def _bump(side: int, like: Tensor) -> Tensor:
    """(side, side): two opposite hills, each falling off from its middle, of norm one."""

    def hill(height: int, width: int) -> Tensor:
        out = torch.zeros(height, width, device=like.device)
        for ring in range(max(height // 2, 1)):
            top, bottom, left, right = ring, max(height - ring, ring + 1), ring, max(width - ring, ring + 1)
            out[top:bottom, left:right] += 1 / (height // 2 + 1 - ring) ** 2 if height > 1 else 1
        return out

    half = max(side // 2, 1)
    whole = torch.cat([hill(half, side), -hill(side - half, side)])[:side] if side > 1 else torch.ones(1, 1)
    return (whole / whole.norm()).to(like.device)


def _tiles(images: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """A grid of bumps, on the ball's border."""
    count, channels, height, width = images.shape
    side = max(height // 5, 1)
    offset = torch.zeros_like(images)
    bump = _bump(side, images)
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            sign = _signs((count, channels, 1, 1), images, generator)
            offset[:, :, top : top + side, left : left + side] = sign * bump
    offset = eps * offset / offset.flatten(1).norm(dim=1).clamp_min(TINY).view(-1, 1, 1, 1)
    return (images + offset).clamp(0, 1)


def _l2(x: Tensor, ball: Ball, side: int, generator: torch.Generator | None) -> Tensor:
    """Take the change out of one square and put it, with what the ball has left, into another as a bump."""
    side = max(side, 3)
    side = min(side + (side % 2 == 0), min(x.shape[2:]))
    corners = _corners(len(x), side, x, generator)
    inside, emptied = _window(corners, side, x), _window(_corners(len(x), side, x, generator), side, x)
    offset = x - ball.centre
    moved = (offset.square() * (inside | emptied)).sum((2, 3), keepdim=True)
    left = (ball.eps**2 - offset.square().sum((1, 2, 3), keepdim=True)).clamp_min(0) / x.shape[1]
    kept = offset * inside / (offset * inside).flatten(1).norm(dim=1).clamp_min(TINY).view(-1, 1, 1, 1)
    bump = _placed(_bump(side, x), corners, x) * _signs((len(x), x.shape[1], 1, 1), x, generator)
    new = bump + kept
    new = new / new.flatten(2).norm(dim=2).clamp_min(TINY).view(len(x), -1, 1, 1) * (moved + left).sqrt()
    offset = torch.where(inside, new, torch.where(emptied, torch.zeros_like(offset), offset))
    offset = ball.eps * offset / offset.flatten(1).norm(dim=1).clamp_min(TINY).view(-1, 1, 1, 1)
    return project(ball.centre + offset, ball)


def _placed(bump: Tensor, corners: Tensor, like: Tensor) -> Tensor:
    """The same small picture at each image's own corner."""
    count, side = len(corners), len(bump)
    steps = torch.arange(side, device=like.device)
    rows, columns = corners[:, :1] + steps, corners[:, 1:] + steps
    out = torch.zeros(count, 1, *like.shape[2:], device=like.device)
    out[torch.arange(count, device=like.device).view(-1, 1, 1), 0, rows[:, :, None], columns[:, None, :]] = bump
    return out
