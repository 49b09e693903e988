"""Plain convolutional networks: a small default, and Carlini & Wagner's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from featuregen.models.backbone import Backbone, rectify


class ConvNet(Backbone):
    """Three convolutions with batch norm, and a global average."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.linear = nn.Linear(4 * width, classes)

    def features(self, x: Tensor, fake_relu: bool = False) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return rectify(self.bn3(self.conv3(x)), fake_relu).mean((2, 3))
