"""Damaged files that an earlier run has kept are set aside, and what they held is made again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from featuregen.config.loader import load_config
from featuregen.config.schema import Config
from featuregen.data.base_dataset import BaseDataset, ImageSplit
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.label_audit import load_or_audit
from featuregen.experiment.reproduce import reproduce
from featuregen.experiment.stages import make_timed
from featuregen.models.io import TrainedModel
from tests.helpers.cli_runs import ROOM, refused

CONFIG = """
model: {architecture: convnet, width: 4}
runtime: {device: cpu, precision: fp32, convolution: direct, threads: 1}
sources:
  standard: {epochs: 1, batch_size: 64, lr: 0.1}
  robust: {epochs: 1, batch_size: 64, lr: 0.1, attack: {norm: l2, eps: 0.5, steps: 1}}
synthesis: {det: {steps: 1, step_size: 0.3, norm: l2, eps: 1.0, batch_size: 64, rows: 20}}
fresh: {det: {epochs: 1, batch_size: 20, lr: 0.1}}
evaluation: {seeds: 1, l2: [0.5], headline: 0.5, linf: [], steps: 1, rows: 20}
honesty: {eps: [1.0], rows: 20}
"""


@cache
def config() -> Config:
    path = ROOM / "kept.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return load_config(str(path))


@cache
def images() -> BaseDataset:
    """A few digits."""
    digits = load_images(config().data)
    train, test = (
        ImageSplit(split.images[:count], split.labels[:count])
        for split, count in ((digits.train, 150), (digits.test, 40))
    )
    return replace(digits, train=train, test=test)


@cache
def finished() -> tuple[Path, Any]:
    """The folder of a finished run, not to be changed, and its results."""
    return ROOM / "kept", without_time(run(ROOM / "kept"))


def run(out: Path) -> Any:
    """As the command, without its pictures."""
    return reproduce(experiment_in(out))


def experiment_in(out: Path, *overrides: str) -> Experiment:
    return Experiment(config(), out, overrides, base=images())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return shutil.copytree(finished()[0], tmp_path / "out")


def without_time(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_time(value) for key, value in tree.items() if key not in ("seconds", "timings")}
    return [without_time(value) for value in tree] if isinstance(tree, list) else tree


DAMAGE: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "binary": lambda text: b"\xff\xfe\x00" + bytes(range(256)),
    "number": lambda text: "7",
    "text": lambda text: '"seconds"',
    "list": lambda text: "[]",
    "null": lambda text: "null",
    "deep": lambda text: "[" * 100_000,
    "deep objects": lambda text: '{"row":' * 100 + "1" + "}" * 100,
    "large number": lambda text: text.replace(":", ": 1" + "0" * 5000 + ",", 1),
    "twice": lambda text: text + text,
}


def seconds_in(out: Path) -> object:
    return make_timed(experiment_in(out), out / "kept", "det")[0].content_sha256


def audit_in(out: Path) -> object:
    return load_or_audit(experiment_in(out), out / "kept", "det", 1.0)[0]


def model_in(out: Path) -> object:
    trained = experiment_in(out).source_model("standard")
    return trained.weights_sha256, trained.accuracy


# The file, as a pattern, and what finds it or makes it again.
KEPT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "seconds": ("kept/seconds/det.json", seconds_in),
    "audit": ("kept/judged/det-*.json", audit_in),
    "model": ("models/convnet-*.safetensors", model_in),
}


def the(out: Path, name: str) -> Path:
    """The kept file; of the models, the standard source."""
    paths = sorted(out.glob(KEPT[name][0]))
    if name == "model":
        paths = [path for path in paths if path.name == standard_source()]
    return paths[0]


@cache
def standard_source() -> str:
    return experiment_in(finished()[0]).source_model("standard").path.name


def check_made_again(out: Path, name: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The damaged file is there under another name, the run says so once, and what it held is the same."""
    before = path.read_bytes() if path.is_file() else None
    made = KEPT[name][1](out)
    aside = path.with_name(f"{path.name}.damaged")
    assert aside.is_dir() if before is None else aside.read_bytes() == before
    told = capsys.readouterr().err.splitlines()
    (line,) = (line for line in told if ".damaged" in line)
    assert line.startswith("note: ") and str(path) in line
    assert line.endswith(f"; it is set aside as {aside.name}, and made again")
    assert path.is_file() and made == KEPT[name][1](finished()[0])


