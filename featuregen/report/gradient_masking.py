"""Whether gradients are masked: a table of every check, and bars of what each attack loses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.patches import Patch

from featuregen.report import canvas
from featuregen.report.tables import NORMS, Results, percent, single_cell_text
from featuregen.runtime import format_columns

_KNOWS = {"white-box": "its gradients", "query": "its answers", "transfer": "another model"}
_COLOURS = {"white-box": canvas.BLUE, "query": canvas.ORANGE, "transfer": canvas.PURPLE}
_ROW = 20


def masking_text(results: Results) -> str:
    """What was checked, one line for each attack, and what it comes to."""
    images = results["images"]
    lines = [
        f"model   {single_cell_text(results['model']['file'])}",
        f"ball    {_ball(results)}",
        f"images  {images['count']} of {single_cell_text(images['name'])}, {single_cell_text(images['split'])}; "
        f"{results['tried']} that the model gets right are attacked",
    ]
    if "origin" in results:
        lines.append(f"from    {single_cell_text(results['origin']['file'])}, where what is transferred is found")
    return "\n".join([*lines, "", *_table(results["checks"]), "", _sum(results)])


def _ball(results: Results) -> str:
    return f"{NORMS[results['settings']['norm']]} eps {results['settings']['eps']:.4g}"


def _table(checks: Sequence[Results]) -> list[str]:
    rows = [("check", "outcome", "tried", "knows", "images %", "which says")]
    for check in checks:
        heads = [(check["name"], "passed" if check["ok"] else "FLAGGED", check["meaning"])]
        heads += [("", "", "")] * (len(check["rates"]) - 1)
        for (name, outcome, meaning), rate in zip(heads, check["rates"], strict=True):
            lost = percent(rate["lost"]).rjust(8)
            rows.append((name, outcome, rate["name"], _KNOWS[rate["threat"]], lost, meaning))
    lines = format_columns(rows)
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]


def _sum(results: Results) -> str:
    flagged = [check["name"] for check in results["checks"] if not check["ok"]]
    if flagged:
        return f"flagged by {', '.join(flagged)}: accuracies under gradient attacks say little about this model"
    return "no sign of masked gradients; that alone does not make a model robust"


def masking_bars(path: str | Path, results: Results) -> Path:
    """A bar for every attack, coloured by what it knows; checks that flag are named in red."""
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
        handles = [Patch(color=_COLOURS[threat], label=f"knows {words}") for threat, words in _KNOWS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        title = f"Are gradients masked? {single_cell_text(results['model']['file'])}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return Path(path)
