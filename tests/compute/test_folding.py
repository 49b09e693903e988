"""Folding batch norm away: the same features, no batch norm left where a convolution feeds nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featuregen.attacks.pgd import pgd
from featuregen.compute import winograd
from featuregen.compute.folding import FoldedModel, folded_copy
from featuregen.config.schema import PGD, Model
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier
from featuregen.runtime.device import ComputeSpec


def randomize_norms(model: Classifier) -> Classifier:
    """Random batch norms, far from identities, as after training."""
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


def with_random_norms(architecture: str, shape: tuple[int, int, int], wide: bool = False) -> Classifier:
    """`wide` enough for Winograd's kernels."""
    narrow = 8 if architecture in ("convnet", "resnet9", "preactresnet18") else 0
    settings = Model(architecture, 16 if wide else narrow)
    return randomize_norms(build_classifier(settings, shape, 10, [0.4] * shape[0], [0.3] * shape[0], 0))


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
    model = with_random_norms(architecture, shape)
    folded = folded_copy(model, ComputeSpec())
    assert (norms(model), norms(folded)) == (before, after)
    x = torch.rand((4, *shape), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for wanted, found in ((model.features(x), folded.features(x)), (model(x), folded(x))):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_attacks_on_both_agree(standard: Classifier, images: torch.Tensor, labels: torch.Tensor) -> None:
    attack = PGD(norm="l2", eps=0.5, steps=20)
    folded = folded_copy(standard, ComputeSpec())
    with torch.no_grad():
        right = [
            (standard(pgd(net, images, labels, attack)).argmax(1) == labels).float().mean().item()
            for net in (standard, folded)
        ]
    assert abs(right[0] - right[1]) <= 0.005


SPECS = [
    pytest.param(ComputeSpec(), 1e-4, id="direct"),
    pytest.param(
        ComputeSpec(convolution="winograd"),
        1e-3,
        id="winograd",
        marks=pytest.mark.skipif(not winograd.available(), reason="no C compiler"),
    ),
    # Eight bits of a number, with which one of two near maxima takes the other's place.
    pytest.param(ComputeSpec(precision="bf16"), 0.3, id="bf16"),
]


@pytest.mark.parametrize(("compute", "near"), SPECS)
@pytest.mark.parametrize(("architecture", "shape"), [("convnet", (1, 8, 8)), ("resnet9", (3, 16, 16))])
def test_pixels_get_the_same_gradient(
    architecture: str, shape: tuple[int, int, int], compute: ComputeSpec, near: float
) -> None:
    model = with_random_norms(architecture, shape, wide=True)
    x = torch.rand((4, *shape), generator=torch.Generator().manual_seed(2))

    def gradient(net: Classifier) -> torch.Tensor:
        pixels = x.clone().requires_grad_(True)
        (found,) = torch.autograd.grad(net.features(pixels).float().square().sum(), pixels)
        return found

    wanted, found = gradient(model), gradient(folded_copy(model, compute))
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < near
    # bf16 that computed in fp32 all the same would be much nearer.
    assert compute.precision == "fp32" or float((found - wanted).norm() / wanted.norm()) > 1e-4


@pytest.mark.parametrize(("compute", "near"), SPECS)
@pytest.mark.parametrize(
    ("architecture", "shape"), [("convnet", (1, 8, 8)), ("resnet9", (3, 16, 16)), ("preactresnet18", (3, 16, 16))]
)
def test_sync_weights_copies_weights_and_statistics(
    architecture: str, shape: tuple[int, int, int], compute: ComputeSpec, near: float
) -> None:
    model = build_classifier(
        Model(architecture, 16 if architecture != "preactresnet18" else 8),
        shape,
        10,
        [0.4] * shape[0],
        [0.3] * shape[0],
        0,
    )
    folded = FoldedModel(model.eval(), compute)
    x = torch.rand((4, *shape), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = folded.model(x)
        randomize_norms(model)
        for parameter in model.parameters():
            parameter.mul_(1.1)
        folded.sync_weights()
        anew, found = folded_copy(model, compute)(x), folded.model(x)
    assert not torch.allclose(found, before, rtol=0.1)
    assert torch.allclose(found, anew, rtol=1e-5, atol=1e-5 * float(anew.abs().max()))


def test_an_untrained_net_is_folded_like_a_trained_one() -> None:
    """Its batch norms are identities, so that leaving one out would change nothing."""
    new = build_classifier(Model("preactresnet18", 8), (3, 32, 32), 10, [0.4] * 3, [0.3] * 3, 0).eval()
    assert norms(folded_copy(new, ComputeSpec())) == 9
    assert (
        FoldedModel(new, ComputeSpec())._pairs
        == FoldedModel(with_random_norms("preactresnet18", (3, 32, 32)), ComputeSpec())._pairs
    )


@pytest.mark.parametrize(("compute", "near"), SPECS)
def test_the_model_itself_stays_as_it_is(compute: ComputeSpec, near: float) -> None:
    model = with_random_norms("resnet9", (3, 16, 16), wide=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = FoldedModel(model, compute)
    folded.sync_weights()
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not folded.model.training and all(module.training for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("compute", "near"), SPECS[:2])
@pytest.mark.parametrize("architecture", ["convnet", "resnet9"])
def test_the_linear_end_for_inversion_is_kept(architecture: str, compute: ComputeSpec, near: float) -> None:
    model = with_random_norms(architecture, (3, 16, 16), wide=True)
    x = torch.rand((4, 3, 16, 16), generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    found = []
    for net in (model, folded_copy(model, compute)):
        (gradient,) = torch.autograd.grad(net.features(x, fake_relu=True).sum(), x)
        found.append(gradient)
    (usual,) = torch.autograd.grad(model.features(x).sum(), x)
    assert float((found[1] - found[0]).norm() / found[0].norm()) < near
    assert not torch.allclose(found[0], usual, rtol=0.1)


def test_weights_too_large_to_compute_with_are_not_folded() -> None:
    model = build_classifier(Model("convnet", 4), (1, 8, 8), 10, [0.3], [0.4], seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e30)
    folded = folded_copy(model, ComputeSpec(torch.device("cpu")))
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
