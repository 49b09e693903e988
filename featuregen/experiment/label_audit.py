"""Honesty of "non-robust": what judges other than the fooled source see in the mislabelled sets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featuregen.config import MISLABELLED, canonical_json, source_models
from featuregen.evaluation import label_agreement, nearest_neighbour, predict
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.paths import dataset_path
from featuregen.experiment.records import LabelledImages, TrainedModel
from featuregen.runtime import atomic_write, log
from featuregen.storage import FeatureDataset, read_columns
from featuregen.synthesis import RULES, synthesize, to_unit_range


def honesty_of(experiment: Experiment, folder: Path, kinds: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Shares of true class, stored label and neither, for each judge, mislabelled kind and eps."""
    found: dict[str, Any] = {}
    timings = []
    for kind in (kind for kind in kinds if kind in MISLABELLED):
        found[kind] = []
        for eps in radii(experiment, kind):
            row, seconds = judged_once(experiment, folder, kind, eps)
            found[kind].append(row)
            timings.append({"stage": f"judging {kind} at eps {eps:g}", "seconds": seconds})
    return found, timings


def radii(experiment: Experiment, kind: str) -> list[float]:
    return sorted({*experiment.config.honesty.eps, experiment.config.synthesis[kind].eps})


def judged_once(experiment: Experiment, folder: Path, kind: str, eps: float) -> tuple[dict[str, Any], float]:
    own = eps == experiment.config.synthesis[kind].eps
    settings = {
        "kind": kind,
        "eps": eps,
        "rows": 0 if own else experiment.config.honesty.rows,
        "recipe": experiment.config.synthesis[kind],
        "judges": [str(trained.path.name) for trained in _judges(experiment).values()],
        "arithmetic": experiment.compute.arithmetic,
    }
    key = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
    path = folder / "judged" / f"{kind}-{key}.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["row"], kept["seconds"]
    log(f"judging {kind} at eps {eps:g}")
    started = time.perf_counter()
    data, index = _stored(experiment, folder, kind) if own else _sampled(experiment, kind, eps)
    row = {"eps": eps, "rows": len(index), "judges": _verdicts(experiment, data, index)}
    seconds = time.perf_counter() - started
    atomic_write(path, json.dumps({"row": row, "seconds": seconds}))
    return row, seconds


def _judges(experiment: Experiment) -> dict[str, TrainedModel]:
    """The second standard model is trained even when the experiment runs one seed: it is the independent witness."""
    return {
        "source model": experiment.source_model("standard"),
        "second standard model": experiment.source_models("standard", source_models(experiment.config, "standard"))[1],
        "robust model": experiment.source_model("robust"),
    }


def _stored(experiment: Experiment, folder: Path, kind: str) -> tuple[LabelledImages, torch.Tensor]:
    path = dataset_path(folder, experiment.base.name, kind)
    index = read_columns(path, ["index"])["index"]
    return experiment.training_images(FeatureDataset(path)), torch.from_numpy(index).to(experiment.device)


def _sampled(experiment: Experiment, kind: str, eps: float) -> tuple[LabelledImages, torch.Tensor]:
    """The same recipe at another eps, on a class-balanced sample, not kept."""
    recipe = dataclasses.replace(experiment.config.synthesis[kind], eps=eps)
    rows = min(experiment.config.honesty.rows, len(experiment.base.train))
    plan, device = experiment.row_plan(kind, rows), experiment.device
    batches = list(
        synthesize(
            kind,
            recipe,
            experiment.source_model(RULES[kind].source).model,
            experiment.base.train,
            plan,
            seed=experiment.config.seed,
            compute=experiment.compute,
        )
    )
    images = to_unit_range(torch.from_numpy(np.concatenate([batch["images"] for batch in batches])).to(device))
    labels = torch.from_numpy(plan.labels).to(device)
    return LabelledImages(f"{kind} at {eps:g}", images, labels, ""), torch.from_numpy(plan.index).to(device)


def _verdicts(experiment: Experiment, data: LabelledImages, index: torch.Tensor) -> dict[str, dict[str, float]]:
    known = experiment.train_set
    true = known.labels[index]
    size = experiment.config.evaluation.batch_size
    seen = {name: predict(trained.model, data.images, size) for name, trained in _judges(experiment).items()}
    seen["1-nearest neighbour"] = nearest_neighbour(data.images, index, known.images, known.labels)
    return {name: label_agreement(classes, true, data.labels) for name, classes in seen.items()}
