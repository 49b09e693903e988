"""Models on disk: what is saved comes back, equal models make equal files, and every way a file can be wrong."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from featuregen.config.schema import Model
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import load_model, read_model_record, save_model, weights_sha256
from featuregen.models.registry import build_classifier

Shape = tuple[int, int, int]
Header = dict[str, Any]
Tensors = dict[str, Tensor]


def make(architecture: str = "convnet", shape: Shape = (1, 8, 8), width: int = 0) -> Classifier:
    channels = shape[0]
    return build_classifier(Model(architecture, width), shape, 7, [0.4] * channels, [0.2] * channels, seed=0)


RECORD = {"training": {"epochs": 3, "lr": 0.1}, "accuracy": 0.5, "notes": ["ä", None]}


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("convnet", (1, 16, 16), 4),
        ("cw-convnet", (1, 16, 16), 0),
        ("resnet9", (2, 16, 16), 4),
        ("preactresnet18", (3, 16, 24), 4),
        ("resnet18", (3, 25, 25), 0),
    ],
)
def test_a_saved_model_comes_back(name: str, shape: Shape, width: int, tmp_path: Path) -> None:
    model = make(name, shape, width)
    path = tmp_path / "new folder" / "model.safetensors"
    save_model(model, path, RECORD)
    state = torch.get_rng_state()
    loaded = load_model(path, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.record == RECORD and not loaded.training and all(p.requires_grad for p in loaded.parameters())
    for attribute in ("architecture", "image_shape", "classes", "width", "takes_fake_relu"):
        assert getattr(loaded, attribute) == getattr(model, attribute)
    assert weights_sha256(loaded) == weights_sha256(model)
    images = torch.rand(2, *shape)
    assert torch.equal(loaded(images), model.eval()(images))


def test_the_record_of_a_loaded_model_is_saved_with_it_unless_another_is_given(tmp_path: Path) -> None:
    assert make().record == {}
    save_model(make(), tmp_path / "a", RECORD)
    save_model(load_model(tmp_path / "a"), tmp_path / "b")
    save_model(load_model(tmp_path / "a"), tmp_path / "c", {})
    assert load_model(tmp_path / "b").record == RECORD and load_model(tmp_path / "c").record == {}


def test_the_header_is_read_without_the_weights(tmp_path: Path) -> None:
    model = make()
    save_model(model, tmp_path / "m", RECORD)
    header = read_model_record(tmp_path / "m")
    assert header["record"] == RECORD and header["weights_sha256"] == weights_sha256(model)
    assert (header["architecture"], header["width"], header["image_shape"], header["classes"]) == (
        "convnet", 16, [1, 8, 8], 7,
    )  # fmt: skip


def test_equal_models_make_equal_files(tmp_path: Path) -> None:
    save_model(make(), tmp_path / "a", {"x": 1, "y": 2})
    save_model(make().to(memory_format=torch.channels_last), tmp_path / "b", {"y": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_digest_covers_names_types_shapes_and_bytes() -> None:
    layer = torch.nn.Linear(4, 3)
    start = weights_sha256(layer)
    assert start == weights_sha256(layer.to(memory_format=torch.preserve_format))
    digests = {start, weights_sha256(torch.nn.Sequential(layer))}
    digests.add(weights_sha256(torch.nn.Linear(4, 3).bfloat16()))
    with torch.no_grad():
        layer.weight[0, 0] = torch.nextafter(layer.weight[0, 0], torch.tensor(9.0))
    digests.add(weights_sha256(layer))
    assert len(digests) == 4


def test_saving_replaces_whole_files_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    save_model(make(), path, {"version": "old"})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_model(make(), path, {"version": "new"})
    assert load_model(path).record == {"version": "old"} and os.listdir(tmp_path) == ["m"]
    save_model(make(), path, {"version": "new"})
    assert load_model(path).record == {"version": "new"} and os.listdir(tmp_path) == ["m"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "m", tmp_path / "folder"):
        with pytest.raises(UserError, match=r"Cannot write .*(m|folder): "):
            save_model(make(), path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_diverged_weights_are_not_saved(tmp_path: Path) -> None:
    model = make()
    with torch.no_grad():
        model.net.linear.bias[0] = float("nan")
    with pytest.raises(UserError, match=r"net.linear.bias has NaN"):
        save_model(model, tmp_path / "m")
    assert os.listdir(tmp_path) == []


def test_a_record_that_could_not_be_read_again_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not written: record.settings: expected 'object'.*rename that key"):
        save_model(make(), tmp_path / "m", {"settings": 3})
    assert os.listdir(tmp_path) == []


# Bad files ----------------------------------------------------------------------------------------


def _rewrite(path: Path, change: Callable[[Header, Tensors], object]) -> None:
    """Write the model file again with its header or tensors changed."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["featuregen"])
    tensors = load(path.read_bytes())
    text = change(header, tensors)
    save_file(tensors, path, {"featuregen": text if isinstance(text, str) else json.dumps(header)})


