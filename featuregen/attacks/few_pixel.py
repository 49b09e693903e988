"""Change one pixel, or a few: differential evolution over a whole batch of images at once (Su et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem
from featuregen.config import Pixels
from featuregen.runtime import RowDraws

# Of Storn and Price's scheme rand/1 without crossover, as the paper takes it.
_STRIDE = 0.5
# Of the mean cost, and of a pixel: nothing comes of a population with so small a spread.
_ALIKE, _TOGETHER = 0.01, 0.5


def few_pixel(task: AttackProblem, settings: Pixels) -> Tensor:
    """Images with at most `settings.pixels` changed pixels, lost or as near to it as the search came.

    An image leaves the search once it is lost, or once its population has gathered so closely that the costs hardly
    differ. What is bred against is the margin between classes.
    """
    found, rows = task.images.clone(), task.unsolved()
    if not len(rows):
        return found
    part = task[rows]
    people = _first(part, settings)
    costs = _costs(part, people, torch.ones(people.shape[:2], dtype=torch.bool, device=people.device))
    for generation in range(settings.generations + 1):
        leaving = (costs < 0).any(1) | _gathered(part, people, costs) | (generation == settings.generations)
        if leaving.any():
            best = people[leaving, costs[leaving].argmin(1)]
            found[rows[leaving]] = _painted(part.images[leaving], best)
            staying = ~leaving
            rows, part, people, costs = rows[staying], part[staying], people[staying], costs[staying]
        if not len(rows):
            break
        people, costs = _next(part, people, costs)
    return found


def _gathered(task: AttackProblem, people: Tensor, costs: Tensor) -> Tensor:
    """In one place each, at one cost; a flat stretch of costs alone is none."""
    size = torch.tensor(task.images.shape[2:], device=people.device)
    together = ((people[..., :2] * size).std(1) <= _TOGETHER).flatten(1).all(1)
    return together & (costs.std(1) <= _ALIKE * costs.mean(1).abs())


def _first(task: AttackProblem, settings: Pixels) -> Tensor:
    """(images, members, pixels, 2 + channels): places evenly, colours normally around grey, all in [0, 1]."""
    shape = (settings.population, settings.pixels)
    colours = 0.5 + 0.5 * task.draws.normal(*shape, task.images.shape[1])
    return torch.cat([task.draws.uniform(*shape, 2), colours.clamp(0, 1)], -1).to(task.images.dtype)


def _next(task: AttackProblem, people: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """For each member itself or its child a + (b - c) / 2, of three others, whichever costs less.

    A place beyond the image comes back in as from a mirror, since it would else end up at the border, where
    pixels matter least; a colour stops at black or white, where it does most.
    """
    others = _others(people.shape[1], task.draws)
    a, b, c = (people.gather(1, other[:, :, None, None].expand_as(people)) for other in others)
    children = a + _STRIDE * (b - c)
    places = 1 - (1 - children[..., :2].abs()).abs()
    children = torch.cat([places, children[..., 2:].clamp(0, 1)], -1)
    # As a population gathers, most children paint what a paints, whose cost is known.
    new = (_cells(children, task.images) != _cells(a, task.images)).any(3).any(2)
    tried = torch.where(new, _costs(task, children, new), costs.gather(1, others[0]))
    return torch.where((tried < costs)[:, :, None, None], children, people), torch.minimum(tried, costs)


def _others(members: int, draws: RowDraws) -> list[Tensor]:
    """Three for every member of every row, neither itself nor one another: that far around the circle of members."""
    first, second, third = (draws.integers(members - taken, members) + 1 for taken in (1, 2, 3))
    second = second + (second >= first)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    third = third + (third >= low)
    third = third + (third >= high)
    own = torch.arange(members, device=first.device)
    return [(own + steps) % members for steps in (first, second, third)]


def _costs(task: AttackProblem, people: Tensor, asked: Tensor) -> Tensor:
    """(images, members): the margin of those asked for, below zero where the goal is reached; passes are full."""
    costs = torch.zeros_like(people[:, :, 0, 0])
    image, member = asked.nonzero(as_tuple=True)
    for owners, numbers in zip(torch.split(image, task.max_batch), torch.split(member, task.max_batch), strict=True):
        logits = task.logits(_painted(task.images[owners], people[owners, numbers]))
        costs[owners, numbers] = task.goal[owners].margin(logits).to(costs.dtype)
    return costs


def _cells(people: Tensor, images: Tensor) -> Tensor:
    """Places as the row and column of a pixel."""
    size = torch.tensor(images.shape[2:], device=people.device)
    places = torch.minimum((people[..., :2] * size).floor(), size - 1)
    return torch.cat([places, people[..., 2:]], -1)


def _painted(images: Tensor, people: Tensor) -> Tensor:
    """These images, which are changed, with the pixels (N, pixels, 2 + channels) of each on it."""
    cells, each = _cells(people, images), torch.arange(len(images), device=images.device)
    # One after the other, so that of two at the same place the later counts on every device.
    for number in range(people.shape[1]):
        row, column = cells[:, number, :2].long().unbind(1)
        images[each, :, row, column] = people[:, number, 2:]
    return images
