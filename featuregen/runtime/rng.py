"""Random numbers keyed by seed, purpose and row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The constants of SplitMix64, as the signed integers of torch.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and this device, and restore them afterwards."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        # torch.manual_seed would also seed the generators of other devices, which are not restored.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class RowRandom:
    """Random numbers keyed by (seed, purpose, row), so that batch size, shards and resuming never change them.

    They are computed from the raw 64-bit output of Philox: numpy guarantees that stream, but not its distributions.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        digest = hashlib.sha256(purpose.encode()).digest()
        self._key = np.array([seed, int.from_bytes(digest[:8], "little")], dtype=np.uint64)

    def _raw(self, row: int, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        counter = np.array([0, 0, row, 0], dtype=np.uint64)
        return np.asarray(np.random.Philox(key=self._key, counter=counter).random_raw(count))

    def integers(self, rows: Iterable[int], high: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """One integer in [0, high) per row."""
        return np.array([int(self._raw(int(row), 1)[0] % np.uint64(high)) for row in rows], dtype=np.int64)

    def uniform(self, row: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """`count` numbers in [0, 1) for one row."""
        return (self._raw(row, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, row: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """`count` standard normal numbers for one row (Box-Muller)."""
        half = (count + 1) // 2
        radius = np.sqrt(-2 * np.log(1 - self.uniform(row, 2 * half)[:half]))
        angle = 2 * np.pi * self.uniform(row, 2 * half)[half:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def permutation(self, row: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """A shuffle of range(count) for one row."""
        return np.argsort(self._raw(row, count), kind="stable").astype(np.int64)

    def torch_generator(self, row: int, device: torch.device) -> torch.Generator:
        """A torch generator, for numbers that depend on the device anyway (augmentation, random starts)."""
        return torch.Generator(device).manual_seed(int(self._raw(row, 1)[0] >> np.uint64(1)))

    def draws(self, rows: Iterable[int], device: torch.device) -> RowDraws:
        """Random tensors for many rows at once."""
        keys = np.array([self._raw(int(row), 1)[0] for row in rows], dtype=np.uint64)
        return RowDraws(torch.from_numpy(keys.view(np.int64)).to(device))


class RowDraws:
    """Random tensors for many rows at once, on their device; the numbers of a row do not depend on the other rows.

    Each row runs SplitMix64 (Steele, Lea and Flood 2014) from its key. A subset, `draws[rows]`, shares the counter of
    the whole: rows that will be drawn for again must all be in every draw.
    """

    def __init__(self, keys: Tensor, counter: list[int] | None = None) -> None:
        self._keys = keys
        self._counter = [0] if counter is None else counter

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: Tensor) -> RowDraws:
        return RowDraws(self._keys[rows], self._counter)

    def fork(self, rows: Tensor) -> RowDraws:
        """A subset with a counter of its own, whose draws change nothing for the others."""
        return RowDraws(self._keys[rows], list(self._counter))

    def _raw(self, shape: Sequence[int]) -> Tensor:
        """(rows, *shape) of 64 random bits, as int64."""
        count, first = math.prod(shape), self._counter[0] + 1
        self._counter[0] += count
        positions = torch.arange(first, first + count, device=self._keys.device)
        bits = self._keys.view(-1, 1) + positions * _GOLDEN
        for shift, factor in ((30, _MIX[0]), (27, _MIX[1]), (31, 1)):
            bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
        return bits.view(len(self._keys), *shape)

    def uniform(self, *shape: int) -> Tensor:
        """(rows, *shape) of numbers in [0, 1)."""
        return (self._raw(shape) >> 40).bitwise_and_(2**24 - 1).float().mul_(2.0**-24)

    def normal(self, *shape: int) -> Tensor:
        """(rows, *shape) of standard normal numbers (Box-Muller)."""
        # Pairs adjoin, so that two numbers drawn at once equal two drawn in sequence.
        radius, angle = self.uniform(*shape, 2).unbind(-1)
        return (-2 * torch.log1p(-radius)).sqrt_().mul_(torch.cos(angle.mul_(2 * math.pi)))

    def integers(self, high: int, *shape: int) -> Tensor:
        """(rows, *shape) of integers in [0, high)."""
        return self._raw(shape).bitwise_and_(2**63 - 1).remainder_(high)

    def signs(self, *shape: int) -> Tensor:
        """(rows, *shape) of -1 or 1."""
        return torch.where(self._raw(shape) < 0, -1.0, 1.0)

    def seed(self) -> int:
        """A seed for generators without rows, from the key of the first row."""
        return int(self._keys[0]) & (2**32 - 1)
