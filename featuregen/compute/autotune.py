"""The fastest numerics of a machine, measured once per folder of results and reused by later runs; batch sizes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from featuregen.compute import winograd
from featuregen.compute.folding import folded_copy
from featuregen.config.records import RecordError
from featuregen.config.schema import Config, Runtime
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.console import log
from featuregen.runtime.device import ComputeSpec, free_memory, resolve_device
from featuregen.runtime.kept_files import is_kept, load_kept, read_kept

_FILE = "arithmetic.json"
# By model, images and device.
_Stored = dict[str, dict[str, str]]
# fp32 with torch's convolutions is the default unless another choice is clearly faster: timings are noisy.
_CLEARLY_FASTER = 0.9
_ROUNDS = 3
_BATCH = 32
# What is tried first, and the seconds of such a step from which one round of it says enough.
_SMALL_BATCH, _LONG_SECONDS = 8, 0.1
# Room for gradients, the transforms of convolutions, and other processes.
_SAFETY = 3


def load_or_autotune(
    config: Config, image_shape: tuple[int, int, int], classes: int, folder: Path, keep: bool = True
) -> ComputeSpec:
    """The numerics that an earlier run has stored in the folder; otherwise they are measured and, to `keep`, stored."""
    path = folder / _FILE
    stored = (read_kept(path, _Stored) if keep else _peek(path)) or {}
    model, device = config.model, resolve_device(config.runtime.device)
    name = f"{model.architecture} {model.width}, {'x'.join(map(str, image_shape))}, {device}"
    compute, measured = pick_compute_spec(
        config.runtime, lambda: untrained_model(config, image_shape, classes), stored.get(name)
    )
    if measured and keep:
        atomic_write(path, json.dumps(stored | {name: compute.numerics}, indent=1))
    return compute


def untrained_model(config: Config, image_shape: tuple[int, int, int], classes: int) -> Classifier:
    """A model of the config, to measure with."""
    channels = image_shape[0]
    return build_classifier(config.model, image_shape, classes, [0.5] * channels, [0.25] * channels, seed=0)


def _peek(path: Path) -> _Stored | None:
    """What is stored, without a change of the folder."""
    try:
        return load_kept(path, _Stored) if is_kept(path) else None
    except RecordError:
        return None


def pick_compute_spec(
    settings: Runtime, model: Callable[[], Classifier], stored: Mapping[str, str] | None = None
) -> tuple[ComputeSpec, bool]:
    """Resolve `auto` for this machine and model; also says whether that took a measurement.

    `stored` are the numerics of an earlier measurement; `model` is called only if there is something to measure.
    """
    choices = candidate_specs(settings)
    for choice in choices:
        if replace(choice, compiled=settings.compile).numerics == stored:
            return replace(choice, compiled=settings.compile), False
    best, measured = choices[0], len(choices) > 1
    if measured:
        seconds = measure(choices, model())
        fastest = min(choices, key=lambda choice: seconds[choice])
        best = fastest if seconds[fastest] < _CLEARLY_FASTER * seconds[best] else best
        rates = ", ".join(f"{choice.name} {1 / seconds[choice]:.0f}" for choice in choices)
        log(f"note: computing in {best.name}, measured as image-steps per second: {rates}")
    if settings.compile:
        best = with_compile(best, model())
    return best, measured


def with_compile(compute: ComputeSpec, model: Classifier) -> ComputeSpec:
    """The same with torch.compile, unless that fails here."""
    compiled = replace(compute, compiled=True)
    x = torch.rand((_BATCH, *model.image_shape), device=compute.device)
    try:
        _step(folded_copy(model.to(compute.device), compiled), x)()
    except Exception as error:  # what a compiler may raise has no common ancestor
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log(f"note: torch.compile fails here and is not used: {reason}")
        return compute
    return compiled


def candidate_specs(settings: Runtime) -> list[ComputeSpec]:
    """The numerics that the settings allow and the machine supports, the default first."""
    default = ComputeSpec(resolve_device(settings.device))
    gpu = default.device.type == "cuda"
    if settings.convolution == "winograd" and (gpu or settings.precision == "bf16"):
        raise UserError("runtime.convolution winograd is for fp32 on CPUs; use direct or auto.")
    if settings.convolution == "winograd" and not winograd.available():
        raise UserError("runtime.convolution winograd needs a C compiler with OpenMP; install gcc, or use direct.")
    candidates = []
    if settings.precision != "bf16":
        if settings.convolution != "winograd":
            candidates.append(default)
        if settings.convolution == "winograd" or (settings.convolution == "auto" and not gpu and winograd.available()):
            candidates.append(replace(default, convolution="winograd"))
    if settings.precision == "bf16" or (
        settings.precision == "auto" and settings.convolution != "winograd" and multiplies_bf16(default.device)
    ):
        candidates.append(replace(default, precision="bf16"))
    return candidates


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a bf16 product takes no longer than an fp32 one; emulated, it takes hundreds of times as long."""
    size = 4096 if device.type == "cuda" else 256
    spent = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        spent.append(min(seconds_for(partial(torch.mm, matrix, matrix), device) for _ in range(_ROUNDS)))
    return spent[1] < spent[0]


def measure(choices: list[ComputeSpec], model: Classifier) -> dict[ComputeSpec, float]:
    """Seconds per image of one step: forward, and the gradient of the pixels."""
    device = choices[0].device
    x = torch.rand((_BATCH, *model.image_shape), generator=torch.Generator().manual_seed(0)).to(device)
    nets = {choice: folded_copy(model.to(device), choice) for choice in choices}

    def seconds(images: int) -> dict[ComputeSpec, float]:
        return {choice: seconds_for(_step(net, x[:images]), device) / images for choice, net in nets.items()}

    # The first time loads libraries and plans, too.
    seconds(_SMALL_BATCH)
    few = seconds(_SMALL_BATCH)
    if device.type == "cpu" and _SMALL_BATCH * max(few.values()) > _LONG_SECONDS:
        return few
    seconds(_BATCH)
    rounds = [seconds(_BATCH) for _ in range(_ROUNDS)]
    return {choice: min(each[choice] for each in rounds) for choice in choices}


def fitting_batch(net: Classifier, wanted: int, sharing: int = 1) -> int:
    """The wanted batch size, halved until the gradients of `sharing` such batches are sure to fit into memory."""
    free = free_memory(net.mean.device) // sharing
    need = bytes_per_image(net)
    batch = wanted
    while batch > 1 and _SAFETY * need * batch > free:
        batch = -(-batch // 2)
    if batch < wanted:
        log(f"note: {batch} images at once instead of {wanted}: {need / 1e6:.0f} MB each, {free / 1e9:.1f} GB are free")
    return batch


def bytes_per_image(net: Classifier) -> int:
    """The memory that one more image takes in the forward pass, kept for the gradient."""
    # Not one and two images: batch norm in training mode refuses a single value per channel.
    return max(1, _saved_bytes(net, 3) - _saved_bytes(net, 2))


def _saved_bytes(net: Classifier, images: int) -> int:
    """The bytes that the forward pass of so many images saves for the gradient."""
    saved: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.zeros((images, *net.image_shape), device=net.mean.device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        features = net.features(x)
    del features
    return sum(saved.values())


def _step(net: Classifier, x: torch.Tensor) -> Callable[[], object]:
    def step() -> object:
        pixels = x.detach().requires_grad_(True)
        return torch.autograd.grad(net.features(pixels).float().square().sum(), pixels)

    return step


def seconds_for(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
