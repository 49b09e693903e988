"""featuregen without its commands, as in a notebook."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import featuregen
from featuregen import Experiment, FeatureDataset, UserError, evaluate, load_config, load_model, reproduce
from featuregen.attacks.pgd import pgd
from featuregen.config.schema import PGD, Evaluation
from featuregen.models.io import weights_sha256
from tests.helpers.cli_runs import dataset, info, model, tiny


def test_a_dataset_feeds_a_loader_with_workers() -> None:
    data = FeatureDataset(dataset("det"))
    images, labels = zip(*DataLoader(data, batch_size=16, num_workers=2), strict=True)
    assert torch.equal(torch.cat(images), data.images) and torch.equal(torch.cat(labels), data.labels)
    assert data.images.shape == (40, 1, 8, 8) and 0 <= data.images.min() <= data.images.max() <= 1


def test_a_dataset_travels_to_another_process() -> None:
    data = FeatureDataset(dataset("det"))
    first = data[0]
    there = pickle.loads(pickle.dumps(data))
    assert torch.equal(there[0][0], first[0]) and there[0][1] == first[1] and len(there) == len(data)
    assert there.info.content_sha256 == info(dataset("det"))["content_sha256"]


def test_a_walk_through_the_workshop(tmp_path: Path) -> None:
    config = load_config(str(tiny()), ["synthesis.det.steps=5"])
    experiment = Experiment(config, tmp_path)
    assert experiment.base.name == "digits" and experiment.base.image_shape == (1, 8, 8)

    standard = experiment.source_model("standard")
    assert standard.record["accuracy"]["clean"] == experiment.evaluate(standard.model).clean

    made = experiment.make_dataset("det", tmp_path / "det.h5").info
    data = FeatureDataset(tmp_path / "det.h5")
    source = experiment.base.train.labels_tensor(torch.device("cpu"))
    rows = torch.from_numpy(experiment.row_plan("det", config.synthesis["det"].rows).index)
    assert made.rows == len(data) == 40 and torch.equal(data.labels, (source[rows] + 1) % 10)
    assert made.source_model["weights_sha256"] == weights_sha256(standard.model)

    (fresh,) = experiment.train_fresh(FeatureDataset(tmp_path / "det.h5"), 1)
    assert fresh.record["trained_on"]["sha256"] == made.content_sha256
    assert experiment.make_dataset("det", tmp_path / "det.h5").info == made


def test_the_workshop_makes_what_the_command_makes(tmp_path: Path) -> None:
    made = Experiment(load_config(str(tiny())), tmp_path).make_dataset("det", tmp_path / "it.h5").info
    assert made.content_sha256 == info(dataset("det"))["content_sha256"]


def test_a_saved_model_is_attacked() -> None:
    net = load_model(model("standard"))
    experiment = Experiment(load_config(str(tiny())), Path("unused"))
    images, labels = experiment.test_set.images[:100], experiment.test_set.labels[:100]
    moved = pgd(net, images, labels, PGD(eps=0.5, steps=5))
    assert float((moved - images).flatten(1).norm(dim=1).max()) <= 0.5 + 1e-5
    found = evaluate(net, images, labels, Evaluation(l2=(0.5,), steps=5))
    assert found.l2["0.5"] == pytest.approx(float((net(moved).argmax(1) == labels).float().mean()))
    assert net.record["accuracy"]["settings"]["steps"] == 2 and not Path("unused").exists()


def test_the_experiment_in_one_call(tmp_path: Path) -> None:
    config = load_config(str(tiny()))
    only = {"det": config.synthesis["det"]}
    experiment = Experiment(featuregen.Config(**{**vars(config), "synthesis": only}), tmp_path)
    found = reproduce(experiment, tmp_path / "all")
    assert [row["key"] for row in found["models"]] == ["standard", "adversarial", "det"]
    assert found["datasets"][0]["content_sha256"] == info(dataset("det"))["content_sha256"]


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    experiment = Experiment(load_config(str(tiny())), tmp_path)
    with pytest.raises(UserError, match="did you mean 'det'"):
        experiment.make_dataset("dett", tmp_path / "it.h5")
    with pytest.raises(UserError, match=r"it\.h5"):
        FeatureDataset(tmp_path / "it.h5")


def test_types_reach_a_type_checker() -> None:
    """If these names had the type Any for mypy, it would report that the comments ignore nothing."""
    functions: tuple[int, int, int] = (
        featuregen.attack,  # type: ignore[assignment]  # wrong on purpose
        featuregen.load_model,
        featuregen.Experiment,
    )
    assert all(map(callable, functions))
