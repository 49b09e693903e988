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
from featuregen.evaluation import judged, nearest_neighbour, predict
from featuregen.pipeline.places import dataset_path
from featuregen.pipeline.records import Examples, Trained
from featuregen.pipeline.workshop import Workshop
from featuregen.runtime import note
from featuregen.store import read_columns
from featuregen.synthesis import RULES, as_pixels, synthesize
from featuregen.whole import write_whole


def honesty_of(shop: Workshop, folder: Path, kinds: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Shares of true class, stored label and neither, for each judge, mislabelled kind and eps."""
    found: dict[str, Any] = {}
    timings = []
    for kind in (kind for kind in kinds if kind in MISLABELLED):
        found[kind] = []
        for eps in radii(shop, kind):
            row, seconds = judged_once(shop, folder, kind, eps)
            found[kind].append(row)
            timings.append({"stage": f"judging {kind} at eps {eps:g}", "seconds": seconds})
    return found, timings


def radii(shop: Workshop, kind: str) -> list[float]:
    return sorted({*shop.config.honesty.eps, shop.config.synthesis[kind].eps})


def judged_once(shop: Workshop, folder: Path, kind: str, eps: float) -> tuple[dict[str, Any], float]:
    own = eps == shop.config.synthesis[kind].eps
    settings = {
        "kind": kind,
        "eps": eps,
        "rows": 0 if own else shop.config.honesty.rows,
        "recipe": shop.config.synthesis[kind],
        "judges": [str(trained.path.name) for trained in _judges(shop).values()],
        "arithmetic": shop.machine.arithmetic,
    }
    key = hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]
    path = folder / "judged" / f"{kind}-{key}.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["row"], kept["seconds"]
    note(f"judging {kind} at eps {eps:g}")
    started = time.perf_counter()
    data, index = _stored(shop, folder, kind) if own else _sampled(shop, kind, eps)
    row = {"eps": eps, "rows": len(index), "judges": _verdicts(shop, data, index)}
    seconds = time.perf_counter() - started
    write_whole(path, json.dumps({"row": row, "seconds": seconds}))
    return row, seconds


def _judges(shop: Workshop) -> dict[str, Trained]:
    """The second standard model is trained even when the experiment runs one seed: it is the independent witness."""
    return {
        "source model": shop.source("standard"),
        "second standard model": shop.sources("standard", source_models(shop.config, "standard"))[1],
        "robust model": shop.source("robust"),
    }


def _stored(shop: Workshop, folder: Path, kind: str) -> tuple[Examples, torch.Tensor]:
    path = dataset_path(folder, shop.base.name, kind)
    index = read_columns(path, ["index"])["index"]
    return shop.examples(path), torch.from_numpy(index).to(shop.device)


def _sampled(shop: Workshop, kind: str, eps: float) -> tuple[Examples, torch.Tensor]:
    """The same recipe at another eps, on a class-balanced sample, not kept."""
    recipe = dataclasses.replace(shop.config.synthesis[kind], eps=eps)
    rows = min(shop.config.honesty.rows, len(shop.base.train))
    plan, device = shop.plan(kind, rows), shop.device
    batches = list(
        synthesize(
            kind,
            recipe,
            shop.source(RULES[kind].source).model,
            shop.base.train,
            plan,
            seed=shop.config.seed,
            machine=shop.machine,
        )
    )
    images = as_pixels(torch.from_numpy(np.concatenate([batch["images"] for batch in batches])).to(device))
    labels = torch.from_numpy(plan.labels).to(device)
    return Examples(f"{kind} at {eps:g}", images, labels, ""), torch.from_numpy(plan.index).to(device)


def _verdicts(shop: Workshop, data: Examples, index: torch.Tensor) -> dict[str, dict[str, float]]:
    known = shop.train_set
    true = known.labels[index]
    size = shop.config.evaluation.batch_size
    seen = {name: predict(trained.model, data.images, size) for name, trained in _judges(shop).items()}
    seen["1-nearest neighbour"] = nearest_neighbour(data.images, index, known.images, known.labels)
    return {name: judged(classes, true, data.labels) for name, classes in seen.items()}
