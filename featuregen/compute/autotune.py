"""Which arithmetic a machine is fastest with: decided by a short measurement, once per folder of results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from featuregen.compute import winograd
from featuregen.compute.folding import folded_copy
from featuregen.config import Runtime
from featuregen.errors import UserError
from featuregen.models import Classifier
from featuregen.runtime import ComputeSpec, free_memory, log, resolve_device

# Plain arithmetic stays unless another is clearly faster: timings are noisy, and it needs no explanation.
_CLEARLY = 0.9
_ROUNDS = 3
_BATCH = 32
# Gradients on their way, the transforms of convolutions and a share for everybody else.
_SAFETY = 3


def pick_compute_spec(
    settings: Runtime, model: Callable[[], Classifier], known: Mapping[str, str] | None = None
) -> tuple[ComputeSpec, bool]:
    """What `auto` stands for, here and for this model, and whether it was measured now.

    `known` is the arithmetic an earlier measurement found; `model` is called only if there is something to measure.
    """
    choices = candidate_specs(settings)
    for choice in choices:
        if replace(choice, compiled=settings.compile).arithmetic == known:
            return replace(choice, compiled=settings.compile), False
    best, measured = choices[0], len(choices) > 1
    if measured:
        seconds = measure(choices, model())
        fastest = min(choices, key=lambda choice: seconds[choice])
        best = fastest if seconds[fastest] < _CLEARLY * seconds[best] else best
        rates = ", ".join(f"{one.name} {_BATCH / spent:.0f}" for one, spent in seconds.items())
        log(f"note: computing in {best.name}, measured as image-steps per second: {rates}")
    if settings.compile:
        best = with_compile(best, model())
    return best, measured


def with_compile(compute: ComputeSpec, model: Classifier) -> ComputeSpec:
    """With torch.compile, unless it fails here."""
    wanted = replace(compute, compiled=True)
    try:
        _step(
            folded_copy(model.to(compute.device), wanted),
            torch.rand((_BATCH, *model.image_shape), device=compute.device),
        )()
    except Exception as error:  # what a compiler may raise has no common ancestor
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log(f"note: going on without torch.compile, which fails here: {reason}")
        return compute
    return wanted


def candidate_specs(settings: Runtime) -> list[ComputeSpec]:
    """What the settings allow and the machine can do, the plainest first."""
    plain = ComputeSpec(resolve_device(settings.device))
    gpu = plain.device.type == "cuda"
    if settings.convolution == "winograd" and (gpu or settings.precision == "bf16"):
        raise UserError("runtime.convolution winograd is for fp32 on CPUs; use direct or auto.")
    if settings.convolution == "winograd" and not winograd.available():
        raise UserError("runtime.convolution winograd needs a C compiler with OpenMP; install gcc, or use direct.")
    found = []
    if settings.precision != "bf16":
        if settings.convolution != "winograd":
            found.append(plain)
        if settings.convolution == "winograd" or (settings.convolution == "auto" and not gpu and winograd.available()):
            found.append(replace(plain, convolution="winograd"))
    if settings.precision == "bf16" or (
        settings.precision == "auto" and settings.convolution != "winograd" and multiplies_bf16(plain.device)
    ):
        found.append(replace(plain, precision="bf16"))
    return found


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a bf16 product takes no longer than an fp32 one; emulated, it takes hundreds of times as long."""
    size = 4096 if device.type == "cuda" else 256
    spent = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        spent.append(min(seconds_for(partial(torch.mm, matrix, matrix), device) for _ in range(_ROUNDS)))
    return spent[1] < spent[0]


def measure(choices: list[ComputeSpec], model: Classifier) -> dict[ComputeSpec, float]:
    """Seconds for one step on a batch: forward, and the gradient of the pixels."""
    device = choices[0].device
    x = torch.rand((_BATCH, *model.image_shape), generator=torch.Generator().manual_seed(0)).to(device)
    steps = {choice: _step(folded_copy(model.to(device), choice), x) for choice in choices}
    for step in steps.values():
        step()
    spent: dict[ComputeSpec, list[float]] = {choice: [] for choice in choices}
    for _ in range(_ROUNDS):
        for choice, step in steps.items():
            spent[choice].append(seconds_for(step, device))
    return {choice: min(times) for choice, times in spent.items()}


def fitting_batch(net: Classifier, wanted: int, sharing: int = 1) -> int:
    """The wanted batch, halved until what the gradients of `sharing` such batches need is sure to fit."""
    free = free_memory(net.mean.device) // sharing
    need = bytes_per_image(net)
    batch = wanted
    while batch > 1 and _SAFETY * need * batch > free:
        batch = -(-batch // 2)
    if batch < wanted:
        log(f"note: {batch} images at once instead of {wanted}: {need / 1e6:.0f} MB each, {free / 1e9:.1f} GB are free")
    return batch


def bytes_per_image(net: Classifier) -> int:
    """What the forward pass of one image more keeps for the gradient."""
    # Two and three, since batch norm that still learns refuses a single number per channel.
    return max(1, _kept_bytes(net, 3) - _kept_bytes(net, 2))


def _kept_bytes(net: Classifier, images: int) -> int:
    """What the forward pass of so many images keeps for the gradient."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.zeros((images, *net.image_shape), device=net.mean.device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = net.features(x)
    del features
    return sum(kept.values())


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
