"""Checkpoints of `robustness`: those the real package wrote, those it accepts, and those that fit nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.robustness_package import borrowed, trained
from featuregen.config.schema import Data, Evaluation, Model
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import evaluate, predict
from featuregen.interop.load import is_model_file, load_model, model_header
from featuregen.interop.robustness import load_checkpoint, save_checkpoint
from featuregen.models.architectures.robustness_nets import RobustnessNet
from featuregen.models.classifier import Classifier
from featuregen.models.io import save_model, weights_sha256
from featuregen.models.registry import build_classifier
from featuregen.runtime.torch_files import is_checkpoint
from featuregen.storage.reader import read_info
from tests.helpers.cli_runs import dataset, done, refused, tiny

# As the package has them; not the true deviations of CIFAR-10.
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


@pytest.fixture(scope="module")
def package() -> Iterator[dict[str, Any]]:
    with borrowed() as modules:
        yield modules


@pytest.fixture(scope="module")
def written(package: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    return trained(package, "vgg16", [(images, torch.arange(8))], tmp_path_factory.mktemp("package"))


def make(architecture: str = "resnet18", classes: int = 10) -> Classifier:
    return build_classifier(Model(architecture), (3, 32, 32), classes, MEAN, STD, seed=0).eval()


def restored(package: dict[str, Any], arch: str, path: Path) -> Any:
    data = package["datasets"].CIFAR("nowhere")
    return package["model_utils"].make_and_restore_model(arch=arch, dataset=data, resume_path=str(path))[0].eval()


def layout(model: Classifier) -> dict[str, Any]:
    """The released layout: everything under `module.`, the net twice."""
    assert isinstance(model.net, RobustnessNet)
    path_free = {model.net.original_name(name): tensor for name, tensor in model.net.state_dict().items()}
    state = {f"module.{part}{name}": t for part in ("model.", "attacker.model.") for name, t in path_free.items()}
    for normaliser in ("normalizer", "attacker.normalize"):
        state[f"module.{normaliser}.new_mean"] = model.mean.view(3, 1, 1)
        state[f"module.{normaliser}.new_std"] = model.std.view(3, 1, 1)
    return {"model": state, "epoch": 150}


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# Both ways -----------------------------------------------------------------------------------------


def test_what_the_package_wrote_is_read(package: dict[str, Any], written: Path) -> None:
    assert is_checkpoint(written)
    model = load_checkpoint(written)
    record = model.record
    assert (model.architecture, model.classes, model.training) == ("vgg16", 10, False)
    assert model.mean.tolist() == pytest.approx(MEAN) and model.std.tolist() == pytest.approx(STD)
    theirs = restored(package, "vgg16", written)
    with torch.no_grad():
        assert torch.equal(model(images()), theirs(images())[0])
    assert record["origin"]["epoch"] == 1 and 0 <= record["origin"]["nat_prec1"] <= 100
    assert record["origin"]["file"] == "checkpoint.pt.latest" and len(record["origin"]["sha256"]) == 64


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_the_released_layout_is_read(tmp_path: Path, zipped: bool, key: str) -> None:
    path, model = tmp_path / "cifar_l2_0_5.pt", make()
    content = layout(model)
    content[key] = content.pop("model")
    rate = 0.1
    content["schedule"] = {"lr_lambdas": [lambda epoch: np.interp([epoch], [0, 10], [rate, 0])[0]]}
    content |= {"optimizer": torch.optim.SGD(model.parameters(), lr=rate).state_dict(), "nat_prec1": np.float64(91.5)}
    content["adv_prec1"] = torch.tensor(70.25)
    torch.save(content, path, pickle_module=dill, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(path)
    record = loaded.record
    with torch.no_grad():
        assert torch.equal(loaded(images()), model(images()))
    numbers = {name: record["origin"][name] for name in ("epoch", "nat_prec1", "adv_prec1")}
    assert numbers == {"epoch": 150, "nat_prec1": 91.5, "adv_prec1": 70.25}


@pytest.mark.parametrize("arch", ["resnet18", "vgg16", "densenet121"])
def test_the_package_restores_what_is_written_here(package: dict[str, Any], arch: str, tmp_path: Path) -> None:
    model, path = make(arch), tmp_path / "out.pt"
    save_checkpoint(model, path, {"settings": {"training": {"epochs": 7}}})
    theirs = restored(package, arch, path)
    with torch.no_grad():
        assert torch.equal(theirs(images())[0], model(images()))
    back = load_checkpoint(path)
    assert back.architecture == arch and back.record["origin"]["epoch"] == 7


@pytest.mark.parametrize(("constraint", "eps"), [("2", 0.03), ("inf", 0.001)])
def test_attacked_accuracy_is_the_packages(
    package: dict[str, Any], tmp_path: Path, constraint: str, eps: float
) -> None:
    path, steps, x, model = tmp_path / "out.pt", 4, images(24), make("vgg16")
    with torch.no_grad():
        # An untrained net answers every image alike, but for this.
        model.net.linear.bias.sub_(model(x).mean(0))
        y = model(x).argmax(1)
    save_checkpoint(model, path, {})
    ours, theirs = load_checkpoint(path), restored(package, "vgg16", path)
    settings = {"constraint": constraint, "eps": eps, "step_size": 2.5 * eps / steps, "iterations": steps}
    logits, _ = theirs(x, y, make_adv=True, use_best=False, **settings)
    norm = "l2" if constraint == "2" else "linf"
    radii: dict[str, Any] = {"l2": (), "linf": (), norm: (eps,)}
    result = evaluate(ours, x, y, Evaluation(**radii, steps=steps))
    accuracy = getattr(result, norm)[f"{eps:g}"]
    assert accuracy == pytest.approx((logits.argmax(1) == y).float().mean().item(), abs=1e-3)
    assert 0.1 < accuracy < 0.9, "an attack that all or none survive would prove nothing"


# Refusing ------------------------------------------------------------------------------------------


def spoilt(change: Callable[[dict[str, Tensor]], object]) -> Callable[[dict[str, Any]], Any]:
    def spoil(content: dict[str, Any]) -> Any:
        change(content["model"])
        return content

    return spoil


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no dict": (lambda c: [c], r"holds list; a checkpoint of robustness holds a dict"),
    "no state": (lambda c: {"epoch": 3}, r"no tensors under 'model' or 'state_dict'"),
    "state of other things": (lambda c: {"model": {"module.model.a": "text"}}, r"no tensors under 'model'"),
    "the net alone": (
        lambda c: {"model": {name: t for name, t in c["model"].items() if "normalize" not in name}},
        r"no normaliser for 3 channels \(normalizer.new_mean\)",
    ),
    "another net": (
        spoilt(lambda s: s.update({"module.model.conv1.weight": torch.zeros(64, 3, 7, 7)})),
        r"122 tensors and 10 classes that is none of resnet18, resnet50, vgg16, densenet121, inception-v3",
    ),
    "a part missing": (spoilt(lambda s: s.pop("module.model.bn1.weight")), r"121 tensors and 10 classes that is none"),
    "half precision": (
        spoilt(lambda s: s.update({n: t.half() for n, t in s.items() if n.endswith("conv1.weight")})),
        r"is none of resnet18",
    ),
    "no last layer": (spoilt(lambda s: s.pop("module.model.linear.bias")), r"no net with one last layer"),
    "one class": (
        spoilt(lambda s: s.update({"module.model.linear.bias": torch.zeros(1)})), r"no net with one last layer"
    ),
    "NaN": (spoilt(lambda s: s["module.model.linear.bias"].fill_(math.nan)), r"NaN or infinite weights in .*linear"),
    "flat normaliser": (spoilt(lambda s: s["module.normalizer.new_std"].zero_()), r"divides by \[0.0, 0.0, 0.0\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_fits_nothing_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    path = tmp_path / "wrong.pt"
    torch.save(change(layout(make())), path)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_one_function_loads_models_of_both_kinds(tmp_path: Path) -> None:
    ours, theirs, model, record = tmp_path / "m.safetensors", tmp_path / "m.pt", make("vgg16"), {"note": "untrained"}
    save_model(model, ours, record)
    model.record = {"settings": {"training": {"epochs": 3}}}
    save_checkpoint(model, theirs)
    for path in (ours, theirs):
        loaded, header = load_model(str(path)), model_header(path)
        assert is_model_file(path) and weights_sha256(loaded) == weights_sha256(model) and not loaded.training
        assert header["record"] == loaded.record and header["weights_sha256"] == weights_sha256(model)
        assert (header["architecture"], list(header["image_shape"]), header["classes"]) == ("vgg16", [3, 32, 32], 10)
    assert load_model(ours).record == record and load_model(theirs).record["origin"]["epoch"] == 3
    assert not is_model_file(tmp_path / "det.h5")
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        load_model(tmp_path / "nowhere.pt")


def test_other_nets_have_no_such_checkpoint(tmp_path: Path) -> None:
    model = build_classifier(Model("convnet"), (3, 32, 32), 10, MEAN, STD, seed=0)
    with pytest.raises(UserError, match="convnet is not one of robustness' nets"):
        save_checkpoint(model, tmp_path / "out.pt", {})
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.pt", None, True), ("a.pt.best", None, True), ("a.h5", None, False),
        ("b.h5", b"PK\x03\x04", True), ("b.pt", b"\x89HDF", False),
    ],
)  # fmt: skip
def test_a_checkpoint_is_known_by_its_beginning(
    tmp_path: Path, name: str, content: bytes | None, expected: bool
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert is_checkpoint(tmp_path / name) is expected


# Commands ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base set that CIFAR's nets take."""
    path, draw = tmp_path_factory.mktemp("base") / "toy.npz", np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (2, 20, 32, 32, 3), np.uint8), np.arange(20) % 10
    np.savez(path, x_train=images[0], y_train=labels, x_test=images[1], y_test=labels)
    return path


