"""Class-balanced samples of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featuregen.errors import UserError
from featuregen.runtime import RowRandom


def balanced_rows(labels: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.int64]:
    """A class-balanced sample of row numbers, in order; 0 means all. A larger sample contains every smaller one."""
    if not 0 <= rows <= len(labels):
        raise UserError(f"{rows} rows were asked for; give a number up to {len(labels)}, or 0 for all of them.")
    if rows == 0:
        return np.arange(len(labels), dtype=np.int64)
    class_order = RowRandom(seed, "balanced classes").permutation(0, int(labels.max()) + 1)
    order = np.lexsort((class_order[labels], class_ranks(labels, seed, "balanced rows")))
    return np.sort(order[:rows]).astype(np.int64)


def class_ranks(labels: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.int64]:
    """The position of each row in a random order of the rows of its class."""
    random = RowRandom(seed, purpose)
    ranks = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = random.permutation(int(label), len(members))
    return ranks
