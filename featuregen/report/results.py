"""An experiment in tables and sentences: the accuracy of every model, and the label audit of the mislabelled sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featuregen.errors import join_lines, printable
from featuregen.report.tables import (
    KIND_NAMES,
    NAME,
    PAPER_NOTE,
    UNKNOWN,
    Column,
    Model,
    Results,
    accuracies,
    accuracy_columns,
    describe_seeds,
    describe_test_images,
    markdown_escape,
    markdown_table,
    mean_sd,
    paper_columns,
    percent,
    terminal_table,
    titles_of,
    training_columns,
)

AUDIT_NOTE = (
    "Label audit, in % of the images whose stored label is not their true class: predicted as the true class / "
    "as the stored label."
)

# Tables --------------------------------------------------------------------------------------------


def results_table(results: Results) -> str:
    """For a terminal: accuracies in %, the paper's beside them, then the label audit."""
    models = results["models"]
    head = f"{printable(results['base']['name'], NAME)}: {_caption(models)}, {describe_test_images(results)}"
    lines = [head, "", *terminal_table(titles_of(models), _columns(models)), "", PAPER_NOTE]
    judges, columns = _judges(results)
    if judges:
        lines += ["", AUDIT_NOTE, "", *terminal_table(judges, columns, "judge")]
    return join_lines(lines)


def results_markdown(results: Results) -> str:
    """The same as Markdown, with (min–max) where there are several seeds."""
    models = results["models"]
    columns = _columns(models)
    head = f"{markdown_escape(results['base']['name'])}: {_caption(models)}"
    head += " (min–max)" if any(cell.spread for column in columns for cell in column.cells) else ""
    head += f", {describe_test_images(results)}"
    lines = [f"{head}.", "", *markdown_table(titles_of(models), columns), "", PAPER_NOTE.replace("~", r"\~")]
    judges, columns = _judges(results)
    if judges:
        lines += ["", AUDIT_NOTE, "", *markdown_table(judges, columns, "judge")]
    return "\n".join(lines) + "\n"


def evaluation_table(rows: Sequence[Model]) -> str:
    """For any models: rows of {"title", "runs"}, without the paper."""
    caption = _caption(rows)
    columns = accuracy_columns(rows) + training_columns(rows)
    return join_lines([caption[0].upper() + caption[1:], "", *terminal_table(titles_of(rows), columns)])


def _columns(models: Sequence[Model]) -> list[Column]:
    return accuracy_columns(models) + training_columns(models) + paper_columns(models)


def _caption(models: Sequence[Model]) -> str:
    several = any(len(model["runs"]) > 1 for model in models)
    return f"test accuracy in %, {'mean ± standard deviation over ' if several else ''}{describe_seeds(models)}"


def _judges(results: Results) -> tuple[list[str], list[Column]]:
    """A row per judge, a column per mislabelled set as it is stored."""
    stored_eps = {made["kind"]: made["eps"] for made in results["datasets"]}
    audits = ((kind, row) for kind, rows in results["honesty"].items() for row in rows)
    sets = {kind: row["judges"] for kind, row in audits if row["eps"] == stored_eps.get(kind)}
    judges = list(dict.fromkeys(judge for shares in sets.values() for judge in shares))
    columns = []
    for kind, shares in sets.items():
        cells = (
            f"{percent(shares[judge]['true'])} / {percent(shares[judge]['stored'])}" if judge in shares else UNKNOWN
            for judge in judges
        )
        columns.append(Column.of("", f"{KIND_NAMES.get(kind, kind)}, eps {stored_eps[kind]:g}", cells))
    return judges, columns


# Sentences -----------------------------------------------------------------------------------------


def headline(results: Results) -> list[str]:
    """Two or three sentences; those whose numbers are missing are left out."""
    models = {model["key"]: model for model in results["models"] if model["runs"]}
    sentences = [_mislabelled(results, models), _audit(results), _robust(results, models)]
    if found := [sentence for sentence in sentences if sentence]:
        return found
    if not models:
        return [f"No network has been tested on {results['base']['name']} yet."]
    each = ", ".join(f"{model['title']} {mean_sd(accuracies(model))} %" for model in models.values())
    return [f"Clean test accuracy on {results['base']['name']}: {each}."]


def _mislabelled(results: Results, models: Mapping[str, Model]) -> str:
    kind, labels = ("det", "mislabelled") if "det" in models else ("rand", "randomly labelled")
    if kind not in models:
        return ""
    values, chance = accuracies(models[kind]), 1 / len(results["base"]["classes"])
    above = sum(value > chance for value in values)
    runs = "" if len(values) == 1 else f" ({above} of {len(values)} runs are above it)"
    return (
        f"A network trained on {labels} images of {results['base']['name']} alone ({models[kind]['title']}) reaches "
        f"{mean_sd(values)} % on the true test set; chance is {percent(chance)} %{runs}."
    )


def _audit(results: Results) -> str:
    """What a robust model predicts for D_det, at the eps that the set was made with."""
    eps = next((made["eps"] for made in results["datasets"] if made["kind"] == "det"), None)
    for row in results["honesty"].get("det", ()):
        if row["eps"] == eps and "robust model" in row["judges"]:
            shares: Mapping[str, Any] = row["judges"]["robust model"]
            return (
                f"A robust model predicts the true class for {percent(shares['true'])} % of those images "
                f"(ε = {eps:g}) and the stored label for {percent(shares['stored'])} %."
            )
    return ""


def _robust(results: Results, models: Mapping[str, Model]) -> str:
    if "robust" not in models:
        return ""
    eps = float(results["config"]["evaluation"]["headline"])
    names = [name for name in ("robust", "nonrobust", "sample", "standard") if name in models]
    attacked = {name: mean_sd(values) for name in names if (values := accuracies(models[name], "l2", eps))}
    if "robust" not in attacked:
        return ""
    others = [f"{attacked[name]} % for {models[name]['title']}" for name in attacked if name != "robust"]
    against = f", against {' and '.join(others)}" if others else ""
    return (
        f"Standard training on robust features alone ({models['robust']['title']}) gives {attacked['robust']} % "
        f"under L2 attack at ε = {eps:g}{against}."
    )
