"""Files from strangers: what mutated valid files have brought about once. reliability/fuzz.py has found it."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from featuregen.config.loader import load_config
from featuregen.config.schema import Config, Data, Model, Training
from featuregen.config.serialize import to_dict
from featuregen.errors import CheckFailed, UserError
from featuregen.experiment.files import recorded_config
from featuregen.models.registry import build_classifier
from featuregen.runtime.torch_files import read_torch_file
from featuregen.storage.reader import read_info
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import check_file
from featuregen.training.loop import TrainingRun
from featuregen.training.resume import TrainingState
from reliability.fuzz_traps import Memory
from tests.helpers.cli_runs import refused, run
from tests.helpers.counting import calls_of
from tests.helpers.dataset_files import attribute, edited, header, one_sentence, write
from tests.helpers.image_files import load, make_arrays, save
from tests.runtime.test_torch_files import archive


def told(call: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*args)
    return one_sentence(error)


# What was found ------------------------------------------------------------------------------------


def test_a_fixed_text_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    data = (tmp_path / "a.h5").read_bytes()
    kind = data.index(b"\x19\x01", data.index(b"recipe\0"))
    # Class 3 with its length in place of class 9, a sequence of any length.
    (tmp_path / "a.h5").write_bytes(data[:kind] + b"\x13\x01\0\0" + struct.pack("<I", 2**31 - 1) + data[kind + 8 :])
    _, peak = measured(lambda: told(read_info, tmp_path / "a.h5"))
    assert peak < 64 << 20


def test_info_of_a_recipe_without_what_made_it(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", header(recipe={"seed": 1, "synthesis": {"norm": "l2"}}))
    ran = run("info", tmp_path / "a.h5")
    assert ran.code == 0 and "by a recipe that featuregen does not know" in ran.out


@pytest.mark.parametrize("text", ["[" * 60 + "]" * 60, '{"a":' * 400 + "1" + "}" * 400, '{"a":NaN}', '{"a":1e999}'])
def test_records_that_cannot_be_gone_through_are_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.h5")
    attribute(tmp_path / "a.h5", "recipe", text if text.startswith("{") else '{"a":' + text + "}")
    assert "'recipe' is" in told(read_info, tmp_path / "a.h5")
    assert [check.name for check in check_file(tmp_path / "a.h5")] == ["opens"]


def test_what_a_file_says_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, header(kind="\x1b[2Jdet", base={"name": "\x1b]0;title\x07"}))
    ran = run("info", path)
    assert ran.code == 0 and ran.out.replace("\n", "").isprintable() and "\\x1b[2Jdet" in ran.out
    with edited(path) as root:
        root.create_group("\x1b[31m")
    ran = run("verify", path)
    assert ran.code == 1 and ran.out.replace("\n", "").isprintable() and "\\x1b[31m" in ran.out


def test_messages_are_one_line_that_can_be_read() -> None:
    for kind in (UserError, CheckFailed):
        assert str(kind("a\nb\x1b\ud800")) == "a\\nb\\x1b\\ud800"
        long = str(kind("begin " + "x" * 10**6 + " end."))
        assert len(long) < 1000 and long.startswith("begin x") and long.endswith("x end.")


PICKLES = {
    "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "a text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40),
    "a number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
}


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.parametrize("old", [True, False])
def test_a_pickle_gets_no_more_memory_than_it_has_bytes(tmp_path: Path, case: str, old: bool) -> None:
    path = tmp_path / "x.pt"
    if old:
        torch.save([1], path, _use_new_zipfile_serialization=False)
        # Behind the magic number, the version and the machine.
        start = path.read_bytes().index(b"}", 20)
        path.write_bytes(path.read_bytes()[: start - 2] + PICKLES[case])
    else:
        archive(path, PICKLES[case])
    text, peak = measured(lambda: told(read_torch_file, path))
    assert str(path) in text and peak < 64 << 20
    assert "does not fit into memory" not in text


def measured(call: Callable[[], Any]) -> tuple[Any, int]:
    memory = Memory()
    return call(), max(memory.touched(), memory.asked())


CONFIGS = {
    "a list of lists of lists": "seed: [&a [x, x], {}]".format(
        ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))
    ),
    "merges of merges": "model: [&a {{x: 1}}, {}]".format(
        ", ".join(f"&{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))
    ),
    "what holds itself": "seed: &a [*a]",
    "nested deeply": "seed: " + "[" * 5000,
    "a whole number of nothing": "seed: !!int ''",
    "a set of words": "seed: !!set {a, b}",
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_stands_for_no_more_than_it_could_say(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(CONFIGS[case], encoding="utf-8")
    (text, peak), calls = calls_of(lambda: measured(lambda: told(load_config, str(path))))
    assert str(path) in text and peak < 64 << 20 and calls < 200_000


def picture_set(folder: Path) -> Path:
    for part in ("train", "test"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(folder / part / name / "0.png")
    return folder


def test_a_picture_is_what_its_name_says(tmp_path: Path) -> None:
    """For PostScript under the name of a PNG, Pillow would run Ghostscript."""
    folder = picture_set(tmp_path / "set")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    (folder / "train" / "a" / "0.png").write_bytes(content)
    assert "is no readable image" in told(load, folder)


def test_a_picture_larger_than_any_base_set_is_not_decoded(tmp_path: Path) -> None:
    folder = picture_set(tmp_path / "set")
    Image.new("1", (9000, 9000)).save(folder / "train" / "a" / "0.png")
    text, peak = measured(lambda: told(load, folder))
    assert "9000×9000 pixels" in text and peak < 64 << 20


def test_arrays_packed_tighter_than_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **{**make_arrays(), "y_train": np.zeros(10**8, np.uint8)})
    assert path.stat().st_size < 10**6
    text, peak = measured(lambda: told(load, path))
    assert "claims shape (100000000,)" in text and peak < 64 << 20


@pytest.mark.parametrize("head", [b"(" * 200, b"{'descr': 5", b"-" * 900, b"{'descr': (True,), 'shape': (1,)}"])
def test_the_head_of_an_array_is_told_where_it_is_none(tmp_path: Path, head: bytes) -> None:
    path = save(tmp_path / "a.npz", make_arrays())
    broken = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in (members | {"x_train.npy": broken}).items():
            new.writestr(name, content)
    assert "damaged or no .npz file" in told(load, path)


def stored_set(path: Path, **changes: Any) -> Path:
    with h5py.File(path, "w") as root:
        for name, values in make_arrays().items():
            root.create_dataset(name, data=values, **(changes if name == "x_train" else {}))
    return path


def test_labels_packed_tighter_than_a_file_has_images_are_refused(tmp_path: Path) -> None:
    path, rows = stored_set(tmp_path / "a.h5"), 3 * 10**7
    with h5py.File(path, "r+") as root:
        for name in ("x_train", "y_train"):
            del root[name]
        for name, shape in (("x_train", (rows, 1, 1)), ("y_train", (rows,))):
            chunks = (rows // 30, *shape[1:])
            root.create_dataset(name, data=np.zeros(shape, "u1"), chunks=chunks, compression="gzip")
    text, peak = measured(lambda: told(load, path))
    assert "more labels than a file of its size" in text and peak < 64 << 20


def test_filters_that_hdf5_would_look_for_are_refused(tmp_path: Path) -> None:
    path = stored_set(tmp_path / "a.h5")
    with h5py.File(path, "r+") as root:
        del root["x_train"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((12, 4, 5, 3))
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((12, 4, 5, 3))
        made = h5py.h5d.create(root.id, b"x_train", h5py.h5t.NATIVE_UINT8, space, properties)
        made.write_direct_chunk((0, 0, 0, 0), bytes(720))
    assert "has a filter that is not supported" in told(load, path)


@pytest.mark.parametrize("epochs", [None, 3, [], "", {"0": 1}, [[{"loss": 1.0}]]])
def test_training_does_not_resume_from_odd_content(tmp_path: Path, epochs: Any) -> None:
    model = build_classifier(Model("convnet", 2), (1, 8, 8), 3, [0.3], [0.4], seed=0)
    training = TrainingRun([model], torch.rand(6, 1, 8, 8), torch.arange(6) % 3, Training(), [0])
    state, path = training.state_dict(), tmp_path / "a.halfway"
    contents: list[Any] = [state | {"epochs": epochs}, {"epochs": [[]]}, epochs]
    for content in contents:
        torch.save(content, path)
        TrainingState(path, 0).load(training)
        assert not path.exists() and training.state_dict()["epochs"] == state["epochs"]
    assert len(list(tmp_path.glob("a.halfway*.damaged"))) == len(contents)


def test_a_hostile_file_is_one_line_for_every_command(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for command in ("info", "preview", "remake", "share", "evaluate"):
        ran = run(command, path)
        assert ran.code in (1, 2) and ran.err.count("\n") == 1, command
    assert "damaged" in refused("info", path)
    with pytest.raises(UserError):
        FeatureDataset(path)


def test_no_file_says_where_a_download_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "of their choosing"
    path = tmp_path / "a.h5"
    write(path, header(config=to_dict(Config(data=Data("cifar10", str(folder))))))
    assert recorded_config(path).data == Data("cifar10")
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    assert recorded_config(path).data == Data("cifar10")
