"""Numbers and lengths of settings: decimal whatever YAML or Python would make of them, and within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from featuregen.config.loader import load_config
from featuregen.config.schema import Data
from featuregen.errors import UserError
from tests.config.test_loader import refused, write


@pytest.mark.parametrize(
    "text",
    [
        "1:1:1:1",
        "0x10",
        "0b11",
        "0o17",
        "0x" + "f" * 5000,
        "9" * 5000,
        "1" + "0" * 400,
        "2026-01-01",
        "1e400",
        "!!int 0x1F",
    ],
)
def test_whole_numbers_are_decimal_and_fit(tmp_path: Path, text: str) -> None:
    assert len(refused(tmp_path, f"evaluation: {{seeds: {text}}}")) <= 300
    with pytest.raises(UserError) as caught:
        load_config("digits", [f"evaluation.seeds={text}"])
    assert "evaluation.seeds" in str(caught.value) and len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "tag", ["!!timestamp 2026-01-01", "!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!!python/name:os.getcwd"]
)
def test_no_other_type_has_a_tag(tmp_path: Path, tag: str) -> None:
    assert "is not valid YAML" in refused(tmp_path, f"name: {tag}")


def test_words_that_yaml_1_1_takes_for_numbers_are_words(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "data: {name: 1:30, folder: 2026-01-01}")).data == Data("1:30", "2026-01-01")
    assert load_config(write(tmp_path, "seed: 010")).seed == 10
    assert load_config(write(tmp_path, f"seed: {2**63 - 1}")).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("setting", "most"),
    [
        ("evaluation.seeds", 1000), ("sources.seeds", 1000),
        ("evaluation.steps", 10**6), ("evaluation.restarts", 10**4),
        ("synthesis.det.steps", 10**6), ("synthesis.det.batch_size", 10**6), ("synthesis.det.rows", 2**40),
        ("synthesis.det.eps", 10**6),
        ("sources.robust.attack.restarts", 10**4), ("sources.robust.attack.step_size", 10**6),
        ("fresh.det.epochs", 10**5), ("fresh.det.lr", 10**6), ("fresh.det.patience", 10**6),
        ("runtime.save_every", 10**6),
    ],
)  # fmt: skip
def test_every_number_has_a_largest_value(setting: str, most: int) -> None:
    load_config("digits", [f"{setting}={most}"])
    for text in (str(most + 1), "1e13", "9" * 18):
        with pytest.raises(UserError, match=rf"{setting} is .*; it must be at most"):
            load_config("digits", [f"{setting}={text}"])


def test_lists_and_texts_have_a_length(tmp_path: Path) -> None:
    assert "evaluation.l2 has 101 values" in refused(tmp_path, f"evaluation: {{l2: {[0.5] * 101}}}")
    assert "data.name has 5,000 characters" in refused(tmp_path, f"data: {{name: {'a' * 5000}}}")
    assert "larger than 1 MiB" in refused(tmp_path, "#" * (1 << 20) + "\nseed: 1\n")
