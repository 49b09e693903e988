"""Figure 3: which architectures the source's adversarial examples fool, and which learn from its D_det."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from featuregen.config.loader import load_config
from featuregen.config.schema import PGD, Data
from featuregen.data.sources import load_images
from featuregen.evaluation.accuracy import predict
from featuregen.evaluation.transfer import adversarial_examples
from featuregen.experiment.experiment import Experiment
from featuregen.models.io import read_model_record
from tests.helpers.cli_runs import dataset, done, refused, tiny, trace

WORDS = ("transfer", "--config", tiny(), "--models", "convnet:8,convnet:4,convnet:6", "--eps", "1", "--steps", "5")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    done(*WORDS, "--out", folder, "--seeds", "2")
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> Any:
    return json.loads((out / "transfer.json").read_text(encoding="utf-8"))


def test_each_architecture_has_a_row(results: Any, out: Path) -> None:
    assert [row["title"] for row in results["rows"]] == ["convnet w8", "convnet w4", "convnet w6"]
    for row in results["rows"]:
        assert len(row["runs"]) == 2 and 0 <= row["transfer"] <= 1 and 0 < row["clean"] <= 1
    assert results["attack"]["eps"] == 1 and results["attack"]["steps"] == 5
    assert results["correlation"] is None or -1 <= results["correlation"] <= 1
    assert Image.open(out / "transfer.png").size[0] > 1000


def test_adversarial_examples_fool_the_source(results: Any, out: Path) -> None:
    experiment = Experiment(load_config(str(tiny())), out)
    source, test = experiment.source_model("standard").model, experiment.test_set
    found = adversarial_examples(
        source, test.images[:], test.labels, PGD(eps=1, steps=5), batch_size=500, compute=experiment.compute
    )
    assert torch.equal(predict(source, found.images), found.labels)
    assert not (predict(source, found.adversarial) == found.labels).any()
    assert (found.adversarial - found.images).flatten(1).norm(dim=1).max() <= 1 + 1e-5
    assert (found.success_rate, len(found.images)) == (results["source"]["fooled"], results["source"]["images"])


def test_the_standard_model_of_the_same_architecture_is_not_the_source(out: Path) -> None:
    digits = load_images(Data()).train.sha256
    known = [read_model_record(path)["record"]["settings"] for path in (out / "models").glob("*.safetensors")]
    assert {each["seed"] for each in known if (each["data"], each["model"]["width"]) == (digits, 8)} == {0, 1}


def test_a_second_run_finds_everything(results: Any, out: Path) -> None:
    before = {name: stamp for name, stamp in trace(out).items() if "transfer" not in name}
    again = done(*WORDS, "--out", out, "--seeds", "2", "--json").json()
    assert again["rows"] == results["rows"]
    assert before == {name: stamp for name, stamp in trace(out).items() if "transfer" not in name}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--models", "resnet10"], "is no architecture"),
        (["--models", "convnet:wide"], "--models convnet:wide: width is 'wide'"),
        (["--models", "convnet,"], "'' is no architecture"),
        (["--models", "resnet18"], "takes no 1x8x8 images"),
        (["--eps", "-1"], "eps is -1"),
        (["--steps", "0"], "steps is 0"),
        (["--config", "no-det"], "No config 'no-det'"),
        (["--set", "synthesis={}"], "no recipe for det"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, words: list[str], expected: str) -> None:
    assert expected in refused(*WORDS, "--out", tmp_path, *words)


def test_a_det_set_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "digits-det.h5").write_bytes(dataset("det").read_bytes())
    assert "is another dataset" in refused(*WORDS, "--out", tmp_path, "--set", "synthesis.det.eps=0.7")
