"""What a person looks at: the preview beside a dataset, and the folder of a whole experiment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featuregen.experiment.experiment import Experiment
from featuregen.experiment.records import check_base
from featuregen.experiment.reproduce import Results
from featuregen.experiment.stages import TITLES
from featuregen.report import (
    Captions,
    accuracy_bars,
    accuracy_curves,
    honesty_curves,
    kinds_grid,
    preview,
    results_markdown,
    write_report,
)
from featuregen.runtime import atomic_write
from featuregen.storage import read_columns, read_images, read_info
from featuregen.synthesis import RowPlan, start_images

SHOWN = 10


def draw_preview(experiment: Experiment, path: Path, picture: Path) -> Path:
    """Base image, start image and result of ten rows, one per class where there are ten."""
    info = read_info(path)
    check_base(info, experiment.base)
    plan = _recorded_plan(path)
    known = np.flatnonzero(plan.index >= 0)
    # Rows of an imported file need not know their base image, nor how their noise was drawn.
    rows = known[_one_per_class(plan.source_labels[known])] if len(known) else _one_per_class(plan.labels)
    base = start = np.empty((0, *info.image_shape), dtype=np.float32)
    if len(known):
        base = experiment.base.train.tensor(experiment.device, plan.index[rows]).cpu().numpy()
    if "synthesis" in info.recipe:
        noise, seed = info.recipe["synthesis"]["noise"], info.recipe["seed"]
        start = start_images(experiment.base.train, plan, rows, noise, seed).numpy()
    elif (plan.start_index[rows] >= 0).all():
        start = experiment.base.train.tensor(experiment.device, plan.start_index[rows]).cpu().numpy()
    titles = [name if len(part) else f"{name} unknown" for name, part in (("base image", base), ("start image", start))]
    names = [*info.classes, "?"]
    headers = [_caption(names[plan.source_labels[row]], names[plan.labels[row]]) for row in rows]
    captions: Captions = {"columns": headers, "rows": [*titles, "result"], "title": f"{path.name}: {info.kind}"}
    return preview(picture, base, start, _images(path, rows), captions)


def write_results(experiment: Experiment, results: Results, folder: Path) -> Path:
    """results.json, table.md, the pictures, and report.html, which carries them all."""
    atomic_write(folder / "results.json", json.dumps(results, indent=1))
    atomic_write(folder / "table.md", results_markdown(results))
    headline = f"L2 {results['config']['evaluation']['headline']:g}"
    pictures: list[tuple[str, str, Path]] = [
        (
            "Accuracy by training set",
            f"Clean, and under PGD at {headline}.",
            accuracy_bars(results, folder / "accuracy.png"),
        ),
    ]
    if curves := accuracy_curves(results, folder / "curves.png"):
        pictures.append(("Accuracy against eps", "Bands show every seed.", curves))
    if honesty := honesty_curves(results, folder / "honesty.png"):
        words = (
            "What the fooled source and three other judges see in images whose label is not their true class: "
            "solid the true class, dashed the stored label."
        )
        pictures.append(("Is non-robust honest?", words, honesty))
    if results["datasets"]:
        files = {made["kind"]: folder / made["file"] for made in results["datasets"]}
        grid = _draw_kinds(experiment, files, folder / "kinds.png")
        pictures.append(
            ("Every kind", "The same ten training images in every set, with the label each set gives them.", grid)
        )
    return write_report(results, pictures, folder / "report.html")


def _draw_kinds(experiment: Experiment, files: dict[str, Path], picture: Path) -> Path:
    plans = {kind: _recorded_plan(path) for kind, path in files.items()}
    common = set.intersection(*(set(plan.index.tolist()) for plan in plans.values()))
    index = np.array(sorted(common), dtype=np.int64)
    chosen = index[_one_per_class(experiment.base.train.labels[index])]
    names, images, labels = experiment.base.classes, {}, {}
    for kind, path in files.items():
        plan = plans[kind]
        rows = np.array([int(np.flatnonzero(plan.index == row)[0]) for row in chosen])
        images[TITLES[kind]] = _images(path, rows)
        labels[TITLES[kind]] = [names[label] for label in plan.labels[rows]]
    base = experiment.base.train.tensor(experiment.device, chosen).cpu().numpy()
    return kinds_grid(picture, base, images, labels)


def _recorded_plan(path: Path) -> RowPlan:
    columns = read_columns(path, ["index", "source_labels", "labels", "start_index"])
    return RowPlan(**columns)


def _one_per_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row of each class, then more rows while there is room."""
    first = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), first)
    return np.concatenate([first, others])[: min(SHOWN, len(labels))].astype(np.int64)


def _images(path: Path, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([read_images(path, int(row), int(row) + 1) for row in rows])


def _caption(true: str, stored: str) -> str:
    return true if true == stored else f"{true} → {stored}"
