"""Residual networks for small images: the DAWNBench ResNet-9 and He et al.'s pre-activation ResNet-18."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from featuregen.models.classifier import Backbone, rectify
from featuregen.models.registry import ImageShape, register_architecture


class ConvNorm(nn.Module):
    """3x3 convolution and batch norm, side by side so that they can be folded into one."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed


class ResNet9(Backbone):
    """Eight convolutions, two of their pairs residual, global maximum, and a head scaled by 1/8."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, width)
        self.layer1 = ConvNorm(width, 2 * width)
        self.residual1a = ConvNorm(2 * width, 2 * width)
        self.residual1b = ConvNorm(2 * width, 2 * width)
        self.layer2 = ConvNorm(2 * width, 4 * width)
        self.layer3 = ConvNorm(4 * width, 8 * width)
        self.residual3a = ConvNorm(8 * width, 8 * width)
        self.residual3b = ConvNorm(8 * width, 8 * width)
        self.linear = nn.Linear(8 * width, classes, bias=False)

    def features(self, x: Tensor, fake_relu: bool = False) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        x = _pool(self.layer1(x))
        x = x + F.relu(self.residual1b(F.relu(self.residual1a(x), inplace=True)), inplace=True)
        x = _pool(self.layer2(x))
        x = _pool(self.layer3(x))
        x = x + rectify(self.residual3b(F.relu(self.residual3a(x), inplace=True)), fake_relu)
        return F.max_pool2d(x, x.shape[2:]).flatten(1)

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features) * 0.125
        return logits


@register_architecture(
    "resnet9",
    description="the DAWNBench ResNet-9, 94 % on CIFAR-10 in a few epochs",
    min_size=16,
    width=64,
    fake_relu=True,
)
def _resnet9(image_shape: ImageShape, classes: int, width: int) -> Backbone:
    return ResNet9(image_shape[0], classes, width)


def _pool(x: Tensor) -> Tensor:
    """Max-pool, then ReLU: they commute, and this way round the ReLU has a quarter of the work."""
    return F.relu(F.max_pool2d(x, 2), inplace=True)


class PreActBlock(nn.Module):
    """BN, ReLU, convolution, twice; where the shape changes, the shortcut projects the activated input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        changes = stride != 1 or channels_in != channels_out
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        kept: Tensor = x if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return kept + changed


class PreActResNet18(Backbone):
    """Four stages of two blocks each, a last BN and ReLU, and a global average."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        blocks: list[PreActBlock] = []
        channels_in = width
        for stage in range(4):
            channels_out = width * 2**stage
            blocks.append(PreActBlock(channels_in, channels_out, stride=1 if stage == 0 else 2))
            blocks.append(PreActBlock(channels_out, channels_out, stride=1))
            channels_in = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels_in)
        self.linear = nn.Linear(channels_in, classes)

    def features(self, x: Tensor, fake_relu: bool = False) -> Tensor:
        return rectify(self.norm(self.blocks(self.stem(x))), fake_relu).mean((2, 3))


@register_architecture(
    "preactresnet18", description="pre-activation ResNet-18, He et al. 2016", min_size=16, width=64, fake_relu=True
)
def _preactresnet18(image_shape: ImageShape, classes: int, width: int) -> Backbone:
    return PreActResNet18(image_shape[0], classes, width)
