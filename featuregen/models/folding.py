"""A fixed model without its batch norms: each becomes part of the convolution before it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featuregen.models.classifier import Classifier


@torch.no_grad()
def folded(model: Classifier) -> Classifier:
    """A frozen copy that gives the same features with fewer steps, up to rounding."""
    lean = copy.deepcopy(model).eval().requires_grad_(False)
    probe = torch.rand((2, *model.image_shape), generator=torch.Generator().manual_seed(0)).to(model.mean.device)
    wanted = lean.features(probe)
    for conv_name, norm_name in _pairs(lean, probe):
        conv, norm = lean.get_submodule(conv_name), lean.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        lean.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        lean.set_submodule(norm_name, nn.Identity())
        # A convolution whose output goes elsewhere too, as at the head of a pre-activation block, stays as it was.
        if not torch.allclose(lean.features(probe), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())):
            lean.set_submodule(conv_name, conv)
            lean.set_submodule(norm_name, norm)
    return lean.to(memory_format=torch.channels_last)


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
