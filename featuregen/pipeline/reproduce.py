"""The whole experiment from one config: sources, datasets, fresh models, judges, and the numbers of them all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featuregen.config import canonical_json, to_dict
from featuregen.evaluation import judged, nearest_neighbour, predict
from featuregen.pipeline.files import run_of
from featuregen.pipeline.workshop import Examples, Trained, Workshop
from featuregen.runtime import note, software
from featuregen.store import Info, read_columns
from featuregen.synthesis import RULES, as_pixels, synthesize

TITLES = {
    "standard": "D, standard",
    "adversarial": "D, adversarial",
    "robust": "D_R",
    "nonrobust": "D_NR",
    "robust-noise": "D_R from noise",
    "nonrobust-noise": "D_NR from noise",
    "rand": "D_rand",
    "det": "D_det",
}
Results = dict[str, Any]


def reproduce(shop: Workshop, folder: Path, force: bool = False) -> Results:
    """Every stage is found done or is done now; the results are the same either way."""
    kinds = [kind for kind in RULES if kind in shop.config.synthesis]
    seeds = shop.config.evaluation.seeds
    models = [
        _row("standard", shop.sources("standard", seeds)),
        _row("adversarial", shop.sources("robust", seeds)),
    ]
    datasets = []
    for kind in kinds:
        info, seconds = _made(shop, folder, kind, force)
        datasets.append(_describe_dataset(info, seconds))
    for kind in kinds:
        data, recipe = shop.examples(_path(shop, folder, kind)), shop.fresh_recipe(kind)
        models.append(_row(kind, shop.fresh(data, recipe, seeds, TITLES[kind])))
    honesty, judging = _honesty(shop, folder, kinds)
    return {
        "format": "featuregen-results",
        "version": 1,
        "config": to_dict(shop.config),
        "base": describe_base(shop),
        "software": software(shop.machine),
        "models": models,
        "datasets": datasets,
        "honesty": honesty,
        "timings": _timings(models, datasets) + judging,
    }


def describe_base(shop: Workshop) -> dict[str, Any]:
    base = shop.base
    return {
        "name": base.name,
        "train_rows": len(base.train),
        "test_rows": len(base.test),
        "train_sha256": base.train.sha256,
        "test_sha256": base.test.sha256,
        "classes": list(base.classes),
        "image_shape": list(base.image_shape),
    }


def _row(key: str, runs: list[Trained]) -> dict[str, Any]:
    return {"key": key, "title": TITLES[key], "runs": [run_of(trained) for trained in runs]}


def _path(shop: Workshop, folder: Path, kind: str) -> Path:
    return folder / f"{shop.base.name}-{kind}.h5"


def _describe_dataset(info: Info, seconds: float) -> dict[str, Any]:
    columns = read_columns(info.path, ["norm", "objective"])
    recipe = info.recipe["synthesis"]
    return {
        "kind": info.kind,
        "file": info.path.name,
        "rows": info.rows,
        "success_rate": info.success_rate,
        "objective": float(columns["objective"].astype(np.float64).mean()),
        "norm": float(columns["norm"].astype(np.float64).mean()),
        "content_sha256": info.content_sha256,
        "seconds": seconds,
        "norm_name": recipe["norm"],
        "eps": recipe["eps"],
        "steps": recipe["steps"],
    }


# Honesty of "non-robust": what others than the fooled source see -----------------------------------


def _honesty(shop: Workshop, folder: Path, kinds: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Shares of true class, stored label and neither, for each judge, mislabelled kind and eps."""
    found: dict[str, Any] = {}
    timings = []
    for kind in (kind for kind in kinds if RULES[kind].pull == "class"):
        found[kind] = []
        for eps in sorted({*shop.config.honesty.eps, shop.config.synthesis[kind].eps}):
            stage = f"judging {kind} at eps {eps:g}"
            row, seconds = _judged_once(shop, folder, kind, eps, stage)
            found[kind].append(row)
            timings.append({"stage": stage, "seconds": seconds})
    return found, timings


