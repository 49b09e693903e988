"""Tables of accuracies: columns of means and spreads over seeds, laid out for a terminal or as Markdown."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featuregen.errors import printable

UNKNOWN = "–"


def number(value: float | None, spec: str) -> str:
    """A number in a format such as `.2f`; a dash where it is unknown."""
    return UNKNOWN if value is None or math.isnan(value) else format(value, spec)


def percent(share: float | None, digits: int = 1, unit: str = "") -> str:
    """A share in percent, such as `46.1`; `unit` follows it unless it is unknown."""
    text = number(None if share is None else 100 * share, f".{digits}f")
    return text if text == UNKNOWN else text + unit


def summary(values: Iterable[float]) -> tuple[float, float | None, float, float]:
    """Mean, sample standard deviation (None for a single value), smallest and largest."""
    numbers = [float(value) for value in values]
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return statistics.fmean(numbers), sd, min(numbers), max(numbers)


def mean_sd(shares: Sequence[float]) -> str:
    """`46.1 ± 2.0`, in percent; a single value stands alone."""
    if not shares:
        return UNKNOWN
    mean, sd, _, _ = summary(shares)
    return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"


def duration(seconds: float) -> str:
    """The two largest units: `2.1 s`, `1 min 3 s`, `3 h 20 min`, `4 days 15 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if days > 1 else f"{24 * days + hours} h {minutes} min"


Results = Mapping[str, Any]
Model = Mapping[str, Any]

TERMINAL_WIDTH = 160
# Characters of a name from a file: in a table, and in a sentence.
_TITLE, NAME = 36, 60
NORMS = {"l2": "L2", "linf": "Linf"}
KIND_NAMES = {
    "robust": "D_R",
    "nonrobust": "D_NR",
    "robust-noise": "D_R from noise",
    "nonrobust-noise": "D_NR from noise",
    "rand": "D_rand",
    "det": "D_det",
}

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

    @classmethod
    def of(cls, group: str, name: str, texts: Iterable[str]) -> Column:
        return cls(group, name, tuple(map(Cell, texts)))


# Numbers of models -----------------------------------------------------------------------------------


def accuracies(model: Model, norm: str = "", eps: float = 0.0) -> list[float]:
    """One accuracy per run that measured it: clean, or under attack in `norm` at `eps`."""
    if not norm:
        return [run["clean"] for run in model["runs"]]
    return [value for run in model["runs"] for key, value in run.get(norm, {}).items() if float(key) == eps]


def titles_of(models: Iterable[Model]) -> list[str]:
    return [model["title"] for model in models]


def radii(models: Iterable[Model], norm: str) -> list[float]:
    """Every eps that any run was attacked at, ascending."""
    return sorted({float(key) for model in models for run in model["runs"] for key in run.get(norm, {})})


def describe_seeds(models: Iterable[Model]) -> str:
    counts = sorted({len(model["runs"]) for model in models})
    if not counts:
        return "no run"
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} seeds per row"
    return "a single seed" if counts[0] == 1 else f"{counts[0]} seeds"


def describe_test_images(results: Results) -> str:
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
    """Accuracy on the training set in the last epoch, augmented and attacked as it was; no column if unknown."""
    fitted = [[run["train_accuracy"] for run in model["runs"] if run.get("train_accuracy")] for model in models]
    return [_column("training set", "accuracy", fitted)] if any(fitted) else []


def paper_columns(models: Sequence[Model]) -> list[Column]:
    rows = [PAPER.get(model["key"], (UNKNOWN,) * 3) for model in models]
    names = ("clean", "0.25", "0.5")
    return [Column.of(PAPER_GROUP, name, (row[i] for row in rows)) for i, name in enumerate(names)]


def _column(group: str, name: str, values: list[list[float]]) -> Column:
    spreads = [f"{percent(min(shares))}–{percent(max(shares))}" if len(shares) > 1 else "" for shares in values]
    cells = (Cell(mean_sd(shares), spread) for shares, spread in zip(values, spreads, strict=True))
    return Column(group, name, tuple(cells))


def grouped(columns: Iterable[Column]) -> list[list[Column]]:
    """Neighbouring columns that share a heading."""
    return [list(group) for _, group in itertools.groupby(columns, key=lambda column: column.group)]


# Terminal ------------------------------------------------------------------------------------------


def terminal_table(titles: Iterable[str], columns: Sequence[Column], corner: str = "trained on") -> list[str]:
    names = [printable(str(title)) for title in titles]
    titles = [name if len(name) <= _TITLE else f"{name[: _TITLE - 1]}…" for name in names]
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
        if blocks[-1] and sum(len(_group_lines(group)[0]) for group in grouped([*blocks[-1], *unit])) > width:
            blocks.append([])
        blocks[-1] += unit
    return [grouped(block) for block in blocks]


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


# Markdown ------------------------------------------------------------------------------------------


def markdown_table(titles: Iterable[str], columns: Sequence[Column], corner: str = "trained on") -> list[str]:
    """With (min–max) where there are several values."""
    comma = {PAPER_GROUP: ","}
    names = [f"{column.group}{comma.get(column.group, '')} {column.name}".strip() for column in columns]
    rows = [[corner, *names], ["---", *["---:"] * len(columns)]]
    for i, title in enumerate(titles):
        cells = [column.cells[i] for column in columns]
        texts = [f"{cell.text} ({cell.spread})" if cell.spread else cell.text for cell in cells]
        rows.append([markdown_escape(text) for text in (title, *texts)])
    return [f"| {' | '.join(row)} |" for row in rows]


def markdown_escape(text: object) -> str:
    return "".join(f"\\{char}" if char in r"\|*_`[]<>~#&$" else char for char in printable(text, limit=None))
