"""A frozen stand-in for a model that gives the same answers in less time: only pixels get gradients from it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from featuregen.compute import winograd
from featuregen.models import Classifier
from featuregen.runtime import ComputeSpec


class FoldedModel:
    """Each batch norm becomes part of the convolution before it; then convolutions and precision as the machine says.

    `net` is the stand-in. `refresh` takes over the present weights of a model that is still being trained.
    """

    def __init__(self, model: Classifier, compute: ComputeSpec) -> None:
        self._model = model
        self.net = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = _fold(self.net)
        self._kernels: dict[str, winograd.WinogradConv] = {}
        if compute.convolution == "winograd":
            self._put_kernels()
        if compute.precision == "bf16":
            self.net.set_arithmetic(torch.bfloat16)
        self.net.to(memory_format=torch.channels_last)
        if compute.compiled:
            self.net.compile_network()

    def _put_kernels(self) -> None:
        for name, layer in list(self.net.named_modules()):
            if winograd.takes(layer):
                assert isinstance(layer, nn.Conv2d)
                self._kernels[name] = winograd.WinogradConv(layer)
                self.net.set_submodule(name, self._kernels[name])

    @torch.no_grad()
    def sync_weights(self) -> None:
        merged: set[str] = set()
        for conv_name, norm_name in self._pairs:
            conv, norm = self._model.get_submodule(conv_name), self._model.get_submodule(norm_name)
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            self._take(conv_name, *_fused(conv, norm))
            merged |= {conv_name, norm_name}
        for name, layer in self._model.named_modules():
            if name in merged:
                continue
            if name in self._kernels:
                assert isinstance(layer, nn.Conv2d)
                self._take(name, layer.weight, layer.bias)
                continue
            own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
            for part, tensor in own:
                getattr(self.net.get_submodule(name), part).copy_(tensor)

    def _take(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        if name in self._kernels:
            self._kernels[name].copy(weight, bias)
            return
        layer = self.net.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        layer.weight.copy_(weight)
        if bias is not None:
            assert layer.bias is not None
            layer.bias.copy_(bias)


def folded_copy(model: Classifier, compute: ComputeSpec) -> Classifier:
    """The stand-in of a model whose training is over."""
    return FoldedModel(model, compute).net


def _fold(net: Classifier) -> list[tuple[str, str]]:
    """Fold in place; the names of the convolutions and batch norms that became one."""
    pairs = _foldable(net)
    for conv_name, norm_name in pairs:
        _merge(net, conv_name, norm_name)
    return pairs


def _merge(net: Classifier, conv_name: str, norm_name: str) -> None:
    conv, norm = net.get_submodule(conv_name), net.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    merged = copy.copy(conv)
    merged._parameters = dict(conv._parameters)
    merged.weight, merged.bias = (nn.Parameter(part, requires_grad=False) for part in _fused(conv, norm))
    net.set_submodule(conv_name, merged)
    net.set_submodule(norm_name, nn.Identity())


@torch.no_grad()
def _foldable(net: Classifier) -> list[tuple[str, str]]:
    """Found on a copy whose batch norms all do something: those of a new net do nothing, wherever they stand."""
    trial = copy.deepcopy(net)
    draw = torch.Generator().manual_seed(0)
    for norm in trial.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
    probe = torch.rand((2, *net.image_shape), generator=draw).to(net.mean.device)
    wanted, pairs = trial.features(probe), []
    for conv_name, norm_name in _pairs(trial, probe):
        conv, norm = trial.get_submodule(conv_name), trial.get_submodule(norm_name)
        _merge(trial, conv_name, norm_name)
        # A convolution whose output goes elsewhere too, as at the head of a pre-activation block, stays as it was.
        if torch.allclose(trial.features(probe), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())):
            pairs.append((conv_name, norm_name))
        else:
            trial.set_submodule(conv_name, conv)
            trial.set_submodule(norm_name, norm)
    return pairs


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    bias = conv.bias if conv.bias is not None else torch.zeros_like(norm.running_mean)
    return fuse_conv_bn_weights(
        conv.weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _pairs(model: Classifier, probe: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions, each with the batch norm that takes exactly its output."""
    made_by: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no later tensor gets an earlier one's identity
    pairs: list[tuple[str, str]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                made_by[id(output)] = name
                kept.append(output)
            elif id(inputs[0]) in made_by:
                pairs.append((made_by[id(inputs[0])], name))

        return hook

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers]
    try:
        model.features(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
