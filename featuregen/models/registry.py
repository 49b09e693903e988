"""The architectures by name, the images each takes, and how a model is built."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import torch

from featuregen.config.loader import did_you_mean
from featuregen.config.schema import Model
from featuregen.errors import UserError, join_lines
from featuregen.models.classifier import Backbone, Classifier
from featuregen.runtime.console import format_columns
from featuregen.runtime.rng import seeded

ImageShape = tuple[int, int, int]
Builder = Callable[[ImageShape, int, int], Backbone]
_Builder = TypeVar("_Builder", bound=Builder)


@dataclass(frozen=True)
class Architecture:
    """One row of the table. `channels` None takes any, `max_size` None has no limit, `width` 0 is not adjustable."""

    name: str
    description: str
    builder: Builder
    channels: tuple[int, ...] | None = None
    min_size: int = 1
    max_size: int | None = None
    width: int = 0
    fake_relu: bool = False

    def takes(self, image_shape: ImageShape) -> bool:
        channels, *sides = image_shape
        if self.channels is not None and channels not in self.channels:
            return False
        return all(self.min_size <= side <= (self.max_size or side) for side in sides)

    @property
    def channels_text(self) -> str:
        return "any" if self.channels is None else " or ".join(str(count) for count in self.channels)

    @property
    def sizes_text(self) -> str:
        low, high = f"{self.min_size}x{self.min_size}", f"{self.max_size}x{self.max_size}"
        if self.max_size is None:
            return f"{low} or larger"
        return low if low == high else f"{low} to {high}"


ARCHITECTURES: dict[str, Architecture] = {}
_ALIASES = {"densenet": "densenet121"}


def register_architecture(
    name: str,
    *,
    description: str,
    channels: tuple[int, ...] | None = None,
    min_size: int = 1,
    max_size: int | None = None,
    width: int = 0,
    fake_relu: bool = False,
) -> Callable[[_Builder], _Builder]:
    """Add an architecture, so that models of it can be built, trained, saved and loaded by its name.

    The decorated function takes (image_shape, classes, width) and returns a `Backbone`: a module with
    `features(x, fake_relu)` and a last layer `linear`. It draws its weights from torch's global generator, which
    `build_model` seeds. A file of such a model can be loaded wherever the architecture is registered. Registering a
    name again replaces it, except the name of an architecture that comes with featuregen.

    Args:
        name: The name to call it by.
        description: What it is, in half a line.
        channels: The numbers of channels it takes. Default: any.
        min_size: The smallest height and width.
        max_size: The largest height and width. Default: any.
        width: The default width; 0 if the width is fixed.
        fake_relu: Whether `features` heeds its second argument, for which the last ReLU passes every gradient.

    Example:
        >>> from torch import nn
        >>> import featuregen as fg
        >>> class Linear(fg.Backbone):
        ...     def __init__(self, inputs, classes):
        ...         super().__init__()
        ...         self.linear = nn.Linear(inputs, classes)
        ...     def features(self, x, fake_relu=False):
        ...         return x.flatten(1)
        >>> @fg.register_architecture("linear", description="one linear layer")
        ... def linear(image_shape, classes, width):
        ...     channels, height, rows = image_shape
        ...     return Linear(channels * height * rows, classes)
        >>> fg.list_models("lin*")
        ['linear']
    """

    def add(builder: _Builder) -> _Builder:
        known = ARCHITECTURES.get(name)
        if name in _ALIASES or (known and _ours(known.builder) and not _ours(builder)):
            raise UserError(f"'{name}' is an architecture of featuregen's; register yours by another name.")
        ARCHITECTURES[name] = Architecture(name, description, builder, channels, min_size, max_size, width, fake_relu)
        return builder

    return add


def _ours(builder: Builder) -> bool:
    return getattr(builder, "__module__", "").startswith("featuregen.")


def list_models(pattern: str = "*") -> list[str]:
    """The names of all architectures, or of those that match a pattern.

    Args:
        pattern: A pattern as in file names; `*` stands for anything.

    Example:
        >>> import featuregen as fg
        >>> fg.list_models("resnet*")
        ['resnet9', 'resnet18', 'resnet50']
    """
    return [name for name in ARCHITECTURES if fnmatchcase(name, pattern)]


def find_architecture(name: str) -> Architecture:
    name = _ALIASES.get(name, name)
    if name not in ARCHITECTURES:
        raise UserError(f"{reprlib.repr(name)} is no architecture; {did_you_mean(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


def architecture_table() -> str:
    """The table, ready to print."""
    rows = [("name", "channels", "image size", "width", "fake ReLU", "description")]
    for item in ARCHITECTURES.values():
        width = str(item.width) if item.width else "fixed"
        fake = "yes" if item.fake_relu else "no"
        rows.append((item.name, item.channels_text, item.sizes_text, width, fake, item.description))
    return join_lines(format_columns(rows))


def build_model(
    architecture: str,
    image_shape: ImageShape = (3, 32, 32),
    classes: int = 10,
    *,
    width: int = 0,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Build a classifier with fresh weights, on the CPU and in training mode.

    Args:
        architecture: One of `list_models()`.
        image_shape: Channels, height and width of the images.
        classes: The number of classes.
        width: The width of the network; 0 is the architecture's own.
        seed: Decides the weights; torch's global generator stays as it is.
        mean: What is subtracted from each channel of the images in [0, 1]. Default: 0, no normalisation.
        std: What each channel is then divided by. Default: 1, no normalisation.

    Returns:
        A torch.nn.Module that maps images in [0, 1] to logits. Call `.eval()` before you attack it.

    Raises:
        UserError: The architecture is unknown or does not take such images.

    Example:
        >>> import torch, featuregen as fg
        >>> model = fg.build_model("resnet9", image_shape=(3, 32, 32), classes=10, width=8, seed=0)
        >>> model(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """
    channels = image_shape[0]
    mean, std = [0.0] * channels if mean is None else mean, [1.0] * channels if std is None else std
    return build_classifier(Model(architecture, width), image_shape, classes, mean, std, seed)


