"""Numbers in reports: one way to print each."""

from __future__ import annotations

import math

import pytest

from featuregen.report.tables import duration, mean_sd, number, percent, summary


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5], (0.5, None, 0.5, 0.5)), ([0.1, 0.3], (0.2, 0.1414214, 0.1, 0.3)), ([0, 0, 3], (1, 1.7320508, 0, 3))],
)
def test_summary(values: list[float], expected: tuple[float, float | None, float, float]) -> None:
    assert summary(values) == pytest.approx(expected)


def test_unknown_numbers_are_dashes_without_a_unit() -> None:
    assert {number(value, ".2f") for value in (None, math.nan)} == {"–"}
    assert {percent(value, unit=" %") for value in (None, math.nan)} == {mean_sd([])} == {"–"}


def test_shares_are_percent() -> None:
    assert (percent(0.461), percent(0.55, 0, " %"), percent(1)) == ("46.1", "55 %", "100.0")
    assert (mean_sd([0.46]), mean_sd([0.44, 0.48])) == ("46.0", "46.0 ± 2.8")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (2.14, "2.1 s"),
        (63.14, "1 min 3 s"),
        (3599.7, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (100_000, "27 h 46 min"),
        (400_000, "4 days 15 h"),
    ],
)
def test_durations_have_the_two_largest_units(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
