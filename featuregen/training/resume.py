"""Resuming a training that was stopped: it ends at the weights it would have had without the stop."""

from __future__ import annotations

import io
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from featuregen.errors import UserError
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.console import log
from featuregen.runtime.torch_files import begins_as_torch_file, read_torch_file


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
        """Load the state, if there is a file."""
        if not self._path.exists():
            return
        try:
            if begins_as_torch_file(self._path):
                state = read_torch_file(self._path)
            else:
                state = _from_safetensors(self._path.read_bytes())
            training.load_state_dict(state)
        except Exception as error:  # what a damaged file makes torch raise has no common ancestor
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"Cannot resume from {self._path} ({reason}); delete it to train from the start.") from None
        log(f"{self._path} holds {len(state['epochs'][0])} epochs; resuming from there.")


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _from_safetensors(content: bytes) -> dict[str, Any]:
    """A state file of an early 0.1.0: tensors are named "part name", and the metadata holds the rest as JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
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
