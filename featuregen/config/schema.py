"""The settings as frozen dataclasses with bounds, and the rules that span several of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from featuregen.config.kinds import KINDS
from featuregen.errors import UserError

Norm = Literal["l2", "linf"]
Precision = Literal["auto", "fp32", "bf16"]
Convolution = Literal["auto", "direct", "winograd"]
Dtype = Literal["uint8", "float16", "float32"]
MAX_ROWS = 2**40
EarlyStop = Literal["none", "clean", "adversarial"]


def bounded(default: Any = dataclasses.MISSING, *, omit_default: bool = False, **limits: float) -> Any:
    """A field whose numbers must respect `low`, `high` (inclusive) or `above` (exclusive); none exceeds a million
    unless `high` says so.

    With `omit_default` the field is left out of records while it has its default value: fields added after a release
    must not change the digests and cache keys of older settings.
    """
    return field(default=default, metadata={**limits, "omit_default": omit_default})


@dataclass(frozen=True)
class Data:
    """The base set.

    `name` is the name of a built-in set, or the path of a Keras-style `.npz` or HDF5 file or of an image folder;
    downloads are kept in `folder`.

    Example:
        >>> import featuregen as fg
        >>> fg.load_images(fg.Data("digits")).classes[:3]
        ('0', '1', '2')
    """

    name: str = "digits"
    folder: str = "data"


@dataclass(frozen=True)
class Model:
    """The network.

    `width` 0 means the architecture's default. `mean` and `std` normalise the pixels, one number per channel; where
    they are empty, those of the training images are used.
    """

    architecture: str = "convnet"
    width: int = bounded(0, low=0, high=4096)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = bounded((), above=0)


@dataclass(frozen=True)
class Runtime:
    """Device, arithmetic and processes.

    `precision` and `convolution` auto mean that the faster choice is measured. `convolution` is for models on CPUs
    whose weights do not change; `compile` applies torch.compile to these, which takes minutes before the first step.
    `threads` 0 leaves their number to torch. `reproduce` runs `jobs` processes. Training saves its state for resuming
    every `save_every` seconds, at the end of an epoch.
    """

    device: str = "auto"
    precision: Precision = "auto"
    convolution: Convolution = "auto"
    compile: bool = False
    threads: int = bounded(0, low=0, high=1024)
    jobs: int = bounded(1, low=1, high=64)
    save_every: float = bounded(60.0, low=0)


@dataclass(frozen=True)
class PGD:
    """PGD: projected gradient steps inside a ball. `step_size` 0 means 2.5 · eps / steps.

    Example:
        >>> import featuregen as fg
        >>> fg.PGD(norm="linf", eps=8 / 255, steps=10).steps
        10
    """

    norm: Norm = "l2"
    eps: float = bounded(0.5, low=0)
    steps: int = bounded(20, low=1)
    step_size: float = bounded(0.0, low=0)
    random_start: bool = False
    restarts: int = bounded(1, low=1, high=10_000)


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training images.

    `crop` is the padding of a random crop in pixels, `flip` a horizontal flip, `jitter` the strength of the colour
    jitter, `rotate` the largest rotation in degrees.
    """

    crop: int = bounded(0, low=0, high=64)
    flip: bool = False
    jitter: float = bounded(0.0, low=0, high=1)
    rotate: float = bounded(0.0, low=0, high=180)


