"""The evaluation of a dataset, as a section of its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from featuregen.report import (
    accuracies,
    accuracy_columns,
    describe_seeds,
    describe_test_images,
    markdown_escape,
    markdown_table,
    percent,
    titles_of,
)
from featuregen.storage import DatasetInfo

Results = Mapping[str, Any]

_COMPARED = ("standard", "adversarial", "sample")
EXPERIMENT, EVALUATION = "featuregen-results", "featuregen-evaluation"


def results_about(info: DatasetInfo, results: Results) -> Results | None:
    """What `reproduce` or `evaluate --json` wrote, if it is about this very dataset."""
    wanted = info.content_sha256
    if (results["format"], results["version"]) == (EXPERIMENT, 1):
        return results if any(made["content_sha256"] == wanted for made in results["datasets"]) else None
    if (results["format"], results["version"]) == (EVALUATION, 1):
        rows = [row for row in results["models"] if row.get("content_sha256") == wanted]
        # Where the file lay is nobody's business.
        return {**results, "models": [row | {"file": PurePath(row["file"]).name} for row in rows]} if rows else None
    return None


def evaluation_section(info: DatasetInfo, results: Results) -> str:
    """Models trained on this set alone; after a whole experiment, beside those of the unchanged images."""
    if results["format"] == EVALUATION:
        return _section(results["models"], results["models"][0], "Fresh models trained on this set alone.")
    models = [row for row in results["models"] if row["key"] in (*_COMPARED, info.kind) and row["runs"]]
    if not any(row["key"] == info.kind for row in models):
        return ""
    about = {"evaluation": results["config"]["evaluation"], "test_rows": results["base"]["test_rows"]}
    words = "D is the base set as it is; the last row shows fresh models trained on this set alone."
    return "\n\n".join(filter(None, [_section(models, about, words), _label_audit(info.kind, results)]))


def _section(models: list[dict[str, Any]], about: Mapping[str, Any], words: str) -> str:
    settings = about["evaluation"]
    tested = describe_test_images({"base": about, "config": about})
    several = any(len(accuracies(row)) > 1 for row in models)
    spread = ", mean ± standard deviation (range)" if several else ""
    restarts = f", {settings['restarts']} restarts" if settings["restarts"] > 1 else ""
    text = (
        f"Accuracy in % on {tested}, {describe_seeds(models)}{spread}; the attack is PGD of {settings['steps']} "
        f"steps{restarts}. {words}"
    )
    return "\n\n".join(["## Evaluation", text, "\n".join(markdown_table(titles_of(models), accuracy_columns(models)))])


def _label_audit(kind: str, results: Results) -> str:
    """The predictions of every judge, at the radius the set was made with."""
    eps = next((made["eps"] for made in results["datasets"] if made["kind"] == kind), None)
    row = next((row for row in results["honesty"].get(kind, ()) if row["eps"] == eps), None)
    if row is None:
        return ""
    lines = ["Label audit: predictions for the rows whose stored label is not their true class.", ""]
    for judge, shares in row["judges"].items():
        true, stored = percent(shares["true"]), percent(shares["stored"])
        lines.append(f"- {markdown_escape(judge)}: the true class in {true} %, the stored label in {stored} %")
    return "\n".join(lines)