def _set(**changes: Any) -> Callable[[Header, Tensors], object]:
    return lambda header, tensors: header.update(changes)


def _tensor(name: str, value: Tensor) -> Callable[[Header, Tensors], object]:
    return lambda header, tensors: tensors.update({name: value})


def _redigested(name: str, value: Tensor) -> Callable[[Header, Tensors], object]:
    """Bad weights whose digest is right, as an attacker would write them."""

    def change(header: Header, tensors: Tensors) -> None:
        tensors[name] = value
        model = make()
        model.state_dict()[name].copy_(value)
        header["weights_sha256"] = weights_sha256(model)

    return change


BAD: dict[str, tuple[Callable[[Header, Tensors], object], str]] = {
    "newer version": (_set(version=2), "format version 2; update featuregen"),
    "version of a wrong type": (_set(version="1"), "metadata: version: expected"),
    "version true": (_set(version=True), "metadata: version: expected"),
    "other format": (_set(format="x"), "does not say format"),
    "unknown architecture": (_set(architecture="convnot"), "cannot be loaded: 'convnot' is no architecture"),
    "architecture of a wrong type": (_set(architecture=["convnet"]), "metadata: architecture: expected 'str'"),
    "surrogate in a name": (_set(architecture="\ud800"), "not valid JSON"),
    "endless name": (_set(architecture="a" * 100_000), "architecture: expected 'str' of length <= 1000"),
    "width of a wrong type": (_set(width="16"), "metadata: width: expected 'int'"),
    "huge width": (_set(width=10**4000), "does not fit 64 bits"),
    "other width": (_set(width=4096), "does not fit convnet"),
    "huge image": (_set(image_shape=[1, 10**9, 10**9]), "metadata: image_shape"),
    "short shape": (_set(image_shape=[8, 8]), "metadata: image_shape"),
    "impossible shape": (_set(image_shape=[1, 2, 2]), "cannot be loaded: convnet takes no 1x2x2 images"),
    "many channels": (_set(image_shape=[4096, 8, 8]), "does not fit convnet"),
    "many classes": (_set(classes=10**6), "does not fit convnet: tensor 'net.linear.bias'"),
    "no classes": (_set(classes=None), "metadata: classes: expected 'int', got 'null'"),
    "digest of a wrong type": (_set(weights_sha256=None), "metadata: weights_sha256: expected 'str'"),
    "record of a wrong type": (_set(record=[]), "metadata: record: expected 'object'"),
    "settings of a wrong type": (_set(record={"settings": []}), "metadata: record.settings: expected 'object'"),
    "accuracy above 1": (_set(record={"accuracy": {"clean": 1.5, "l2": {}, "linf": {}}}), "metadata: record.accuracy"),
    "a radius that is no number": (
        _set(record={"accuracy": {"clean": 0.5, "l2": {"\x1b[2J": 0.5}, "linf": {}}}),
        "metadata: record.accuracy",
    ),
    "NaN in the record": (_set(record={"x": float("nan")}), "not valid JSON"),
    "header no object": (lambda header, tensors: "[]", "does not say format"),
    "header no JSON": (lambda header, tensors: "{", "not valid JSON"),
    "header nested deeply": (lambda header, tensors: "[" * 100_000, "not valid JSON"),
    "header nested validly": (lambda header, tensors: '{"a":' * 900 + "1" + "}" * 900, "nested too deeply"),
    "number too long": (lambda header, tensors: "1" * 10_000, "not valid JSON"),
    "missing tensor": (lambda header, tensors: tensors.pop("net.conv1.weight"), "net.conv1.weight.*the file has none"),
    "extra tensor": (_tensor("zusatz", torch.zeros(2)), "'zusatz' should be no such tensor"),
    "other shape": (_tensor("net.linear.bias", torch.zeros(8)), r"should be F32 \[7\], and the file has F32 \[8\]"),
    "other type": (_tensor("net.linear.bias", torch.zeros(7).half()), r"the file has F16 \[7\]"),
    "changed weights": (_tensor("net.linear.bias", torch.ones(7)), "do not match their recorded sha256"),
    "other digest": (_set(weights_sha256="0" * 64), "do not match their recorded sha256"),
    "NaN weights": (
        _redigested("net.linear.bias", torch.full((7,), float("nan"))),
        "unusable weights: net.linear.bias",
    ),
    "zero deviation": (_redigested("std", torch.zeros(1)), "unusable weights: std"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, message = BAD[name]
    path = tmp_path / "model"
    save_model(make(), path, RECORD)
    _rewrite(path, change)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) < len(str(path)) + 400
    text.encode()


def _raw(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no readable safetensors"),
    "text": (b"hello, this is no model at all\n" * 9, "no readable safetensors"),
    "header longer than the file": (struct.pack("<Q", 2**60) + b"{}", "no readable safetensors"),
    "header nested deeply": (_raw(b"[" * 90_000), "no readable safetensors"),
    "tensors beyond the end": (
        _raw(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'), "no readable safetensors",
    ),
    "overflowing shape": (
        _raw(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'), "no readable safetensors",
    ),
    "foreign safetensors": (_raw(b"{}"), "no featuregen metadata"),
    "foreign metadata": (_raw(b'{"__metadata__":{"format":"pt"}}'), "no featuregen metadata"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_refused(name: str, tmp_path: Path) -> None:
    content, message = FOREIGN[name]
    (tmp_path / "m").write_bytes(content)
    for read in (load_model, read_model_record):
        with pytest.raises(UserError, match=message):
            read(tmp_path / "m")


@pytest.mark.parametrize("kept", [3, 100, 0.5, -1])
def test_a_truncated_model_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_model(make(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(UserError, match="may be truncated"):
        load_model(path)


def test_a_missing_model_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it does not exist"):
        load_model(tmp_path / "nothing")
    with pytest.raises(UserError, match="that is no file"):
        read_model_record(tmp_path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Refused with one sentence, or, in names of the record alone, loaded with the very same weights."""
    path = tmp_path / "m"
    save_model(make(width=2), path, {"x": 1})
    content, digest = path.read_bytes(), weights_sha256(load_model(path))
    random = torch.Generator().manual_seed(0)
    for place in torch.randint(len(content) * 8, (200,), generator=random).tolist():
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            model = load_model(path)
        except UserError:
            continue
        assert weights_sha256(model) == digest


def test_a_loaded_model_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_model(make(), path)
    model = load_model(path)
    digest = weights_sha256(model)
    os.truncate(path, 0)
    assert weights_sha256(model) == digest


def test_a_name_in_another_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    save_model(make(), path)
    for read in (load_model, read_model_record):
        with pytest.raises(UserError, match="not UTF-8"):
            read(path)


def test_a_header_larger_than_any_model_has_is_refused(tmp_path: Path) -> None:
    entries = ",".join(f'"{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(160_000))
    (tmp_path / "m").write_bytes(_raw(f"{{{entries}}}".encode()))
    for read in (load_model, read_model_record):
        with pytest.raises(UserError, match=r"MiB of names and metadata; a model has at most 8"):
            read(tmp_path / "m")
    with pytest.raises(UserError, match="its record has more than 8 MiB"):
        save_model(make(), tmp_path / "n", {"notes": ["x" * 10_000] * 1000})
    assert not (tmp_path / "n").exists()
