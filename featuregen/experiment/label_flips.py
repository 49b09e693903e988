"""Label flips of several models under several attacks, with what they have in common, as files and as numbers."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featuregen.data import balanced_rows
from featuregen.evaluation import (
    AttackSpec,
    LabelFlips,
    agreement,
    asymmetry,
    attraction,
    find_label_flips,
)
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.paths import check_writable
from featuregen.experiment.records import TrainedModel
from featuregen.experiment.reproduce import describe_base
from featuregen.models import weights_sha256
from featuregen.report import flip_maps
from featuregen.runtime import atomic_write, log, versions

Results = dict[str, Any]
Measured = dict[tuple[str, int], LabelFlips]

# Enough for a matrix of ten classes, and few enough for the slow attacks.
ROWS = 1000
HEADER = ("model", "attack", "eps", "true", "predicted", "count")


def flip_models(
    experiment: Experiment, models: Sequence[TrainedModel], runs: Sequence[AttackSpec], rows: int | None = None
) -> Results:
    """Every run on every model, on the same class-balanced test images (0 rows: all, None: at most a thousand)."""
    split, classes = experiment.base.test, experiment.base.classes
    index = balanced_rows(split.labels, min(ROWS, len(split)) if rows is None else rows, experiment.config.seed)
    chosen = torch.from_numpy(index).to(experiment.device)
    images, labels = experiment.test_set.images[chosen], experiment.test_set.labels[chosen]
    check_writable(experiment.out)
    titles = _titles(models)
    measured: Measured = {}
    for title, trained in zip(titles, models, strict=True):
        for number, run in enumerate(runs):
            log(f"flipping {title}: {run.attack}{'' if run.eps is None else f', eps {run.eps:g}'}")
            measured[title, number] = find_label_flips(
                trained.model, images, labels, run, seed=experiment.config.seed,
                batch_size=experiment.config.evaluation.batch_size,
                compute=replace(experiment.compute, precision="fp32"),
            )  # fmt: skip
    return {
        "format": "featuregen-flips",
        "version": 1,
        "base": describe_base(experiment.base),
        "images": len(index),
        "seed": experiment.config.seed,
        "software": versions(experiment.compute),
        "models": [_model(title, trained) for title, trained in zip(titles, models, strict=True)],
        "runs": [
            _run(title, runs[number], found, len(classes), experiment.config.seed)
            for (title, number), found in measured.items()
        ],
        "agreement": {
            "attacks": _between_attacks(titles, runs, measured, experiment.config.seed),
            "models": _between_models(titles, runs, measured, experiment.config.seed),
        },
    }


def _titles(models: Sequence[TrainedModel]) -> list[str]:
    """File names, numbered where these alone would not tell models apart."""
    names = [trained.path.stem for trained in models]
    return names if len(set(names)) == len(names) else [f"{name}-{i}" for i, name in enumerate(names, 1)]


def _model(title: str, trained: TrainedModel) -> dict[str, Any]:
    model = trained.model
    about = {"architecture": model.architecture, "width": model.width, "weights_sha256": weights_sha256(model)}
    return {"title": title, "file": str(trained.path), **about}


def _named(run: AttackSpec) -> dict[str, Any]:
    return {"attack": run.attack, "eps": run.eps, "norm": run.norm}


def _run(title: str, run: AttackSpec, found: LabelFlips, classes: int, seed: int) -> dict[str, Any]:
    counts = found.matrix(classes)
    attacked, flipped = int(found.attacked.sum()), int(found.flipped.sum())
    return {
        "model": title,
        **_named(run),
        "settings": dict(run.settings),
        "attacked": attacked,
        "flipped": flipped,
        "success": flipped / attacked if attacked else None,
        "matrix": counts.tolist(),
        "asymmetry": asdict(asymmetry(counts, found.counts(classes), seed)),
        "attraction": asdict(attraction(counts, seed)),
    }


def _between_attacks(
    titles: Sequence[str], runs: Sequence[AttackSpec], measured: Measured, seed: int
) -> list[dict[str, Any]]:
    """Pairs of attacks in one ball; one that takes none goes with every other."""
    found = []
    for title, (one, other) in itertools.product(titles, itertools.combinations(range(len(runs)), 2)):
        first, second = runs[one], runs[other]
        alike = (first.eps, first.norm) == (second.eps, second.norm) or None in (first.eps, second.eps)
        if first.attack != second.attack and alike:
            pair = {"model": title, "first": _named(first), "second": _named(second)}
            found.append(pair | asdict(agreement(measured[title, one], measured[title, other], seed)))
    return found


def _between_models(
    titles: Sequence[str], runs: Sequence[AttackSpec], measured: Measured, seed: int
) -> list[dict[str, Any]]:
    found = []
    for number, (one, other) in itertools.product(range(len(runs)), itertools.combinations(titles, 2)):
        pair = {**_named(runs[number]), "first": one, "second": other}
        found.append(pair | asdict(agreement(measured[one, number], measured[other, number], seed)))
    return found


# Keeping -------------------------------------------------------------------------------------------


def write_flips(results: Results, folder: Path) -> list[Path]:
    """flips.json, flips.csv, and for each model a picture of its matrices."""
    atomic_write(folder / "flips.json", json.dumps(results, indent=1))
    atomic_write(folder / "flips.csv", flips_csv(results))
    written = [folder / "flips.json", folder / "flips.csv"]
    for model in results["models"]:
        title, names = model["title"], results["base"]["classes"]
        runs = [run for run in results["runs"] if run["model"] == title]
        written.append(flip_maps(folder / f"flips-{title}.png", title, runs, names))
    return written


def flips_csv(results: Results) -> str:
    """One line for each pair of classes of each run; `eps` is empty where an attack takes none."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    names = results["base"]["classes"]
    for run in results["runs"]:
        counts = np.array(run["matrix"])
        eps = "" if run["eps"] is None else repr(run["eps"])
        for true, seen in itertools.permutations(range(len(names)), 2):
            table.writerow([run["model"], run["attack"], eps, names[true], names[seen], counts[true, seen]])
    return text.getvalue()
