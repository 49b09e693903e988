"""An experiment in tables of words: how accurate every model is, and what judges see in the mislabelled sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featuregen.report.plots import KIND_NAMES
from featuregen.report.tables import (
    PAPER_NOTE,
    UNKNOWN,
    Cell,
    Column,
    Model,
    Results,
    accuracy_columns,
    markdown_escape,
    markdown_table,
    paper_columns,
    percent,
    seeds_in_words,
    single_cell_text,
    terminal_table,
    tested_in_words,
    training_columns,
)

JUDGES_NOTE = "Of the images whose label is not their true class, in %: seen as the true class / as the stored label."


def results_table(results: Results) -> str:
    """For a terminal: accuracies in %, the paper's beside them, then the judges."""
    models = results["models"]
    head = f"{single_cell_text(results['base']['name'])}: {_caption(models)}, {tested_in_words(results)}"
    lines = [head, "", *terminal_table(models, _columns(models)), "", PAPER_NOTE]
    judges, columns = _judges(results)
    if judges:
        lines += ["", JUDGES_NOTE, "", *terminal_table(judges, columns, "judge")]
    return "\n".join(lines)


def results_markdown(results: Results) -> str:
    """The same as Markdown, with (min–max) where there are several seeds."""
    models = results["models"]
    columns = _columns(models)
    head = f"{markdown_escape(results['base']['name'])}: {_caption(models)}"
    head += " (min–max)" if any(cell.spread for column in columns for cell in column.cells) else ""
    head += f", {tested_in_words(results)}"
    lines = [f"{head}.", "", *markdown_table(models, columns), "", PAPER_NOTE.replace("~", r"\~")]
    judges, columns = _judges(results)
    if judges:
        lines += ["", JUDGES_NOTE, "", *markdown_table(judges, columns, "judge")]
    return "\n".join(lines) + "\n"


def evaluation_table(rows: Sequence[Model]) -> str:
    """For any models: rows of {"title", "runs"}, without the paper."""
    caption = _caption(rows)
    columns = accuracy_columns(rows) + training_columns(rows)
    return "\n".join([caption[0].upper() + caption[1:], "", *terminal_table(rows, columns)])


def _columns(models: Sequence[Model]) -> list[Column]:
    return accuracy_columns(models) + training_columns(models) + paper_columns(models)


def _caption(models: Sequence[Model]) -> str:
    several = any(len(model["runs"]) > 1 for model in models)
    return f"test accuracy in %, {'mean ± standard deviation over ' if several else ''}{seeds_in_words(models)}"


def _judges(results: Results) -> tuple[list[dict[str, Any]], list[Column]]:
    """A row per judge, a column per mislabelled set as it is stored."""
    own = {made["kind"]: made["eps"] for made in results["datasets"]}
    sets = {
        kind: row["judges"] for kind, rows in results["honesty"].items() for row in rows if row["eps"] == own.get(kind)
    }
    judges = list(dict.fromkeys(judge for seen in sets.values() for judge in seen))
    columns = [
        Column("", f"{KIND_NAMES.get(kind, kind)}, eps {own[kind]:g}", _cells(seen, judges))
        for kind, seen in sets.items()
    ]
    return [{"title": judge} for judge in judges], columns


def _cells(seen: Mapping[str, Mapping[str, float]], judges: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(
        Cell(f"{percent(seen[judge]['true'])} / {percent(seen[judge]['stored'])}" if judge in seen else UNKNOWN)
        for judge in judges
    )