@dataclass(frozen=True)
class Training:
    """A training recipe; with an `attack` it is adversarial training.

    `alpha` is the weight of the clean loss beside the adversarial loss (0: adversarial loss alone). `early_stop` keeps
    the weights of the epoch with the smallest validation error, clean or under the recipe's attack; the validation
    images are the fraction `held_out` of the training images. Training stops after `patience` epochs without a smaller
    error (0: never).

    Example:
        >>> import featuregen as fg
        >>> fg.Training(epochs=5, lr=0.1, attack=fg.PGD(eps=0.5, steps=3)).attack.norm
        'l2'
    """

    epochs: int = bounded(30, low=1, high=100_000)
    batch_size: int = bounded(128, low=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = bounded(0.1, above=0)
    momentum: float = bounded(0.9, low=0, high=1)
    weight_decay: float = bounded(5e-4, low=0)
    schedule: Literal["onecycle", "cosine", "steps", "constant"] = "onecycle"
    milestones: tuple[float, ...] = bounded((1 / 3, 2 / 3), low=0, high=1)
    label_smoothing: float = bounded(0.0, low=0, high=0.99)
    augment: Augment = Augment()
    attack: PGD | None = None
    alpha: float = bounded(0.0, low=0, high=0.99, omit_default=True)
    early_stop: EarlyStop = bounded("none", omit_default=True)
    held_out: float = bounded(0.1, above=0, high=0.9, omit_default=True)
    patience: int = bounded(0, low=0, omit_default=True)


@dataclass(frozen=True)
class Synthesis:
    """How the pixels of a kind are optimised.

    `norm` none constrains them to [0, 1] only; with l2 or linf they also stay within `eps` of the base image. The
    schedule `polyak` sets each step's length from the remaining objective, with `step_size` as the upper limit.
    `momentum` adds that fraction of the previous step. `noise` is the standard deviation of the start of the noise
    kinds. `rows` is a class-balanced sample (0: all).

    Example:
        >>> import featuregen as fg
        >>> fg.Synthesis(steps=30, step_size=0.2, norm="l2", eps=0.5).dtype
        'uint8'
    """

    steps: int = bounded(1000, low=1)
    step_size: float = bounded(0.1, above=0)
    schedule: Literal["constant", "cosine", "linear", "polyak"] = "constant"
    momentum: float = bounded(0.0, low=0, high=0.999)
    norm: Literal["none", "l2", "linf"] = "none"
    eps: float = bounded(0.0, low=0)
    noise: float = bounded(0.25, low=0)
    fake_relu: bool = False
    batch_size: int = bounded(256, low=1)
    dtype: Dtype = "uint8"
    rows: int = bounded(0, low=0, high=MAX_ROWS)


@dataclass(frozen=True)
class Evaluation:
    """How many fresh models are trained per dataset, and the attacks on them: PGD, once per norm and eps.

    `rows` test images are attacked, a class-balanced sample (0: all); clean accuracy is always measured on all.
    `headline` is the L2 eps of the bar chart and of every statement in the report, fixed before any model is trained.

    Example:
        >>> import featuregen as fg
        >>> fg.Evaluation(l2=(0.25, 0.5), linf=(), steps=20).restarts
        1
    """

    seeds: int = bounded(3, low=1, high=1000)
    l2: tuple[float, ...] = bounded((0.25, 0.5), low=0)
    headline: float = bounded(0.5, low=0)
    linf: tuple[float, ...] = bounded((), low=0)
    steps: int = bounded(20, low=1)
    restarts: int = bounded(1, low=1, high=10_000)
    rows: int = bounded(0, low=0, high=MAX_ROWS)
    batch_size: int = bounded(500, low=1)


@dataclass(frozen=True)
class LabelAudit:
    """The radii of the label audit of D_rand and D_det by independent models, on `rows` images each (0: all)."""

    eps: tuple[float, ...] = bounded((), above=0)
    rows: int = bounded(0, low=0, high=MAX_ROWS)


@dataclass(frozen=True)
class Sources:
    """The training recipes of the two source models; `reproduce` trains `seeds` of each (0: as many as fresh models).

    `standard_from` and `robust_from` name a saved model, or a checkpoint of `robustness`, to use as the first of them.
    """

    standard: Training = Training()
    robust: Training = Training(attack=PGD())
    standard_from: str = ""
    robust_from: str = ""
    seeds: int = bounded(0, low=0, high=1000)


@dataclass(frozen=True)
class Config:
    """All settings of an experiment.

    Example:
        >>> import featuregen as fg
        >>> fg.Config(name="mine", model=fg.load_config("digits").model).seed
        0
    """

    name: str = "unnamed"
    seed: int = bounded(0, low=0, high=2**63 - 1)
    data: Data = Data()
    model: Model = Model()
    runtime: Runtime = Runtime()
    sources: Sources = Sources()
    synthesis: Mapping[str, Synthesis] = field(default_factory=dict[str, Synthesis])
    fresh: Mapping[str, Training] = field(default_factory=dict[str, Training])
    evaluation: Evaluation = Evaluation()
    honesty: LabelAudit = LabelAudit()


def check_training(recipe: Training, name: str) -> None:
    """Refuse settings that need an attack in a recipe without one."""
    if recipe.alpha and recipe.attack is None:
        raise UserError(
            f"{name}.alpha is {recipe.alpha:g}, which weighs clean images against attacked ones, but that recipe has "
            "no attack; choose one with an attack, or leave alpha out."
        )
    if recipe.early_stop == "adversarial" and recipe.attack is None:
        raise UserError(
            f"{name}.early_stop is adversarial, but that recipe has no attack; choose one with an attack, or set "
            "early_stop to clean."
        )


def check_consistency(config: Config) -> None:
    """Refuse settings that contradict each other."""
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", config.name):
        raise UserError(f"name is '{config.name}'; it names a folder, so use letters, digits, '.', '_' and '-'.")
    for kind, recipe in config.synthesis.items():
        # The objective of a kind that is registered elsewhere is not known here, and nothing is made of it.
        objective = KINDS[kind].objective if kind in KINDS else "features"
        if objective == "class" and recipe.norm == "none":
            raise UserError(f"synthesis.{kind}.norm is 'none'; {kind} needs a ball: set it to l2 or linf.")
        if objective != "features" and recipe.fake_relu:
            raise UserError(f"synthesis.{kind}.fake_relu is true; it is for sets made from features, not for {kind}.")
        if objective != "features" and recipe.schedule == "polyak":
            raise UserError(f"synthesis.{kind}.schedule is polyak, which needs a goal that can be reached; use cosine.")
        if recipe.schedule == "polyak" and recipe.norm == "linf":
            raise UserError(
                f"synthesis.{kind}.schedule is polyak, whose steps are measured in L2; its norm cannot be linf."
            )
        if recipe.norm == "none" and recipe.eps > 0:
            raise UserError(f"synthesis.{kind}.eps is {recipe.eps:g} but its norm is none; choose the norm l2 or linf.")
        if recipe.norm != "none" and recipe.eps == 0:
            raise UserError(f"synthesis.{kind}.eps is 0 with norm {recipe.norm}; give a positive radius.")
    attack = config.sources.robust.attack
    balls = [(f"synthesis.{kind}.eps", recipe.norm, recipe.eps) for kind, recipe in config.synthesis.items()]
    balls += [("sources.robust.attack.eps", attack.norm, attack.eps)] if attack else []
    balls += [("evaluation.linf", "linf", eps) for eps in config.evaluation.linf]
    for name, norm, eps in balls:
        if norm == "linf" and eps >= 1:
            raise UserError(
                f"{name} is {eps:g}, a Linf ball that holds every image; give a radius below 1, such as 8/255."
            )
    if bool(config.model.mean) != bool(config.model.std):
        raise UserError("model.mean and model.std go together; give both, or neither to have them measured.")
    if config.evaluation.headline not in config.evaluation.l2:
        radii = ", ".join(f"{eps:g}" for eps in config.evaluation.l2)
        raise UserError(f"evaluation.headline is {config.evaluation.headline:g}; choose one of evaluation.l2: {radii}.")
    if config.sources.robust.attack is None:
        raise UserError("sources.robust.attack is missing; a robust source model is trained against an attack.")
    if config.sources.standard.attack is not None:
        raise UserError("sources.standard.attack is set; a standard source model is trained without one.")
    fresh = {f"fresh.{kind}": recipe for kind, recipe in config.fresh.items()}
    sources = {"sources.standard": config.sources.standard, "sources.robust": config.sources.robust}
    for name, training in (sources | fresh).items():
        check_training(training, name)
