"""robustness, Foolbox, torchattacks and ART as contenders, each called as its users call it.

A peer comes twice: as it is, with parameters that require gradients, and with the parameters frozen while pixels move.
`robustness` keeps the last iterate (`use_best` false, as in its inversion notebook), which spares it a pass, and where
the device is a CPU its `.cuda()` does nothing. It also clamps what a network is given, and torch passes no gradient to
a pixel clamped at exactly 0 or 1, so where images have many of those its losses are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contenders import DECAY, MOMENTUM, OURS, RATE, SEED, Contender, Featuregen, Row
from featuregen.compute.autotune import pick_compute_spec
from featuregen.models.classifier import Backbone, Classifier
from featuregen.runtime.rng import RowRandom


class Peer(Contender):
    """A package with the training loop its users write: move the batch, then take a step on it."""

    def __init__(self, model: Classifier, frozen: bool) -> None:
        super().__init__(model.requires_grad_(not frozen))
        self.frozen = frozen

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        super().restore(weights)
        self.model.requires_grad_(not self.frozen)

    def learn(self, row: Row, images: Tensor, labels: Tensor, batch: int) -> float:
        optimizer = torch.optim.SGD(self.model.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
        # The order of featuregen's own training, so that the losses can be compared.
        order = torch.from_numpy(RowRandom(SEED, "order").permutation(0, len(images))).to(images.device)
        total, batches = torch.zeros((), device=images.device), len(images) // batch
        for picked in order[: batches * batch].view(batches, batch):
            loss = self.loss(row, images[picked], labels[picked])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach()
        return float(total / batches)

    def loss(self, row: Row, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss on attacked images."""
        self.model.eval().requires_grad_(not self.frozen)
        moved = self.move(row, images, labels)
        self.model.train().requires_grad_(True)
        return F.cross_entropy(self.model(moved), labels)


class Robustness(Peer):
    """The package normalises outside the network, so it gets the network and the normaliser's figures."""

    modules = ("robustness.attacker",)
    inverts = True

    def __init__(self, model: Classifier, frozen: bool) -> None:
        super().__init__(model, frozen)
        (attacker,) = self.packages()
        figures = SimpleNamespace(mean=model.mean, std=model.std)
        self._wrapped = attacker.AttackerModel(_WithLatent(model.net), figures).eval()

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        super().restore(weights)
        self._wrapped.eval()

    def move(self, row: Row, images: Tensor, classes: Tensor) -> Tensor:
        with _cuda_only_where_it_is(images.device):
            _, found = self._wrapped(images, classes, make_adv=True, **self._settings(row))
        return _tensor(found)

    def invert(self, row: Row, start: Tensor, base: Tensor) -> Tensor:
        with torch.no_grad():
            (_, aim), _ = self._wrapped(base, with_latent=True)
        # Its unconstrained step does not normalise the gradient; the notebook takes a ball that holds everything.
        settings = self._settings(row) | {"eps": 1000.0, "custom_loss": _notebook_loss}
        with _cuda_only_where_it_is(start.device):
            _, found = self._wrapped(start, aim, make_adv=True, **settings)
        return _tensor(found)

    def loss(self, row: Row, images: Tensor, labels: Tensor) -> Tensor:
        settings = self._settings(row)
        with _cuda_only_where_it_is(images.device):
            if self.frozen:
                self._wrapped.eval().requires_grad_(False)
                moved = self._wrapped.attacker(images, labels, **settings)
                logits, _ = self._wrapped.train().requires_grad_(True)(moved)
            else:
                logits, _ = self._wrapped.train()(images, labels, make_adv=True, **settings)
        return F.cross_entropy(logits, labels)

    def _settings(self, row: Row) -> dict[str, Any]:
        return {
            "constraint": "2" if row.norm == "l2" else "inf",
            "eps": row.eps,
            "step_size": row.step_size,
            "iterations": row.steps,
            "targeted": row.goal in ("next", "features"),
            "use_best": False,
        }


class _WithLatent(nn.Module):
    """The call that the package expects of a network."""

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x: Tensor, with_latent: bool = False, fake_relu: bool = False, no_relu: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        features = self.net.features(x, fake_relu)
        logits = self.net.head(features)
        return (logits, features) if with_latent else logits


