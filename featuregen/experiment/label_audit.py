"""Label audits of an experiment's mislabelled sets, computed once and cached beside its results."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from featuregen.compute.optimize import to_unit_range
from featuregen.config.kinds import KINDS, MISLABELLED
from featuregen.config.recipes import source_models
from featuregen.config.record_schemas import KeptAudit
from featuregen.config.schema import Config
from featuregen.config.serialize import canonical_json
from featuregen.errors import UserError
from featuregen.evaluation.label_audit import audit_labels, nearest_neighbour
from featuregen.experiment.dataset_job import dataset_path
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import check_base_rows
from featuregen.experiment.model_cache import LabelledImages
from featuregen.models.io import TrainedModel
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.console import log
from featuregen.runtime.kept_files import read_kept, set_aside
from featuregen.runtime.ledger import is_remembered, remember
from featuregen.storage.reader import read_columns
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.synthesis.generate import synthesize

_MODEL_JUDGES = ("source model", "second standard model", "robust model")
_NEIGHBOUR = "1-nearest neighbour"


def audit_experiment(
    experiment: Experiment, folder: Path, kinds: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The label agreement of each judge by mislabelled kind and eps, and the seconds that each audit took."""
    audits: dict[str, Any] = {}
    timings = []
    for kind in (kind for kind in kinds if kind in MISLABELLED):
        audits[kind] = []
        for eps in audited_radii(experiment.config, kind):
            row, seconds = load_or_audit(experiment, folder, kind, eps)
            audits[kind].append(row)
            timings.append({"stage": f"judging {kind} at eps {eps:g}", "seconds": seconds})
    return audits, timings


def audited_radii(config: Config, kind: str) -> list[float]:
    return sorted({*config.honesty.eps, config.synthesis[kind].eps})


def load_or_audit(experiment: Experiment, folder: Path, kind: str, eps: float) -> tuple[dict[str, Any], float]:
    """The audit of a kind at one eps, from its cache if it is there, and the seconds that it took."""
    is_dataset = eps == experiment.config.synthesis[kind].eps
    settings = {
        "kind": kind,
        "eps": eps,
        "rows": 0 if is_dataset else experiment.config.honesty.rows,
        "recipe": experiment.config.synthesis[kind],
        "judges": [str(trained.path.name) for trained in _judges(experiment).values()],
        "arithmetic": experiment.compute.numerics,
    }
    key = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
    path = folder / "judged" / f"{kind}-{key}.json"
    if kept := _read_kept(path, eps):
        return kept
    log(f"judging {kind} at eps {eps:g}")
    started = time.perf_counter()
    data, index = _stored(experiment, folder, kind) if is_dataset else _sampled(experiment, kind, eps)
    row = {"eps": eps, "rows": len(index), "judges": _audit(experiment, data, index)}
    seconds = time.perf_counter() - started
    # It writes nan as null, since JSON has no nan.
    content = msgspec.json.encode({"row": row, "seconds": seconds})
    atomic_write(path, content)
    remember("audit", [path.name, msgspec.json.decode(content)])
    return row, seconds


def _read_kept(path: Path, eps: float) -> tuple[dict[str, Any], float] | None:
    kept = read_kept(path, KeptAudit)
    if not kept:
        return None
    row: dict[str, Any] = msgspec.to_builtins(kept.row)
    if row["eps"] != eps or row["judges"].keys() != {*_MODEL_JUDGES, _NEIGHBOUR}:
        set_aside(path, UserError(f"{path} holds another audit than its name stands for."))
        return None
    if not is_remembered("audit", [path.name, msgspec.to_builtins(kept)]):
        log(f"note: {path} was not made on this machine, so it is measured again")
        return None
    for shares in row["judges"].values():
        shares |= {name: math.nan for name, share in shares.items() if share is None}
    return row, kept.seconds


def _judges(experiment: Experiment) -> dict[str, TrainedModel]:
    """The second standard model is independent of the datasets, so it is trained even for a single seed."""
    judges = (
        experiment.source_model("standard"),
        experiment.source_models("standard", source_models(experiment.config, "standard"))[1],
        experiment.source_model("robust"),
    )
    return dict(zip(_MODEL_JUDGES, judges, strict=True))


def _stored(experiment: Experiment, folder: Path, kind: str) -> tuple[LabelledImages, torch.Tensor]:
    path = dataset_path(folder, experiment.base.name, kind)
    columns = read_columns(path, ["index"])
    check_base_rows(path, columns, experiment.base)
    index = columns["index"]
    return experiment.training_images(FeatureDataset(path)), torch.from_numpy(index).to(experiment.device)


def _sampled(experiment: Experiment, kind: str, eps: float) -> tuple[LabelledImages, torch.Tensor]:
    """The same recipe at another eps, on a class-balanced sample; it is not written to a file."""
    recipe = dataclasses.replace(experiment.config.synthesis[kind], eps=eps)
    rows = min(experiment.config.honesty.rows, len(experiment.base.train))
    plan, device = experiment.row_plan(kind, rows), experiment.device
    source = experiment.source_model(KINDS[kind].source).model
    batches = synthesize(
        kind, recipe, source, experiment.base.train, plan, seed=experiment.config.seed, compute=experiment.compute
    )
    images = to_unit_range(torch.from_numpy(np.concatenate([batch["images"] for batch in batches])).to(device))
    labels = torch.from_numpy(plan.labels).to(device)
    return LabelledImages(f"{kind} at {eps:g}", images, labels, ""), torch.from_numpy(plan.index).to(device)


def _audit(experiment: Experiment, data: LabelledImages, index: torch.Tensor) -> dict[str, dict[str, float]]:
    train = experiment.train_set
    judges: dict[str, nn.Module | torch.Tensor] = {
        **{name: trained.model for name, trained in _judges(experiment).items()},
        _NEIGHBOUR: nearest_neighbour(data.images, index, train.images, train.labels),
    }
    audit = audit_labels(data.images, train.labels[index], data.labels, judges, experiment.config.evaluation.batch_size)
    return {name: found.to_dict() for name, found in audit.items()}
