"""Convolutional networks without residual connections: a small default, and Carlini & Wagner's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from featuregen.models.classifier import Backbone, rectify
from featuregen.models.registry import ImageShape, register_architecture


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


@register_architecture(
    "convnet", description="3 convolutions with batch norm, trains in seconds", min_size=6, width=16, fake_relu=True
)
def _convnet(image_shape: ImageShape, classes: int, width: int) -> Backbone:
    return ConvNet(image_shape[0], classes, width)


class CarliniWagner(Backbone):
    """The networks of "Towards Evaluating the Robustness of Neural Networks", Table 1, without batch norm.

    Dropout follows the first fully connected layer and weights start as Keras draws them, as in the authors' code.
    """

    def __init__(self, image_shape: ImageShape, classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        first, second, hidden = (32, 64, 200) if channels == 1 else (64, 128, 256)
        height, width = (((side - 4) // 2 - 4) // 2 for side in sides)
        self.conv1 = nn.Conv2d(channels, first, 3)
        self.conv2 = nn.Conv2d(first, first, 3)
        self.conv3 = nn.Conv2d(first, second, 3)
        self.conv4 = nn.Conv2d(second, second, 3)
        self.fc1 = nn.Linear(second * height * width, hidden)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(hidden, hidden)
        self.linear = nn.Linear(hidden, classes)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def features(self, x: Tensor, fake_relu: bool = False) -> Tensor:
        x = self.conv2(F.relu(self.conv1(x), inplace=True))
        x = F.relu(F.max_pool2d(x, 2), inplace=True)
        x = self.conv4(F.relu(self.conv3(x), inplace=True))
        x = F.relu(F.max_pool2d(x, 2), inplace=True)
        x = self.dropout(F.relu(self.fc1(x.flatten(1)), inplace=True))
        return rectify(self.fc2(x), fake_relu)


@register_architecture(
    "cw-convnet",
    description="Carlini & Wagner 2017, Table 1: the MNIST net for 1 channel, the CIFAR net for 3",
    channels=(1, 3),
    min_size=16,
    fake_relu=True,
)
def _cw_convnet(image_shape: ImageShape, classes: int, _: int) -> Backbone:
    return CarliniWagner(image_shape, classes)
