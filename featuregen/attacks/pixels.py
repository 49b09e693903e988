"""Change one pixel, or a few: differential evolution over a whole batch of images at once (Su et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from featuregen.attacks.task import Task
from featuregen.config.attacks import Pixels
from featuregen.runtime import RowDraws

# Of Storn and Price's scheme rand/1 without crossover, as the paper takes it.
_STRIDE = 0.5


def few_pixels(task: Task, settings: Pixels) -> Tensor:
    """Images with at most `settings.pixels` changed pixels, lost or as near to it as the search came.

    An image leaves the search once it is lost. What is bred against is the margin between classes.
    """
    found, rows = task.images.clone(), task.standing()
    if not len(rows):
        return found
    part = task[rows]
    people = _first(part, settings)
    costs = _costs(part, people)
    for generation in range(settings.generations + 1):
        lost = (costs < 0).any(1)
        leaving = lost if generation < settings.generations else torch.ones_like(lost)
        if leaving.any():
            best = people[leaving, costs[leaving].argmin(1)]
            found[rows[leaving]] = _painted(part.images[leaving], best)
            staying = ~leaving
            rows, part, people, costs = rows[staying], part[staying], people[staying], costs[staying]
        if not len(rows):
            break
        children = _children(people, part.draws)
        tried = _costs(part, children)
        people = torch.where((tried < costs)[:, :, None, None], children, people)
        costs = torch.minimum(tried, costs)
    return found


def _first(task: Task, settings: Pixels) -> Tensor:
    """(images, members, pixels, 2 + channels): places evenly, colours normally around grey, all in [0, 1]."""
    shape = (settings.population, settings.pixels)
    colours = 0.5 + 0.5 * task.draws.normal(*shape, task.images.shape[1])
    return torch.cat([task.draws.uniform(*shape, 2), colours.clamp(0, 1)], -1).to(task.images.dtype)


def _children(people: Tensor, draws: RowDraws) -> Tensor:
    """One for each member: a + (b - c) / 2 of three others.

    A place beyond the image comes back in as from a mirror, since it would else end up at the border, where
    pixels matter least; a colour stops at black or white, where it does most.
    """
    a, b, c = (people.gather(1, other[:, :, None, None].expand_as(people)) for other in _others(people.shape[1], draws))
    child = a + _STRIDE * (b - c)
    places = 1 - (1 - child[..., :2].abs()).abs()
    return torch.cat([places, child[..., 2:].clamp(0, 1)], -1)


def _others(members: int, draws: RowDraws) -> list[Tensor]:
    """Three for every member of every row, neither itself nor one another: that far around the circle of members."""
    first, second, third = (draws.integers(members - taken, members) + 1 for taken in (1, 2, 3))
    second = second + (second >= first)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    third = third + (third >= low)
    third = third + (third >= high)
    own = torch.arange(members, device=first.device)
    return [(own + steps) % members for steps in (first, second, third)]


def _costs(task: Task, people: Tensor) -> Tensor:
    """(images, members): the margin, below zero where the goal is reached. Every pass is full but the last."""
    members = people.shape[1]
    flat = people.flatten(0, 1)
    costs = torch.empty(len(flat), device=people.device, dtype=people.dtype)
    for part in torch.split(torch.arange(len(flat), device=people.device), task.at_once):
        owners = part // members
        logits = task.logits(_painted(task.images[owners], flat[part]))
        costs[part] = task.goal[owners].margin(logits).to(costs.dtype)
    return costs.view(-1, members)


def _painted(images: Tensor, pixels: Tensor) -> Tensor:
    """These images, which are changed, with the pixels (N, pixels, 2 + channels) of each on it."""
    height, width = images.shape[2:]
    size = torch.tensor([height, width], device=images.device)
    places = torch.minimum((pixels[..., :2] * size).long(), size - 1)
    each = torch.arange(len(images), device=images.device)
    # One after the other, so that of two at the same place the later counts on every device.
    for number in range(pixels.shape[1]):
        row, column = places[:, number].unbind(1)
        images[each, :, row, column] = pixels[:, number, 2:]
    return images
