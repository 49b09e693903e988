"""Rows of words under each other, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells under those of the others."""
    spans = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(span) for cell, span in zip(row, spans, strict=True)).rstrip() for row in rows]
