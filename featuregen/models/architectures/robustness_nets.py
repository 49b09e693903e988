"""The CIFAR networks of the `robustness` package, cut into features and head; imported only when asked for."""

from __future__ import annotations

import importlib
from typing import Any, cast

from torch import Tensor, nn

from featuregen.errors import UserError
from featuregen.models.classifier import Backbone
from featuregen.models.registry import ImageShape, register_architecture

# Where each family keeps its last layer.
_HEADS = ("linear", "classifier")


class RobustnessNet(Backbone):
    """A network of the package whose last layer is taken out, so that its forward pass returns the features."""

    def __init__(self, constructor: str, classes: int) -> None:
        super().__init__()
        try:
            nets: Any = importlib.import_module("robustness.cifar_models")
        except ImportError:
            raise UserError(f"{constructor} needs the package robustness: pip install robustness.") from None
        # inceptionv3() swallows its arguments; the class takes them.
        self.original: nn.Module = getattr(nets, constructor)(num_classes=classes)
        self.head_name = next(name for name in _HEADS if isinstance(getattr(self.original, name, None), nn.Linear))
        self.linear = cast(nn.Linear, getattr(self.original, self.head_name))
        setattr(self.original, self.head_name, nn.Identity())

    def features(self, x: Tensor, fake_relu: bool = False) -> Tensor:
        latent: Tensor = self.original(x, fake_relu=fake_relu)
        return latent

    def original_name(self, name: str) -> str:
        """The name that the package gives to a tensor of this net's state dict."""
        part, _, rest = name.partition(".")
        return f"{self.head_name}.{rest}" if part == "linear" else rest


def _register(
    name: str, description: str, constructor: str, min_size: int = 32, max_size: int | None = 32, fake_relu: bool = True
) -> None:
    @register_architecture(
        name,
        description=f"{description} (robustness package)",
        channels=(3,),
        min_size=min_size,
        max_size=max_size,
        fake_relu=fake_relu,
    )
    def build(_: ImageShape, classes: int, width: int) -> Backbone:
        return RobustnessNet(constructor, classes)


# Sizes are those whose last feature map is used whole: ResNets also run on 33 to 56 pixels, VGG and DenseNet on
# 33 to 63, but silently drop the border.
_register("resnet18", "ResNet-18", "resnet18", min_size=25)
_register("resnet50", "ResNet-50, the paper's source model", "resnet50", min_size=25)
_register("vgg16", "VGG-16 with batch norm", "vgg16", fake_relu=False)
_register("densenet121", "DenseNet-121, also by the name densenet", "densenet121")
_register("inception-v3", "Inception-v3", "InceptionV3", min_size=9, max_size=None, fake_relu=False)
