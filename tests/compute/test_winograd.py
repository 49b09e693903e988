"""Winograd's convolution against torch's own, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.compute.winograd import WinogradConv, available, supports

pytestmark = pytest.mark.skipif(not available(), reason="needs a C compiler with OpenMP")


def conv_of(channels: int, out: int, bias: bool = True) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(channels + out)
        return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def answers(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_(True)
    y = layer(x)
    return y.detach(), torch.autograd.grad(y, x, gradient.to(y.dtype))[0]


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("channels", "out"), [(32, 32), (32, 48), (64, 32)])
@pytest.mark.parametrize(
    ("count", "height", "width"), [(3, 1, 1), (2, 2, 3), (1, 4, 4), (3, 5, 7), (65, 8, 8), (9, 28, 28), (30, 32, 32)]
)
def test_output_and_gradient_are_those_of_torch(
    channels: int, out: int, count: int, height: int, width: int, bias: bool
) -> None:
    conv = conv_of(channels, out, bias)
    x, gradient = draw(count, channels, height, width), draw(count, out, height, width, seed=1)
    wanted = answers(copy.deepcopy(conv).double(), x.double(), gradient)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        found = answers(WinogradConv(conv), given, gradient)
        assert found[0].shape == wanted[0].shape
        assert max(off(found[0], wanted[0]), off(found[1], wanted[1])) < 1e-5


def test_any_layout_of_memory_will_do() -> None:
    conv = conv_of(32, 32)
    own = WinogradConv(conv)
    wide = draw(4, 64, 8, 8)
    for x in (wide[:, ::2], wide[:, :32].transpose(2, 3), draw(1, 32, 8, 8).expand(3, 32, 8, 8)):
        assert torch.allclose(own(x), conv(x), atol=1e-4)


def test_no_images_give_no_images() -> None:
    assert WinogradConv(conv_of(32, 48))(draw(0, 32, 8, 8)).shape == (0, 48, 8, 8)


def test_the_same_bits_every_time_and_for_any_number_of_threads() -> None:
    own, x = WinogradConv(conv_of(64, 64)), draw(20, 64, 16, 16)
    first, threads = own(x), torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.allclose(own(x), first, atol=1e-5)
            assert torch.equal(own(x), own(x))
    finally:
        torch.set_num_threads(threads)


def test_other_weights_can_be_taken_over() -> None:
    first, second = conv_of(32, 48), conv_of(32, 48, bias=False)
    own = WinogradConv(first)
    own.copy_weights(second.weight.detach() * 2, torch.ones(48))
    x = draw(2, 32, 8, 8)
    assert torch.allclose(own(x), F.conv2d(x, second.weight * 2, torch.ones(48), padding=1), atol=1e-4)


def test_a_second_gradient_is_refused() -> None:
    x = draw(1, 32, 4, 4).requires_grad_(True)
    (once,) = torch.autograd.grad(WinogradConv(conv_of(32, 32))(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated"):
        torch.autograd.grad(once.sum(), x)


@pytest.mark.parametrize(
    ("layer", "yes"),
    [
        (nn.Conv2d(32, 64, 3, padding=1), True),
        (nn.Conv2d(32, 64, 3, padding=1, stride=2), False),
        (nn.Conv2d(32, 64, 3), False),
        (nn.Conv2d(32, 64, 1), False),
        (nn.Conv2d(32, 64, 3, padding=2, dilation=2), False),
        (nn.Conv2d(64, 64, 3, padding=1, groups=2), False),
        (nn.Conv2d(32, 64, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(32, 40, 3, padding=1), False),
        (nn.Conv2d(16, 64, 3, padding=1), False),
        (nn.Linear(32, 64), False),
    ],
)
def test_it_takes_what_it_can_do(layer: nn.Module, yes: bool) -> None:
    assert supports(layer) is yes
