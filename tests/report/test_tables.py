"""Tables for terminals and Markdown: the numbers stand where they should."""

from __future__ import annotations

import re
from typing import Any

import pytest

from featuregen.report.attack import describe_attack
from featuregen.report.results import evaluation_table, results_markdown, results_table
from tests.helpers.report_cases import make_results


@pytest.fixture
def results() -> dict[str, Any]:
    return make_results()


# Tables -------------------------------------------------------------------------------------------


def test_table_shows_measured_beside_published(results: dict[str, Any]) -> None:
    table = results_table(results)
    assert max(len(line) for line in table.splitlines()) <= 160
    assert "paper: CIFAR-10, ResNet-50" in table
    assert "mean ± standard deviation over 3 seeds" in table
    det = next(line for line in table.splitlines() if line.startswith("D_det"))
    assert re.findall(r"[\d.]+ ± [\d.]+|~?[\d.]+|–", det) == [
        "46.1 ± 2.2", "23.8 ± 2.2", "1.5 ± 2.4", "1.3 ± 2.3", "1.5 ± 2.4", "0.7 ± 1.2",
        "100.0 ± 0.0", "43.7", "~0", "~0",
    ]  # fmt: skip
    robust = next(line for line in table.splitlines() if line.startswith("D_R "))
    assert robust.split()[-3:] == ["~84.1", "~48.3", "–"]
    noise = next(line for line in table.splitlines() if line.startswith("D_R from noise"))
    assert noise.split()[-3:] == ["–", "–", "–"]


def test_single_seed_has_no_spread() -> None:
    results = make_results(seeds=1)
    for shown in (results_table(results), results_markdown(results)):
        assert "±" not in shown
        assert "46.1" in shown
        assert "a single seed" in shown


def test_table_without_linf_and_with_gaps(results: dict[str, Any]) -> None:
    for model in results["models"]:
        for run in model["runs"]:
            run["linf"] = {}
    results["models"][0]["runs"][0]["l2"].pop("0.5")
    results["models"][1]["runs"] = []
    table = results_table(results)
    assert "Linf" not in table
    assert "0 to 3 seeds per row" in table
    empty = next(line for line in table.splitlines() if line.startswith("D, adversarial"))
    assert empty.split()[2:6] == ["–", "–", "–", "–"]


def test_wide_table_breaks_into_several(results: dict[str, Any]) -> None:
    for model in results["models"]:
        for run in model["runs"]:
            run["l2"] = {str(eps / 10): 0.9 - eps / 100 for eps in range(1, 20)}
    table = results_table(results)
    assert max(len(line) for line in table.splitlines()) <= 160
    assert len(re.findall(r"^D_det ", table, re.MULTILINE)) == 3
    assert len(re.findall(r"^trained on .* clean    0.25     0.5$", table, re.MULTILINE)) == 1
    for eps in range(1, 20):
        assert re.search(rf"^trained on.* {eps / 10:g}( |$)", table, re.MULTILINE)


def test_evaluation_table_needs_only_titles_and_runs() -> None:
    runs = [{"clean": 0.9, "l2": {"0.5": 0.25}, "linf": {}}, {"clean": 1.0, "l2": {"0.5": 0.35}, "linf": {}}]
    table = evaluation_table([{"title": "det.safetensors", "runs": runs}])
    assert "paper" not in table
    assert re.search(r"det\.safetensors\s+95\.0 ± 7\.1\s+30\.0 ± 7\.1", table)


def test_markdown_is_a_rectangular_table(results: dict[str, Any]) -> None:
    results["models"][0]["title"] = "a|b\n*c*"
    first = results_markdown(results).partition("Paper:")[0]
    lines = [line for line in first.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(results["models"])
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {12}
    assert r"a\|b\\n\*c\*" in lines[2]
    assert "46.1 ± 2.2 (43.9–48.3)" in lines[-1]


def test_judges_stand_below_with_the_sets_as_stored(results: dict[str, Any]) -> None:
    results["honesty"]["rand"][2]["judges"].pop("robust model")
    # At the sets' own eps of 1.25: 0.7 or 0.68 of it for the source, and the other judges' shares.
    for shown, robust in (
        (results_table(results), r"robust model +73\.1 / 21\.9 +–"),
        (results_markdown(results), r"\| robust model \| 73\.1 / 21\.9 \| – \|"),
    ):
        judges = shown[shown.index("predicted as the true class / as the stored label") :]
        assert re.search(r"D_det, eps 1\.25.*D_rand, eps 1\.25", judges) and re.search(robust, judges)
        assert re.search(r"source model.*7\.5 / 87\.5.*10\.0 / 85\.0", judges)
    results["honesty"] = {}
    assert "stored label" not in results_table(results) + results_markdown(results)


def test_a_sample_of_attacked_images_is_said(results: dict[str, Any]) -> None:
    assert "360 test images" in results_table(results) and "attacked" not in results_table(results)
    results["config"]["evaluation"]["rows"] = 1000
    results["base"]["test_rows"] = 10_000
    for shown in (results_table(results), results_markdown(results)):
        assert "10,000 test images, 1,000 of them attacked" in shown


def test_terminal_is_safe_from_control_characters(results: dict[str, Any]) -> None:
    results["models"][0]["title"] = "\x1b[2Jgone"
    assert "\x1b" not in results_table(results)


def test_an_attack_without_settings_is_called_by_its_name() -> None:
    assert describe_attack({"name": "foolbox-deepfool-l2", "target": "", "steps": 0}) == "foolbox-deepfool-l2"
    assert describe_attack({"name": "fgsm", "norm": "linf", "eps": 0.1}) == "fgsm: linf eps 0.1"
