"""The parts of the HTML page; every value is escaped where it enters."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import yaml

from featuregen.report.plots import KIND_NAMES
from featuregen.report.tables import (
    NORMS,
    PAPER_GROUP,
    PAPER_NOTE,
    UNKNOWN,
    Cell,
    Column,
    Results,
    accuracy_columns,
    paper_columns,
    percent,
    seeds_in_words,
    tested_in_words,
    training_columns,
)


def text(value: object) -> str:
    return html.escape(str(value), quote=True)


def table(label: str, corner: str, columns: Sequence[Column], titles: Sequence[str]) -> str:
    """A table in a box of its own that scrolls sideways on a narrow screen."""
    body = []
    for i, title in enumerate(titles):
        cells = "".join(_cell(column, column.cells[i]) for column in columns)
        body.append(f'<tr><th scope="row">{text(title)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0">'
        f"<table><thead>{_head(corner, columns)}</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _head(corner: str, columns: Sequence[Column]) -> str:
    names = "".join(f'<th scope="col"{_class(column)}>{text(column.name)}</th>' for column in columns)
    if not any(column.group for column in columns):
        return f'<tr><th scope="col">{text(corner)}</th>{names}</tr>'
    groups = ""
    for group, members in groupby(columns, key=lambda column: column.group):
        several = list(members)
        if group:
            css = _class(several[0])
            groups += f'<th scope="colgroup" colspan="{len(several)}"{css}>{text(group)}</th>'
        else:
            groups += f'<td colspan="{len(several)}"></td>'
    return f'<tr><td></td>{groups}</tr><tr><th scope="col">{text(corner)}</th>{names}</tr>'


def _class(column: Column) -> str:
    return ' class="paper"' if column.group == PAPER_GROUP else ""


def _cell(column: Column, cell: Cell) -> str:
    spread = f"<br><small>{text(cell.spread)}</small>" if cell.spread else ""
    shown = f'<code title="{text(cell.full)}">{text(cell.text)}</code>' if cell.full else text(cell.text)
    return f"<td{_class(column)}>{shown}{spread}</td>"


def accuracy(results: Results) -> str:
    models = results["models"]
    if not models:
        return ""
    several = any(len(model["runs"]) > 1 for model in models)
    spread = (
        "Mean ± sample standard deviation, below it the smallest and largest; " if several else "One value per row; "
    )
    columns = [
        Column(column.group.replace("eps", "ε"), column.name, column.cells) for column in accuracy_columns(models)
    ]
    columns += training_columns(models)
    return (
        "<section><h2>Accuracy on the true test set</h2>"
        f"<p>In percent, clean and under attack. {spread}{text(seeds_in_words(models))}. "
        f"{tested_in_words(results)}.</p>"
        + table("accuracies", "trained on", columns + paper_columns(models), [model["title"] for model in models])
        + f'<p class="note">{text(PAPER_NOTE)}</p></section>'
    )


def datasets(results: Results) -> str:
    made = results["datasets"]
    if not made:
        return ""
    rows = [_dataset(row) for row in made]
    columns = [Column("", name, tuple(row[name] for row in rows)) for name in rows[0]]
    cells = table("data sets", "kind", columns, [KIND_NAMES.get(row["kind"], row["kind"]) for row in made])
    return (
        "<section><h2>Data sets</h2><p>Success is the share of images in which the source model sees the stored label; "
        "distance is the mean L2 distance from the base image; objective is the mean of what was minimised, measured "
        f"in fp32 on the values as stored. Hover over a digest to see all of it.</p>{cells}</section>"
    )


def _dataset(made: Mapping[str, Any]) -> dict[str, Cell]:
    ball = (
        "pixels in [0, 1]" if made["norm_name"] == "none" else f"{NORMS[made['norm_name']]} ball, ε = {made['eps']:g}"
    )
    digest = str(made["content_sha256"])
    return {
        "rows": Cell(f"{made['rows']:,}"),
        "success, %": Cell(percent(made["success_rate"])),
        "distance": Cell(_number(made["norm"], 3)),
        "objective": Cell(_number(made["objective"], 4)),
        "constraint": Cell(ball),
        "steps": Cell(f"{made['steps']:,}"),
        "file": Cell(str(made["file"])),
        "content sha256": Cell(f"{digest[:12]}…", full=digest),
    }


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.{digits}f}"


def honesty(results: Results) -> str:
    parts = [_honesty_table(kind, rows) for kind, rows in results["honesty"].items() if rows]
    if not parts:
        return ""
    return (
        "<section><h2>What is really in the mislabelled images</h2><p>Share of images, in percent, in which a judge "
        "sees the true class, the stored label, or another class. The robust model or the nearest neighbour seeing the "
        "stored label is a sign that the picture itself has moved towards that class; standard models alone seeing it "
        "is a sign of non-robust features.</p>" + "".join(parts) + "</section>"
    )


def _honesty_table(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    name = KIND_NAMES.get(kind, kind)
    columns = [Column("", "images", tuple(Cell(f"{row['rows']:,}") for row in rows))]
    for judge in dict.fromkeys(judge for row in rows for judge in row["judges"]):
        for part in ("true", "stored", "neither"):
            shares = [row["judges"].get(judge, {}).get(part) for row in rows]
            columns.append(Column(judge, part, tuple(Cell(percent(share)) for share in shares)))
    radii = [f"{row['eps']:g}" for row in rows]
    return f"<h3>{text(name)}</h3>" + table(f"what judges see in {name}", "ε", columns, radii)


def settings(results: Results) -> str:
    dump = yaml.safe_dump(results["config"], sort_keys=False, allow_unicode=True)
    return (
        "<section><h2>Settings</h2><details><summary>All settings, as YAML</summary>"
        f"<pre>{text(dump)}</pre></details></section>"
    )


def timings(results: Results) -> str:
    stages = results["timings"]
    if not stages:
        return ""
    seconds = [stage["seconds"] for stage in stages]
    cells = tuple(Cell(_duration(value)) for value in [*seconds, math.fsum(seconds)])
    titles = [*(stage["stage"] for stage in stages), "sum over stages, several of which run at once"]
    body = table("timings", "stage", [Column("", "time", cells)], titles)
    return f'<section class="timings"><h2>Time</h2>{body}</section>'


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def software(results: Results) -> str:
    base = results["base"]
    facts = {
        **results["software"],
        "base set": f"{base['name']}, {base['train_rows']:,} training and {base['test_rows']:,} test images",
        "sha256 of the training set": base["train_sha256"],
        "sha256 of the test set": base["test_sha256"],
    }
    entries = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts.items())
    return f"<section><h2>Software and data</h2><dl>{entries}</dl></section>"