def test_a_checkpoint_is_evaluated_like_a_model_of_ours(written: Path, coloured: Path, tmp_path: Path) -> None:
    words = ("--config", tiny(), "--data", coloured, "--out", tmp_path, "--json")
    (row,) = done("evaluate", written, *words).json()["models"]
    model, base = load_checkpoint(written), load_images(Data(str(coloured)))
    seen = predict(model, base.test.images_tensor(torch.device("cpu")))
    assert row["runs"][0]["clean"] == pytest.approx(np.mean(seen.numpy() == base.test.labels))
    assert row["title"] == written.name and not list(tmp_path.iterdir())
    assert "records no settings; name them with --config" in refused("evaluate", written, "--out", tmp_path)


def test_a_checkpoint_makes_a_dataset(written: Path, coloured: Path, tmp_path: Path) -> None:
    words = ("--config", tiny(), "--data", coloured, "--source", written, "--rows", "4", "--steps", "1")
    done("make-robust-dataset", *words, "--out", tmp_path / "r.h5")
    source = read_info(tmp_path / "r.h5").source_model
    assert (source["architecture"], source["origin"]["file"]) == ("vgg16", written.name)
    assert source["weights_sha256"] == weights_sha256(load_checkpoint(written))
    checks = done("verify", tmp_path / "r.h5", "--data", coloured, "--source", written).out
    assert "FAILED" not in checks and "success recomputed" in checks


