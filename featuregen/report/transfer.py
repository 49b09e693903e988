"""Transfer rates of adversarial examples beside accuracies after training on D_det: a table and a scatter plot."""

from __future__ import annotations

from pathlib import Path

from featuregen.errors import join_lines
from featuregen.report import canvas
from featuregen.report.tables import (
    NORMS,
    Column,
    Results,
    accuracies,
    accuracy_columns,
    number,
    percent,
    summary,
    terminal_table,
    titles_of,
    training_columns,
)

# Offsets of a name from its point, in points, and the size of a point, in pixels.
_ABOVE, _BELOW = (7, 5), (7, -13)
_MARKER = 8


def transfer_table(results: Results) -> str:
    rows, source = results["rows"], results["source"]
    columns = [
        Column.of("standard model", "clean", (percent(row["clean"]) for row in rows)),
        Column.of("standard model", "transfer rate", (percent(row["transfer"]) for row in rows)),
        Column("trained on D_det", "clean", accuracy_columns(rows)[0].cells),
        *(Column("trained on D_det", "training set", column.cells) for column in training_columns(rows)),
    ]
    return join_lines([
        f"{_attack(results)}: {percent(source['fooled'])} % of the correctly classified images are then misclassified "
        f"({source['images']} images)",
        "in %: accuracies; transfer rate: the share of these images that a model misclassifies, of those whose "
        "originals it classifies correctly",
        "",
        *terminal_table(titles_of(rows), columns, "architecture"),
        "",
        f"correlation over {len(rows)} architectures: {number(results['correlation'], '.2f')}",
    ])  # fmt: skip


def transfer_scatter(results: Results, path: str | Path) -> Path:
    """As the paper's figure 3: one point per architecture."""
    with canvas.drawing(path, 640, 460) as figure:
        axes = figure.add_subplot()
        labels = []
        for row in results["rows"]:
            mean, _, low, high = summary(100 * value for value in accuracies(row))
            rate = 100 * row["transfer"]
            axes.plot([mean], [rate], "o", color=canvas.BLUE, markersize=6, zorder=3)
            axes.plot([low, high], [rate, rate], color=canvas.BLUE, linewidth=1.2)
            labels.append(axes.annotate(row["title"], (mean, rate), _ABOVE, textcoords="offset points", fontsize=8.5))
        axes.margins(x=0.25, y=0.15)
        axes.set_xlabel("test accuracy when trained on the source's D_det, %; line: smallest to largest")
        axes.set_ylabel("transfer rate of the source's adversarial examples, %")
        words = f"{results['base']['name']}: {_attack(results)}"
        figure.suptitle(words, x=0.01, ha="left", fontsize=10, fontweight="bold")
        # Where things are is known only once they have been laid out.
        figure.draw_without_rendering()
        points = [axes.transData.transform(label.xy) for label in labels]
        for label, target in zip(labels, points, strict=True):
            box = label.get_window_extent().padded(_MARKER)
            if any(box.contains(*point) for point in points if point is not target):
                label.set_position(_BELOW)
    return Path(path)


def _attack(results: Results) -> str:
    attack, model = results["attack"], results["source"]["model"]
    return f"{NORMS[attack['norm']]} eps {attack['eps']:g}, {attack['steps']} steps on {model['architecture']}"
