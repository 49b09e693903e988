"""What an experiment will cost, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cost_table(plan: Mapping[str, Any]) -> str:
    """Every stage with its work and time, then memory and disk."""
    base, rates = plan["base"], plan["rates"]
    net = plan["model"]["architecture"] + (f" of width {plan['model']['width']}" if plan["model"]["width"] else "")
    rows = [(stage["stage"], _work(stage), duration(stage["seconds"])) for stage in plan["stages"]]
    spans = [max(len(row[column]) for row in rows) for column in range(3)]
    body = [f"{a.ljust(spans[0])}   {b.ljust(spans[1])}   {c.rjust(spans[2])}" for a, b, c in rows]
    return "\n".join([
        f"{plan['config']}: {net} on {plan['device']} ({', '.join(plan['arithmetic'].values())}), "
        f"{base['name']} with {base['train_rows']:,} training and {base['test_rows']:,} test images",
        "",
        *body,
        "",
        f"together about {duration(plan['seconds'])}{_processes(plan)}; a stage already done is found and skipped",
        f"measured here, images per second: {rates['moved']:,.0f} gradient steps, {rates['learnt']:,.0f} learnt, "
        f"{rates['looked']:,.0f} looked at",
        plan_memory(plan),
    ])  # fmt: skip


def cost_sentence(plan: Mapping[str, Any]) -> str:
    """The same in one line."""
    return f"about {duration(plan['seconds'])} from nothing{_processes(plan)}; {plan_memory(plan)}"


def plan_memory(plan: Mapping[str, Any]) -> str:
    short = " - too little" if plan["memory"] > plan["memory_free"] else ""
    return (
        f"memory about {_gigabytes(plan['memory'])}, free {_gigabytes(plan['memory_free'])}{short}; "
        f"disk about {_gigabytes(plan['disk'])}"
    )


def duration(seconds: float) -> str:
    """Two figures that a person can plan with."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.0f} days"


def _work(stage: Mapping[str, Any]) -> str:
    words = {"moved": "steps", "learnt": "learnt"}
    return ", ".join(f"{stage[name]:,.0f} {word}" for name, word in words.items() if stage[name])


def _processes(plan: Mapping[str, Any]) -> str:
    count = plan["processes"]
    return f" in {count} processes" if count > 1 else ""


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
