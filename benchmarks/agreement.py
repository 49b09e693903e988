"""Whether `featuregen evaluate` and `robustness` measure the same accuracies of one checkpoint.

    python -m benchmarks.agreement .data/cifar10.npz [results.json]

Claim: the accuracies differ by at most 0.1 points, which is one image.
Method: the package `robustness` trains a ResNet-18 for two epochs on 5,000 images and writes its checkpoint. Then its
`eval_model` and featuregen's `evaluate` attack the same 1,000 test images with 10 steps of 2.5 eps / 10, no random
start, and the last iterate. One run on the CPU, seed 0.
Needs: CIFAR-10 as .npz (or the name of another base set), and an hour or less of CPU time.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.robustness_package import Batches, borrowed, trained
from featuregen import load_images
from featuregen.config.schema import Data, Evaluation
from featuregen.data.base_dataset import ImageSplit, balanced_rows
from featuregen.evaluation.accuracy import evaluate
from featuregen.interop.robustness import load_checkpoint

ARCHITECTURE, ATTACKS = "resnet18", [("2", 0.1), ("inf", 1 / 255)]
CPU = torch.device("cpu")
STEPS, TRAINED, TESTED, BATCH = 10, 5_000, 1_000, 100


def batches_of(split: ImageSplit, count: int) -> Batches:
    rows = balanced_rows(split.labels, count, 0)
    rows = np.random.default_rng(0).permutation(rows)
    images, labels = split.images_tensor(CPU, rows), split.labels_tensor(CPU, rows)
    return [(images[start : start + BATCH], labels[start : start + BATCH]) for start in range(0, count, BATCH)]


def by_the_package(package: dict[str, Any], path: Path, batches: Batches, constraint: str, eps: float) -> list[float]:
    """Accuracy in percent, clean and attacked."""
    data = package["datasets"].CIFAR("nowhere")
    model, _ = package["model_utils"].make_and_restore_model(arch=ARCHITECTURE, dataset=data, resume_path=str(path))
    settings = Namespace(
        adv_train=0, adv_eval=1, attack_lr=2.5 * eps / STEPS, attack_steps=STEPS, constraint=constraint, eps=eps,
        random_restarts=0, random_start=0, use_best=0, custom_adv_loss=None, custom_accuracy=None,
        custom_train_loss=None, regularizer=None, iteration_hook=None,
    )  # fmt: skip
    told = package["train"].eval_model(settings, model, batches, None)
    return [float(told["nat_prec1"]), float(told["adv_prec1"])]


def by_featuregen(path: Path, batches: Batches, constraint: str, eps: float) -> list[float]:
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    radii: dict[str, Any] = {"l2": (eps,), "linf": ()} if constraint == "2" else {"l2": (), "linf": (eps,)}
    found = evaluate(load_checkpoint(path), images, labels, Evaluation(**radii, steps=STEPS))
    return [100 * found.clean, *(100 * value for value in (*found.l2.values(), *found.linf.values()))]


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", help="a set's name, or .npz with x_train, y_train, x_test, y_test")
    parser.add_argument("results", type=Path, nargs="?", help="a JSON file to write")
    given = parser.parse_args()
    base = load_images(Data(name=given.images))
    torch.manual_seed(0)
    tested, rows = batches_of(base.test, TESTED), []
    with TemporaryDirectory() as folder, borrowed() as package:
        path = trained(package, ARCHITECTURE, batches_of(base.train, TRAINED), Path(folder), epochs=2)
        print(f"{'':16}{'robustness':>22}{'featuregen':>22}\n{'':16}{'clean  attacked':>22}{'clean  attacked':>22}")
        for constraint, eps in ATTACKS:
            theirs = by_the_package(package, path, tested, constraint, eps)
            ours = by_featuregen(path, tested, constraint, eps)
            rows.append({"norm": constraint, "eps": eps, "robustness": theirs, "featuregen": ours})
            name = f"L{constraint}, {eps:.3g}"
            print(f"{name:16}{theirs[0]:12.1f}{theirs[1]:10.1f}{ours[0]:12.1f}{ours[1]:10.1f}", flush=True)
    if given.results:
        report = {"images": TESTED, "steps": STEPS, "base": base.digest, "torch": torch.__version__, "rows": rows}
        given.results.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
