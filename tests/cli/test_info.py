"""`info` and `models`: what a file contains, and which architectures there are."""

from __future__ import annotations

from pathlib import Path

from featuregen.models import read_model_record
from tests.helpers.cli_runs import dataset, done, info, model


def test_info_tells_a_dataset_in_words(tmp_path: Path) -> None:
    told = done("info", dataset("det")).out
    found = info(dataset("det"))
    assert told.startswith("det: ") and "40 of digits" in told and "l2 eps 1" in told
    assert found["content_sha256"] in told and f"{found['success_rate']:.1%}" in told


def test_info_of_a_model_is_its_record() -> None:
    found = done("info", model("robust")).json()
    assert found == read_model_record(model("robust")) and found["architecture"] == "convnet"


def test_the_record_holds_every_setting() -> None:
    found = info(dataset("det"))
    assert found["config"]["sources"]["standard"]["epochs"] == 2 and found["config"]["name"] == "tiny"
    assert found["source_model"]["accuracy"]["clean"] > 0


def test_the_table_of_models() -> None:
    told = done("models").out
    for name in ("convnet", "resnet9"):
        assert name in told
    assert "--config" not in told and len(told.splitlines()) > 4
