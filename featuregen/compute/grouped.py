"""Several small models as one network of grouped convolutions, which uses hardware that one of them leaves idle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featuregen.models.architectures.convnets import ConvNet
from featuregen.models.classifier import Classifier

# Memory for building an ensemble grows with the square of its members.
MOST_GROUPED = 32


def supports_grouping(architecture: str) -> bool:
    """Whether models of this architecture are small enough to train faster together."""
    return architecture == "convnet"


class GroupedEnsemble(nn.Module):
    """Convnets of one shape as grouped convolutions; each is trained as it would be alone.

    The input is their batches one after the other, (members · N, C, H, W); the logits are in the same order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = tuple(members)  # a tuple, so that their parameters are not the ensemble's
        nets = [member.net for member in members]
        count, width = len(members), members[0].width
        channels = members[0].image_shape[0]
        with torch.device(members[0].mean.device):
            self.net = ConvNet(channels * count, 2, width * count)
            for name, layer in list(self.net.named_modules()):
                if isinstance(layer, nn.Conv2d):
                    stride = layer.stride[0]
                    shape = layer.in_channels, layer.out_channels
                    setattr(self.net, name, nn.Conv2d(*shape, 3, stride, padding=1, bias=False, groups=count))
        del self.net.linear
        for name, tensor in self.net.state_dict().items():
            parts = [net.state_dict()[name] for net in nets]
            tensor.copy_(parts[0] if name.endswith("num_batches_tracked") else torch.cat(parts))
        self.weight = nn.Parameter(torch.stack([net.linear.weight.detach() for net in nets]))
        self.bias = nn.Parameter(torch.stack([net.linear.bias.detach() for net in nets]).unsqueeze(1))
        self.register_buffer("mean", torch.cat([member.mean for member in members]).view(-1, 1, 1))
        self.register_buffer("std", torch.cat([member.std for member in members]).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        count, (total, channels, height, width) = len(self.members), x.shape
        side_by_side = x.view(count, total // count, channels, height, width).transpose(0, 1)
        side_by_side = side_by_side.reshape(-1, count * channels, height, width)
        features = self.net.features((side_by_side - self.mean) / self.std)
        features = features.view(len(features), count, -1).transpose(0, 1)
        return torch.baddbmm(self.bias, features, self.weight.transpose(1, 2)).flatten(0, 1)

    @torch.no_grad()
    def unstack_(self) -> None:
        """Copy the weights back into the members."""
        count = len(self.members)
        state = self.net.state_dict()
        for number, member in enumerate(self.members):
            member_state = member.net.state_dict()
            for name, tensor in state.items():
                part = tensor if name.endswith("num_batches_tracked") else tensor.chunk(count)[number]
                member_state[name].copy_(part)
            member.net.linear.weight.copy_(self.weight[number])
            member.net.linear.bias.copy_(self.bias[number, 0])