def _notebook_loss(net: nn.Module, images: Tensor, aim: Tensor) -> tuple[Tensor, None]:
    _, features = net(images, with_latent=True)
    return torch.div(torch.norm(features - aim, dim=1), torch.norm(aim, dim=1)), None


def _cuda_only_where_it_is(device: torch.device) -> Any:
    stays = torch.Tensor.cuda if device.type == "cuda" else lambda tensor, *place, **how: tensor
    return mock.patch.object(torch.Tensor, "cuda", stays)


class Foolbox(Peer):
    modules = ("foolbox",)

    def __init__(self, model: Classifier, frozen: bool) -> None:
        super().__init__(model, frozen)
        (self._package,) = self.packages()
        self._wrapped = self._package.PyTorchModel(model, bounds=(0, 1), device=model.mean.device)

    def move(self, row: Row, images: Tensor, classes: Tensor) -> Tensor:
        attacks, criteria = self._package.attacks, self._package.criteria
        kind = attacks.L2PGD if row.norm == "l2" else attacks.LinfPGD
        attack = kind(abs_stepsize=row.step_size, steps=row.steps, random_start=False)
        wanted = criteria.TargetedMisclassification if row.goal == "next" else criteria.Misclassification
        return _tensor(attack(self._wrapped, images, wanted(classes), epsilons=row.eps)[1])


class Torchattacks(Peer):
    modules = ("torchattacks",)

    def move(self, row: Row, images: Tensor, classes: Tensor) -> Tensor:
        (package,) = self.packages()
        kind = package.PGDL2 if row.norm == "l2" else package.PGD
        attack = kind(self.model, eps=row.eps, alpha=row.step_size, steps=row.steps, random_start=False)
        if row.goal == "next":
            attack.set_mode_targeted_by_label(quiet=True)
        return _tensor(attack(images, classes))


def as_art(estimators: Any, model: Classifier) -> Any:
    """The model as ART's attacks take it; `estimators` is its module art.estimators.classification."""
    return estimators.PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=model.image_shape,
        nb_classes=model.classes,
        channels_first=True,
        clip_values=(0.0, 1.0),
        device_type="gpu" if model.mean.is_cuda else "cpu",
    )


class Art(Peer):
    """Its arrays are made and taken back inside the clock, since that is how it talks."""

    modules = ("art.estimators.classification", "art.attacks.evasion")

    def __init__(self, model: Classifier, frozen: bool) -> None:
        super().__init__(model, frozen)
        estimators, self._attacks = self.packages()
        self._wrapped = as_art(estimators, model)

    def move(self, row: Row, images: Tensor, classes: Tensor) -> Tensor:
        attack = self._attacks.ProjectedGradientDescent(
            self._wrapped,
            norm=2 if row.norm == "l2" else "inf",
            eps=row.eps,
            eps_step=row.step_size,
            max_iter=row.steps,
            targeted=row.goal == "next",
            batch_size=len(images),
            verbose=False,
        )
        found = attack.generate(x=images.cpu().numpy(), y=classes.cpu().numpy())
        return torch.from_numpy(found).to(images.device)


def _tensor(found: Any) -> Tensor:
    assert isinstance(found, Tensor)
    return found.detach()


# What pip calls each package.
PACKAGES = {
    "robustness": "robustness",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "art": "adversarial-robustness-toolbox",
}
PEERS: dict[str, type[Peer]] = {"robustness": Robustness, "foolbox": Foolbox, "torchattacks": Torchattacks, "art": Art}
_FROZEN = " frozen"


def names(peers: Iterable[str]) -> list[str]:
    """Every contender, a peer in both its forms."""
    return [*OURS, *(peer + form for peer in peers for form in ("", _FROZEN))]


def kind_of(name: str) -> type[Contender]:
    return Featuregen if name in OURS else PEERS[name.removesuffix(_FROZEN)]


def plays(name: str, row: Row) -> bool:
    return kind_of(name).inverts or row.goal != "features"


def contender(name: str, model: Classifier, device: torch.device) -> Contender:
    if name in OURS:
        compute, _ = pick_compute_spec(replace(OURS[name], device=str(device)), lambda: model)
        return Featuregen(model.to(device), compute)
    return PEERS[name.removesuffix(_FROZEN)](model.to(device), frozen=name.endswith(_FROZEN))
