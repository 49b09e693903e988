"""Change one pixel, or a few: differential evolution over a whole batch of images at once (Su et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featuregen.attacks.goals import Goal
from featuregen.config import Pixels
from featuregen.optimize import fixed

# Of Storn and Price's scheme rand/1 without crossover, as the paper takes it.
_STRIDE = 0.5
# Forward passes at once; more would only take memory.
_AT_ONCE = 4096


def few_pixels(
    model: nn.Module, images: Tensor, goal: Goal, settings: Pixels, generator: torch.Generator | None = None
) -> Tensor:
    """Images with at most `settings.pixels` changed pixels; an image leaves the search once it is lost."""
    found = images.clone()
    with fixed(model), torch.no_grad():
        rows = (~goal.reached(model(images))).nonzero().flatten()
        people = _first(len(rows), images, settings, generator)
        costs = _costs(model, images[rows], goal[rows], people)
        for _ in range(settings.generations):
            rows, people, costs = _release(model, images, goal, found, rows, people, costs)
            if not len(rows):
                return found
            children = _children(people, generator)
            tried = _costs(model, images[rows], goal[rows], children)
            better = tried < costs
            people = torch.where(better.unsqueeze(-1).unsqueeze(-1), children, people)
            costs = torch.minimum(tried, costs)
        best = people[torch.arange(len(rows), device=rows.device), costs.argmin(1)]
        found[rows] = _painted(images[rows], best.unsqueeze(1)).squeeze(1)
    return found


def _first(count: int, images: Tensor, settings: Pixels, generator: torch.Generator | None) -> Tensor:
    """(images, members, pixels, 2 + channels): places evenly, colours normally around grey, all in [0, 1]."""
    shape = (count, settings.population, settings.pixels)
    places = torch.rand((*shape, 2), generator=generator, device=images.device)
    colours = 0.5 + 0.5 * torch.randn((*shape, images.shape[1]), generator=generator, device=images.device)
    return torch.cat([places, colours.clamp(0, 1)], -1)


def _children(people: Tensor, generator: torch.Generator | None) -> Tensor:
    """One for each: a + (b - c) / 2 of three others drawn for it; what leaves the box is set onto its border."""
    count, members = people.shape[:2]
    # Three different members, none of them the parent: distinct steps around the circle of members.
    steps = torch.rand((count, members, members - 1), generator=generator, device=people.device).topk(3, -1).indices + 1
    own = torch.arange(members, device=people.device).view(1, -1, 1)
    others = (own + steps) % members
    a, b, c = (people[torch.arange(count, device=people.device).view(-1, 1), others[..., i]] for i in range(3))
    return (a + _STRIDE * (b - c)).clamp(0, 1)


def _painted(images: Tensor, people: Tensor) -> Tensor:
    """(images, members, C, H, W): every member's pixels on its image."""
    count, members, pixels = people.shape[:3]
    channels, height, width = images.shape[1:]
    rows = (people[..., 0] * height).long().clamp_max(height - 1)
    columns = (people[..., 1] * width).long().clamp_max(width - 1)
    flat = images.flatten(2).unsqueeze(1).expand(count, members, channels, height * width).clone()
    where = (rows * width + columns).unsqueeze(2).expand(count, members, channels, pixels)
    flat.scatter_(3, where, people[..., 2:].transpose(2, 3))
    return flat.view(count, members, channels, height, width)


def _costs(model: nn.Module, images: Tensor, goal: Goal, people: Tensor) -> Tensor:
    """(images, members): the margin, below zero where the goal is reached."""
    members, step = people.shape[1], max(1, _AT_ONCE // people.shape[1])
    parts = []
    for first in range(0, len(images), step):
        part = slice(first, first + step)
        painted = _painted(images[part], people[part]).flatten(0, 1)
        rows = torch.arange(first, min(first + step, len(images)), device=images.device)
        parts.append(goal[rows].repeat(members).margin(model(painted).float()).view(-1, members))
    return torch.cat(parts) if parts else torch.empty(0, members, device=images.device)


def _release(
    model: nn.Module, images: Tensor, goal: Goal, found: Tensor, rows: Tensor, people: Tensor, costs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images that are lost are painted and leave; the others stay."""
    lost = (costs < 0).any(1)
    if lost.any():
        best = people[lost, costs[lost].argmin(1)]
        found[rows[lost]] = _painted(images[rows[lost]], best.unsqueeze(1)).squeeze(1)
    return rows[~lost], people[~lost], costs[~lost]
