"""Trainings in several processes of torchrun, and the same in one process."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from featuregen.config.schema import PGD, Augment, Data, Model, Training
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier
from featuregen.runtime.distributed import SINGLE_PROCESS, DistInfo, init_distributed
from featuregen.training.loop import TrainingLog, train

_BASIC = Training(epochs=1, batch_size=32, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant")
_ADVERSARIAL = replace(_BASIC, attack=PGD(eps=0.5, steps=2))
_COMPLETE = Training(
    epochs=3, batch_size=16, lr=0.1, augment=Augment(crop=1, flip=True),
    attack=PGD(eps=0.5, steps=1, random_start=True), early_stop="adversarial", held_out=0.2,
)  # fmt: skip
# The architecture, the images trained on, and the recipe.
CASES = {
    "one step": ("cw-convnet", 32, _BASIC),
    "one attacked step": ("cw-convnet", 32, _ADVERSARIAL),
    "two mixed steps": ("cw-convnet", 64, replace(_ADVERSARIAL, lr=0.1, alpha=0.5)),
    "batch norm": ("convnet", 80, _COMPLETE),
    "dropout": ("cw-convnet", 32, _BASIC),
}


def untrained(name: str, seed: int = 0) -> Classifier:
    architecture = CASES[name][0]
    model = build_classifier(Model(architecture, 4 * (architecture == "convnet")), (1, 16, 16), 10, [0.3], [0.4], seed)
    for layer in model.modules():
        # Every process draws its own dropout masks.
        if isinstance(layer, nn.Dropout) and name != "dropout":
            layer.p = 0.0
    return model


def examples(count: int) -> tuple[Tensor, Tensor]:
    """Digits twice as large, which that architecture asks for."""
    split, device = load_images(Data()).train, torch.device("cpu")
    images = split.images_tensor(device, slice(0, count)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return images, split.labels_tensor(device, slice(0, count))


def trained(name: str, dist: DistInfo = SINGLE_PROCESS) -> tuple[Classifier, TrainingLog]:
    # Other ranks start from other weights, which those of rank 0 must replace.
    model = untrained(name, seed=dist.rank)
    return model, train(model, *examples(CASES[name][1]), CASES[name][2], seed=0, dist=dist)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with init_distributed("cpu") as dist:
        results: dict[str, object] = {"broadcast": dist.broadcast_object({"by": dist.rank})}
        for name in CASES:
            model, log = trained(name, dist)
            weights = {key: value.contiguous() for key, value in model.state_dict().items()}
            save_file(weights, out / f"{name} {dist.rank}.safetensors")
            results[name] = [[epoch.loss, epoch.accuracy, epoch.error] for epoch in log.epochs]
        try:
            train(untrained("one step"), *examples(31), _BASIC, seed=0, dist=dist, title="odd")
        except UserError as error:
            results["odd"] = str(error)
        (out / f"{dist.rank}.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
