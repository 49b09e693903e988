"""What is opened: small valid files of every kind, what is done to them, and how a user comes to open them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import torch
from fuzz_archives import NPZ, OLD_TORCH, PICTURES, TORCH, safetensors
from fuzz_bytes import BYTES, YAML, Mutation
from fuzz_hdf5 import HDF5
from PIL import Image

from featuregen import cli, interop
from featuregen.config import Config, Data, Model, config_names, load_config, to_dict
from featuregen.halfway import Halfway
from featuregen.images import Base, Split, load_images
from featuregen.interop import released
from featuregen.models import build_model, load_model, read_model_record, save_model
from featuregen.pipeline.files import recorded_config
from featuregen.runtime import RowRandom
from featuregen.store import FeatureDataset, Header, Writer, check_sums, compare
from featuregen.store.merging import merge_shards
from featuregen.whole import partial_path

Files = dict[str, bytes]
ROWS, SHAPE, CLASSES = 10, (1, 8, 8), ("nought", "one", "two")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Target:
    """`seeds` are whole inputs, `mutations` what their files are changed by, `open` is given the folder they lie in.

    `modules` are those whose lines and branches are counted.
    """

    name: str
    seeds: tuple[Files, ...]
    mutations: Mapping[str, tuple[Mutation, ...]]
    open: Callable[[Path], object]
    modules: tuple[str, ...]
    decoys: Callable[[], Files] = dict

    @property
    def hdf5(self) -> bool:
        return any(name.endswith(".h5") for name in self.mutations)


def input_of(target: Target, seed: int, number: int) -> Files:
    """The same for the same three, whoever asks."""
    random = Random(f"{seed} {target.name} {number}")
    files = dict(random.choice(target.seeds))
    name = random.choice([name for name in target.mutations if name in files])
    # First where the format is known, on what is whole; then where it is not.
    known = target.mutations[name]
    changes = [random.choice(known) for _ in range(random.choice((0, 1, 1, 2)))] if known else []
    changes += [
        random.choice(BYTES) for _ in range(0 if changes and random.random() < 0.7 else random.choice((1, 1, 2, 3)))
    ]
    for change in changes:
        if not files[name]:
            break
        try:
            files[name] = change(files[name], random)
        except Exception:
            # A lie about a lie: what the first has made may be beyond what the second can read.
            files[name] = random.choice(BYTES)(files[name], random)
    return files


def _written(write: Callable[[Path], object], name: str = "x") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


# Datasets ------------------------------------------------------------------------------------------


@cache
def _digits() -> Base:
    return load_images(Data("digits"))


def header(**changes: Any) -> Header:
    plain = {
        "kind": "det", "rows": ROWS, "image_shape": SHAPE, "dtype": "float32", "classes": _digits().classes,
        "recipe": {"seed": 7, "synthesis": {"norm": "l2", "eps": 0.5, "steps": 3, "step_size": 0.1, "schedule": "constant"}},
        "base": _digits().record(),
        "source_model": {"architecture": "convnet", "weights_sha256": "ab"},
        "software": {"torch": "2", "device": "cpu", "threads": 1, "batch": "4"}, "citation": "Someone, 2026.",
        "config": to_dict(load_config("digits")),
    }  # fmt: skip
    return Header(**(plain | changes))


def columns(head: Header, first: int = 0) -> dict[str, Any]:
    """The base images themselves, with the labels and starts of the kind."""
    index, split = np.arange(first, first + ROWS), _digits().train
    pixels, own = split.images[index].transpose(0, 3, 1, 2), split.labels[index]
    drawn = {"det": (own + 1) % 10, "rand": RowRandom(head.recipe.get("seed", 0), "target").integers(index, 10)}
    labels = drawn.get(head.kind, own)
    return {
        "images": np.ascontiguousarray(pixels if head.dtype == "uint8" else (pixels / 255).astype("<f4")),
        "labels": labels, "source_labels": own, "index": index,
        "start_index": np.full(ROWS, -1) if head.kind.endswith("-noise") else index,
        "norm": np.zeros(ROWS, "<f4"), "objective": np.full(ROWS, 0.5, "<f4"), "source_pred": labels,
    }  # fmt: skip


def dataset(**changes: Any) -> bytes:
    head = header(**changes)
    first = head.recipe.get("shard", {}).get("first", 0)

    def write(path: Path) -> None:
        with Writer.open(path, head) as writer:
            writer.append(columns(head, first))
            writer.finish("2026-01-02T03:04:05Z")

    return _written(write, "a.h5")


def _datasets() -> tuple[Files, ...]:
    attack = {"name": "pgd", "norm": "l2", "eps": 0.5, "target": "", "steps": 3}
    recipes: tuple[dict[str, Any], ...] = (
        {}, {"dtype": "uint8", "kind": "rand"}, {"kind": "attack", "recipe": {"seed": 1, "attack": attack}},
        {"recipe": {"imported": {"layout": "x"}}, "source_model": {}, "kind": "robust"},
        {"recipe": {"seed": 7, "synthesis": {}, "shard": {"number": 1, "of": 2, "rows": 20, "first": 0}}},
    )  # fmt: skip
    return tuple({"a.h5": dataset(**changes)} for changes in recipes)


def _decoys() -> Files:
    good, arrays = dataset(), _arrays()
    return {
        "decoy.h5": good, "decoy.bin": bytes(4096), "decoy.npz": _npz(arrays),
        "decoy.pt": _torch([torch.zeros(3)]),
    }  # fmt: skip


def _load(folder: Path) -> None:
    path = folder / "a.h5"
    cli.info(path)
    cli.info(path, json_=True)
    data = FeatureDataset(path)
    data[0], data.images.sum()
    recorded_config(path)
    compare(path, path)


def _verify(folder: Path) -> None:
    cli.verify(folder / "a.h5", data="digits")


def _merge(folder: Path) -> None:
    merge_shards([folder / "a.h5", folder / "b.h5"], folder / "out.h5")


def _shards() -> Files:
    marks = ({"number": number, "of": 2, "rows": 2 * ROWS, "first": ROWS * (number - 1)} for number in (1, 2))
    recipes = ({"seed": 7, "synthesis": {"norm": "none"}, "shard": mark} for mark in marks)
    return {
        name: dataset(recipe=recipe, kind="robust-noise")
        for name, recipe in zip(("a.h5", "b.h5"), recipes, strict=True)
    }


def _journal() -> Files:
    def write(path: Path) -> None:
        writer = Writer.open(path.with_name("a.h5"), header())
        whole = columns(header())
        for rows in (slice(0, 4), slice(4, 7)):
            writer.append({name: values[rows] for name, values in whole.items()})
        writer.close()
        path.write_bytes(partial_path(path.with_name("a.h5")).read_bytes())

    return {"a.h5.partial": _written(write)}


def _go_on(folder: Path) -> None:
    with Writer.open(folder / "a.h5", header()) as writer:
        done = writer.rows_done
        writer.append({name: values[done:] for name, values in columns(header()).items()})
        writer.finish()


def _sums(folder: Path) -> None:
    check_sums(folder / "a.h5")


# Models --------------------------------------------------------------------------------------------


def _tiny() -> Any:
    return build_model(Model("convnet", 2), (1, 8, 8), 3, [0.3], [0.4], seed=0)


def _model() -> Files:
    record = {"config": to_dict(load_config("digits")), "settings": {"seed": 0}, "train_accuracy": 0.5}
    return {"a.safetensors": _written(lambda path: save_model(path, _tiny(), record))}


def _load_model(folder: Path) -> None:
    path = folder / "a.safetensors"
    cli.info(path)
    read_model_record(path)
    load_model(path)
    recorded_config(path)


def _training() -> tuple[Any, Any]:
    model = _tiny()
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def _halfway() -> Files:
    model, optimizer = _training()
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    told = {"epochs": [[{"loss": 1.0}], [], [0.5]], "seconds": 1.0}
    return {
        "a.halfway": _written(lambda path: Halfway(path, 0).save(model, optimizer, CPU, told, {"x": torch.ones(3)}))
    }


def _resume(folder: Path) -> None:
    Halfway(folder / "a.halfway", 0).resume(*_training(), CPU)


# Checkpoints and tensors ---------------------------------------------------------------------------


def _torch(content: Any, **how: Any) -> bytes:
    target = io.BytesIO()
    torch.save(content, target, **how)
    return target.getvalue()


def _checkpoints() -> tuple[Files, ...]:
    """Every part of a robustness checkpoint, on a net too small to be one: a real one takes 90 MB."""
    net = {
        f"module.model.{name}": tensor for name, tensor in torch.nn.Linear(3, 4).state_dict(prefix="linear.").items()
    }
    state = net | {f"module.normalizer.new_{name}": torch.full((3, 1, 1), 0.5) for name in ("mean", "std")}
    content = {
        "model": state, "optimizer": None, "epoch": 3, "nat_prec1": torch.tensor(0.5), "adv_prec1": np.float64(0.25),
        "shape": torch.Size([1, 2]), "more": {"list": [1, (2, 3), 2**40], "bytes": b"x", "set": [True, None]},
        "parameter": torch.nn.Parameter(torch.ones(2)), "view": torch.arange(10.0)[2:8].view(2, 3).t(),
    }  # fmt: skip
    ways: tuple[dict[str, Any], ...] = ({}, {"pickle_protocol": 4})
    new = tuple({"a.pt": _torch(content, **way)} for way in ways)
    return new + tuple({"old.pt": _torch(content, _use_new_zipfile_serialization=False, **way)} for way in ways)


def _load_checkpoint(folder: Path) -> None:
    path = next(folder.iterdir())
    interop.is_checkpoint(path)
    interop.load_checkpoint(path)


@cache
def _base() -> Base:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (20, 4, 5, 3), np.uint8), np.arange(20) % 3
    return Base("toy", Split(images, labels), Split(images[:6], labels[:6]), CLASSES, "free", "Someone, 2026.")


def _released() -> tuple[Files, ...]:
    pixels = _base().train.tensor(CPU) * 0.999
    labels = (torch.from_numpy(_base().train.labels) + 1) % 3
    forms: list[tuple[Any, Any, dict[str, Any]]] = [
        ([pixels[:8].clone(), pixels[8:].clone()], [labels[:9].clone(), labels[9:].clone()], {}),
        ((pixels * 255).to(torch.uint8), labels, {}),
        (pixels.half(), labels.int(), {"_use_new_zipfile_serialization": False}),
    ]
    return tuple({"CIFAR_ims": _torch(ims, **how), "CIFAR_lab": _torch(lab, **how)} for ims, lab, how in forms)


def _import(folder: Path) -> None:
    released.import_released(folder, "det", _base(), folder / "out.h5")


# Settings and image sets ---------------------------------------------------------------------------


def _configs() -> tuple[Files, ...]:
    shipped = Path(cli.__file__).parents[2] / "configs"
    return tuple({"a.yaml": (shipped / f"{name}.yaml").read_bytes()} for name in config_names())


def _load_config(folder: Path) -> None:
    config: Config = load_config(str(folder / "a.yaml"), ["evaluation.seeds=2"])
    json.dumps(to_dict(config))


def _arrays() -> dict[str, Any]:
    draw, found = np.random.default_rng(0), dict[str, Any]()
    for part in ("train", "test"):
        found[f"x_{part}"] = draw.integers(0, 256, (12, 4, 5, 3), np.uint8)
        found[f"y_{part}"] = np.arange(12, dtype=np.uint8) % 3
    return found


def _npz(arrays: Mapping[str, Any], save: Callable[..., None] = np.savez) -> bytes:
    target = io.BytesIO()
    save(target, **arrays)
    return target.getvalue()


def _hdf5(arrays: Mapping[str, Any], **how: Any) -> bytes:
    target = io.BytesIO()
    with h5py.File(target, "w") as root:
        for name, values in arrays.items():
            root.create_dataset(name, data=values, **how)
    return target.getvalue()


def _folder(ending: str) -> Files:
    files: Files = {}
    for number, pixels in enumerate(_arrays()["x_train"][:8]):
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}[ending])
        files[f"set/{'test' if number > 5 else 'train'}/{'ab'[number % 2]}/{number}{ending}"] = target.getvalue()
    return files


def _read_set(folder: Path) -> None:
    (path,) = folder.iterdir()
    base = load_images(Data(name=str(path)))
    for split in (base.train, base.test):
        split.tensor(CPU, np.array([0, len(split) - 1]))
        split.images[0:2]
    base.digest  # noqa: B018 - every pixel is read for it


def _image_sets() -> tuple[Files, ...]:
    arrays = _arrays()
    whole = ({"a.npz": _npz(arrays)}, {"b.npz": _npz(arrays, np.savez_compressed)})
    stored = [
        {"c.h5": _hdf5(arrays)},
        {"d.h5": _hdf5(arrays, chunks=True, compression="gzip", shuffle=True, fletcher32=True)},
    ]
    return (*whole, *stored, *map(_folder, (".png", ".png", ".jpg", ".webp", ".bmp")))


_STORE = ("store/reader.py", "store/format.py", "store/heaps.py")
_TORCH = ("interop/torch_files.py", "interop/pickles.py")
_CONFIG = ("config/reading.py", "config/settings.py", "config/attacks.py")


@cache
def targets() -> dict[str, Target]:
    sets = _image_sets()
    pictures = {name: PICTURES if name.endswith(".png") else () for files in sets[4:] for name in files}
    all_targets = (
        Target("dataset", _datasets(), {"a.h5": HDF5}, _load, (*_STORE, "store/dataset.py", "store/compare.py"), _decoys),
        Target("verify", _datasets(), {"a.h5": HDF5}, _verify, (*_STORE, "store/checks.py"), _decoys),
        Target("merge", (_shards(),), {"a.h5": HDF5}, _merge, ("store/merging.py",), _decoys),
        Target("journal", (_journal(),), {"a.h5.partial": ()}, _go_on, ("store/journal.py",)),
        Target("sums", ({"a.h5": b"content", "SHA256SUMS": b"0" * 64 + b"  a.h5\n" + b"1" * 64 + b" *b.h5\n"},),
               {"SHA256SUMS": ()}, _sums, ("store/sums.py",)),
        Target("checkpoint", _checkpoints(), {"a.pt": TORCH, "old.pt": OLD_TORCH}, _load_checkpoint,
               (*_TORCH, "interop/checkpoints.py"), _decoys),
        Target("released", _released(), {"CIFAR_ims": (*TORCH, *OLD_TORCH), "CIFAR_lab": (*TORCH, *OLD_TORCH)}, _import,
               (*_TORCH, "interop/released.py"), _decoys),
        Target("model", (_model(),), {"a.safetensors": safetensors("featuregen")}, _load_model,
               ("models/checkpoint.py",)),
        Target("halfway", (_halfway(),), {"a.halfway": safetensors("featuregen-halfway")}, _resume, ("halfway.py",)),
        Target("config", _configs(), {"a.yaml": YAML}, _load_config, _CONFIG),
        Target("image-set", sets, {"a.npz": NPZ, "b.npz": NPZ, "c.h5": HDF5, "d.h5": HDF5} | pictures, _read_set,
               ("images/arrays.py", "images/stored.py", "images/sources.py"), _decoys),
    )  # fmt: skip
    return {target.name: target for target in all_targets}
