"""Accuracy of the digits' source models under featuregen's PGD and its peers'.

    python -m benchmarks.attack_strength [results.json]

Claim: featuregen's PGD is within one point of Foolbox's and torchattacks' with equal radii, steps and step sizes, and
ten times the steps take at most two points more.
Method: one run of deterministic attacks on the standard and the robust source model of `configs/digits.yaml`, in fp32
on the CPU. There are no seeds and no spread.
Needs: the peers: pip install -e ".[test]".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import foolbox
import torch
import torchattacks
from torch import Tensor

from featuregen import PGD, Experiment, load_config
from featuregen.attacks.pgd import pgd
from featuregen.config.schema import Norm
from featuregen.models.classifier import Classifier

RADII: list[tuple[Norm, float]] = [("l2", 0.2), ("l2", 0.6), ("l2", 1.0), ("linf", 0.05), ("linf", 0.1)]
STEPS = 20


def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def ours(model: Classifier, images: Tensor, labels: Tensor, norm: Norm, eps: float, steps: int) -> Tensor:
    found: Tensor = pgd(model, images, labels, PGD(norm=norm, eps=eps, steps=steps))
    return found


def by_foolbox(model: Classifier, images: Tensor, labels: Tensor, norm: Norm, eps: float, size: float) -> Tensor:
    attacks: dict[str, Any] = {
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
    }
    attack = attacks[norm](abs_stepsize=size, steps=STEPS, random_start=False)
    found: Tensor = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=eps)[1]
    return found


def by_torchattacks(model: Classifier, images: Tensor, labels: Tensor, norm: Norm, eps: float, size: float) -> Tensor:
    attacks: dict[str, Any] = {"l2": torchattacks.PGDL2, "linf": torchattacks.PGD}
    found: Tensor = attacks[norm](model, eps=eps, alpha=size, steps=STEPS, random_start=False)(images, labels)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="?", help="a JSON file to write")
    results: Path | None = parser.parse_args().results
    experiment = Experiment(load_config("digits"), Path("datasets_out"))
    images, labels = experiment.test_set.images[:], experiment.test_set.labels
    print(f"accuracy in %   {'featuregen':>10} {'10x steps':>10} {'Foolbox':>10} {'torchattacks':>13}")
    rows = []
    for which in ("standard", "robust"):
        model = experiment.source_model(which).model.eval()
        for norm, eps in RADII:
            size = 2.5 * eps / STEPS
            found = {
                "featuregen": ours(model, images, labels, norm, eps, STEPS),
                "featuregen, ten times the steps": ours(model, images, labels, norm, eps, 10 * STEPS),
                "foolbox": by_foolbox(model, images, labels, norm, eps, size),
                "torchattacks": by_torchattacks(model, images, labels, norm, eps, size),
            }
            shares = {name: accuracy(model, changed, labels) for name, changed in found.items()}
            rows.append({"model": which, "norm": norm, "eps": eps, "accuracy": shares})
            a, b, c, d = (100 * share for share in shares.values())
            print(f"{which:8} {norm:4} {eps:<4g} {a:8.1f} {b:10.1f} {c:10.1f} {d:13.1f}", flush=True)
    if results:
        results.write_text(json.dumps({"steps": STEPS, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
