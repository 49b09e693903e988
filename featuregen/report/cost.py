"""What an experiment will cost, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featuregen.errors import join_lines
from featuregen.report.tables import duration
from featuregen.runtime.console import format_columns


def cost_table(cost: Mapping[str, Any]) -> str:
    """Every stage with its work and time, then memory and disk."""
    base, model, rates = cost["base"], cost["model"], cost["rates"]
    net = model["architecture"] + (f" of width {model['width']}" if model["width"] else "")
    rows = []
    for stage in cost["stages"]:
        work = {"gradient steps": stage["moved"], "trained": stage["learnt"]}
        described = ", ".join(f"{count:,.0f} {unit}" for unit, count in work.items() if count)
        rows.append((stage["stage"], described, duration(stage["seconds"])))
    return join_lines([
        f"{cost['config']}: {net} on {cost['device']} ({', '.join(cost['arithmetic'].values())}), "
        f"{base['name']} with {base['train_rows']:,} training and {base['test_rows']:,} test images",
        "",
        *format_columns(rows),
        "",
        f"together {_time(cost)}; finished stages are skipped",
        f"measured here, images per second: {rates['moved']:,.0f} gradient steps, {rates['learnt']:,.0f} trained, "
        f"{rates['looked']:,.0f} evaluated",
        _space(cost),
    ])  # fmt: skip


def cost_sentence(cost: Mapping[str, Any]) -> str:
    """The same in one line."""
    return f"{_time(cost)} from scratch; {_space(cost)}"


def _time(cost: Mapping[str, Any]) -> str:
    processes = f" in {cost['processes']} processes" if cost["processes"] > 1 else ""
    return f"about {duration(cost['seconds'])}{processes}"


def _space(cost: Mapping[str, Any]) -> str:
    memory, free, disk = (f"{cost[name] / 2**30:.1f} GiB" for name in ("memory", "memory_free", "disk"))
    short = " - too little" if cost["memory"] > cost["memory_free"] else ""
    return f"memory about {memory}, free {free}{short}; disk about {disk}"