def test_classes_and_sizes_must_be_those_of_the_images(written: Path, coloured: Path, tmp_path: Path) -> None:
    words = ("--config", tiny(), "--out", tmp_path)
    assert "but digits has (1, 8, 8) in 10;" in refused("evaluate", written, *words)
    other = tmp_path / "hundred.pt"
    save_checkpoint(make(classes=100), other, {})
    assert "in 100 classes, but toy has" in refused("evaluate", other, *words, "--data", coloured)


def test_a_model_is_exported_and_told(package: dict[str, Any], tmp_path: Path) -> None:
    save_model(make(), tmp_path / "m.safetensors", {"settings": {"training": {"epochs": 3}}})
    words = ("export", tmp_path / "m.safetensors", "--format", "robustness")
    assert done(*words).out.strip() == str(tmp_path / "m.pt")
    theirs = restored(package, "resnet18", tmp_path / "m.pt")
    with torch.no_grad():
        assert torch.equal(theirs(images())[0], make()(images()))
    printed = json.loads(done("info", tmp_path / "m.pt").out)
    assert printed["architecture"] == "resnet18" and printed["record"]["origin"]["epoch"] == 3
    assert "m.pt exists already; choose another --out" in refused(*words)
    assert "should end in .pt" in refused(*words, "--out", tmp_path / "m.h5")
    assert done(*words, "--force").code == 0


def test_an_export_of_a_model_wants_a_model(tmp_path: Path) -> None:
    assert "no readable safetensors file" in refused(
        "export", dataset("det"), "--format", "robustness", "--out", tmp_path / "m.pt"
    )
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_the_source_of_an_experiment(written: Path, coloured: Path, tmp_path: Path) -> None:
    words = ("--config", tiny(), "--data", coloured, "--robust-from", written)
    done("reproduce", *words, "--set=synthesis={robust: {steps: 1}}", "--out", tmp_path)
    results = json.loads((tmp_path / "tiny-toy" / "results.json").read_text(encoding="utf-8"))
    rows = {row["key"]: row["runs"] for row in results["models"]}
    assert set(rows) == {"standard", "adversarial", "robust"}
    ((one,),) = [rows["adversarial"]]
    assert one["seed"] is None and one["train_accuracy"] is None
    source = read_info(tmp_path / "tiny-toy" / "toy-robust.h5").source_model
    assert (source["architecture"], source["origin"]["file"]) == ("vgg16", written.name)
    assert source["accuracy"]["clean"] == one["clean"]
