"""Small whole models, checkpoints, releases, configs and image sets, and how a user comes to open them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from featuregen.cli.info import info
from featuregen.config.loader import config_names, load_config
from featuregen.config.schema import Config, Data, Model, Training
from featuregen.config.serialize import to_dict
from featuregen.data.base_dataset import BaseDataset, ImageSplit
from featuregen.data.sources import load_images
from featuregen.experiment.files import recorded_config
from featuregen.interop import released
from featuregen.interop.robustness import load_checkpoint
from featuregen.models.io import load_model, read_model_record, save_model
from featuregen.models.registry import build_classifier
from featuregen.runtime.torch_files import is_checkpoint
from featuregen.training.loop import TrainingRun
from featuregen.training.resume import TrainingState
from reliability.fuzz_datasets import Files, written

CLASSES = ("nought", "one", "two")
CPU = torch.device("cpu")


# Models --------------------------------------------------------------------------------------------


def _tiny() -> Any:
    return build_classifier(Model("convnet", 2), (1, 8, 8), 3, [0.3], [0.4], seed=0)


def model() -> Files:
    record = {"config": to_dict(load_config("digits")), "settings": {"seed": 0}, "train_accuracy": 0.5}
    return {"a.safetensors": written(lambda path: save_model(_tiny(), path, record))}


def open_model(folder: Path) -> None:
    path = folder / "a.safetensors"
    info(path)
    read_model_record(path)
    load_model(path)
    recorded_config(path)


def _training() -> TrainingRun:
    images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    recipe = Training(epochs=1, batch_size=3, early_stop="clean", held_out=0.5)
    return TrainingRun([_tiny()], images, labels, recipe, [0])


def state_file() -> Files:
    training = _training()
    training.run()
    return {"a.halfway": written(lambda path: TrainingState(path, 0).save(training))}


def resume(folder: Path) -> None:
    TrainingState(folder / "a.halfway", 0).load(_training())


# Checkpoints and tensors ---------------------------------------------------------------------------


def torch_file(content: Any, **how: Any) -> bytes:
    target = io.BytesIO()
    torch.save(content, target, **how)
    return target.getvalue()


def checkpoints() -> tuple[Files, ...]:
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
    new = tuple({"a.pt": torch_file(content, **way)} for way in ways)
    return new + tuple({"old.pt": torch_file(content, _use_new_zipfile_serialization=False, **way)} for way in ways)


def open_checkpoint(folder: Path) -> None:
    path = next(folder.iterdir())
    is_checkpoint(path)
    load_checkpoint(path)


@cache
def _base() -> BaseDataset:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (20, 4, 5, 3), np.uint8), np.arange(20) % 3
    return BaseDataset(
        "toy", ImageSplit(images, labels), ImageSplit(images[:6], labels[:6]), CLASSES, "free", "Someone, 2026."
    )


def release() -> tuple[Files, ...]:
    pixels = _base().train.images_tensor(CPU) * 0.999
    labels = (torch.from_numpy(_base().train.labels) + 1) % 3
    forms: list[tuple[Any, Any, dict[str, Any]]] = [
        ([pixels[:8].clone(), pixels[8:].clone()], [labels[:9].clone(), labels[9:].clone()], {}),
        ((pixels * 255).to(torch.uint8), labels, {}),
        (pixels.half(), labels.int(), {"_use_new_zipfile_serialization": False}),
    ]
    return tuple({"CIFAR_ims": torch_file(ims, **how), "CIFAR_lab": torch_file(lab, **how)} for ims, lab, how in forms)


def import_release(folder: Path) -> None:
    released.import_released(folder, "det", _base(), folder / "out.h5")


# Settings and image sets ---------------------------------------------------------------------------


def configs() -> tuple[Files, ...]:
    shipped = Path(__file__).parents[1] / "configs"
    return tuple({"a.yaml": (shipped / f"{name}.yaml").read_bytes()} for name in config_names())


def open_config(folder: Path) -> None:
    config: Config = load_config(str(folder / "a.yaml"), ["evaluation.seeds=2"])
    json.dumps(to_dict(config))


def arrays_of_a_set() -> dict[str, Any]:
    draw, found = np.random.default_rng(0), dict[str, Any]()
    for part in ("train", "test"):
        found[f"x_{part}"] = draw.integers(0, 256, (12, 4, 5, 3), np.uint8)
        found[f"y_{part}"] = np.arange(12, dtype=np.uint8) % 3
    return found


def npz(arrays: Mapping[str, Any], save: Callable[..., None] = np.savez) -> bytes:
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
    for number, pixels in enumerate(arrays_of_a_set()["x_train"][:8]):
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}[ending])
        files[f"set/{'test' if number > 5 else 'train'}/{'ab'[number % 2]}/{number}{ending}"] = target.getvalue()
    return files


def read_set(folder: Path) -> None:
    (path,) = folder.iterdir()
    base = load_images(Data(name=str(path)))
    for split in (base.train, base.test):
        split.images_tensor(CPU, np.array([0, len(split) - 1]))
        split.images[0:2]
    base.digest  # noqa: B018 - every pixel is read for it


def image_sets() -> tuple[Files, ...]:
    arrays = arrays_of_a_set()
    whole = ({"a.npz": npz(arrays)}, {"b.npz": npz(arrays, np.savez_compressed)})
    stored = [
        {"c.h5": _hdf5(arrays)},
        {"d.h5": _hdf5(arrays, chunks=True, compression="gzip", shuffle=True, fletcher32=True)},
    ]
    return (*whole, *stored, *map(_folder, (".png", ".png", ".jpg", ".webp", ".bmp")))
