"""Resuming a training that was stopped: it ends at the weights it would have had without the stop."""

from __future__ import annotations

import copy
import io
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from featuregen.errors import UserError, one_line
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.console import log
from featuregen.runtime.kept_files import is_kept, set_aside
from featuregen.runtime.torch_files import begins_as_torch_file, read_torch_file

# A state at the start has the network alone; later ones have at most two numbers of the optimizer and one of early
# stopping for each weight, and some bytes of everything else.
_LARGER, _SLACK = 4, 1 << 26


FiniteNumber = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]


class Stateful(Protocol):
    """Anything that `TrainingState` can save; named as in torch.distributed.checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


class TrainingState:
    """The file that a training resumes from, written at most once in `seconds`.

    The path must be one that only a training with the same settings finds.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._saved = time.monotonic()

    def save(self, training: Stateful) -> None:
        """Write the state, unless the last time was too recent."""
        if time.monotonic() - self._saved < self._seconds:
            return
        content = io.BytesIO()
        torch.save(training.state_dict(), content)
        atomic_write(self._path, content.getvalue())
        self._saved = time.monotonic()

    def load(self, training: Stateful) -> None:
        """Load the state, if there is a file; a damaged one is set aside, and the training is as it was."""
        if not is_kept(self._path):
            return
        before = copy.deepcopy(training.state_dict())
        try:
            state = _read(self._path, limit=_LARGER * _bytes_of(before) + _SLACK)
            training.load_state_dict(state)
        except Exception as error:  # what a damaged file makes torch raise has no common ancestor
            training.load_state_dict(before)
            set_aside(self._path, error, f"{self._path} cannot be resumed from ({one_line(error)})")
            return
        log(f"{self._path} holds {len(state['epochs'][0])} epochs; resuming from there.")


def _read(path: Path, limit: int) -> dict[str, Any]:
    if path.is_dir():
        raise UserError("it is a folder")
    if path.stat().st_size > limit:
        raise UserError(f"it has more than {limit >> 20} MiB")
    state = read_torch_file(path) if begins_as_torch_file(path) else _from_safetensors(path.read_bytes())
    if not isinstance(state, dict):
        raise UserError("it is no state of a training")
    return state


def _bytes_of(tree: Any) -> int:
    if isinstance(tree, Tensor):
        return tree.nbytes
    return sum(_bytes_of(value) for value in tree.values()) if isinstance(tree, dict) else 0


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def check_fits(state: Mapping[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Refuse, of a state that can be read, what torch would not find wrong before the next step, or never.

    An optimizer that has not made a step yet has no state.
    """
    check_tensors(state["network"], network.state_dict())
    if optimizer:
        _check_optimizer_state(state["optimizer"], optimizer)


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights of another network, and weights that are not finite, from which no training goes on."""
    if found.keys() != expected.keys():
        raise ValueError("it is the state of another network")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has another shape or is not finite")


def _check_optimizer_state(state: Mapping[int, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer) -> None:
    """Refuse the state of another optimizer, or of one of another network."""
    (group,) = optimizer.param_groups
    names = ("step", "exp_avg", "exp_avg_sq") if isinstance(optimizer, torch.optim.AdamW) else ("momentum_buffer",)
    for number, parameter in enumerate(group["params"]):
        expected = {name: torch.Size() if name == "step" else parameter.shape for name in names}
        # Without momentum, there is no state.
        if group.get("momentum") == 0:
            expected = {}
        if {name: tensor.shape for name, tensor in state.get(number, {}).items() if tensor is not None} != expected:
            raise ValueError(f"it is the state of another optimizer, in parameter {number}")


def _from_safetensors(content: bytes) -> dict[str, Any]:
    """A state file of an early 0.1.0: tensors are named "part name", and the metadata holds the rest as JSON."""
    # As text: from bytes, Python would guess the encoding.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")].decode())
    record = json.loads(header["__metadata__"]["featuregen-halfway"])
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    optimizer: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in safetensors.torch.load(content).items():
        part, _, name = key.partition(" ")
        # Fused optimizers need state in the memory format of the parameters, which the file does not keep.
        parts[part][name] = tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
    for key, tensor in parts["optimizer"].items():
        number, _, name = key.partition(" ")
        optimizer[int(number)][name] = tensor
    return {
        **{name: record[name] for name in ("epochs", "seconds")},
        **{name: parts[name] for name in ("network", "random")},
        "optimizer": optimizer,
        "early_stopping": record["choice"] and {**record["choice"], "weights": parts["others"]},
    }
