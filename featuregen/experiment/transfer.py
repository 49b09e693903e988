"""The paper's figure 3: which architectures one source's adversarial examples fool, and which learn from its D_det."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featuregen.config.schema import PGD, Model
from featuregen.config.serialize import to_dict, to_record
from featuregen.evaluation.transfer import (
    AdversarialExamples,
    adversarial_examples,
    transfer_correlation,
    transfer_rate,
)
from featuregen.experiment.dataset_job import dataset_path
from featuregen.experiment.evaluate_files import run_record
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.model_cache import LabelledImages
from featuregen.models.registry import skeleton
from featuregen.runtime.device import versions


def transfer(
    experiment: Experiment, architectures: Sequence[Model], attack: PGD, folder: Path, force: bool = False
) -> dict[str, Any]:
    """For each architecture, the transfer rate to a standard model of it, and the accuracy of fresh models on D_det.

    The standard model is trained independently of the source, also where it has the source's own architecture.
    """
    base, config = experiment.base, experiment.config
    for architecture in architectures:
        # Refused before hours of training.
        skeleton(architecture, base.image_shape, len(base.classes))
    det = dataset_path(folder, base.name, "det")
    data = experiment.training_images(experiment.make_dataset("det", det, force=force))
    rows, test = experiment.attacked_rows, experiment.test_set
    examples = adversarial_examples(
        experiment.source_model("standard").model, test.images[rows], test.labels[rows], attack,
        batch_size=config.evaluation.batch_size, compute=experiment.compute,
    )  # fmt: skip
    table = [_row(experiment, architecture, data, examples) for architecture in architectures]
    accuracies = [statistics.fmean(run["clean"] for run in row["runs"]) for row in table]
    return {
        "format": "featuregen-transfer",
        "version": 1,
        "config": to_record(config),
        "base": base.description(),
        "software": versions(experiment.compute),
        "source": {"model": to_dict(config.model), "fooled": examples.success_rate, "images": len(examples.images)},
        "attack": to_dict(attack),
        "dataset": {"file": det.name, "content_sha256": data.sha256},
        "rows": table,
        "correlation": transfer_correlation([row["transfer"] for row in table], accuracies),
    }


def _row(
    experiment: Experiment, architecture: Model, data: LabelledImages, examples: AdversarialExamples
) -> dict[str, Any]:
    config = experiment.config
    title = architecture.architecture + (f" w{architecture.width}" if architecture.width else "")
    other = experiment.with_model(model=architecture)
    # Another seed, so that it is not the source itself where the architecture is the same.
    (standard,) = other.models.get_or_train(
        other.train_set, config.sources.standard, [config.seed + 1], f"{title}, standard"
    )
    fresh = other.train_fresh(data, recipe=other.fresh_recipe("det"), title=f"{title}, D_det")
    return {
        "title": title,
        "model": to_dict(architecture),
        "clean": standard.accuracy.clean,
        "transfer": transfer_rate(
            standard.model, examples.images, examples.adversarial, examples.labels, config.evaluation.batch_size
        ),
        "runs": [run_record(trained) for trained in fresh],
    }
