"""What the numbers are: means and spreads over seeds, laid out for a terminal or as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]
Model = Mapping[str, Any]

TERMINAL_WIDTH = 160
UNKNOWN = "–"
NORMS = {"l2": "L2", "linf": "Linf"}

PAPER_GROUP = "paper: CIFAR-10, ResNet-50"
PAPER_NOTE = (
    "Paper: Ilyas et al. 2019, CIFAR-10, ResNet-50, clean and under L2 attack at eps 0.25 and 0.5; "
    "~ read off a figure, – unknown."
)
PAPER = {
    "standard": ("~95.25", "~4.5", "~0"),
    "adversarial": ("~90.83", "~82.5", "~70.9"),
    "robust": ("~84.1", "~48.3", UNKNOWN),
    "nonrobust": ("~87.7", "~0.8", "~0"),
    "rand": ("63.3", "~0", "~0"),
    "det": ("43.7", "~0", "~0"),
}


@dataclass(frozen=True)
class Cell:
    """One value as text, with its range over seeds where there are several, and in full where it is shortened."""

    text: str
    spread: str = ""
    full: str = ""


@dataclass(frozen=True)
class Column:
    """`group` is the heading that neighbouring columns share."""

    group: str
    name: str
    cells: tuple[Cell, ...]


# Numbers -------------------------------------------------------------------------------------------


def summary(values: Iterable[float]) -> tuple[float, float | None, float, float]:
    """Mean, sample standard deviation (None for a single value), smallest and largest."""
    numbers = [float(value) for value in values]
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return statistics.fmean(numbers), sd, min(numbers), max(numbers)


def percent(value: float | None, digits: int = 1) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def mean_sd(values: Sequence[float]) -> str:
    """`46.1 ± 2.0`, in percent; a single value stands alone."""
    if not values:
        return UNKNOWN
    mean, sd, _, _ = summary(values)
    return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"


def accuracies(model: Model, norm: str = "", eps: float = 0.0) -> list[float]:
    """One accuracy per run that measured it: clean, or under attack in `norm` at `eps`."""
    if not norm:
        return [run["clean"] for run in model["runs"]]
    return [value for run in model["runs"] for key, value in run.get(norm, {}).items() if float(key) == eps]


def radii(models: Iterable[Model], norm: str) -> list[float]:
    """Every eps that any run was attacked at, ascending."""
    return sorted({float(key) for model in models for run in model["runs"] for key in run.get(norm, {})})


def seeds_in_words(models: Iterable[Model]) -> str:
    counts = sorted({len(model["runs"]) for model in models})
    if not counts:
        return "no run"
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} seeds per row"
    return "a single seed" if counts[0] == 1 else f"{counts[0]} seeds"


def tested_in_words(results: Results) -> str:
    rows, all_rows = results["config"]["evaluation"].get("rows"), f"{results['base']['test_rows']:,}"
    return f"{all_rows} test images, {rows:,} of them attacked" if rows else f"{all_rows} test images"


# Columns -------------------------------------------------------------------------------------------


def accuracy_columns(models: Sequence[Model]) -> list[Column]:
    columns = [_column("", "clean", [accuracies(model) for model in models])]
    for norm, name in NORMS.items():
        for eps in radii(models, norm):
            columns.append(_column(f"{name} eps", f"{eps:g}", [accuracies(model, norm, eps) for model in models]))
    return columns


def training_columns(models: Sequence[Model]) -> list[Column]:
    """How well each model fitted its own set in its last epoch, augmented and attacked as it was; none if unknown."""
    fitted = [[run["train_accuracy"] for run in model["runs"] if run.get("train_accuracy")] for model in models]
    return [_column("own set", "training", fitted)] if any(fitted) else []


def paper_columns(models: Sequence[Model]) -> list[Column]:
    rows = [PAPER.get(model["key"], (UNKNOWN,) * 3) for model in models]
    names = ("clean", "0.25", "0.5")
    return [Column(PAPER_GROUP, name, tuple(Cell(row[i]) for row in rows)) for i, name in enumerate(names)]


def _column(group: str, name: str, values: list[list[float]]) -> Column:
    return Column(group, name, tuple(Cell(mean_sd(v), _spread(v)) for v in values))


def _spread(values: Sequence[float]) -> str:
    return f"{percent(min(values))}–{percent(max(values))}" if len(values) > 1 else ""


# Terminal ------------------------------------------------------------------------------------------


def _grouped(columns: Iterable[Column]) -> list[list[Column]]:
    groups: list[list[Column]] = []
    for column in columns:
        if groups and groups[-1][0].group == column.group:
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def terminal_table(models: Sequence[Model], columns: Sequence[Column], corner: str = "trained on") -> list[str]:
    titles = [_shortened(single_cell_text(model["title"]), 36) for model in models]
    left = max(len(text) for text in (*titles, corner))
    lines: list[str] = []
    for block in _blocks(columns, TERMINAL_WIDTH - left):
        parts = [_group_lines(group) for group in block]
        rows = [title.ljust(left) + "".join(cells) for title, *cells in zip(["", corner, *titles], *parts, strict=True)]
        head = [row for row in rows[:2] if row.strip()]
        lines += ["", *head, "─" * len(rows[0]), *rows[2:]]
    return [line.rstrip() for line in lines[1:]]


def _blocks(columns: Sequence[Column], width: int) -> list[list[list[Column]]]:
    """A table that is too wide becomes tables below each other; the paper's columns stay together."""
    paper = [column for column in columns if column.group == PAPER_GROUP]
    measured = [[column] for column in columns if column.group != PAPER_GROUP]
    blocks: list[list[Column]] = [[]]
    for unit in [*measured, paper]:
        if blocks[-1] and sum(_width(group) for group in _grouped([*blocks[-1], *unit])) > width:
            blocks.append([])
        blocks[-1] += unit
    return [_grouped(block) for block in blocks]


