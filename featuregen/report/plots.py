"""Charts of an experiment: accuracy by training set, accuracy against the attack's radius, and the label audit."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from featuregen.report import canvas
from featuregen.report.tables import KIND_NAMES, Model, Results, accuracies, describe_seeds, radii, summary
from featuregen.runtime.safe_matplotlib import Axes, Figure, Line2D, Patch

Line = dict[str, Any]
Place = Literal["outside lower center", "outside right center"]

_LINES: dict[str, Line] = {
    "standard": {"color": canvas.BLACK, "marker": "o"},
    "adversarial": {"color": canvas.BLUE, "marker": "s"},
    "sample": {"color": canvas.BLACK, "marker": "o", "linestyle": "--", "markerfacecolor": "white"},
    "robust": {"color": canvas.GREEN, "marker": "D"},
    "nonrobust": {"color": canvas.ORANGE, "marker": "^"},
    "robust-noise": {"color": canvas.GREEN, "marker": "D", "linestyle": "--", "markerfacecolor": "white"},
    "nonrobust-noise": {"color": canvas.ORANGE, "marker": "^", "linestyle": "--", "markerfacecolor": "white"},
    "rand": {"color": canvas.PURPLE, "marker": "v"},
    "det": {"color": canvas.VERMILLION, "marker": "X"},
}
_OTHER: Line = {"color": canvas.SKY, "marker": "P"}
_DOT: Line = {"linestyle": "", "marker": "o", "markersize": 3.2, "color": "white", "markeredgecolor": canvas.INK}
_RANGE: Line = {"color": canvas.INK, "linewidth": 1.0}


def _measured(results: Results) -> list[Model]:
    return [model for model in results["models"] if model["runs"]]


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 20))
    axes.tick_params(length=0)
    axes.tick_params(axis="x", pad=7)
    axes.spines["left"].set_visible(False)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], where: Place, columns: int) -> None:
    # matplotlib drops a label that begins with an underscore, so the words are put in afterwards.
    legend = figure.legend(handles, [str(i) for i in range(len(labels))], loc=where, ncols=columns, handlelength=2.4)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def _title(figure: Figure, words: str) -> None:
    figure.suptitle(textwrap.shorten(words, 100, placeholder="…"), x=0.01, ha="left", fontsize=10, fontweight="bold")


# Bars ----------------------------------------------------------------------------------------------


def accuracy_bars(results: Results, path: str | Path) -> Path:
    """Clean accuracy and accuracy under attack at the headline eps, as in the paper's Fig. 2."""
    models = _measured(results)
    headline, chance = float(results["config"]["evaluation"]["headline"]), _chance(results)
    with canvas.drawing(path, max(900, 110 * len(models) + 90), 430) as figure:
        axes = figure.add_subplot()
        _percent_axis(axes)
        axes.set_ylabel("test accuracy, %")
        for i, model in enumerate(models):
            _bar(axes, i - 0.2, accuracies(model), canvas.BLUE, chance)
            _bar(axes, i + 0.2, accuracies(model, "l2", headline), canvas.ORANGE, chance)
        axes.set_xlim(-0.55, len(models) - 0.45)
        axes.set_xticks(range(len(models)), [_wrapped(model["title"], 14, 3) for model in models])
        _chance_line(axes, chance, labelled=True)
        handles = [
            Patch(color=canvas.BLUE),
            Patch(color=canvas.ORANGE),
            *(Line2D([], [], **line) for line in (_DOT, _RANGE)),
        ]
        labels = ["clean", f"under attack, L2 ε = {headline:g}", "one seed", "smallest to largest"]
        if all(len(model["runs"]) == 1 for model in models):
            handles, labels = handles[:2], labels[:2]
        _legend(figure, handles, labels, "outside lower center", 4)
        _title(figure, _heading(results, models))
    return Path(path)


def _heading(results: Results, models: Sequence[Model]) -> str:
    return f"Accuracy on {results['base']['name']}, {describe_seeds(models)}"


def _bar(axes: Axes, x: float, values: Sequence[float], colour: str, chance: float) -> None:
    if not values:
        return
    mean, _, low, high = summary(100 * value for value in values)
    axes.bar(x, mean, width=0.38, color=colour)
    if len(values) > 1:
        axes.plot([x, x], [low, high], clip_on=False, zorder=3, **_RANGE)
        step = 0.24 / (len(values) - 1)
        xs = [x - 0.12 + step * i for i in range(len(values))]
        axes.plot(xs, [100 * value for value in values], clip_on=False, zorder=4, **_DOT)
    # A dot's radius above the highest value, and never across the chance line.
    top = chance if high < chance < high + 7 else high
    axes.annotate(f"{mean:.1f}", (x, top), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=8.5)


def _wrapped(title: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(title, width, max_lines=lines, placeholder="…"))


def _chance(results: Results) -> float:
    return 100 / len(results["base"]["classes"])


def _chance_line(axes: Axes, chance: float, labelled: bool) -> None:
    axes.axhline(chance, color=canvas.INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2.5)
    axes.annotate(
        f"chance\n{chance:.3g} %" if labelled else "", (1, chance), (4, 0), xycoords=("axes fraction", "data"),
        textcoords="offset points", va="center", fontsize=8,
    )  # fmt: skip


