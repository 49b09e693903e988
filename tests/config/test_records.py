"""JSON records from files: what is accepted, and the one sentence for what is not."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from featuregen.config.records import RecordError, parse_json, read_record


class Example(msgspec.Struct):
    seed: Annotated[int, msgspec.Meta(ge=0)]
    radii: Annotated[list[float], msgspec.Meta(max_length=3)] = []
    shares: dict[str, float] = {}


def test_a_valid_record_is_read_and_unknown_keys_are_allowed() -> None:
    record = read_record('{"seed": 3, "radii": [1, 0.5], "later": {"new": [1]}}', Example, "a.json")
    assert record == Example(3, [1.0, 0.5])


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("{", "a.json is not valid JSON"),
    "no UTF-8": (b'{"seed": "\xff"}', "a.json is not valid JSON"),
    "lone surrogate": ('{"seed": "\\ud800"}', "a.json is not valid JSON"),
    "NaN": ('{"seed": NaN}', "a.json is not valid JSON"),
    "number above every float": ('{"seed": 1e999}', "a.json is not valid JSON"),
    "number of 5,000 digits": (f'{{"seed": {"9" * 5000}}}', "a.json is not valid JSON"),
    "number of 400 digits": (f'{{"seed": {"9" * 400}}}', "whole number that does not fit 64 bits"),
    "nested for the parser": ("[" * 100_000, "a.json is not valid JSON"),
    "nested for those who walk": ('{"seed": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
    "endless text": (f'{{"seed": "{"x" * (1 << 21)}"}}', "text of 2,097,152 characters"),
    "endless list": (f"[{'1,' * 1_000_000}1]", "more than 1,000,000 values"),
    "field gone": ("{}", "a.json: object missing required field 'seed'"),
    "list": ("[]", "a.json: expected 'object', got 'array'"),
    "null": ('{"seed": null}', "a.json: seed: expected 'int', got 'null'"),
    "truth value": ('{"seed": true}', "a.json: seed: expected 'int', got 'bool'"),
    "below the range": ('{"seed": -1}', "a.json: seed: expected 'int' >= 0"),
    "item of a list": ('{"seed": 1, "radii": [1, "2"]}', "a.json: radii[1]: expected 'float', got 'str'"),
    "long list": ('{"seed": 1, "radii": [1, 2, 3, 4]}', "a.json: radii: expected 'array' of length <= 3"),
    "value of a mapping": ('{"seed": 1, "shares": {"a": []}}', "a.json: shares[...]: expected 'float', got 'array'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_one_sentence_with_its_field(name: str) -> None:
    text, message = BROKEN[name]
    with pytest.raises(RecordError) as error:
        read_record(text, Example, "a.json")
    sentence = str(error.value)
    assert message in sentence and sentence.endswith("get it again, or make it again.") and len(sentence) < 200


def test_a_record_without_a_schema_keeps_its_values() -> None:
    tree: Any = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert parse_json('{"a": [1, 2.5, null, true, "\\u00fc"], "b": {}}', "a.json") == tree
