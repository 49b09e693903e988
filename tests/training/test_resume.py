"""A stopped training resumes to the weights it would have had."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from featuregen.config.loader import load_config, with_overrides
from featuregen.config.schema import PGD, Augment, Model, Training
from featuregen.data.base_dataset import BaseDataset
from featuregen.experiment.experiment import Experiment
from featuregen.models.classifier import Classifier
from featuregen.models.io import weights_sha256
from featuregen.models.registry import build_classifier
from featuregen.training.loop import Epoch, TrainingLog, train_many
from featuregen.training.resume import Stateful, TrainingState

CPU = torch.device("cpu")
PLAIN = Training(epochs=4, batch_size=32, lr=0.05)
ATTACK = PGD(eps=0.5, steps=2, random_start=True)
RECIPES = {
    "sgd": replace(PLAIN, augment=Augment(crop=1)),
    "adamw": replace(PLAIN, optimizer="adamw", lr=1e-3),
    "adversarial": replace(PLAIN, attack=ATTACK),
    "mixed": replace(PLAIN, attack=ATTACK, alpha=0.5),
    "early stop": replace(PLAIN, attack=ATTACK, early_stop="adversarial", held_out=0.3, patience=4, epochs=6),
}
SHORT = replace(PLAIN, epochs=2, early_stop="clean", held_out=0.3, patience=4)


class Stopping(TrainingState):
    """Stops the training once it has been saved so many times."""

    def __init__(self, path: Path, saves: int) -> None:
        super().__init__(path, 0)
        self._left = saves

    def save(self, training: Stateful) -> None:
        super().save(training)
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def few(digits: BaseDataset) -> tuple[Tensor, Tensor]:
    return digits.train.images_tensor(CPU, slice(0, 100)), digits.train.labels_tensor(CPU, slice(0, 100))


def learn(
    few: tuple[Tensor, Tensor],
    recipe: Training,
    state_file: TrainingState | None = None,
    seeds: Sequence[int] = (0,),
    model: Model = Model(width=4),  # noqa: B008 - it is frozen
) -> tuple[list[Classifier], list[TrainingLog]]:
    shape = (1, few[0].shape[2], few[0].shape[3])
    models = [build_classifier(model, shape, 10, [0.3], [0.37], seed) for seed in seeds]
    return models, train_many(models, *few, recipe, seeds=seeds, state_file=state_file)


def digests(models: list[Classifier]) -> list[str]:
    return [weights_sha256(model) for model in models]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("saves", [1, 3])
def test_it_resumes_to_the_same_weights(
    few: tuple[Tensor, Tensor], tmp_path: Path, name: str, saves: int, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, path = RECIPES[name], tmp_path / "model.halfway"
    models, logs = learn(few, recipe)
    with pytest.raises(KeyboardInterrupt):
        learn(few, recipe, Stopping(path, saves))
    again, continued = learn(few, recipe, TrainingState(path, 0))
    assert digests(again) == digests(models)
    assert continued[0].epochs == logs[0].epochs and continued[0].kept == logs[0].kept
    assert f"{path} holds {saves} epochs; resuming from there." in capsys.readouterr().err


def test_a_grouped_ensemble_resumes(few: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    path, seeds = tmp_path / "model.halfway", (3, 4)
    models, _ = learn(few, PLAIN, seeds=seeds)
    with pytest.raises(KeyboardInterrupt):
        learn(few, PLAIN, Stopping(path, 2), seeds)
    again, _ = learn(few, PLAIN, TrainingState(path, 0), seeds)
    assert digests(again) == digests(models)


@pytest.mark.parametrize("name", ["sgd", "adamw", "early stop"])
def test_state_files_of_the_former_format_resume(few: tuple[Tensor, Tensor], tmp_path: Path, name: str) -> None:
    """Early versions of 0.1.0 wrote safetensors in NCHW order, and the rest as JSON."""
    recipe, path = RECIPES[name], tmp_path / "model.halfway"
    models, logs = learn(few, recipe)
    with pytest.raises(KeyboardInterrupt):
        learn(few, recipe, Stopping(path, 2))
    state = torch.load(path)
    stopping = state["early_stopping"] or {"weights": {}}
    optimizer = {f"{index} {key}": value for index, own in state["optimizer"].items() for key, value in own.items()}
    parts = {
        "network": state["network"], "optimizer": optimizer, "random": state["random"], "others": stopping["weights"],
    }  # fmt: skip
    tensors = {f"{part} {key}": value.contiguous() for part, own in parts.items() for key, value in own.items()}
    choice = {key: value for key, value in stopping.items() if key != "weights"}
    record = {"epochs": state["epochs"], "seconds": state["seconds"], "choice": choice}
    path.write_bytes(save(tensors, metadata={"featuregen-halfway": json.dumps(record)}))
    again, continued = learn(few, recipe, TrainingState(path, 0))
    assert digests(again) == digests(models)
    assert continued[0].epochs == logs[0].epochs and continued[0].kept == logs[0].kept


def test_dropout_draws_the_same_numbers(few: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    recipe, path, net = replace(PLAIN, epochs=3), tmp_path / "model.halfway", Model("cw-convnet")
    large = F.interpolate(few[0], size=(28, 28)), few[1]
    models, _ = learn(large, recipe, model=net)
    with pytest.raises(KeyboardInterrupt):
        learn(large, recipe, Stopping(path, 1), model=net)
    again, _ = learn(large, recipe, TrainingState(path, 0), model=net)
    assert digests(again) == digests(models)


def test_it_is_saved_no_more_often_than_asked(few: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.halfway"
    learn(few, PLAIN, TrainingState(path, 3600))
    assert not path.exists()
    learn(few, PLAIN, TrainingState(path, 0))
    assert path.exists()


def test_seconds_of_both_parts_count(few: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.halfway"
    with pytest.raises(KeyboardInterrupt):
        learn(few, PLAIN, Stopping(path, 3))
    torch.save(torch.load(path) | {"seconds": 100.0}, path)
    _, logs = learn(few, PLAIN, TrainingState(path, 0))
    assert logs[0].seconds > 100 and len(logs[0].epochs) == PLAIN.epochs


def without(*keys: str | int) -> Callable[[dict[str, Any]], None]:
    """Takes one part out of a state."""

    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


def with_value(value: object, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-8],
    "text": lambda content: b"nonsense",
    "JSON": lambda content: b'{"epochs": []}',
    "large": lambda content: content + bytes(80 << 20),
}
PARTS: dict[str, Callable[[Any], object]] = {
    "no weights": without("network"),
    "no seconds": without("seconds"),
    "seconds as text": with_value("long", "seconds"),
    "seconds not a number": with_value(math.nan, "seconds"),
    "no epochs": with_value([], "epochs"),
    "epochs of another": with_value({"loss": "small"}, "epochs", 0, 0),
    "more epochs than there are": with_value([[{"loss": 1.0, "accuracy": 0.5, "error": 0.5}] * 9], "epochs"),
    "weights with NaN": lambda state: next(iter(state["network"].values())).fill_(math.nan),
    "weights of another": lambda state: state["network"].popitem(),
    "no optimizer": with_value({}, "optimizer"),
    "optimizer without momentum": with_value({}, "optimizer", 0),
    "optimizer of another": lambda state: state["optimizer"][0].update({"momentum_buffer": torch.zeros(3)}),
    "random numbers": with_value(torch.zeros(3), "random", "cpu"),
    "no early stopping": with_value(None, "early_stopping"),
    "early stopping of another": lambda state: state["early_stopping"]["weights"].popitem(),
    "a best epoch that is not there": with_value(99, "early_stopping", "best"),
    "an error as text": with_value("x", "early_stopping", "error"),
}  # fmt: skip


@pytest.fixture(scope="module")
def halfway(few: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "model.halfway"
    with pytest.raises(KeyboardInterrupt):
        learn(few, SHORT, Stopping(path, 1))
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(few: tuple[Tensor, Tensor]) -> tuple[list[str], tuple[Epoch, ...]]:
    models, logs = learn(few, SHORT)
    return digests(models), logs[0].epochs


@pytest.mark.parametrize("damage", [*BYTES, *PARTS, "a folder"])
def test_a_damaged_state_is_set_aside(
    few: tuple[Tensor, Tensor],
    halfway: bytes,
    whole: tuple[list[str], tuple[Epoch, ...]],
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, aside = tmp_path / "model.halfway", tmp_path / "model.halfway.damaged"
    if damage == "a folder":
        path.mkdir()
    elif damage in BYTES:
        path.write_bytes(BYTES[damage](halfway))
    else:
        state = torch.load(io.BytesIO(halfway))
        PARTS[damage](state)
        torch.save(state, path)
    size = path.stat().st_size
    models, logs = learn(few, SHORT, TrainingState(path, 3600))
    assert (digests(models), logs[0].epochs) == whole
    assert not path.exists() and aside.stat().st_size == size
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"note: {path} cannot be resumed from (")
    assert told.endswith("; it is set aside as model.halfway.damaged, and made again")


def test_nothing_is_set_aside_for_want_of_memory(
    few: tuple[Tensor, Tensor], halfway: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.halfway"
    path.write_bytes(halfway)

    def load(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("featuregen.training.resume.read_torch_file", load)
    with pytest.raises(MemoryError):
        learn(few, SHORT, TrainingState(path, 3600))
    assert path.read_bytes() == halfway and list(tmp_path.iterdir()) == [path]


def test_models_trained_one_after_the_other_need_a_file_each(few: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a TrainingState each"):
        learn(few, RECIPES["adversarial"], TrainingState(tmp_path / "x", 0), seeds=(0, 1))


def test_what_a_run_stopped_right_after_the_model_was_saved_has_left_goes(digits: BaseDataset, tmp_path: Path) -> None:
    config = with_overrides(load_config("digits"), ["sources.standard.epochs=1", "model.width=4"])
    experiment = Experiment(config, tmp_path, base=digits)
    path = experiment.source_model("standard").path
    left, made = path.with_suffix(".halfway"), path.read_bytes()
    left.write_bytes(b"the last epoch but one")
    experiment.source_model("standard")
    assert path.read_bytes() == made and list(path.parent.iterdir()) == [path]
