"""What an experiment found about a dataset, as a section of its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featuregen.report.tables import accuracy_columns, markdown_table, percent, seeds_in_words, tested_in_words

_BESIDE = ("standard", "adversarial", "sample")


def evaluation_section(kind: str, results: Mapping[str, Any]) -> str:
    """Models trained on this set alone, beside those of the unchanged images."""
    models = [row for row in results["models"] if row["key"] in (*_BESIDE, kind) and row["runs"]]
    if not any(row["key"] == kind for row in models):
        return ""
    settings = results["config"]["evaluation"]
    lines = [
        "## Evaluation",
        f"Accuracy in % on {tested_in_words(results)}, {seeds_in_words(models)}, mean ± standard deviation (range); "
        f"the attack is PGD of {settings['steps']} steps, restarts {settings['restarts']}. D is the base set as it "
        "is; the last row are fresh models that saw nothing but this set.",
        "\n".join(markdown_table(models, accuracy_columns(models))),
        _judged(kind, results),
    ]
    return "\n\n".join(line for line in lines if line)


def _judged(kind: str, results: Mapping[str, Any]) -> str:
    """What judges other than the fooled source see, at the radius the set was made with."""
    eps = next((made["eps"] for made in results["datasets"] if made["kind"] == kind), None)
    row = next((row for row in results["honesty"].get(kind, ()) if row["eps"] == eps), None)
    if row is None:
        return ""
    seen = [
        f"{judge} sees the true class in {percent(shares['true'])} %, the stored label in {percent(shares['stored'])} %"
        for judge, shares in row["judges"].items()
    ]
    return "\n".join(
        ["Of the rows whose label is not the true class of their base image:\n", *(f"- {each}" for each in seen)]
    )
