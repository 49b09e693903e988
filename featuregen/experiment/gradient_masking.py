"""Whether a model's robustness may be believed: the checks for masked gradients, as a record and a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from featuregen.evaluation import check_gradient_masking
from featuregen.experiment.attack_run import AttackInputs
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.paths import check_writable
from featuregen.experiment.records import TrainedModel, model_summary
from featuregen.report import masking_bars
from featuregen.runtime import atomic_write, versions


def doubt_model(
    experiment: Experiment,
    target: TrainedModel,
    inputs: AttackInputs,
    options: dict[str, Any],
    other: TrainedModel | None = None,
) -> dict[str, Any]:
    """Always in fp32. What is found on the `other` model is shown to the target as well."""
    check_writable(experiment.out)
    verdict = check_gradient_masking(
        target.model, inputs.images, inputs.labels,
        other=other.model if other else None,
        seed=experiment.config.seed, batch_size=experiment.config.evaluation.batch_size,
        compute=replace(experiment.compute, precision="fp32"), **options,
    )  # fmt: skip
    found = verdict.to_dict()
    return {
        "format": "featuregen-sanity",
        "version": 1,
        "ok": found["ok"],
        "settings": found["settings"],
        "model": model_summary(target),
        **({"origin": model_summary(other)} if other else {}),
        "images": {"name": inputs.base["name"], "split": inputs.base["split"], "count": found["images"]},
        "accuracy": found["accuracy"],
        "tried": found["attacked"],
        "checks": found["checks"],
        "seed": experiment.config.seed,
        "software": versions(experiment.compute),
    }


def write_doubts(results: dict[str, Any], path: Path) -> list[Path]:
    atomic_write(path, json.dumps(results, indent=1))
    return [path, masking_bars(path.with_suffix(".png"), results)]
