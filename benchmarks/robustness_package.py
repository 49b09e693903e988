"""The package `robustness` as it is, made to run without CUDA and with today's torchvision."""

from __future__ import annotations

import importlib
import sys
import types
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

PARTS = ("model_utils", "datasets", "train", "attacker")


@contextmanager
def borrowed() -> Iterator[dict[str, Any]]:
    """Its modules, and for as long what had to be mended."""
    gone = types.ModuleType("torchvision.models.utils")
    vars(gone)["load_state_dict_from_url"] = torch.hub.load_state_dict_from_url
    with ExitStack() as mended:
        mended.enter_context(mock.patch.dict(sys.modules, {gone.__name__: gone}))
        for kind in (torch.Tensor, torch.nn.Module):
            mended.enter_context(mock.patch.object(kind, "cuda", lambda itself, *args, **kwargs: itself))
        yield {name: importlib.import_module(f"robustness.{name}") for name in PARTS}


Batches = list[tuple[torch.Tensor, torch.Tensor]]


def trained(package: dict[str, Any], arch: str, batches: Batches, folder: Path, epochs: int = 1) -> Path:
    """A checkpoint that the package's own training wrote."""
    model, _ = package["model_utils"].make_and_restore_model(arch=arch, dataset=package["datasets"].CIFAR(str(folder)))
    settings = Namespace(
        adv_train=0, adv_eval=0, attack_lr=0.1, attack_steps=1, batch_size=len(batches[0][0]), constraint="2",
        custom_accuracy=None, custom_lr_multiplier="[(0,1),(1,0.1)]", custom_train_loss=None, epochs=epochs, eps=0.5,
        log_iters=1, lr=0.05, lr_interpolation="linear", mixed_precision=0, momentum=0.9, out_dir=str(folder),
        random_restarts=0, random_start=0, save_ckpt_iters=epochs, step_lr=50, step_lr_gamma=0.1,
        eps_fadein_epochs=0, train_loss=None, iteration_hook=None, epoch_hook=None, custom_adv_loss=None,
        regularizer=None, use_best=1, weight_decay=5e-4,
    )  # fmt: skip
    package["train"].train_model(settings, model, (batches, batches[:1]))
    return folder / "checkpoint.pt.latest"