# Curves --------------------------------------------------------------------------------------------


def accuracy_curves(results: Results, path: str | Path) -> Path | None:
    """Accuracy against the radius of the attack, 0 being clean; None where nothing was attacked."""
    models = _measured(results)
    norms = [norm for norm in ("l2", "linf") if radii(models, norm)]
    if not norms:
        return None
    with canvas.drawing(path, 900, 430) as figure:
        panels = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
        for axes, norm in zip(panels, norms, strict=True):
            _percent_axis(axes)
            for model in models:
                _curve(axes, model, norm, radii(models, norm))
            axes.set_xlabel(f"{'L2' if norm == 'l2' else 'L∞'} radius ε of the attack")
            _radius_ticks(axes, [0.0, *radii(models, norm)])
            _chance_line(axes, _chance(results), labelled=axes is panels[-1])
        panels[0].set_ylabel("test accuracy, %")
        handles = [Line2D([], [], **_line(model)) for model in models]
        _legend(figure, handles, [_wrapped(model["title"], 20, 2) for model in models], "outside right center", 1)
        band = ", band from smallest to largest" if any(len(model["runs"]) > 1 for model in models) else ""
        _title(figure, _heading(results, models) + band)
    return Path(path)


def _line(model: Model) -> Line:
    return {"linewidth": 1.6, "markersize": 5, **_LINES.get(model["key"], _OTHER)}


def _curve(axes: Axes, model: Model, norm: str, every_eps: Sequence[float]) -> None:
    points = [(0.0, accuracies(model))] + [(eps, accuracies(model, norm, eps)) for eps in every_eps]
    measured = [(eps, summary(100 * value for value in values)) for eps, values in points if values]
    line = _line(model)
    xs = [eps for eps, _ in measured]
    axes.plot(xs, [spread[0] for _, spread in measured], clip_on=False, zorder=3, **line)
    axes.fill_between(
        xs, [spread[2] for _, spread in measured], [spread[3] for _, spread in measured],
        color=line["color"], alpha=0.16, linewidth=0,
    )  # fmt: skip


def _radius_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks where something was measured, unless their labels would touch."""
    low, high = min(values), max(values)
    span = (high - low) or high or 1.0
    axes.set_xlim(low - 0.04 * span, high + 0.04 * span)
    gaps = [right - left for left, right in itertools.pairwise(values)]
    if min(gaps, default=span) >= 0.14 * span:
        axes.set_xticks(values, [f"{value:g}" for value in values])


# Label audit ---------------------------------------------------------------------------------------


def label_audit_curves(results: Results, path: str | Path) -> Path | None:
    """Label audit against eps: a row per mislabelled kind, a panel per judge; None without any."""
    kinds = {kind: rows for kind, rows in results["honesty"].items() if rows}
    if not kinds:
        return None
    judges = list(dict.fromkeys(judge for rows in kinds.values() for row in rows for judge in row["judges"]))
    with canvas.drawing(path, max(600, 225 * len(judges)), 90 + 230 * len(kinds)) as figure:
        grid = figure.subplots(len(kinds), len(judges), sharex="row", sharey=True, squeeze=False)
        for panels, (kind, rows) in zip(grid, kinds.items(), strict=True):
            panels[0].set_ylabel(f"images of {KIND_NAMES.get(kind, kind)}, %")
            dataset_eps = next((made["eps"] for made in results["datasets"] if made["kind"] == kind), None) or None
            for axes, judge in zip(panels, judges, strict=True):
                _judge_panel(axes, rows, judge, dataset_eps)
        for axes, judge in zip(grid[0], judges, strict=True):
            axes.set_title("\n".join(textwrap.wrap(judge, 26)), fontweight="bold")
        for axes in grid[-1]:
            axes.set_xlabel("radius ε of the dataset")
        labels = ["predicted: true class", "predicted: stored label", "ε of the dataset"]
        handles = [Line2D([], [], **line) for line in (_TRUE, _STORED, _DATASET_EPS)]
        _legend(figure, handles, labels, "outside lower center", 3)
        _title(figure, f"Label audit: predictions of the judges on mislabelled images of {results['base']['name']}")
    return Path(path)


_TRUE: Line = {"color": canvas.BLUE, "marker": "o", "markersize": 4, "linewidth": 1.6}
_STORED: Line = {"color": canvas.VERMILLION, "marker": "s", "markersize": 4, "linewidth": 1.6, "linestyle": "--"}
_DATASET_EPS: Line = {"color": canvas.FAINT, "linewidth": 1.2, "linestyle": ":"}


def _judge_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], judge: str, dataset_eps: float | None) -> None:
    _percent_axis(axes)
    axes.tick_params(labelbottom=True)
    shares = sorted((float(row["eps"]), row["judges"][judge]) for row in rows if judge in row["judges"])
    for part, line in (("true", _TRUE), ("stored", _STORED)):
        axes.plot([eps for eps, _ in shares], [100 * by[part] for _, by in shares], clip_on=False, zorder=3, **line)
    if dataset_eps is not None:
        axes.axvline(dataset_eps, **_DATASET_EPS)
    marks = {eps for eps, _ in shares} | ({dataset_eps} if dataset_eps is not None else set())
    if marks:
        _radius_ticks(axes, sorted(marks))
