"""`info` and `models`: what a file contains, and which architectures there are."""

from __future__ import annotations

from pathlib import Path

from featuregen.models.io import read_model_record, save_model
from featuregen.models.registry import build_model
from tests.helpers.cli_runs import dataset, done, info, model


def test_info_summarises_a_dataset(tmp_path: Path) -> None:
    output = done("info", dataset("det")).out
    found = info(dataset("det"))
    assert output.startswith("det: ") and "40 of digits" in output and "l2 eps 1" in output
    assert found["content_sha256"] in output and f"{found['success_rate']:.1%}" in output


def test_info_of_a_model_is_its_record() -> None:
    found = done("info", model("robust")).json()
    assert found == read_model_record(model("robust")) and found["architecture"] == "convnet"


def test_the_record_holds_every_setting() -> None:
    found = info(dataset("det"))
    assert found["config"]["sources"]["standard"]["epochs"] == 2 and found["config"]["name"] == "tiny"
    assert found["source_model"]["accuracy"]["clean"] > 0


def test_the_table_of_models() -> None:
    output = done("models").out
    for name in ("convnet", "resnet9"):
        assert name in output
    assert "--config" not in output and len(output.splitlines()) > 4


def test_long_texts_of_a_model_are_cut_for_a_terminal(tmp_path: Path) -> None:
    record = {"note": "x" * 100_000, "ü" * 5000: ["\x1b" * 5000, 1.5]}
    save_model(build_model("convnet", (1, 8, 8), classes=10, width=2), tmp_path / "m.safetensors", record)
    assert max(map(len, done("info", tmp_path / "m.safetensors").out.splitlines())) <= 300
    assert done("info", tmp_path / "m.safetensors", "--json").json()["record"] == record
