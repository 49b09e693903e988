"""Fixtures of all test folders: the embedded digits, and two small nets trained on them in seconds."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch
from torch import Tensor

from featuregen.config.schema import PGD, Data, Model, Training
from featuregen.data.base_dataset import BaseDataset
from featuregen.data.sources import load_images
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier
from featuregen.training.loop import train

# What tests make is not entered into the user's own list of what this machine has made.
_state = tempfile.TemporaryDirectory(prefix="featuregen-state-")
os.environ["XDG_STATE_HOME"] = _state.name
CPU = torch.device("cpu")
FEW = 24
# On nets this small a second thread costs more than it brings; beside another busy process, fifty times as much.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """What a test draws must not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> BaseDataset:
    return load_images(Data())


@pytest.fixture(scope="session")
def images(digits: BaseDataset) -> Tensor:
    """The test images; those to train on are made by whoever needs them."""
    return digits.test.images_tensor(CPU)


@pytest.fixture(scope="session")
def labels(digits: BaseDataset) -> Tensor:
    return digits.test.labels_tensor(CPU)


@pytest.fixture(scope="session")
def few(images: Tensor) -> Tensor:
    """As many as an attack of every kind takes a fraction of a second for."""
    return images[:FEW]


@pytest.fixture(scope="session")
def truth(labels: Tensor) -> Tensor:
    """What the few show."""
    return labels[:FEW]


def trained(digits: BaseDataset, recipe: Training) -> Classifier:
    model = build_classifier(Model(width=8), digits.image_shape, 10, [0.3], [0.37], seed=0)
    # In double precision, so that every processor ends at the same weights: tests speak of this model.
    train(model.double(), digits.train.images_tensor(CPU).double(), digits.train.labels_tensor(CPU), recipe, seed=0)
    return model.float()


@pytest.fixture(scope="session")
def standard(digits: BaseDataset) -> Classifier:
    """Not to be changed: every test gets the same one."""
    return trained(digits, Training(epochs=8, batch_size=64, lr=0.2, weight_decay=5e-3))


@pytest.fixture(scope="session")
def robust(digits: BaseDataset) -> Classifier:
    """Trained adversarially at L2 eps 0.75; not to be changed either."""
    return trained(digits, Training(epochs=12, batch_size=64, lr=0.1, attack=PGD(eps=0.75, steps=3)))
