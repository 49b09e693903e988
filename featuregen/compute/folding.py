"""Conv-BN folding: a frozen copy of a model that computes the same logits in less time; only pixels get gradients."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from featuregen.compute import winograd
from featuregen.models.classifier import Classifier
from featuregen.runtime.device import ComputeSpec


class FoldedModel:
    """A copy of a model in training: batch norms folded, convolutions and precision as the `ComputeSpec` says.

    `model` is the copy; `sync_weights` copies the current weights of the original into it.
    """

    def __init__(self, model: Classifier, compute: ComputeSpec) -> None:
        self._original = model
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = _fold(self.model)
        self._kernels: dict[str, winograd.WinogradConv] = {}
        if compute.convolution == "winograd":
            self._insert_winograd()
        if compute.precision == "bf16":
            self.model.set_dtype(torch.bfloat16)
        self.model.to(memory_format=torch.channels_last)
        if compute.compiled:
            self.model.compile_network()

    def _insert_winograd(self) -> None:
        for name, layer in list(self.model.named_modules()):
            if winograd.supports(layer):
                self._kernels[name] = winograd.WinogradConv(cast(nn.Conv2d, layer))
                self.model.set_submodule(name, self._kernels[name])

    @torch.no_grad()
    def sync_weights(self) -> None:
        folded: set[str] = set()
        for conv_name, norm_name in self._pairs:
            self._copy(conv_name, *_fused(*_layers(self._original, conv_name, norm_name)))
            folded |= {conv_name, norm_name}
        for name, layer in self._original.named_modules():
            if name in folded:
                continue
            if name in self._kernels:
                conv = cast(nn.Conv2d, layer)
                self._copy(name, conv.weight, conv.bias)
                continue
            for part, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
                getattr(self.model.get_submodule(name), part).copy_(tensor)

    def _copy(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        if name in self._kernels:
            self._kernels[name].copy_weights(weight, bias)
            return
        layer = cast(nn.Conv2d, self.model.get_submodule(name))
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)


def folded_copy(model: Classifier, compute: ComputeSpec) -> Classifier:
    """The folded copy of a model whose training is over."""
    return FoldedModel(model, compute).model


def _fold(net: Classifier) -> list[tuple[str, str]]:
    """Fold in place; returns the names of the convolutions and batch norms that were merged."""
    pairs = _foldable(net)
    for conv_name, norm_name in pairs:
        _merge(net, conv_name, norm_name)
    return pairs


def _merge(net: Classifier, conv_name: str, norm_name: str) -> None:
    conv, norm = _layers(net, conv_name, norm_name)
    merged = copy.copy(conv)
    merged._parameters = dict(conv._parameters)
    merged.weight, merged.bias = (nn.Parameter(part, requires_grad=False) for part in _fused(conv, norm))
    net.set_submodule(conv_name, merged)
    net.set_submodule(norm_name, nn.Identity())


@torch.no_grad()
def _foldable(net: Classifier) -> list[tuple[str, str]]:
    """The pairs that can be merged, tried on a copy with random batch norms: those of a new model are identities."""
    trial = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(0)
    for norm in trial.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    probe = torch.rand((2, *net.image_shape), generator=generator).to(net.mean.device)
    expected = trial.features(probe)
    # Weights that are too large to compute with show no difference.
    if not bool(expected.isfinite().all()):
        return []
    pairs = _pairs(trial, probe)

    def merged_agree(chosen: list[tuple[str, str]]) -> bool:
        layers = [(name, trial.get_submodule(name)) for pair in chosen for name in pair]
        for conv_name, norm_name in chosen:
            _merge(trial, conv_name, norm_name)
        if torch.allclose(trial.features(probe), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
            return True
        for name, layer in layers:
            trial.set_submodule(name, layer)
        return False

    # A convolution whose output has another use, as at the head of a pre-activation block, stays as it was. Most
    # networks have none, and then one try is enough.
    return pairs if merged_agree(pairs) else [pair for pair in pairs if merged_agree([pair])]


def _layers(net: nn.Module, conv_name: str, norm_name: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and the batch norm after it, by the names that `_pairs` found."""
    return cast(nn.Conv2d, net.get_submodule(conv_name)), cast(nn.BatchNorm2d, net.get_submodule(norm_name))


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    bias = conv.bias if conv.bias is not None else torch.zeros_like(mean)
    return fuse_conv_bn_weights(conv.weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)


def _pairs(model: Classifier, probe: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions, each with the batch norm whose input is its output."""
    producer: dict[int, str] = {}
    outputs: list[Tensor] = []  # kept alive, so that no later tensor gets the id of an earlier one
    pairs: list[tuple[str, str]] = []

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                producer[id(output)] = name
                outputs.append(output)
            elif id(inputs[0]) in producer:
                pairs.append((producer[id(inputs[0])], name))

        return hook

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    hooks = [layer.register_forward_hook(record(name)) for name, layer in layers]
    try:
        model.features(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
