"""How a dataset was made and what it does not show, in words made from its record; the card escapes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from featuregen.config.kinds import ATTACKED, KINDS, MISLABELLED
from featuregen.config.record_schemas import EvaluationResults, ExperimentResults
from featuregen.config.records import RecordError, check_record, parse_json
from featuregen.errors import UserError
from featuregen.report.attack import describe_attack
from featuregen.report.tables import (
    NORMS,
    accuracies,
    accuracy_columns,
    describe_seeds,
    describe_test_images,
    markdown_escape,
    markdown_table,
    percent,
    titles_of,
)
from featuregen.storage.reader import DatasetInfo, read_columns

Results = Mapping[str, Any]

_COMPARED = ("standard", "adversarial", "sample")
EXPERIMENT, EVALUATION = "featuregen-results", "featuregen-evaluation"


def read_results(text: bytes, where: str) -> Results:
    """What `reproduce` or `evaluate --json` wrote."""
    try:
        results = parse_json(text, "it", nan_as_null=True)
        evaluated = isinstance(results, dict) and results.get("format") == EVALUATION
        check_record(results, EvaluationResults if evaluated else ExperimentResults, "it")
    except RecordError as error:
        reason = str(error).partition(";")[0]
        raise UserError(f"{where} does not hold the results of `reproduce` or `evaluate --json` ({reason}).") from None
    return dict(results)


def results_about(info: DatasetInfo, results: Results) -> Results | None:
    """The results, if they are about this very dataset."""
    wanted = info.content_sha256
    if results["format"] == EXPERIMENT:
        return results if any(made["content_sha256"] == wanted for made in results["datasets"]) else None
    rows = [row for row in results["models"] if row.get("content_sha256") == wanted]
    # Where the file lay is nobody's business.
    return {**results, "models": [row | {"file": PurePath(row["file"]).name} for row in rows]} if rows else None


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
    restarts = f", {markdown_escape(settings['restarts'])} restarts" if settings["restarts"] > 1 else ""
    steps = markdown_escape(settings["steps"])
    text = (
        f"Accuracy in % on {tested}, {describe_seeds(models)}{spread}; the attack is PGD of {steps} steps{restarts}. "
        f"{words}"
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


_STARTS = {"image": "another training image", "noise": "noise around mid-grey", "self": "the base image itself"}
_OBJECTIVES: dict[object, str] = {
    "features": "towards the base image's penultimate features in the source model",
    "class": "until the source model predicts the stored label",
}
_LABELS: dict[object, str] = {
    "true": "that of the base image",
    "random": "drawn at random",
    "next": "the class after that of the base image",
}
_SOFTWARE = ("featuregen", "torch", "device", "precision")


def facts(info: DatasetInfo) -> list[tuple[str, str]]:
    """Rows of the table at the top of the card; what is not recorded in a known form is left out."""
    base, rule = info.base, KINDS.get(info.kind)
    base_rows = base.get("rows")
    count = f"{base_rows:,}" if isinstance(base_rows, int) else base_rows
    shape = "×".join(str(side) for side in info.image_shape)
    software = [f"{name} {info.software[name]}" for name in _SOFTWARE if name in info.software]
    rows = [
        ("rows", f"{info.rows:,}, made from the {count} of {base.get('name')}, {base.get('split')}"),
        ("images", f"{shape}, {info.dtype}, {len(info.classes)} classes"),
        ("made", _made(info)),
        ("stored label", _LABELS.get(rule.label, "by a rule of the kind") if rule else "that of the base image"),
        ("threat model", _threat_model(info)),
        ("source model", _source(info.source_model)),
        ("accuracy left" if info.kind == ATTACKED else "success", _success(info)),
        ("distance from the base image", _distance(info)),
        ("seed", str(info.recipe.get("seed"))),
        ("software", ", ".join(software)),
        ("finished", str(info.created)),
    ]
    return [row for row in rows if row[1] and row[1] != "None"]


def limits(info: DatasetInfo, weights: bool) -> list[str]:
    """What the set does not show."""
    texts = []
    if info.kind in MISLABELLED:
        texts.append(
            "Most labels look wrong to a person. The set is for experiments on what networks learn from, not for "
            "training anything that is used."
        )
    if not math.isnan(info.success_rate):
        texts.append(
            "Success is measured on one source model, whose gradients made the images; other models predict otherwise."
        )
    if "imported" in info.recipe:
        texts.append("The file was imported: how it was made, and by which model, is not recorded.")
    if not weights and info.source_model:
        texts.append("Without the source model's weights, the recorded success cannot be checked.")
    texts += [
        "Rows come from one split of the base set alone; for tests take the base set's own test images.",
        "The same bytes are promised on one CPU machine with the same software; other hardware rounds otherwise.",
        "Checksums show that the file is as it was written, not who wrote it.",
    ]
    return texts


def can_be_remade(info: DatasetInfo, weights: bool) -> bool:
    """From this folder: a source model that is not in it can be trained again, but not one that was attacked."""
    if "synthesis" in info.recipe:
        return weights or "settings" in info.source_model
    attacked = "attack" in info.recipe and info.base.get("split") in ("train", "test")
    return attacked and weights and "found_on" not in info.recipe


def _made(info: DatasetInfo) -> str:
    if "imported" in info.recipe:
        return "elsewhere, imported from the layout of the paper's authors"
    if isinstance(attack := info.recipe.get("attack"), Mapping):
        return f"by an attack on the source model, {describe_attack(attack)}"
    settings, rule = info.recipe.get("synthesis"), KINDS.get(info.kind)
    if not isinstance(settings, Mapping) or rule is None:
        return ""
    objective = _OBJECTIVES.get(rule.objective, "by an objective that the kind defines")
    return (
        f"from {_STARTS[rule.start]}, in {settings.get('steps')} steps of {settings.get('step_size')} "
        f"({settings.get('schedule')}, momentum {settings.get('momentum')}), {objective}"
    )


def _threat_model(info: DatasetInfo) -> str:
    if "imported" in info.recipe:
        return "not recorded"
    settings = info.recipe.get("synthesis", info.recipe.get("attack"))
    if not isinstance(settings, Mapping):
        return ""
    norm, eps = settings.get("norm"), settings.get("eps")
    if norm in NORMS and isinstance(eps, (int, float)) and eps:
        reach = f"stored pixels within {NORMS[norm]} {eps:g} of the base image, pixels in [0, 1]"
    else:
        reach = "no limit on the distance from the base image"
    return reach if "attack" in info.recipe else f"white box, the source model's gradients; {reach}"


def _source(source: Mapping[str, Any]) -> str:
    if not source:
        return "not recorded"
    attack, clean = _at(source, "settings", "training", "attack"), _at(source, "accuracy", "clean")
    how = ", standard training" if _at(source, "settings", "training") else ""
    if isinstance(attack, Mapping):
        ball = f"{NORMS.get(str(attack.get('norm')), attack.get('norm'))} eps {attack.get('eps')}"
        how = f", adversarial training ({ball}, {attack.get('steps')} steps)"
    tested = f", {percent(clean)} % clean test accuracy" if isinstance(clean, float) else ""
    return f"{source.get('architecture')}{how}{tested}"


def _at(tree: object, *keys: str) -> Any:
    """The value there, or None: a stranger's record need not have the form of ours."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _success(info: DatasetInfo) -> str:
    if math.isnan(info.success_rate):
        return "not recorded"
    return f"{percent(info.success_rate)} % of the rows are classified by the source model as their stored label"


def _distance(info: DatasetInfo) -> str:
    norm = read_columns(info.path, ["norm"])["norm"].astype(np.float64)
    if np.isnan(norm).all():
        return "not recorded"
    return f"L2 {np.nanmean(norm):.3g} on average, {np.nanmax(norm):.3g} at most"
