"""What every architecture offers: penultimate features, and a head from features to logits."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network in two parts, features and head, which can run separately."""

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
