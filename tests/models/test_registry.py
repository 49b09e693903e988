"""Architectures against their table, fake ReLUs, and models that follow from their seed alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from featuregen.config.schema import Model
from featuregen.errors import UserError
from featuregen.models.architectures.convnets import ConvNet
from featuregen.models.architectures.robustness_nets import RobustnessNet
from featuregen.models.classifier import Classifier, count_parameters, rectify
from featuregen.models.io import load_model, save_model, weights_sha256
from featuregen.models.registry import (
    ARCHITECTURES,
    architecture_table,
    build_classifier,
    build_model,
    find_architecture,
    list_models,
    register_architecture,
)

Shape = tuple[int, int, int]

SHAPES: tuple[Shape, ...] = (
    (1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (3, 64, 64),
)  # fmt: skip
OWN = [name for name, item in ARCHITECTURES.items() if item.channels != (3,)]
BORROWED = [name for name in ARCHITECTURES if name not in OWN]
# Thin versions of the adjustable nets have the same shapes and run in a fraction of the time.
THIN = {"convnet": 4, "resnet9": 8, "preactresnet18": 8}
DEEP = ("resnet50", "densenet121")
# Seconds each on a small machine, and what they would show the meta device shows too.
HEAVY = {("inception-v3", (3, 28, 28)), ("inception-v3", (3, 64, 64)), ("resnet50", (3, 28, 28))}
CASES = [
    pytest.param(name, shape, id=f"{name}-{shape}", marks=[pytest.mark.slow] if (name, shape) in HEAVY else [])
    for name in ARCHITECTURES
    for shape in SHAPES
]


def make(architecture: str = "convnet", shape: Shape = (1, 8, 8), *, width: int = 0, seed: int = 0) -> Classifier:
    channels = shape[0]
    return build_classifier(Model(architecture, width), shape, 7, [0.4] * channels, [0.2] * channels, seed)


# Architectures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_every_architecture_does_what_its_table_says(name: str, shape: Shape) -> None:
    if not ARCHITECTURES[name].takes(shape):
        with pytest.raises(UserError, match=r"channels.*architectures for .*convnet"):
            make(name, shape)
        return
    model = make(name, shape, width=THIN.get(name, 0)).eval()
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, logits = model.features(images), model(images)
        assert features.ndim == 2 and features.shape[0] == 2 and logits.shape == (2, 7)
        assert torch.equal(model.head(features), logits)
    assert torch.isfinite(logits).all() and not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_in_the_table_are_the_real_limits(name: str) -> None:
    """On the meta device, where sizes are computed and pixels are not; both sides of an oblong image too."""
    item = ARCHITECTURES[name]
    small, large = item.min_size, item.max_size or 40
    channels = item.channels[0] if item.channels else 2
    for height, width in sorted({(small, small), (large, large), (small, large), (large, small)}):
        shape = (channels, height, width)
        with torch.device("meta"):
            net = item.builder(shape, 7, item.width)
            assert net(torch.empty(2, *shape)).shape == (2, 7)
        assert item.takes(shape)
    assert not item.takes((channels, small - 1, large))
    assert item.max_size is None or not item.takes((channels, large, large + 1))


@pytest.mark.parametrize("name", BORROWED)
def test_a_borrowed_net_computes_what_the_package_does(name: str) -> None:
    from robustness import cifar_models

    size = ARCHITECTURES[name].min_size
    model = make(name, (3, size, size)).eval()
    assert isinstance(model.net, RobustnessNet)
    constructor = {"inception-v3": "InceptionV3"}.get(name, name)
    original = getattr(cifar_models, constructor)(num_classes=7).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.1)
    theirs = original.state_dict()
    model.net.load_state_dict({own: theirs[model.net.original_name(own)] for own in model.net.state_dict()})
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        logits, latent = original((images - 0.4) / 0.2, with_latent=True)
        features = model.features(images)
        torch.testing.assert_close(features, latent)
        torch.testing.assert_close(model.head(features), logits)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("cw-convnet", (1, 28, 28), 312_202),
        ("resnet9", (3, 32, 32), 6_573_120),
        ("resnet18", (3, 32, 32), 11_173_962),
        ("preactresnet18", (3, 32, 32), 11_172_170),
    ],
)
def test_published_parameter_counts(name: str, shape: Shape, parameters: int) -> None:
    assert count_parameters(ARCHITECTURES[name].builder(shape, 10, ARCHITECTURES[name].width)) == parameters


def test_width_is_the_architectures_own_unless_set() -> None:
    assert make().width == 16 and make(width=3).width == 3
    assert count_parameters(make(width=3)) < count_parameters(make())
    assert make(width=3).features(torch.rand(2, 1, 8, 8)).shape == (2, 12)


def test_carlini_wagner_drops_out_in_training_only() -> None:
    model, images = make("cw-convnet", (1, 16, 16)), torch.rand(2, 1, 16, 16)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_table_lists_every_architecture_once() -> None:
    lines = architecture_table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ARCHITECTURES)
    assert "25x25 to 32x32" in architecture_table() and "16x16 or larger" in architecture_table()


def test_alias_leads_to_the_architecture() -> None:
    assert find_architecture("densenet") is ARCHITECTURES["densenet121"]


# Fake ReLU ----------------------------------------------------------------------------------------


def test_fake_relu_is_a_relu_whose_gradient_passes_everywhere() -> None:
    x = torch.tensor([-1e30, -2.5, -0.0, 0.0, 1e-30, 3.3], requires_grad=True)
    assert torch.equal(rectify(x, True), x.relu())
    (gradient,) = torch.autograd.grad(rectify(x, True).sum(), x)
    assert torch.equal(gradient, torch.ones(6))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in ARCHITECTURES])
def test_fake_relu_keeps_features_and_changes_gradients_or_is_refused(name: str) -> None:
    shape = (1, 16, 16) if name in OWN else (3, 32, 32)
    model = make(name, shape, width=THIN.get(name, 0)).eval()
    images = torch.rand(1, *shape).requires_grad_()
    if not ARCHITECTURES[name].fake_relu:
        with pytest.raises(UserError, match=f"{name} has no fake ReLU"):
            model.features(images, fake_relu=True)
        return
    plain, fake = model.features(images), model.features(images, fake_relu=True)
    torch.testing.assert_close(plain, fake)
    gradients = [torch.autograd.grad(features.sum(), images)[0] for features in (plain, fake)]
    assert torch.isfinite(gradients[1]).all() and not torch.allclose(gradients[0], gradients[1])


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(ARCHITECTURES)
    yield
    ARCHITECTURES.clear()
    ARCHITECTURES.update(before)


def small(image_shape: Shape, classes: int, width: int) -> ConvNet:
    return ConvNet(image_shape[0], classes, width)


def test_models_are_listed_in_the_order_of_the_table() -> None:
    assert list_models() == list(ARCHITECTURES) and list_models()[0] == "convnet"
    assert list_models("resnet*") == ["resnet9", "resnet18", "resnet50"] and list_models("nothing*") == []


def test_a_registered_architecture_is_built_saved_and_loaded(table: None, tmp_path: Path) -> None:
    add = register_architecture("small", description="mine", channels=(1,), min_size=4, width=2)
    assert add(small) is small and list_models("small") == ["small"] and "small" in architecture_table()
    model = build_model("small", (1, 8, 8), 3, width=5, seed=1)
    assert model.width == 5 and build_model("small", (1, 8, 8), 3).width == 2
    save_model(model, tmp_path / "m.safetensors")
    assert weights_sha256(load_model(tmp_path / "m.safetensors")) == weights_sha256(model)
    with pytest.raises(UserError, match="small takes no 3x8x8 images"):
        build_model("small", (3, 8, 8), 3)
    with pytest.raises(UserError, match="small has no fake ReLU"):
        model.features(torch.rand(1, 1, 8, 8), fake_relu=True)
    del ARCHITECTURES["small"]
    with pytest.raises(UserError, match=r"m\.safetensors cannot be loaded: 'small' is no architecture"):
        load_model(tmp_path / "m.safetensors")


def test_a_name_of_ones_own_may_be_registered_again_and_no_other(table: None) -> None:
    for width in (2, 3):
        register_architecture("small", description="mine", width=width)(small)
    assert ARCHITECTURES["small"].width == 3 and list_models().count("small") == 1
    for name in ("resnet9", "densenet"):
        with pytest.raises(UserError, match=f"'{name}' is an architecture of featuregen's"):
            register_architecture(name, description="mine")(small)


# Building -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OWN, "resnet18"])
def test_the_seed_decides_the_weights_and_the_global_state_stays(name: str) -> None:
    shape = (3, 32, 32)
    width = THIN.get(name, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights_sha256(make(name, shape, width=width, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert weights_sha256(make(name, shape, width=width, seed=3)) == first
    assert weights_sha256(make(name, shape, width=width, seed=4)) != first


def test_a_model_is_built_by_its_name_without_a_normaliser_unless_asked() -> None:
    plain = build_model("convnet", image_shape=(3, 8, 8), classes=4, width=3, seed=2)
    assert plain.mean.tolist() == [0, 0, 0] and plain.std.tolist() == [1, 1, 1] and plain.training
    by_settings = build_classifier(Model("convnet", 3), (3, 8, 8), 4, [0] * 3, [1] * 3, 2)
    assert weights_sha256(plain) == weights_sha256(by_settings)
    ours = build_model("convnet", (3, 8, 8), 4, mean=[0.1, 0.2, 0.3], std=[0.5, 1, 2])
    assert ours.mean.tolist() == pytest.approx([0.1, 0.2, 0.3]) and ours.std.tolist() == [0.5, 1, 2]
    assert build_model("convnet").image_shape == (3, 32, 32) and build_model("convnet").classes == 10
    with pytest.raises(UserError, match="1 means and 3 deviations for 3 channels"):
        build_model("convnet", (3, 8, 8), 4, mean=[0.1])


def test_the_normaliser_is_inside() -> None:
    model = build_classifier(Model(), (3, 8, 8), 4, [0.1, 0.2, 0.3], [0.5, 1.0, 2.0], 0).eval()
    images = torch.rand(2, 3, 8, 8)
    normalised = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    torch.testing.assert_close(model(images), model.net(normalised))
    assert {"mean", "std"} <= model.state_dict().keys() and not model.mean.requires_grad


@pytest.mark.parametrize(
    ("settings", "shape", "classes", "mean", "std", "message"),
    [
        (Model("rsnet9"), (3, 32, 32), 10, [0.5] * 3, [0.2] * 3, "did you mean 'resnet9'"),
        (Model("resnet18", 8), (3, 32, 32), 10, [0.5] * 3, [0.2] * 3, "width of resnet18 is fixed"),
        (Model("cw-convnet", 8), (1, 28, 28), 10, [0.5], [0.2], "width of cw-convnet is fixed"),
        (Model(), (1, 8, 8), 1, [0.5], [0.2], "at least 2 classes"),
        (Model(), (1, 8, 8), 10, [0.5] * 3, [0.2], "3 means and 1 deviations for 1 channels"),
        (Model(), (1, 8, 8), 10, [0.5], [0.0], "positive deviations"),
        (Model(), (1, 8, 8), 10, [float("nan")], [0.2], "finite means"),
        (
            Model("vgg16"),
            (3, 28, 28),
            10,
            [0.5] * 3,
            [0.2] * 3,
            "32x32.*architectures for 3x28x28: convnet, .*resnet18",
        ),
        (Model(), (1, 2, 2), 10, [0.5], [0.2], "architectures for 1x2x2: none"),
    ],
)
def test_impossible_models_are_refused(
    settings: Model, shape: Shape, classes: int, mean: list[float], std: list[float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_classifier(settings, shape, classes, mean, std, 0)


def test_a_missing_robustness_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustness.cifar_models", None)
    assert make().classes == 7
    with pytest.raises(UserError, match="resnet18 needs the package robustness"):
        make("resnet18", (3, 32, 32))
