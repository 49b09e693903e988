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
from featuregen.compute import folded_copy
from featuregen.config import Attack, Model, to_dict
from featuregen.evaluation import predict, transfer_rate
from featuregen.experiment.evaluate_files import run_record
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.paths import dataset_path
from featuregen.experiment.records import LabelledImages
from featuregen.experiment.reproduce import describe_base
from featuregen.models import skeleton
from featuregen.runtime import log, versions

Results = dict[str, Any]


def transfer(
    experiment: Experiment, nets: Sequence[Model], attack: Attack, folder: Path, force: bool = False
) -> Results:
    """For each architecture: how often a model of it falls with the source, and what D_det alone teaches it.

    An architecture's victim is an independent standard model, also where it is the source's own architecture.
    """
    for net in nets:
        # Asked before hours of training.
        skeleton(net, experiment.base.image_shape, len(experiment.base.classes))
    det = dataset_path(folder, experiment.base.name, "det")
    data = experiment.training_images(experiment.make_dataset("det", det, force=force))
    images, found, labels, success = adversarial_examples(experiment, attack)
    rows = [_row(experiment, net, data, images, found, labels) for net in nets]
    return {
        "format": "featuregen-transfer",
        "version": 1,
        "config": to_dict(experiment.config),
        "base": describe_base(experiment.base),
        "software": versions(experiment.compute),
        "source": {"model": to_dict(experiment.config.model), "fooled": success, "images": len(images)},
        "attack": to_dict(attack),
        "dataset": {"file": det.name, "content_sha256": data.sha256},
        "rows": rows,
        "correlation": correlation(rows),
    }


def adversarial_examples(experiment: Experiment, attack: Attack) -> tuple[Tensor, Tensor, Tensor, float]:
    """Test images that the source gets right and then wrong: before, after, their labels, and the share of them."""
    source, test, size = (
        experiment.source_model("standard").model,
        experiment.test_set,
        experiment.config.evaluation.batch_size,
    )
    images, labels = test.images[experiment.attacked_rows], test.labels[experiment.attacked_rows]
    right = predict(source, images, size) == labels
    images, labels = images[right], labels[right]
    lean = folded_copy(source, experiment.compute)
    log(f"attacking {len(images)} images")
    parts = [
        pgd(lean, x, y, attack, precision=experiment.compute.precision)
        for x, y in zip(torch.split(images, size), torch.split(labels, size), strict=True)
    ]
    found = torch.cat(parts) if parts else images
    lost = predict(source, found, size) != labels if parts else torch.zeros(0, dtype=torch.bool)
    return images[lost], found[lost], labels[lost], lost.float().mean().item()


def _row(
    experiment: Experiment, net: Model, data: LabelledImages, images: Tensor, found: Tensor, labels: Tensor
) -> dict[str, Any]:
    config = dataclasses.replace(experiment.config, model=net)
    own = Experiment(config, experiment.out, base=experiment.base)
    # Not the source itself, where the architecture is the same.
    victim = own.models.get_or_train(
        own.train_set, config.sources.standard, [config.seed + 1], f"{name_of(net)}, standard"
    )[0]
    fresh = own.train_fresh(data, recipe=own.fresh_recipe("det"), title=f"{name_of(net)}, D_det")
    return {
        "title": name_of(net),
        "model": to_dict(net),
        "clean": victim.record["accuracy"]["clean"],
        "transfer": transfer_rate(victim.model, images, found, labels, config.evaluation.batch_size),
        "runs": [run_record(trained) for trained in fresh],
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
