"""Numbers as every report prints them: means and spreads, shares in percent, durations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

UNKNOWN = "–"


def number(value: float | None, spec: str) -> str:
    """A number in a format such as `.2f`; a dash where it is unknown."""
    return UNKNOWN if value is None or math.isnan(value) else format(value, spec)


def percent(share: float | None, digits: int = 1, unit: str = "") -> str:
    """A share in percent, such as `46.1`; `unit` follows it unless it is unknown."""
    text = number(None if share is None else 100 * share, f".{digits}f")
    return text if text == UNKNOWN else text + unit


def summary(values: Iterable[float]) -> tuple[float, float | None, float, float]:
    """Mean, sample standard deviation (None for a single value), smallest and largest."""
    numbers = [float(value) for value in values]
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return statistics.fmean(numbers), sd, min(numbers), max(numbers)


def mean_sd(shares: Sequence[float]) -> str:
    """`46.1 ± 2.0`, in percent; a single value stands alone."""
    if not shares:
        return UNKNOWN
    mean, sd, _, _ = summary(shares)
    return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"


def duration(seconds: float) -> str:
    """The two largest units: `2.1 s`, `1 min 3 s`, `3 h 20 min`, `4 days 15 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if days > 1 else f"{24 * days + hours} h {minutes} min"