def build_classifier(
    settings: Model, image_shape: ImageShape, classes: int, mean: Sequence[float], std: Sequence[float], seed: int
) -> Classifier:
    """The same from the settings of a config; the normaliser is that of the arguments, not of the settings."""
    _check_normaliser(image_shape[0], mean, std)
    cpu = torch.device("cpu")
    with seeded(seed, cpu), cpu:
        return _assemble(settings, image_shape, classes, mean, std)


def skeleton(settings: Model, image_shape: ImageShape, classes: int) -> Classifier:
    """The modules without their weights: costs no memory, and says whether such a classifier can be built."""
    channels = image_shape[0]
    with torch.device("meta"):
        return _assemble(settings, image_shape, classes, [0.0] * channels, [1.0] * channels)


def _assemble(
    settings: Model, image_shape: ImageShape, classes: int, mean: Sequence[float], std: Sequence[float]
) -> Classifier:
    """The modules of a classifier, on torch's current device and from its current random state."""
    architecture = find_architecture(settings.architecture)
    _check_shape(architecture, image_shape)
    if classes < 2:
        raise UserError(f"a classifier needs at least 2 classes; got {classes}.")
    if settings.width and not architecture.width:
        raise UserError(f"model.width is {settings.width}, but the width of {architecture.name} is fixed; set it to 0.")
    width = settings.width or architecture.width
    return Classifier(
        architecture.builder(image_shape, classes, width),
        architecture=architecture.name,
        image_shape=image_shape,
        classes=classes,
        width=width,
        fake_relu=architecture.fake_relu,
        mean=mean,
        std=std,
    )


def _check_shape(architecture: Architecture, image_shape: ImageShape) -> None:
    if architecture.takes(image_shape):
        return
    shape = "x".join(str(side) for side in image_shape)
    fitting = ", ".join(item.name for item in ARCHITECTURES.values() if item.takes(image_shape)) or "none"
    raise UserError(
        f"{architecture.name} takes no {shape} images (channels x height x width): it needs {architecture.sizes_text} "
        f"pixels, channels: {architecture.channels_text}; architectures for {shape}: {fitting}."
    )


def _check_normaliser(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != channels or len(std) != channels:
        raise UserError(f"the normaliser has {len(mean)} means and {len(std)} deviations for {channels} channels.")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UserError(f"the normaliser needs finite means and positive deviations; got {list(mean)} and {list(std)}.")
