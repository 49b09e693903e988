"""Rows that are fetched when they are asked for, in any order and as often as wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A span read as a whole costs less than so many single rows.
_SPARSE = 4


class ImageSource(Protocol):
    """Images on a device, float32 (N, C, H, W) in [0, 1]: a tensor, or what fetches the rows it is asked for."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


class LazyImages:
    """Pictures of which no more is in memory than the rows last asked for."""

    def __init__(
        self, fetch: Callable[[NDArray[np.int64]], Tensor], shape: tuple[int, ...], device: torch.device
    ) -> None:
        self._fetch, self.shape, self.device = fetch, torch.Size(shape), device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        if isinstance(rows, slice):
            return self._fetch(np.arange(*rows.indices(len(self)))).to(self.device)
        chosen = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return self._fetch(chosen.cpu().numpy()).to(self.device)


def h5_take(array: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Of an h5py data set, which by itself takes increasing rows without repetition."""
    if not len(rows):
        return np.asarray(array[:0])
    wanted, places = np.unique(rows, return_inverse=True)
    low, high = int(wanted[0]), int(wanted[-1]) + 1
    if high - low <= _SPARSE * len(wanted):
        return np.asarray(np.asarray(array[low:high])[wanted - low][places])
    return np.asarray(np.asarray(array[wanted])[places])
