"""The one-pixel attack (Su et al. 2019): differential evolution of a few pixels, over a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.registry import register_attack
from featuregen.config.schema import bounded
from featuregen.runtime.rng import RowDraws

# Of Storn and Price's scheme rand/1 without crossover, as the paper takes it.
_WEIGHT = 0.5
# A population has converged once its costs differ by this share of their mean, and its places by these pixels.
_COST_SPREAD, _PLACE_SPREAD = 0.01, 0.5


@dataclass(frozen=True)
class Pixels:
    """Differential evolution of the places and colours of `pixels` pixels."""

    pixels: int = bounded(1, low=1, high=1000)
    population: int = bounded(100, low=4, high=10_000)
    generations: int = bounded(100, low=0)


@register_attack("pixels", settings=Pixels, meaning="one pixel, or a few (Su et al. 2019)", threat="query")
def few_pixel(problem: AttackProblem, settings: Pixels) -> Tensor:
    """At most `settings.pixels` changed pixels per image: the best member of its population.

    The cost of a member is the margin between classes. An image leaves the search once it is solved, or once its
    population has converged.
    """
    best, rows = problem.images.clone(), problem.unsolved()
    if not len(rows):
        return best
    left = problem[rows]
    population = _first_population(left, settings)
    costs = _costs(left, population, torch.ones(population.shape[:2], dtype=torch.bool, device=population.device))
    for generation in range(settings.generations + 1):
        done = (costs < 0).any(1) | _converged(left, population, costs) | (generation == settings.generations)
        if done.any():
            fittest = population[done, costs[done].argmin(1)]
            best[rows[done]] = _paint(left.images[done], fittest)
            going = ~done
            rows, left, population, costs = rows[going], left[going], population[going], costs[going]
        if not len(rows):
            break
        population, costs = _next_generation(left, population, costs)
    return best


def _converged(problem: AttackProblem, population: Tensor, costs: Tensor) -> Tensor:
    """All members at one place and at one cost: equal costs alone may be a plateau."""
    size = torch.tensor(problem.images.shape[2:], device=population.device)
    together = ((population[..., :2] * size).std(1) <= _PLACE_SPREAD).flatten(1).all(1)
    return together & (costs.std(1) <= _COST_SPREAD * costs.mean(1).abs())


def _first_population(problem: AttackProblem, settings: Pixels) -> Tensor:
    """(images, members, pixels, 2 + channels) in [0, 1]: uniform places, normal colours around grey."""
    shape = (settings.population, settings.pixels)
    colours = 0.5 + 0.5 * problem.draws.normal(*shape, problem.images.shape[1])
    return torch.cat([problem.draws.uniform(*shape, 2), colours.clamp(0, 1)], -1).to(problem.images.dtype)


def _next_generation(problem: AttackProblem, population: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """Each member or its child a + (b - c) / 2, of three other members, whichever costs less.

    A place outside the image is reflected into it: clipped to the border, it would end where pixels matter least. A
    colour is clipped to black or white, where it matters most.
    """
    others = _others(population.shape[1], problem.draws)
    a, b, c = (population.gather(1, other[:, :, None, None].expand_as(population)) for other in others)
    children = a + _WEIGHT * (b - c)
    places = 1 - (1 - children[..., :2].abs()).abs()
    children = torch.cat([places, children[..., 2:].clamp(0, 1)], -1)
    # As a population converges, most children paint what a paints, whose cost is known.
    new = (_cells(children, problem.images) != _cells(a, problem.images)).any(3).any(2)
    tried = torch.where(new, _costs(problem, children, new), costs.gather(1, others[0]))
    return torch.where((tried < costs)[:, :, None, None], children, population), torch.minimum(tried, costs)


def _others(members: int, draws: RowDraws) -> list[Tensor]:
    """Three distinct other members for every member of every image."""
    first, second, third = (draws.integers(members - taken, members) + 1 for taken in (1, 2, 3))
    second = second + (second >= first)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    third = third + (third >= low)
    third = third + (third >= high)
    member = torch.arange(members, device=first.device)
    return [(member + steps) % members for steps in (first, second, third)]


def _costs(problem: AttackProblem, population: Tensor, mask: Tensor) -> Tensor:
    """The margins of the members in `mask`, (images, members); negative where the criterion is met."""
    costs = torch.zeros_like(population[:, :, 0, 0])
    image, member = mask.nonzero(as_tuple=True)
    batches = zip(torch.split(image, problem.max_batch), torch.split(member, problem.max_batch), strict=True)
    for images, members in batches:
        logits = problem.logits(_paint(problem.images[images], population[images, members]))
        costs[images, members] = problem.criterion[images].margin(logits).to(costs.dtype)
    return costs


def _cells(population: Tensor, images: Tensor) -> Tensor:
    """Members with places as the row and column of a pixel."""
    size = torch.tensor(images.shape[2:], device=population.device)
    places = torch.minimum((population[..., :2] * size).floor(), size - 1)
    return torch.cat([places, population[..., 2:]], -1)


def _paint(images: Tensor, population: Tensor) -> Tensor:
    """The images, changed in place, with the pixels of one member each, (N, pixels, 2 + channels)."""
    cells, image = _cells(population, images), torch.arange(len(images), device=images.device)
    # One after the other, so that of two at the same place the later counts on every device.
    for number in range(population.shape[1]):
        row, column = cells[:, number, :2].long().unbind(1)
        images[image, :, row, column] = population[:, number, 2:]
    return images
