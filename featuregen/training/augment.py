"""Data augmentation, batched and on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.config.schema import Augment


def augment(images: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    """Change every image independently; with neutral settings, return the same tensor."""
    if settings.crop:
        images = _crop(images, settings.crop, generator)
    if settings.flip:
        flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
        images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
    if settings.rotate:
        images = _rotate(images, settings.rotate, generator)
    if settings.jitter:
        images = _jitter(images, settings.jitter, generator)
    return images


def _crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift by up to `padding` pixels and fill with black."""
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    shift = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=images.device)
    rows = shift[0] + torch.arange(height, device=images.device)
    columns = shift[1] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)
    picked = padded.permute(0, 2, 3, 1)[image.view(-1, 1, 1), rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _rotate(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    angle = (torch.rand(len(images), generator=generator, device=images.device) * 2 - 1) * math.radians(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # The grid runs from -1 to 1 in both directions, so the matrix of a non-square image needs the aspect ratio.
    aspect = images.shape[2] / images.shape[3]
    matrix = torch.stack(
        [torch.stack([cosine, -sine * aspect, zero], 1), torch.stack([sine / aspect, cosine, zero], 1)], 1
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and, for colour images, saturation, each scaled by up to ± strength."""

    def factor() -> Tensor:
        drawn = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device)
        return 1 + (drawn * 2 - 1) * strength

    def grey(x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return x
        weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
        return (x * weights).sum(1, keepdim=True)

    images = (images * factor()).clamp(0, 1)
    mean = grey(images).mean((1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * factor()).clamp(0, 1)
    if images.shape[1] == 3:
        base = grey(images)
        images = (base + (images - base) * factor()).clamp(0, 1)
    return images
