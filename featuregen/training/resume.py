"""Training that was stopped goes on from its last saved epoch, to the same weights as if nothing had been."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from featuregen.errors import UserError
from featuregen.runtime import atomic_write, log

_MAGIC = "featuregen-halfway"


class TrainingState:
    """The state of one training in a file, at most once in so many seconds: weights, optimizer, random numbers.

    Whoever trains says under which name its file lies: only a training of the same settings may find it.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._saved = time.monotonic()

    def resume(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What `save` was given besides, once network, optimizer and generators are as they were then."""
        if not self._path.exists():
            return None
        with self.understood():
            content = self._path.read_bytes()
            tensors, told = load(content), _told(content)
            network.load_state_dict(_part(tensors, "network"))
            _fill(optimizer, _part(tensors, "optimizer"))
            _set_random(_part(tensors, "random"), device)
            log(f"{self._path} holds {len(told['epochs'][0])} epochs: going on from there.")
        return told, _part(tensors, "others")

    @contextmanager
    def understood(self) -> Iterator[None]:
        """What cannot be made sense of in it, in a sentence."""
        try:
            yield
        except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self._path} cannot be gone on from ({reason}); delete it, and training starts again."
            ) from None

    def save(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        told: Mapping[str, Any],
        others: Mapping[str, Tensor],
    ) -> None:
        """Nothing, unless it is time again."""
        if time.monotonic() - self._saved < self._seconds:
            return
        parts = {"network": network.state_dict(), "optimizer": _states(optimizer), "random": _random(device)}
        tensors = {
            f"{part} {name}": tensor.detach().cpu().contiguous()
            for part, named in {**parts, "others": others}.items()
            for name, tensor in named.items()
        }
        atomic_write(self._path, save(tensors, metadata={_MAGIC: json.dumps(told)}))
        self._saved = time.monotonic()


def _told(content: bytes) -> dict[str, Any]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    told: dict[str, Any] = json.loads(header["__metadata__"][_MAGIC])
    return told


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part} "): tensor for name, tensor in tensors.items() if name.startswith(f"{part} ")}


def _states(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What it remembers of every parameter: tensors alone, as SGD's and Adam's are."""
    state = optimizer.state_dict()["state"]
    return {f"{number} {name}": tensor for number, own in state.items() for name, tensor in own.items()}


def _fill(optimizer: torch.optim.Optimizer, states: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept: dict[int, dict[str, Tensor]] = {}
    for key, tensor in states.items():
        number, _, name = key.partition(" ")
        like = parameters[int(number)]
        # Laid out as the parameter is, which fused optimizers go through in the order of memory.
        own = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.shape == like.shape else tensor
        kept.setdefault(int(number), {})[name] = own
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})


def _random(device: torch.device) -> dict[str, Tensor]:
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