def _width(group: list[Column]) -> int:
    return len(_group_lines(group)[0])


def _group_lines(group: list[Column]) -> list[str]:
    """Heading, column names and cells of one group, all equally long."""
    gap = "   "
    widths = [max(len(text) for text in (column.name, *(cell.text for cell in column.cells))) for column in group]
    body = [gap.join(column.name.rjust(w) for column, w in zip(group, widths, strict=True))]
    for cells in zip(*(column.cells for column in group), strict=True):
        body.append(gap.join(cell.text.rjust(w) for cell, w in zip(cells, widths, strict=True)))
    width = max(len(body[0]), len(group[0].group))
    separator = "  │ " if group[0].group == PAPER_GROUP else "    "
    return [separator + line for line in (group[0].group.center(width), *(line.rjust(width) for line in body))]


def single_cell_text(text: object) -> str:
    """Control characters would move the cursor of a terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# Markdown ------------------------------------------------------------------------------------------


def markdown_table(models: Sequence[Model], columns: Sequence[Column], corner: str = "trained on") -> list[str]:
    """With (min–max) where there are several values."""
    names = [_markdown_name(column) for column in columns]
    lines = [_markdown_row([corner, *names]), _markdown_row(["---", *["---:"] * len(columns)])]
    for i, model in enumerate(models):
        cells = [column.cells[i] for column in columns]
        texts = [f"{cell.text} ({cell.spread})" if cell.spread else cell.text for cell in cells]
        lines.append(_markdown_row([model["title"], *texts], markdown_escape))
    return lines


def _markdown_name(column: Column) -> str:
    if column.group == PAPER_GROUP:
        return f"{PAPER_GROUP}, {column.name}"
    return f"{column.group} {column.name}".strip()


def _markdown_row(cells: Iterable[str], escape: Callable[[object], str] = str) -> str:
    return f"| {' | '.join(escape(cell) for cell in cells)} |"


def markdown_escape(text: object) -> str:
    return "".join(f"\\{char}" if char in r"\|*_`[]<>~#&$" else char for char in single_cell_text(text))
