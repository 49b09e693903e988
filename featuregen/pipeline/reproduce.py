"""The whole experiment from one config: sources, datasets, fresh models, judges, and the numbers of them all."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from featuregen.config import MISLABELLED, source_models, source_seeds, to_dict
from featuregen.images import Split
from featuregen.pipeline.files import run_of
from featuregen.pipeline.honesty import honesty_of, judged_once, radii
from featuregen.pipeline.places import dataset_path
from featuregen.pipeline.records import Examples, Trained
from featuregen.pipeline.workers import Stage, work_ahead
from featuregen.pipeline.workshop import Workshop
from featuregen.report import KIND_NAMES
from featuregen.runtime import software
from featuregen.store import Info, read_columns
from featuregen.synthesis import RULES
from featuregen.whole import write_whole

TITLES = {
    "standard": "D, standard",
    "adversarial": "D, adversarial",
    "sample": "D, same rows",
    **KIND_NAMES,
}
Results = dict[str, Any]


def reproduce(shop: Workshop, folder: Path, force: bool = False) -> Results:
    """Every stage is found done or is done now; the results are the same either way."""
    kinds = [kind for kind in RULES if kind in shop.config.synthesis]
    shop.check_ahead()
    seeds, sources = shop.config.evaluation.seeds, source_seeds(shop.config)
    if work_ahead(shop, stages(shop, folder, kinds, force)):
        force = False  # it was heeded there
    models = [
        _row("standard", shop.sources("standard", sources)),
        _row("adversarial", shop.sources("robust", sources)),
    ]
    if sample := sample_of(shop):
        models.append(_row("sample", shop.fresh(sample, shop.fresh_recipe("robust"), seeds, TITLES["sample"])))
    datasets = []
    for kind in kinds:
        info, seconds = _made(shop, folder, kind, force)
        datasets.append(_describe_dataset(info, seconds))
    for kind in kinds:
        data, recipe = shop.examples(dataset_path(folder, shop.base.name, kind)), shop.fresh_recipe(kind)
        models.append(_row(kind, shop.fresh(data, recipe, seeds, TITLES[kind])))
    honesty, judging = honesty_of(shop, folder, kinds)
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


def stages(shop: Workshop, folder: Path, kinds: list[str], force: bool) -> list[list[Stage]]:
    """What can be done side by side: first the two sources, then all that needs no more than them."""
    standard, robust = (source_models(shop.config, which) for which in ("standard", "robust"))
    first = [Stage(_sources, ("robust", 1)), Stage(_sources, ("standard", standard))]
    others = [Stage(_sources, ("robust", robust))] if robust > 1 else []
    others += [Stage(_learn_sample, ())] if sample_of(shop) else []
    made = [Stage(_make_and_learn, (folder, kind, force)) for kind in kinds]
    judged = [Stage(_judge, (folder, kind, eps)) for kind in kinds if kind in MISLABELLED for eps in radii(shop, kind)]
    return [first, others + made, judged]


def _sources(shop: Workshop, which: str, count: int) -> None:
    shop.sources(which, count)


def _learn_sample(shop: Workshop) -> None:
    if sample := sample_of(shop):
        shop.fresh(sample, shop.fresh_recipe("robust"), shop.config.evaluation.seeds, TITLES["sample"])


def _judge(shop: Workshop, folder: Path, kind: str, eps: float) -> None:
    judged_once(shop, folder, kind, eps)


def _make_and_learn(shop: Workshop, folder: Path, kind: str, force: bool) -> None:
    _made(shop, folder, kind, force)
    shop.fresh(
        shop.examples(dataset_path(folder, shop.base.name, kind)),
        shop.fresh_recipe(kind),
        shop.config.evaluation.seeds,
        TITLES[kind],
    )


def sample_of(shop: Workshop) -> Examples | None:
    """The unchanged images of the rows that D_R is made from, unless these are all: what to hold D_R against."""
    recipe = shop.config.synthesis.get("robust")
    if recipe is None or recipe.rows in (0, len(shop.base.train)):
        return None
    index, train = shop.plan("robust", recipe.rows).index, shop.base.train
    split = Split(train.images[index], train.labels[index])
    name = f"{shop.base.name}, {recipe.rows} rows"
    return Examples(name, split.tensor(shop.device), split.label_tensor(shop.device), split.sha256)


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


# Time ----------------------------------------------------------------------------------------------


def _made(shop: Workshop, folder: Path, kind: str, force: bool) -> tuple[Info, float]:
    """The dataset and the seconds it took; one found done keeps the seconds it once took."""
    path = folder / "seconds" / f"{kind}.json"
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    started = time.perf_counter()
    info = shop.make(kind, dataset_path(folder, shop.base.name, kind), force=force)
    spent = time.perf_counter() - started
    if before.get("content_sha256") == info.content_sha256:
        return info, float(before["seconds"])
    write_whole(path, json.dumps({"seconds": spent, "content_sha256": info.content_sha256}))
    return info, spent


def _timings(models: list[dict[str, Any]], datasets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    trained = [
        {"stage": f"{row['title']}, seed {run['seed']}: train and evaluate", "seconds": run["seconds"]}
        for row in models
        for run in row["runs"]
    ]
    return trained + [{"stage": f"making {made['kind']}", "seconds": made["seconds"]} for made in datasets]
