"""The CIFAR networks of the `robustness` package, cut into features and head; imported only when asked for."""

from __future__ import annotations

import importlib
from typing import Any, cast

from torch import Tensor, nn

from featuregen.errors import UserError
from featuregen.models.backbone import Backbone

# Where each family keeps its last layer.
_HEADS = ("linear", "classifier")


class RobustnessNet(Backbone):
    """The package's own forward with its last layer taken out, so that features cost no head and are computed once."""

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

    def original_name(self, own_name: str) -> str:
        """What the package calls a tensor of this net's state dict."""
        part, _, rest = own_name.partition(".")
        return f"{self.head_name}.{rest}" if part == "linear" else rest
