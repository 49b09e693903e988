"""The paper's figure 3: which networks fall to one source's adversarial examples, and which learn from its D_det."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featuregen.attacks import pgd
from featuregen.config import Attack, Model, to_dict
from featuregen.evaluation import fooled, predict
from featuregen.models import frozen, skeleton
from featuregen.pipeline.files import run_of
from featuregen.pipeline.places import dataset_path
from featuregen.pipeline.records import Examples
from featuregen.pipeline.reproduce import describe_base
from featuregen.pipeline.workshop import Workshop
from featuregen.runtime import note, software

Results = dict[str, Any]


def transfer(shop: Workshop, nets: Sequence[Model], attack: Attack, folder: Path, force: bool = False) -> Results:
    """For each architecture: how often a model of it falls with the source, and what D_det alone teaches it.

    An architecture's victim is an independent standard model, also where it is the source's own architecture.
    """
    for net in nets:
        # Asked before hours of training.
        skeleton(net, shop.base.image_shape, len(shop.base.classes))
    shop.make("det", det := dataset_path(folder, shop.base.name, "det"), force=force)
    data = shop.examples(det)
    images, found, labels, success = adversarial_examples(shop, attack)
    rows = [_row(shop, net, data, images, found, labels) for net in nets]
    return {
        "format": "featuregen-transfer",
        "version": 1,
        "config": to_dict(shop.config),
        "base": describe_base(shop),
        "software": software(shop.machine),
        "source": {"model": to_dict(shop.config.model), "fooled": success, "images": len(images)},
        "attack": to_dict(attack),
        "dataset": {"file": det.name, "content_sha256": data.sha256},
        "rows": rows,
        "correlation": correlation(rows),
    }


def adversarial_examples(shop: Workshop, attack: Attack) -> tuple[Tensor, Tensor, Tensor, float]:
    """Test images that the source gets right and then wrong: before, after, their labels, and the share of them."""
    source, test, size = shop.source("standard").model, shop.test_set, shop.config.evaluation.batch_size
    images, labels = test.images[shop.attacked_rows], test.labels[shop.attacked_rows]
    right = predict(source, images, size) == labels
    images, labels = images[right], labels[right]
    lean = frozen(source, shop.machine)
    note(f"attacking {len(images)} images")
    parts = [
        pgd(lean, x, y, attack, precision=shop.machine.precision)
        for x, y in zip(torch.split(images, size), torch.split(labels, size), strict=True)
    ]
    found = torch.cat(parts) if parts else images
    lost = predict(source, found, size) != labels if parts else torch.zeros(0, dtype=torch.bool)
    return images[lost], found[lost], labels[lost], lost.float().mean().item()


def _row(shop: Workshop, net: Model, data: Examples, images: Tensor, found: Tensor, labels: Tensor) -> dict[str, Any]:
    config = dataclasses.replace(shop.config, model=net)
    own = Workshop(config, shop.out, shop.base)
    # Not the source itself, where the architecture is the same.
    victim = own.trained(own.train_set, config.sources.standard, [config.seed + 1], f"{name_of(net)}, standard")[0]
    fresh = own.fresh(data, own.fresh_recipe("det"), config.evaluation.seeds, f"{name_of(net)}, D_det")
    return {
        "title": name_of(net),
        "model": to_dict(net),
        "clean": victim.record["accuracy"]["clean"],
        "transfer": fooled(victim.model, images, found, labels, config.evaluation.batch_size),
        "runs": [run_of(trained) for trained in fresh],
    }


def name_of(net: Model) -> str:
    return net.architecture + (f" w{net.width}" if net.width else "")


def correlation(rows: Sequence[dict[str, Any]]) -> float | None:
    """Pearson's, of transfer rate and mean accuracy; None for fewer than three architectures, or if one is constant."""
    rates = [row["transfer"] for row in rows]
    means = [statistics.fmean(run["clean"] for run in row["runs"]) for row in rows]
    if len(rows) < 3 or len(set(rates)) == 1 or len(set(means)) == 1:
        return None
    return statistics.correlation(rates, means)
