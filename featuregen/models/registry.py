"""The architectures by name, what each takes, and how a model is built from settings."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from featuregen.config import Model, did_you_mean
from featuregen.errors import UserError
from featuregen.models.architectures.convnets import CarliniWagner, ConvNet
from featuregen.models.architectures.resnets import PreActResNet18, ResNet9
from featuregen.models.architectures.robustness_nets import RobustnessNet
from featuregen.models.backbone import Backbone
from featuregen.models.classifier import Classifier
from featuregen.runtime import format_columns, seeded

ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class Architecture:
    """One row of the table. `channels` none takes any, `max_size` none has no limit, `width` 0 is not adjustable."""

    name: str
    description: str
    builder: Callable[[ImageShape, int, int], Backbone]
    channels: tuple[int, ...] | None = None
    min_size: int = 1
    max_size: int | None = None
    width: int = 0
    fake_relu: bool = True

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


def _robustness(
    name: str,
    description: str,
    constructor: str,
    min_size: int = 32,
    max_size: int | None = 32,
    fake_relu: bool = True,
) -> Architecture:
    return Architecture(
        name,
        f"{description} (robustness package)",
        lambda shape, classes, width: RobustnessNet(constructor, classes),
        channels=(3,),
        min_size=min_size,
        max_size=max_size,
        fake_relu=fake_relu,
    )


# Sizes are those whose last feature map is used whole: ResNets also run on 33 to 56 pixels, VGG and DenseNet on
# 33 to 63, but drop the border without a word.
_TABLE = (
    Architecture(
        "convnet",
        "3 convolutions with batch norm, trains in seconds",
        lambda shape, classes, width: ConvNet(shape[0], classes, width),
        min_size=6,
        width=16,
    ),
    Architecture(
        "cw-convnet",
        "Carlini & Wagner 2017, Table 1: the MNIST net for 1 channel, the CIFAR net for 3",
        lambda shape, classes, width: CarliniWagner(shape, classes),
        channels=(1, 3),
        min_size=16,
    ),
    Architecture(
        "resnet9",
        "the DAWNBench ResNet-9, 94 % on CIFAR-10 in a few epochs",
        lambda shape, classes, width: ResNet9(shape[0], classes, width),
        min_size=16,
        width=64,
    ),
    Architecture(
        "preactresnet18",
        "pre-activation ResNet-18, He et al. 2016",
        lambda shape, classes, width: PreActResNet18(shape[0], classes, width),
        min_size=16,
        width=64,
    ),
    _robustness("resnet18", "ResNet-18", "resnet18", min_size=25),
    _robustness("resnet50", "ResNet-50, the paper's source model", "resnet50", min_size=25),
    _robustness("vgg16", "VGG-16 with batch norm", "vgg16", fake_relu=False),
    _robustness("densenet121", "DenseNet-121, also by the name densenet", "densenet121"),
    _robustness("inception-v3", "Inception-v3", "InceptionV3", min_size=9, max_size=None, fake_relu=False),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _TABLE}
_ALIASES = {"densenet": "densenet121"}


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
    return "\n".join(format_columns(rows))


def build_model(
    settings: Model,
    image_shape: ImageShape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> Classifier:
    """A fresh classifier on the CPU, in training mode; the seed alone decides its weights."""
    _check_normaliser(image_shape[0], mean, std)
    cpu = torch.device("cpu")
    with seeded(seed, cpu), cpu:
        return assemble(settings, image_shape, classes, mean, std)


def assemble(
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


def skeleton(settings: Model, image_shape: ImageShape, classes: int) -> Classifier:
    """The modules without their numbers: costs no memory, and says whether such a classifier can be had."""
    channels = image_shape[0]
    with torch.device("meta"):
        return assemble(settings, image_shape, classes, [0.0] * channels, [1.0] * channels)


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
