"""Random changes of training images: each option alone, image by image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from featuregen.config.schema import Augment
from featuregen.training.augment import augment

OPTIONS = {
    "crop": Augment(crop=2),
    "flip": Augment(flip=True),
    "jitter": Augment(jitter=0.5),
    "rotate": Augment(rotate=30.0),
    "all": Augment(crop=2, flip=True, jitter=0.5, rotate=30.0),
}
SHAPES = [(1, 8, 8), (3, 8, 8), (3, 6, 10)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, *shape: int) -> Tensor:
    return torch.rand((count, *shape), generator=seeded(99))


@pytest.mark.parametrize("shape", SHAPES)
def test_neutral_settings_return_the_very_tensor(shape: tuple[int, ...]) -> None:
    images = pictures(4, *shape)
    assert augment(images, Augment(), seeded()) is images


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_images_by_the_generator_alone(name: str, shape: tuple[int, ...]) -> None:
    images = pictures(64, *shape)
    before = images.clone()
    first, again, other = (augment(images, OPTIONS[name], seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(images, before)
    assert first.shape == images.shape and first.dtype == images.dtype
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert ((first != images).flatten(1).any(1)).float().mean() > 0.3


@pytest.mark.parametrize("name", OPTIONS)
def test_every_image_is_changed_on_its_own(name: str) -> None:
    """Copies of one picture come out different, and what happens to one does not depend on the others."""
    one = pictures(1, 3, 8, 8)
    copies = augment(one.expand(64, -1, -1, -1), OPTIONS[name], seeded())
    assert len(torch.unique(copies, dim=0)) >= (2 if name == "flip" else 20)
    mixed = torch.cat([one, pictures(63, 3, 8, 8)])
    assert torch.allclose(augment(mixed, OPTIONS[name], seeded())[0], copies[0], atol=1e-6)


# Crop and flip ------------------------------------------------------------------------------------


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """The image moved by whole pixels, black coming in; written with indices alone."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


@pytest.mark.parametrize("padding", [1, 2])
def test_a_crop_shifts_by_whole_pixels_up_to_the_padding(padding: int) -> None:
    image = pictures(1, 2, 5, 7)[0]
    span = range(-padding, padding + 1)
    places = {(down, right): shifted(image, down, right) for down in span for right in span}
    seen = set()
    for found in augment(image.expand(400, -1, -1, -1), Augment(crop=padding), seeded()):
        fitting = [place for place, expected in places.items() if torch.equal(found, expected)]
        assert len(fitting) == 1
        seen.add(fitting[0])
    assert seen == set(places)


def test_a_flip_is_an_exact_mirror_of_about_half_the_images() -> None:
    images = pictures(400, 3, 5, 7)
    found = augment(images, Augment(flip=True), seeded())
    same = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 0.4 < mirrored.float().mean() < 0.6


# Rotation -----------------------------------------------------------------------------------------


def bar(height: int, width: int, length: int) -> Tensor:
    """A horizontal bar two pixels thick through the middle of a black image."""
    image = torch.zeros(1, height, width)
    image[:, height // 2 - 1 : height // 2 + 1, (width - length) // 2 : (width + length) // 2] = 1
    return image


def spread(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's larger and smaller second moment about the middle, in pixels."""
    height, width = images.shape[2:]
    y = (torch.arange(height) - (height - 1) / 2).view(-1, 1)
    x = (torch.arange(width) - (width - 1) / 2).view(1, -1)
    weight = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    xx, yy, xy = (weight * x * x).sum((1, 2)), (weight * y * y).sum((1, 2)), (weight * x * y).sum((1, 2))
    root = ((xx - yy) ** 2 / 4 + xy**2).sqrt()
    return (xx + yy) / 2 + root, (xx + yy) / 2 - root


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 48), (48, 24)])
def test_a_rotation_turns_pictures_without_bending_them(height: int, width: int) -> None:
    images = bar(height, width, 16).expand(50, -1, -1, -1)
    found = augment(images, Augment(rotate=180.0), seeded())
    assert torch.allclose(found.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=0.1)
    long, short = spread(found)
    was_long, was_short = spread(images)
    assert torch.allclose(long, was_long, rtol=0.1)
    # Interpolation widens a bar by a fraction of a pixel.
    assert ((short - was_short).abs() < 0.4).all()
    upright = found[:, 0, :, width // 2 - 1 : width // 2 + 1].mean((1, 2))
    assert upright.max() > 2 * upright.min()


def test_small_angles_move_little() -> None:
    images = pictures(50, 1, 16, 16)
    slight, strong = (
        (augment(images, Augment(rotate=degrees), seeded()) - images)[:, :, 4:12, 4:12].abs().mean()
        for degrees in (0.5, 30.0)
    )
    assert 0 < slight < 0.05 < strong


# Jitter -------------------------------------------------------------------------------------------


def test_jitter_keeps_grey_images_grey_and_scales_brightness_and_contrast() -> None:
    dark = 0.2 * pictures(200, 1, 8, 8) + 0.2
    found = augment(dark, Augment(jitter=0.5), seeded())
    brightness = found.mean((1, 2, 3)) / dark.mean((1, 2, 3))
    contrast = (found.std((1, 2, 3)) / dark.std((1, 2, 3))) / brightness
    for factor in (brightness, contrast):
        assert 0.5 - 1e-4 <= factor.min() < 0.6 and 1.4 < factor.max() <= 1.5 + 1e-4
    same_in_each_channel = augment(dark.expand(-1, 3, -1, -1), Augment(jitter=0.5), seeded())
    assert torch.allclose(same_in_each_channel, same_in_each_channel[:, :1].expand(-1, 3, -1, -1), atol=1e-6)


def test_jitter_scales_the_saturation_of_colour_images() -> None:
    colour = 0.2 * pictures(200, 3, 8, 8) + 0.3
    found = augment(colour, Augment(jitter=0.4), seeded())
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

    def vividness(images: Tensor) -> Tensor:
        grey = (images * weights).sum(1, keepdim=True)
        chroma: Tensor = (images - grey).flatten(1).norm(dim=1)
        contrast: Tensor = (grey - grey.mean((2, 3), keepdim=True)).flatten(1).norm(dim=1)
        return chroma / contrast

    ratio = vividness(found) / vividness(colour)
    assert 0.6 - 1e-3 <= ratio.min() < 0.7 and 1.3 < ratio.max() <= 1.4 + 1e-3


def test_stronger_jitter_changes_more() -> None:
    images = pictures(100, 3, 8, 8)
    mild, strong = (
        (augment(images, replace(Augment(), jitter=jitter), seeded()) - images).abs().mean() for jitter in (0.1, 0.8)
    )
    assert 0 < mild < strong / 3