def _judged_once(shop: Workshop, folder: Path, kind: str, eps: float, stage: str) -> tuple[dict[str, Any], float]:
    own = eps == shop.config.synthesis[kind].eps
    settings = {
        "kind": kind,
        "eps": eps,
        "rows": 0 if own else shop.config.honesty.rows,
        "recipe": shop.config.synthesis[kind],
        "judges": [str(trained.path.name) for trained in _judges(shop).values()],
        "precision": shop.machine.precision,
    }
    key = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
    path = folder / "judged" / f"{kind}-{key}.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["row"], kept["seconds"]
    note(stage)
    started = time.perf_counter()
    data, index = _stored(shop, folder, kind) if own else _sampled(shop, kind, eps)
    row = {"eps": eps, "rows": len(index), "judges": _verdicts(shop, data, index)}
    seconds = time.perf_counter() - started
    write_text(path, json.dumps({"row": row, "seconds": seconds}))
    return row, seconds


def _judges(shop: Workshop) -> dict[str, Trained]:
    """The second standard model is trained even when the experiment runs one seed: it is the independent witness."""
    return {
        "source model": shop.source("standard"),
        "second standard model": shop.sources("standard", max(2, shop.config.evaluation.seeds))[1],
        "robust model": shop.source("robust"),
    }


def _stored(shop: Workshop, folder: Path, kind: str) -> tuple[Examples, torch.Tensor]:
    path = _path(shop, folder, kind)
    index = read_columns(path, ["index"])["index"]
    return shop.examples(path), torch.from_numpy(index).to(shop.machine.device)


def _sampled(shop: Workshop, kind: str, eps: float) -> tuple[Examples, torch.Tensor]:
    """The same recipe at another eps, on a class-balanced sample, not kept."""
    recipe = dataclasses.replace(shop.config.synthesis[kind], eps=eps)
    rows = min(shop.config.honesty.rows, len(shop.base.train))
    plan, device = shop.plan(kind, rows), shop.machine.device
    batches = list(
        synthesize(
            kind,
            recipe,
            shop.source(RULES[kind].source).model,
            shop.base.train,
            plan,
            seed=shop.config.seed,
            device=device,
            precision=shop.machine.precision,
        )
    )
    images = as_pixels(torch.from_numpy(np.concatenate([batch["images"] for batch in batches])).to(device))
    labels = torch.from_numpy(plan.labels).to(device)
    return Examples(f"{kind} at {eps:g}", images, labels, ""), torch.from_numpy(plan.index).to(device)


def _verdicts(shop: Workshop, data: Examples, index: torch.Tensor) -> dict[str, dict[str, float]]:
    known = shop.train_set
    true = known.labels[index]
    seen = {name: predict(trained.model, data.images) for name, trained in _judges(shop).items()}
    seen["1-nearest neighbour"] = nearest_neighbour(data.images, index, known.images, known.labels)
    return {name: judged(classes, true, data.labels) for name, classes in seen.items()}


# Time ----------------------------------------------------------------------------------------------


def _made(shop: Workshop, folder: Path, kind: str, force: bool) -> tuple[Info, float]:
    """The dataset and the seconds it took; one found done keeps the seconds it once took."""
    path, stage = folder / "seconds.json", f"making {kind}"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    started = time.perf_counter()
    info = shop.make(kind, _path(shop, folder, kind), force=force)
    spent = time.perf_counter() - started
    before = known.get(stage, {})
    if before.get("content_sha256") == info.content_sha256:
        return info, float(before["seconds"])
    write_text(path, json.dumps(known | {stage: {"seconds": spent, "content_sha256": info.content_sha256}}, indent=1))
    return info, spent


def _timings(models: list[dict[str, Any]], datasets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    trained = [
        {"stage": f"{row['title']}, seed {run['seed']}: train and evaluate", "seconds": run["seconds"]}
        for row in models
        for run in row["runs"]
    ]
    return trained + [{"stage": f"making {made['kind']}", "seconds": made["seconds"]} for made in datasets]


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
