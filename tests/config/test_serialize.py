"""Settings and results as JSON: round trips, one spelling, and no number that JSON has not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from featuregen.config.loader import from_dict, load_config
from featuregen.config.schema import PGD, Config, Synthesis, Training
from featuregen.config.serialize import canonical_json, json_document, to_dict
from featuregen.errors import UserError
from tests.config.test_loader import ROBUST, write


@pytest.fixture
def full(tmp_path: Path) -> Config:
    text = ROBUST + "synthesis: {robust: {steps: 5}, rand: {norm: linf, eps: 8/255}}\nfresh: {rand: {lr: 1e-2}}\n"
    return load_config(write(tmp_path, text))


def test_round_trip_through_containers(full: Config) -> None:
    tree = to_dict(full)
    assert from_dict(Config, tree, "a file") == full
    assert from_dict(Config, json.loads(canonical_json(full)), "a file") == full
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(tree)), "a file") == full


@pytest.mark.parametrize("settings", [PGD(), Training(attack=PGD(eps=8 / 255)), Synthesis(), Config()])
def test_round_trip_of_parts(settings: Any) -> None:
    assert from_dict(type(settings), to_dict(settings), "a file") == settings


def test_recorded_settings_are_checked_when_read() -> None:
    with pytest.raises(UserError, match=r"a\.h5: eps is -1; it must be at least 0\."):
        from_dict(PGD, {"eps": -1}, "a.h5")


def test_json_documents_hold_no_number_that_json_has_not() -> None:
    text = json_document({"a": math.nan, "b": [math.inf, 1.5, (2, "x")], "c": None})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5, [2, "x"]], "c": None}


def test_canonical_json_has_one_spelling(tmp_path: Path, full: Config) -> None:
    text = canonical_json(full)
    assert text == canonical_json(dict(reversed(to_dict(full).items())))
    assert " " not in text.replace(full.name, "")
    one = load_config(write(tmp_path, "sources: {standard: {lr: 1}, robust: {attack: {eps: 5e-1}}}"))
    other = load_config(write(tmp_path, "sources: {robust: {attack: {eps: 1/2}}, standard: {lr: 1.0}}"))
    assert canonical_json(one) == canonical_json(other)
    assert canonical_json(one) != canonical_json(dataclasses.replace(one, seed=1))


def test_canonical_json_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"lr": float("nan")})
