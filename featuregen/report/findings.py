"""What the numbers say, in sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featuregen.report.tables import Model, Results, accuracies, mean_sd, percent


def headline(results: Results) -> list[str]:
    """Two or three sentences; those whose numbers are missing are left out."""
    models = {model["key"]: model for model in results["models"] if model["runs"]}
    sentences = [_mislabelled(results, models), _seen_by_judges(results), _robust(results, models)]
    return [sentence for sentence in sentences if sentence] or _plain(results, models)


def _chance(results: Results) -> float:
    return 1 / len(results["base"]["classes"])


def _mislabelled(results: Results, models: Mapping[str, Model]) -> str:
    kind, what = ("det", "only wrongly labelled") if "det" in models else ("rand", "only randomly labelled")
    if kind not in models:
        return ""
    values, chance = accuracies(models[kind]), _chance(results)
    above = sum(value > chance for value in values)
    runs = "" if len(values) == 1 else f" ({above} of {len(values)} runs lie above it)"
    return (
        f"A network that saw {what} images of {results['base']['name']} ({models[kind]['title']}) reaches "
        f"{mean_sd(values)} % on the true test set; chance is {percent(chance)} %{runs}."
    )


def _seen_by_judges(results: Results) -> str:
    """What the first judge that is not the attacked model itself sees in D_det at the eps it was made with."""
    eps = next((made["eps"] for made in results["datasets"] if made["kind"] == "det"), None)
    for row in results["honesty"].get("det", ()):
        if row["eps"] == eps and "robust model" in row["judges"]:
            shares: Mapping[str, Any] = row["judges"]["robust model"]
            return (
                f"A robust model sees the true class in {percent(shares['true'])} % of those images "
                f"(ε = {eps:g}) and the stored label in {percent(shares['stored'])} %."
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
        f"Ordinary training on robust features alone ({models['robust']['title']}) gives {attacked['robust']} % "
        f"under L2 attack at ε = {eps:g}{against}."
    )


def _plain(results: Results, models: Mapping[str, Model]) -> list[str]:
    """For experiments with neither kind: the clean accuracies as they are."""
    if not models:
        return [f"No network has been tested on {results['base']['name']} yet."]
    each = ", ".join(f"{model['title']} {mean_sd(accuracies(model))} %" for model in models.values())
    return [f"Clean test accuracy on {results['base']['name']}: {each}."]
