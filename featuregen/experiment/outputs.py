"""The preview beside a dataset, and the folder of a whole experiment."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featuregen.config.serialize import json_document, shown_name
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import check_base_rows
from featuregen.experiment.stages import TITLES
from featuregen.report.html import write_report
from featuregen.report.image_grid import Row, check_can_be_drawn, draw_grid
from featuregen.report.plots import accuracy_bars, accuracy_curves, label_audit_curves
from featuregen.report.results import results_markdown
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.ledger import remember
from featuregen.runtime.marks import MARKDOWN, check_replaceable
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.synthesis.generate import RowPlan, start_images

SHOWN = 10
_RESULTS = ("results.json", "table.md", "accuracy.png", "curves.png", "honesty.png", "kinds.png", "report.html")


def draw_preview(experiment: Experiment, data: FeatureDataset, picture: Path, force: bool = False) -> Path:
    """Base image, start image and result of ten rows, one per class where there are ten.

    `force` replaces a file that featuregen has not written.
    """
    check_replaceable(picture, force=force)
    info = data.info
    check_can_be_drawn(info.image_shape, data.path)
    experiment.check_made_from_base(info)
    plan = _recorded_plan(experiment, data)
    with_base = np.flatnonzero(plan.index >= 0)
    # Rows of an imported file need not know their base image, nor how their noise was drawn.
    rows = with_base[_one_per_class(plan.source_labels[with_base])] if len(with_base) else _one_per_class(plan.labels)
    base = start = np.empty((0, *info.image_shape), dtype=np.float32)
    if len(with_base):
        base = _base_images(experiment, plan.index[rows])
    noise, starts = info.recipe.get("synthesis", {}).get("noise"), plan.start_index[rows]
    if (starts >= 0).all():
        start = _base_images(experiment, starts)
    elif noise is not None and len(with_base) and (starts < 0).all():
        start = start_images(experiment.base.train, plan, rows, noise, info.recipe["seed"]).numpy()
    images = {"base image": base, "start image": start, "result": data.fetch(rows).numpy()}
    grid = [Row(name if len(shown) else f"{name} unknown", shown) for name, shown in images.items()]
    names = [*info.classes, "?"]
    labels = ((names[plan.source_labels[row]], names[plan.labels[row]]) for row in rows)
    headers = [true if true == stored else f"{true} → {stored}" for true, stored in labels]
    return draw_grid(picture, grid, headers, f"{shown_name(data.path.name)}: {info.kind}")


def check_results_free(folder: Path, force: bool = False) -> None:
    """Refuse, before hours of work, files that `write_results` would replace and that featuregen has not written."""
    check_replaceable(*(folder / name for name in _RESULTS), force=force)


def write_results(experiment: Experiment, results: dict[str, Any], folder: Path, force: bool = False) -> Path:
    """results.json, table.md, the pictures, and report.html, which carries them all."""
    check_results_free(folder, force)
    text = json_document(results)
    atomic_write(folder / "results.json", text)
    remember("results", hashlib.sha256(text.encode()).hexdigest())
    atomic_write(folder / "table.md", f"{MARKDOWN}\n{results_markdown(results)}")
    attack = f"PGD at L2 ε = {results['config']['evaluation']['headline']:g}"
    bars = accuracy_bars(results, folder / "accuracy.png")
    pictures = [("Accuracy by training set", f"Clean, and under {attack}.", bars)]
    if curves := accuracy_curves(results, folder / "curves.png"):
        pictures.append(("Accuracy against ε", "Bands are the range over seeds.", curves))
    if audit := label_audit_curves(results, folder / "honesty.png"):
        caption = (
            "Shares of the images whose stored label is not their true class, by judge: the attacked source model and "
            "three others. Solid: predicted as the true class. Dashed: predicted as the stored label."
        )
        pictures.append(("Label audit", caption, audit))
    if results["datasets"]:
        files = {made["kind"]: folder / made["file"] for made in results["datasets"]}
        caption = "The same ten training images in every dataset, with the label that each dataset gives them."
        pictures.append(("Every kind of dataset", caption, _draw_kinds(experiment, files, folder / "kinds.png")))
    return write_report(results, pictures, folder / "report.html")


def _draw_kinds(experiment: Experiment, files: dict[str, Path], picture: Path) -> Path:
    datasets = {kind: FeatureDataset(path) for kind, path in files.items()}
    plans = {kind: _recorded_plan(experiment, data) for kind, data in datasets.items()}
    common = set.intersection(*(set(plan.index.tolist()) for plan in plans.values()))
    index = np.array(sorted(common), dtype=np.int64)
    shown = index[_one_per_class(experiment.base.train.labels[index])]
    grid = [Row("base image", _base_images(experiment, shown))]
    for kind, data in datasets.items():
        plan = plans[kind]
        rows = np.array([int(np.flatnonzero(plan.index == row)[0]) for row in shown])
        labels = [experiment.base.classes[label] for label in plan.labels[rows]]
        grid.append(Row(TITLES.get(kind, kind), data.fetch(rows).numpy(), labels))
    return draw_grid(picture, grid)


def _recorded_plan(experiment: Experiment, data: FeatureDataset) -> RowPlan:
    columns = data.columns("index", "source_labels", "labels", "start_index")
    check_base_rows(data.path, {name: columns[name] for name in ("index", "start_index")}, experiment.base)
    return RowPlan(**columns)


def _base_images(experiment: Experiment, index: NDArray[np.int64]) -> NDArray[np.float32]:
    images: NDArray[np.float32] = experiment.base.train.images_tensor(experiment.device, index).cpu().numpy()
    return images


def _one_per_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row of each class, then more rows while there is room."""
    first = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), first)
    return np.concatenate([first, others])[: min(SHOWN, len(labels))].astype(np.int64)
