"""Figure 3: who falls with the source, and who learns from its D_det."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from featuregen.config import Attack, Data, load_config
from featuregen.data import load_images
from featuregen.evaluation import predict, transfer_rate
from featuregen.experiment import Experiment
from featuregen.experiment.transfer import adversarial_examples, correlation
from featuregen.models import Classifier, read_model_record
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
    assert results["correlation"] == correlation(results["rows"])
    assert Image.open(out / "transfer.png").size[0] > 1000


def test_examples_fool_the_source_and_are_counted_on_others(results: Any, out: Path) -> None:
    experiment = Experiment(load_config(str(tiny())), out)
    images, found, labels, share = adversarial_examples(experiment, Attack(eps=1, steps=5))
    source = experiment.source_model("standard").model
    assert torch.equal(predict(source, images), labels) and not (predict(source, found) == labels).any()
    assert transfer_rate(source, images, found, labels) == 1.0
    assert (found - images).flatten(1).norm(dim=1).max() <= 1 + 1e-5
    assert (share, len(images)) == (results["source"]["fooled"], results["source"]["images"])


def test_a_victim_is_not_the_source(out: Path) -> None:
    digits = load_images(Data()).train.sha256
    known = [read_model_record(path)["record"]["settings"] for path in (out / "models").glob("*.safetensors")]
    assert {each["seed"] for each in known if (each["data"], each["model"]["width"]) == (digits, 8)} == {0, 1}


def test_a_second_run_finds_everything(results: Any, out: Path) -> None:
    before = {name: stamp for name, stamp in trace(out).items() if "transfer" not in name}
    again = done(*WORDS, "--out", out, "--seeds", "2", "--json").json()
    assert again["rows"] == results["rows"]
    assert before == {name: stamp for name, stamp in trace(out).items() if "transfer" not in name}


def test_shares_are_of_what_a_model_gets_right(
    standard: Classifier, images: torch.Tensor, labels: torch.Tensor
) -> None:
    seen = predict(standard, images)
    # Half of the labels are wrong; of those that are right, the first third gets another image.
    told = torch.where(torch.arange(len(seen)) % 2 == 0, seen, (seen + 1) % 10)
    right = (told == seen).nonzero().flatten()
    other = images.clone()
    third = right[: len(right) // 3]
    strangers = torch.stack([images[seen != seen[row]][0] for row in third])
    other[third] = strangers
    assert transfer_rate(standard, images, images, told) == 0.0
    assert transfer_rate(standard, images, other, told) == pytest.approx(len(third) / len(right))
    assert math.isnan(transfer_rate(standard, images[:0], images[:0], labels[:0]))


def test_correlation_needs_three_that_differ() -> None:
    def row(transfer: float, *clean: float) -> dict[str, Any]:
        return {"transfer": transfer, "runs": [{"clean": value} for value in clean]}

    rising = [row(0.1, 0.2, 0.4), row(0.2, 0.4), row(0.3, 0.5)]
    assert correlation(rising) == pytest.approx(1.0) and correlation(rising[:2]) is None
    assert correlation([row(0.1, 0.2), row(0.1, 0.3), row(0.1, 0.4)]) is None


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