@pytest.mark.parametrize("name", ["seconds", "audit"])
@pytest.mark.parametrize("damage", [*DAMAGE, "folder"])
def test_a_damaged_record_is_made_again(out: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = the(out, name)
    if damage == "folder":
        path.unlink()
        (path / "inside").mkdir(parents=True)
    else:
        changed = DAMAGE[damage](path.read_text(encoding="utf-8"))
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    check_made_again(out, name, path, capsys)


def test_a_run_makes_all_of_them_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = [*out.glob("kept/seconds/*"), *out.glob("kept/judged/*"), *out.glob("models/*")]
    for path in damaged:
        path.write_bytes(b"{}")
    assert without_time(run(out)) == finished()[1] and len(damaged) == 6
    assert capsys.readouterr().err.count("and made again\n") == len(damaged)
    assert all(path.with_name(f"{path.name}.damaged").read_bytes() == b"{}" for path in damaged)


def put(value: object, *keys: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


FIELDS = {
    "seconds": [
        put("long", "seconds"), put(True, "seconds"), put(-1, "seconds"), put(None, "seconds"),
        put(7, "content_sha256"), dict.clear,
    ],
    "audit": [
        put([], "row"), put("0.5", "row", "eps"), put(2.0, "row", "eps"), put(-5, "row", "rows"),
        put({}, "row", "judges"), put(7, "row", "judges", "robust model"),
        put(2.0, "row", "judges", "robust model", "true"), put([], "seconds"), dict.clear,
        lambda tree: tree["row"]["judges"].pop("source model"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in FIELDS for number in range(len(FIELDS[name]))])
def test_a_record_with_a_wrong_field_is_made_again(
    out: Path, name: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = the(out, name)
    record = json.loads(path.read_text(encoding="utf-8"))
    FIELDS[name][number](record)
    path.write_text(json.dumps(record), encoding="utf-8")
    check_made_again(out, name, path, capsys)


def test_an_audit_that_was_not_made_here_is_measured_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = the(out, "audit")
    record = json.loads(path.read_text(encoding="utf-8"))
    record["row"]["judges"]["source model"]["true"] = 0.123
    path.write_text(json.dumps(record), encoding="utf-8")
    assert audit_in(out) == audit_in(finished()[0])
    assert f"note: {path} was not made on this machine" in capsys.readouterr().err


def test_a_large_record_is_not_read_whole(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = the(out, "audit")
    # Of no blocks: reading it would take all memory.
    os.truncate(path, 1 << 40)
    audit_in(out)
    assert path.with_name(f"{path.name}.damaged").stat().st_size == 1 << 40
    assert "MiB of JSON" in capsys.readouterr().err


def test_nothing_is_overwritten_by_what_is_set_aside(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = the(out, "seconds")
    taken = path.with_name("det.json.damaged")
    taken.write_text("mine", encoding="utf-8")
    path.with_name("det.json.2.damaged").symlink_to("nowhere")
    path.write_text("", encoding="utf-8")
    seconds_in(out)
    assert "it is set aside as det.json.3.damaged" in capsys.readouterr().err
    assert taken.read_text(encoding="utf-8") == "mine"
    assert path.with_name("det.json.3.damaged").read_bytes() == b""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("other", [fifo, link])
def test_a_pipe_or_a_link_in_its_place_is_refused(out: Path, name: str, other: Callable[[Path], None]) -> None:
    path = the(out, name)
    path.unlink()
    other(path)
    with pytest.raises(UserError, match=r"is (a named pipe|a link) where featuregen keeps a file of its own"):
        KEPT[name][1](out)


# Models --------------------------------------------------------------------------------------------


def metadata(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["featuregen"])


def rewritten(path: Path, change: Callable[[Any], object]) -> None:
    header = metadata(path)
    change(header)
    save_file(load_file(path), path, metadata={"featuregen": json.dumps(header)})


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_record(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda header: change(header["record"]))


MODEL_DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "JSON": lambda path: path.write_text("{}", encoding="utf-8"),
    "a flipped bit": flipped,
    "folder": into_folder,
    "no record": lambda path: rewritten(path, lambda header: header.pop("record")),
    "other images": lambda path: rewritten(path, put([1, 9, 9], "image_shape")),
    "no settings": as_record(lambda record: record.pop("settings")),
    "settings as text": as_record(put("x", "settings")),
    "other settings": as_record(put(7, "settings", "seed")),
    "accuracy as list": as_record(put([], "accuracy")),
    "accuracy of two": as_record(put(2.0, "accuracy", "clean")),
    "accuracy without l2": as_record(lambda record: record["accuracy"].pop("l2")),
    "seconds as list": as_record(put([], "seconds")),
    "seconds as text": as_record(put("x", "seconds", "training")),
    "no seconds": as_record(lambda record: record.pop("seconds")),
    "train accuracy as text": as_record(put("x", "train_accuracy")),
    "no train accuracy": as_record(lambda record: record.pop("train_accuracy")),
}


@pytest.mark.parametrize("damage", MODEL_DAMAGE)
def test_a_damaged_model_is_trained_again(out: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = the(out, "model")
    MODEL_DAMAGE[damage](path)
    check_made_again(out, "model", path, capsys)


def test_an_accuracy_under_other_radii_is_measured_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = the(out, "model")
    as_record(put({"0.7": 0.5}, "accuracy", "l2"))(path)
    assert model_in(out) == model_in(finished()[0])
    assert capsys.readouterr().err == ""


def test_a_link_to_a_model_stands_for_it(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = the(out, "model")
    path.rename(tmp_path / "elsewhere.safetensors")
    path.symlink_to(tmp_path / "elsewhere.safetensors")
    assert model_in(out) == model_in(finished()[0])
    assert capsys.readouterr().err == "" and path.is_symlink()


def test_a_model_that_the_user_names_is_refused_and_stays(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    shutil.copyfile(the(out, "model"), path)
    os.truncate(path, 1000)
    told = refused("make-dataset", "det", "--config", ROOM / "kept.yaml", "--source", path, "--out", tmp_path / "d.h5")
    assert str(path) in told and sorted(each.name for each in tmp_path.iterdir()) == ["mine.safetensors", "out"]


def test_the_copy_of_an_imported_model_is_made_again(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given.safetensors"
    shutil.copyfile(the(out, "model"), given)
    digest = metadata(given)["weights_sha256"]

    def source() -> TrainedModel:
        return experiment_in(out, f"sources.standard_from={given}").source_model("standard")

    copy = source().path
    os.truncate(copy, 900)
    assert source().weights_sha256 == digest == metadata(copy)["weights_sha256"]
    assert f"{copy.name}.damaged, and made again" in capsys.readouterr().err


def test_the_whole_ones_of_a_group_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds that train as one group are trained together again, and only the missing one is written."""

    def train() -> list[TrainedModel]:
        experiment = experiment_in(tmp_path)
        return experiment.train_fresh(experiment.train_set, seeds=2, recipe=experiment.fresh_recipe("det"), title="two")

    damaged, whole = train()
    content = whole.path.read_bytes()
    os.truncate(damaged.path, 9)
    again = train()
    assert "training two: fresh model 1000, 1001" in capsys.readouterr().err
    assert [model.weights_sha256 for model in again] == [damaged.weights_sha256, whole.weights_sha256]
    assert whole.path.read_bytes() == content
