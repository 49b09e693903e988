"""The classifier that the whole package works with: pixels in [0, 1] go in, and it normalises them itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featuregen.errors import CheckFailed, UserError


class Backbone(nn.Module, ABC):
    """A network in two parts, features and head, which can run separately.

    Example:
        >>> import torch, featuregen as fg
        >>> class Flat(fg.Backbone):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(64, 10)
        ...     def features(self, x, fake_relu=False):
        ...         return x.flatten(1)
        >>> tuple(Flat()(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    linear: nn.Linear

    @abstractmethod
    def features(self, x: Tensor, fake_relu: bool = False) -> Tensor:
        """(N, D). With `fake_relu` the last ReLU passes every gradient."""

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def rectify(x: Tensor, fake: bool) -> Tensor:
    """ReLU; a fake one lets the whole gradient through. The sum is exact: x + 0 above zero, x - x below."""
    return x + (F.relu(x) - x).detach() if fake else F.relu(x)


class Classifier(nn.Module):
    """A backbone with its normaliser: pixels (N, C, H, W) in [0, 1] to logits (N, classes).

    Attributes:
        net: The backbone, whose input is normalised pixels.
        architecture, width, image_shape, classes: What rebuilds the modules.
        mean, std: The normaliser, one number per channel.
        record: How the model was made, if it was loaded from a file; otherwise empty.

    Example:
        >>> import torch, featuregen as fg
        >>> model = fg.build_model("convnet", image_shape=(1, 8, 8), classes=10).eval()
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape), tuple(model.features(torch.zeros(2, 1, 8, 8)).shape)
        ((2, 10), (2, 64))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: Backbone,
        *,
        architecture: str,
        image_shape: tuple[int, int, int],
        classes: int,
        width: int,
        fake_relu: bool,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.net = net
        self.architecture = architecture
        self.image_shape = image_shape
        self.classes = classes
        self.width = width
        self.takes_fake_relu = fake_relu
        self.record: dict[str, Any] = {}
        self._dtype: torch.dtype | None = None
        self._compiled: Callable[[Tensor, bool], Tensor] | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def features(self, x: Tensor, fake_relu: bool = False) -> Tensor:
        """Penultimate features (N, D). With `fake_relu` the last ReLU passes every gradient."""
        if fake_relu and not self.takes_fake_relu:
            raise UserError(
                f"{self.architecture} has no fake ReLU; set fake_relu to false or choose another architecture."
            )
        pixels = (x - self.mean[:, None, None]) / self.std[:, None, None]
        network = self._compiled or self.net.features
        return network(pixels.to(self._dtype) if self._dtype else pixels, fake_relu)

    def head(self, features: Tensor) -> Tensor:
        return self.net.head(features)

    def logits(self, x: Tensor) -> Tensor:
        return self.net.head(self.features(x))

    def compile_network(self) -> None:
        """Compile the backbone up to the features with torch.compile, for one batch size."""
        self._compiled = torch.compile(self.net.features, dynamic=False)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Compute the backbone in another type, but not the normaliser."""
        self._dtype = dtype
        self.net.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


def check_images(model: Classifier, name: str, image_set: str, image_shape: tuple[int, int, int], classes: int) -> None:
    """Refuse a model of other images than those of an image set."""
    if (model.image_shape, model.classes) != (image_shape, classes):
        raise UserError(
            f"{name} takes images of shape {model.image_shape} in {model.classes} classes, but {image_set} has "
            f"{image_shape} in {classes}; choose the image set it was trained on with --data."
        )


@torch.no_grad()
def check_logits(model: Classifier, name: str) -> None:
    """Raise CheckFailed for weights that are finite and too large to compute with; the message begins with the name."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, *model.image_shape), generator=generator)
    probe = torch.cat([torch.zeros_like(noise), torch.ones_like(noise), noise]).to(model.mean.device)
    if not bool(model(probe).isfinite().all()):
        raise CheckFailed(f"{name} gives logits that are not finite, so its weights are of no use; take another model.")


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
