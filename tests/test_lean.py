"""Folding batch norm away: the same features, no batch norm left where a convolution feeds nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featuregen.attacks import pgd
from featuregen.config import Attack, Model
from featuregen.models import Classifier, build_model, frozen
from featuregen.runtime import Machine


def lived_in(architecture: str, shape: tuple[int, int, int]) -> Classifier:
    """A net whose batch norms are far from doing nothing, as after training."""
    width = 8 if architecture in ("convnet", "resnet9", "preactresnet18") else 0
    model = build_model(Model(architecture, width), shape, 10, [0.4] * shape[0], [0.3] * shape[0], 0)
    draw = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in ((layer.running_mean, -0.2, 0.2), (layer.running_var, 0.5, 2.0)):
                assert tensor is not None
                tensor.uniform_(low, high, generator=draw)
            with torch.no_grad():
                layer.weight.uniform_(0.5, 1.5, generator=draw)
                layer.bias.uniform_(-0.2, 0.2, generator=draw)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.parametrize(
    ("architecture", "shape", "before", "after"),
    [
        ("convnet", (1, 8, 8), 3, 0),
        ("resnet9", (3, 32, 32), 8, 0),
        # The norms before an activation whose sum also feeds the shortcut stay.
        ("preactresnet18", (3, 32, 32), 17, 9),
        ("resnet18", (3, 32, 32), 20, 0),
        ("cw-convnet", (1, 28, 28), 0, 0),
    ],
)
def test_same_logits_and_features(architecture: str, shape: tuple[int, int, int], before: int, after: int) -> None:
    model = lived_in(architecture, shape)
    lean = frozen(model, Machine())
    assert (norms(model), norms(lean)) == (before, after)
    x = torch.rand((4, *shape), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for wanted, found in ((model.features(x), lean.features(x)), (model(x), lean(x))):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert not any(parameter.requires_grad for parameter in lean.parameters())
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_attacks_on_both_agree(standard: Classifier, images: torch.Tensor, labels: torch.Tensor) -> None:
    attack = Attack(norm="l2", eps=0.5, steps=20)
    lean = frozen(standard, Machine())
    with torch.no_grad():
        right = [
            (standard(pgd(net, images, labels, attack)).argmax(1) == labels).float().mean().item()
            for net in (standard, lean)
        ]
    assert abs(right[0] - right[1]) <= 0.005
