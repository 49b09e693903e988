"""Wrong input: one line that starts with "error:", exit code 2, and never a traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from featuregen.config.schema import Model
from featuregen.models.io import save_model
from featuregen.models.registry import build_classifier
from featuregen.storage.writer import Writer
from tests.helpers.cli_runs import dataset, done, model, refused, tiny

Change = Callable[[dict[str, Any]], Any]


def base_set(path: Path, change: Change = lambda arrays: None, size: int = 8) -> Path:
    """Random images of three classes in a Keras-style file, with one fault made by `change`."""
    draw, labels = np.random.default_rng(0), np.arange(30) % 3
    images = draw.integers(0, 256, (30, size, size, 1)).astype(np.uint8)
    arrays: dict[str, Any] = {"x_train": images, "y_train": labels, "x_test": images[:9], "y_test": labels[:9]}
    change(arrays)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("make-dataset wrong", "'wrong' is no kind of dataset; known: robust, nonrobust,"),
        ("make-dataset detx", "'detx' is no kind of dataset; did you mean 'det'?"),
        ("make-dataset detx --start noise", "'detx' is no kind of dataset"),
        ("import . --kind detx", "'detx' is no kind of dataset; did you mean 'det'?"),
        ("make-dataset det --norm l3", "'linf'"),
        ("make-dataset det --dtype int8", "'uint8'"),
        ("make-dataset det --eps -1", "at least 0"),
        ("make-dataset det --eps much", "8/255"),
        ("make-dataset det --eps 0", "positive radius"),
        ("make-dataset det --steps -1", "at least 1"),
        ("make-dataset det --steps 0", "at least 1"),
        ("make-dataset det --step-size 0", "above 0"),
        ("make-dataset det --rows 2000", "up to 1438"),
        ("make-dataset det --rows -1", "at least 0"),
        ("make-dataset det --seed -1", "at least 0"),
        ("make-dataset det --start noise", "does not apply to det"),
        ("make-dataset det --config digit", "did you mean 'digits'"),
        ("make-dataset det --data digit", "did you mean 'digits'"),
        ("make-dataset det --model convent", "did you mean 'convnet'"),
        ("make-dataset det --model cw-convnet", "8"),
        ("make-dataset det --set synthesis.det.step=3", "did you mean 'steps'"),
        ("make-dataset det --set synthesis.dat.steps=3", "did you mean 'det'"),
        ("make-dataset det --set sede=3", "did you mean 'seed'"),
        ("make-dataset det --set seed", "key=value"),
        ("make-dataset det --device gpu", "'gpu'"),
        ("make-dataset det --device meta", "'meta'"),
        ("make-dataset det --device cuda:99", "'cuda:99'"),
        ("make-dataset det --precision fp16", "'bf16'"),
        ("make-dataset", "Missing argument"),
        ("make-dataset det --source nowhere.safetensors", "nowhere.safetensors"),
        ("make-robust-dataset --data nowhere.npz", "nowhere.npz"),
        ("train --epochs many", "--epochs"),
        ("train --epochs 0", "at least 1"),
        ("train --lr 0", "above 0"),
        ("train --epoch 3", "--epochs"),
        ("train --out it.pt", ".safetensors"),
        ("evaluate nowhere.h5", "nowhere.h5"),
        ("evaluate nowhere.safetensors", "nowhere.safetensors"),
        ("evaluate", "Missing argument"),
        ("info nowhere.h5", "nowhere.h5"),
        ("preview nowhere.h5", "nowhere.h5"),
        ("verify nowhere.h5", "nowhere.h5"),
        ("verify .", "."),
        ("reproduce --seeds 0", "at least 1"),
        ("reproduce --config .", "."),
        ("reprodice", "reprodice"),
        ("--nothing", "--nothing"),
    ],
)
def test_wrong_command_lines(words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert why in refused(*words.split())
    assert not list(tmp_path.iterdir()), "nothing is begun"


# Files that are not what they should be ------------------------------------------------------------


def truncated(path: Path) -> Path:
    path.write_bytes(dataset("det").read_bytes()[:20_000])
    return path


def text(path: Path) -> Path:
    path.write_text("a letter\n", encoding="utf-8")
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def newer(path: Path) -> Path:
    shutil.copy(dataset("det"), path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    return path


def strange(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    return path


@pytest.mark.parametrize("command", ["info", "preview", "verify", "evaluate"])
@pytest.mark.parametrize("spoil", [text, empty, newer, strange])
def test_a_file_that_is_no_dataset(tmp_path: Path, command: str, spoil: Callable[[Path], Path]) -> None:
    path = spoil(tmp_path / "it.h5")
    message = refused(command, path)
    assert str(path) in message and ("99" in message or spoil is not newer)


@pytest.mark.parametrize("command", ["info", "preview", "evaluate"])
def test_a_truncated_dataset(tmp_path: Path, command: str) -> None:
    assert "it.h5" in refused(command, truncated(tmp_path / "it.h5"))


@pytest.mark.parametrize("spoil", [text, empty])
@pytest.mark.parametrize(
    "words", ["info {}", "evaluate {}", "make-dataset det --source {}", "verify {det} --source {}", "verify {}"]
)
def test_a_file_that_is_no_model(tmp_path: Path, words: str, spoil: Callable[[Path], Path]) -> None:
    path = spoil(tmp_path / "it.safetensors")
    assert str(path) in refused(*(word.format(path, det=dataset("det")) for word in words.split()))


def test_a_foreign_file_is_not_replaced(tmp_path: Path) -> None:
    path = text(tmp_path / "it.h5")
    message = refused("make-dataset", "det", "--config", tiny(), "--source", model("standard"), "--out", path)
    assert "--force" in message and path.read_text() == "a letter\n"


# Base sets that do not fit -------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["evaluate {det} --data {}", "verify {det} --data {}", "preview {det} --data {}"])
@pytest.mark.parametrize("size", [8, 10])
def test_a_dataset_of_another_base_set(tmp_path: Path, words: str, size: int) -> None:
    other = base_set(tmp_path / "other.npz", size=size)
    message = refused(*(word.format(other, det=dataset("det")) for word in words.split()))
    assert "digits" in message and "--data" in message


@pytest.mark.parametrize("words", ["evaluate {} --data {npz}", "make-dataset det --source {} --data {npz}"])
def test_a_model_of_other_images(tmp_path: Path, words: str) -> None:
    other = base_set(tmp_path / "other.npz", size=10)
    message = refused(*(word.format(model("standard"), npz=other) for word in words.split()))
    assert "(1, 8, 8)" in message and "(1, 10, 10)" in message


def test_a_source_of_other_classes(tmp_path: Path) -> None:
    save_model(build_classifier(Model(width=8), (1, 8, 8), 2, [0.0], [1.0], 0), tmp_path / "two.safetensors")
    assert "2 classes" in refused("make-dataset", "det", "--source", tmp_path / "two.safetensors")


def put(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda arrays: arrays.update({name: change(arrays[name])})


def first_is(value: float) -> Callable[[Any], Any]:
    def changed(array: Any) -> Any:
        array = array.astype(float if isinstance(value, float) else int)
        array.flat[0] = value
        return array

    return changed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("y_test", first_is(7)), "label 7"),
        (put("y_train", first_is(-2)), "-2"),
        (put("y_train", first_is(9)), "9"),
        (put("y_train", np.zeros_like), "single class"),
        (put("y_train", lambda y: y + 0.5), "integer labels"),
        (put("y_train", lambda y: y[:-1]), "label per image"),
        (put("x_train", lambda x: x[:0]), "empty"),
        (lambda arrays: (put("x_train", first_is(float("nan")))(arrays), put("x_test", first_is(0.0))(arrays)), "NaN"),
        (put("x_train", first_is(300)), "300"),
        (put("x_test", lambda x: x[:, :7]), "one image shape"),
        (lambda arrays: arrays.pop("y_test"), "y_test"),
    ],
)
def test_arrays_that_make_no_base_set(tmp_path: Path, change: Change, why: str) -> None:
    path = base_set(tmp_path / "bad.npz", change)
    message = refused("make-dataset", "det", "--data", path, "--out", tmp_path / "o" / "it.h5")
    assert str(path) in message and why in message
    assert not (tmp_path / "o").exists()


def test_images_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    message = refused("make-dataset", "det", "--data", "mnist", "--set", f"data.folder={tmp_path}", "--config", tiny())
    assert "Cannot get mnist" in message and str(tmp_path) in message and "--data" in message


# Paths that name no regular file -------------------------------------------------------------------

READING = [
    "info {}",
    "verify {}",
    "verify {det} --source {}",
    "preview {}",
    "remake {}",
    "remake {det} --source {}",
    "diff {} {det}",
    "diff {det} {}",
    "merge {} {}",
    "evaluate {}",
    "evaluate {det} {}",
    "attack {} --attack fgsm --eps 0.1",
    "attack {standard} --attack fgsm --eps 0.1 --from {}",
    "attack {standard} --attack fgsm --eps 0.1 --data {}",
    "flips {} --eps 0.1",
    "export {} --format npz",
    "export {} --format robustness",
    "train --on {}",
    "make-dataset det --source {}",
    "make-dataset det --config {}",
    "reproduce --standard-from {}",
    "--plugin {} info {det}",
    "import {} --kind det",
    "share {}",
]
BASE_SETS = ["verify {det} --data {}", "make-dataset det --data {}", "train --data {}", "reproduce --data {}"]


def filled(words: str, path: Path | str) -> list[str]:
    return [word.format(path, det=dataset("det"), standard=model("standard")) for word in words.split()]


@pytest.mark.parametrize("name", ["it", "it.h5", "it.safetensors"])
@pytest.mark.parametrize("words", READING)
def test_a_pipe_is_refused_at_once(tmp_path: Path, words: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(name)
    assert "it" in refused(*filled(words, name))
    assert os.listdir() == [name], "nothing is begun"


@pytest.mark.parametrize("name", ["it.npz", "it.h5", "it"])
@pytest.mark.parametrize("words", BASE_SETS)
def test_a_pipe_is_no_base_set(tmp_path: Path, words: str, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "it" in refused(*filled(words, tmp_path / name))


@pytest.mark.parametrize(
    "words", ["verify {}", "verify {det} --data {}", "evaluate {}", "make-dataset det --config {}"]
)
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/tty", "it/", "/", "~nosuch/x.npz", "x" * 5000, "\udce9\x1b[2J"])
def test_other_paths_that_name_no_file(tmp_path: Path, words: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(refused(*filled(words, path))) <= 300 and not os.listdir()


@pytest.mark.parametrize("words", BASE_SETS)
@pytest.mark.parametrize("path", ["~nosuch", "~nosuch/x.npz"])
def test_the_home_of_nobody(words: str, path: str) -> None:
    assert "no home folder ~nosuch" in refused(*filled(words, path))


def test_parts_of_folders_that_are_pipes(tmp_path: Path) -> None:
    released, pictures = tmp_path / "released", tmp_path / "pictures"
    done("export", dataset("det"), "--format", "madry", "--out", released)
    (released / "CIFAR_ims").unlink()
    os.mkfifo(released / "CIFAR_ims")
    assert "CIFAR_ims is a named pipe" in refused("import", released, "--kind", "det", "--data", "digits")
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (pictures / part).mkdir(parents=True)
        Image.new("L", (8, 8)).save(pictures / part / "0.png")
    os.mkfifo(pictures / "test" / "b" / "1.png")
    assert "1.png is a named pipe" in refused("make-dataset", "det", "--data", pictures)


@pytest.mark.parametrize(
    "words",
    [
        ["info", ""], ["info", "--", ""], ["export", "--format", "npz", ""], ["make-dataset", "det", "--config", ""],
        ["make-dataset", "det", "--config="], ["share", "det.h5", "--results", ""], ["reproduce", "--out", ""],
        ["--plugin", "", "info", "det.h5"], [""],
    ],
)  # fmt: skip
def test_empty_words(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "empty" in refused(*words) and not os.listdir()


@pytest.mark.parametrize("slash", ["/", "//", "/."])
def test_a_file_is_not_called_like_a_folder(tmp_path: Path, slash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(dataset("det"), "det.h5")
    shutil.copy(tiny(), "tiny.yaml")
    for words in (
        "info det.h5{}",
        "verify --data det.h5{} det.h5",
        "make-dataset det --out it.h5{}",
        "train --on=det.h5{}",
    ):
        assert "leave out what follows it" in refused(*words.format(slash).split())
    assert sorted(os.listdir()) == ["det.h5", "tiny.yaml"]


def test_a_folder_may_end_in_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done("export", dataset("det"), "--format", "madry", "--out", "folder.h5x/")
    assert os.listdir() == ["folder.h5x"]


# Folders that go -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "info it.h5", "make-dataset det --config {tiny}", "train --config {tiny}", "preview {det} --out it.png",
        "reproduce --config {tiny}", "export {det} --format npz --out it.npz", "--plugin it.py info {det}",
        "verify {det} --data it.npz",
    ],
)  # fmt: skip
def test_the_working_folder_is_gone(tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    refused(*(word.format(tiny=tiny(), det=dataset("det")) for word in words.split()))


def test_the_output_folder_goes_during_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Writer.append

    def append_and_remove(self: Writer, columns: Any) -> None:
        append(self, columns)
        shutil.rmtree(self.path.parent)

    monkeypatch.setattr(Writer, "append", append_and_remove)
    out = tmp_path / "o" / "it.h5"
    # The rows are still in the open journal, so the file is written, into a new folder of that name.
    done("make-dataset", "det", "--config", tiny(), "--source", model("standard"), "--out", out)
    done("verify", out)


# Places that cannot be written ---------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/proc/featuregen", "{}/letter"])
@pytest.mark.parametrize(
    "words",
    [
        "make-dataset det --out {}/it.h5",
        "make-dataset det --out {}/it.h5 --source {standard}",
        "train --out {}/it.safetensors",
        "reproduce --out {}",
    ],
)
def test_a_folder_that_cannot_be_written(tmp_path: Path, words: str, place: str) -> None:
    folder = place.format(text(tmp_path / "letter").parent)
    filled = [word.format(folder, standard=model("standard")) for word in words.split()]
    message = refused(*filled, "--config", tiny())
    assert folder in message


@pytest.mark.parametrize("command", ["preview {det} --out {}/it.png", "evaluate {det} --out {}"])
def test_a_result_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    folder = text(tmp_path / "letter")
    assert str(folder) in refused(*(word.format(folder, det=dataset("det")) for word in command.split()))


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "it.h5").mkdir()
    (tmp_path / "it.safetensors").mkdir()
    words = ("--config", tiny(), "--source", model("standard"))
    assert "is a folder" in refused("make-dataset", "det", *words, "--out", tmp_path / "it.h5")
    assert "is a folder" in refused("train", "--config", tiny(), "--out", tmp_path / "it.safetensors")
