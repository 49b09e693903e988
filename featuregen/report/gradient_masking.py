"""Gradient masking: a table of every check, and a bar for each share that was measured."""

from __future__ import annotations

from pathlib import Path

from featuregen.errors import join_lines, printable
from featuregen.report import canvas
from featuregen.report.tables import NAME, NORMS, Results, percent
from featuregen.runtime.console import format_columns
from featuregen.runtime.safe_matplotlib import Patch

_THREAT_MODELS = {"white-box": "white box", "query": "black box (queries)", "transfer": "black box (transfer)"}
_COLOURS = {"white-box": canvas.BLUE, "query": canvas.ORANGE, "transfer": canvas.PURPLE}
_ROW = 20


def masking_text(results: Results) -> str:
    """What was checked, one line for each attack, and the conclusion."""
    images = results["images"]
    lines = [
        f"model   {printable(results['model']['file'], NAME)}",
        f"ball    {_ball(results)}",
        f"images  {images['count']} of {printable(images['name'], NAME)}, {printable(images['split'], NAME)}; "
        f"attacked are the {results['tried']} that the model classifies correctly",
    ]
    if "origin" in results:
        origin = printable(results["origin"]["file"], NAME)
        lines.append(f"from    {origin}, on which the transferred examples are found")
    rows = [("check", "outcome", "test", "threat model", "images %", "interpretation")]
    for check in results["checks"]:
        head = (check["name"], "passed" if check["ok"] else "FLAGGED", check["meaning"])
        for rate in check["rates"]:
            name, outcome, meaning = head
            share = percent(rate["lost"]).rjust(8)
            rows.append((name, outcome, rate["name"], _THREAT_MODELS[rate["threat"]], share, meaning))
            head = ("", "", "")
    table = format_columns(rows)
    flagged = [check["name"] for check in results["checks"] if not check["ok"]]
    conclusion = (
        f"flagged by {', '.join(flagged)}: accuracies under gradient attacks say little about this model"
        if flagged
        else "no sign of masked gradients; that alone does not make a model robust"
    )
    return join_lines([*lines, "", table[0], "─" * max(map(len, table)), *table[1:], "", conclusion])


def _ball(results: Results) -> str:
    return f"{NORMS[results['settings']['norm']]} eps {results['settings']['eps']:.4g}"


def masking_bars(path: str | Path, results: Results) -> Path:
    """A bar for every attack, coloured by its threat model; checks that flag are named in red."""
    checks = results["checks"]
    count = sum(len(check["rates"]) for check in checks)
    with canvas.drawing(path, 760, _ROW * (count + len(checks)) + 110) as figure:
        axes = figure.add_subplot()
        axes.grid(False)
        axes.grid(True, axis="x")
        ticks: list[tuple[int, str]] = []
        place = 0
        for check in checks:
            outcome, colour = ("passed", canvas.INK) if check["ok"] else ("FLAGGED", canvas.VERMILLION)
            axes.text(0, place, f"{check['name']}: {outcome}", color=colour, va="center", fontweight="bold", fontsize=8)
            for rate in check["rates"]:
                place += 1
                axes.barh(place, 100 * rate["lost"], color=_COLOURS[rate["threat"]], height=0.7)
                axes.text(100 * rate["lost"] + 0.8, place, percent(rate["lost"]), va="center", fontsize=7.5)
                ticks.append((place, rate["name"]))
            place += 1
        axes.set_yticks([where for where, _ in ticks], [name for _, name in ticks])
        axes.tick_params(length=0)
        axes.set_ylim(place, -1)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel(f"of {results['tried']} images, % ({_ball(results)})")
        handles = [Patch(color=_COLOURS[threat], label=name) for threat, name in _THREAT_MODELS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        title = f"Gradient masking: {printable(results['model']['file'], NAME)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return Path(path)
