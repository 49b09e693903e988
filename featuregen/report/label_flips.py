"""Label flips: a table that compares them with chance, and a heat map for each attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featuregen.errors import join_lines, printable
from featuregen.report import canvas
from featuregen.report.tables import NAME, NORMS, UNKNOWN, Column, Results, number, percent, terminal_table
from featuregen.runtime.safe_matplotlib import Axes, AxesImage, LinearSegmentedColormap

Run = Mapping[str, Any]
Pair = Mapping[str, Any]

_NOTES = (
    "asymmetry: 0 if the share of A that flips to B equals that of B to A, 1 if none flips back; beside it the value",
    "expected by chance and its p. attracts most: the class that most images flip to, as a multiple of an even share;",
    "p: how often any class attracts as many by chance. No p is corrected for multiple tests: 1 in 20 is below 0.05.",
)
_AGREEMENT_NOTES = (
    "of the images that both flip, in %: those with the same new class, and those expected if images of one true class",
    "were paired at random, to which p refers; kappa: 0 if as many agree as expected by chance, 1 if all agree",
)
_ACROSS = 3
# Classes up to which every cell has its number and every row its name.
_NUMBERED, _NAMED = 12, 24
# Characters of a class's name beside a panel.
_TICK = 24
_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", canvas.SKY, canvas.BLUE, "#002a45"]).with_extremes(
    bad="#ececec"
)


# Tables --------------------------------------------------------------------------------------------


def flips_table(results: Results) -> str:
    """For a terminal: success, asymmetry, the class that attracts most, and how far attacks and models agree."""
    names, between = results["base"]["classes"], results["agreement"]
    images = f"{results['images']} test images of {printable(results['base']['name'], NAME)}"
    lines = [f"{images}; attacked are those that the model classifies correctly"]
    for model in results["models"]:
        runs = [run for run in results["runs"] if run["model"] == model["title"]]
        lines += ["", printable(model["title"], NAME), *_runs(runs, names)]
    lines += ["", *_NOTES]
    for title, pairs in _by("model", between["attacks"]):
        titles = [_describe_attacks(pair) for pair in pairs]
        lines += ["", f"{printable(title, NAME)}: do its attacks agree?", *_agreements(titles, pairs)]
    for first, firsts in _by("first", between["models"]):
        for second, pairs in _by("second", firsts):
            head = f"{printable(first, NAME)} and {printable(second, NAME)}: do they agree under the same attack?"
            lines += ["", head, *_agreements([describe_run(pair) for pair in pairs], pairs)]
    return join_lines([*lines, "", *_AGREEMENT_NOTES] if any(between.values()) else lines)


def _by(key: str, pairs: Sequence[Pair]) -> list[tuple[str, list[Pair]]]:
    titles = dict.fromkeys(pair[key] for pair in pairs)
    return [(title, [pair for pair in pairs if pair[key] == title]) for title in titles]


def describe_run(run: Run) -> str:
    """Such as `pgd, Linf eps 0.1`."""
    ball = [NORMS[run["norm"]]] if run["norm"] else []
    ball += [f"eps {run['eps']:.4g}"] if run["eps"] is not None else []
    return ", ".join([run["attack"], *([" ".join(ball)] if ball else [])])


def _runs(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    columns = [
        Column.of("flipped", "images", (f"{run['flipped']}/{run['attacked']}" for run in runs)),
        Column.of("flipped", "%", (percent(run["success"]) for run in runs)),
        Column.of("asymmetry", "index", (number(run["asymmetry"]["index"], ".2f") for run in runs)),
        Column.of("asymmetry", "by chance", (number(run["asymmetry"]["chance"], ".2f") for run in runs)),
        Column.of("asymmetry", "p", (_p(run["asymmetry"]["p"]) for run in runs)),
        Column.of("attracts most", "class", (_strongest(run["attraction"], names) for run in runs)),
        Column.of("attracts most", "p", (_p(run["attraction"]["p"]) for run in runs)),
    ]
    return terminal_table(map(describe_run, runs), columns, "attack")


def _agreements(titles: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    columns = [
        Column.of("flipped by both", "images", (str(pair["both"]) for pair in pairs)),
        Column.of("flipped by both", "same class", (percent(pair["share"]) for pair in pairs)),
        Column.of("flipped by both", "by chance", (percent(pair["chance"]) for pair in pairs)),
        Column.of("flipped by both", "kappa", (number(pair["kappa"], ".2f") for pair in pairs)),
        Column.of("flipped by both", "p", (_p(pair["p"]) for pair in pairs)),
    ]
    return terminal_table(titles, columns, "attack")


def _describe_attacks(pair: Pair) -> str:
    first, second = pair["first"], pair["second"]
    eps = next((run["eps"] for run in (first, second) if run["eps"] is not None), None)
    return f"{first['attack']}, {second['attack']}" + ("" if eps is None else f", eps {eps:.4g}")


def _strongest(attraction: Mapping[str, Any], names: Sequence[str]) -> str:
    if attraction["strongest"] is None:
        return UNKNOWN
    return f"{printable(names[attraction['strongest']], NAME)} ×{attraction['ratios'][attraction['strongest']]:.1f}"


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value, ".3f")


# Pictures ------------------------------------------------------------------------------------------


def flip_maps(path: str | Path, title: str, runs: Sequence[Run], names: Sequence[str]) -> Path:
    """A panel per run: of the flips of each true class (row), the share that becomes each other class."""
    names = [printable(name, _TICK) for name in names]
    across, side = min(_ACROSS, len(runs)), 300 if len(names) <= _NUMBERED else 380
    down = -(-len(runs) // across)
    words = max((len(name) for name in names), default=1)
    width, height = side + 6 * words, side + 40 + 5 * words
    with canvas.drawing(path, across * width + 110, down * height + 40) as figure:
        panels = figure.subplots(down, across, squeeze=False).flatten()
        for axes, run in zip(panels, runs, strict=False):
            image = _panel(axes, run, names)
        for axes in panels[len(runs) :]:
            axes.set_axis_off()
        bar = figure.colorbar(image, ax=panels.tolist(), shrink=0.6, aspect=30, pad=0.02)
        bar.set_label("share of the flips of this true class, %")
        bar.outline.set_visible(False)
        figure.suptitle(f"Label flips: {printable(title, NAME)}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return Path(path)


def _panel(axes: Axes, run: Run, names: Sequence[str]) -> AxesImage:
    counts = np.array(run["matrix"], dtype=np.float64)
    leaving = counts.sum(1)
    shares = _shares(counts)
    axes.grid(False)
    axes.tick_params(length=0, labelsize=7.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    image = axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=100)
    step = -(-len(names) // _NAMED)
    places = list(range(0, len(names), step))
    axes.set_xticks(places, [names[i] for i in places], rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(places, [f"{names[i]} ({leaving[i]:.0f})" for i in places])
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (flips)")
    success = "" if run["success"] is None else f" ({percent(run['success'], unit=' %')})"
    axes.set_title(f"{describe_run(run)}\n{run['flipped']} of {run['attacked']} flipped{success}", fontsize=8.5)
    if len(names) <= _NUMBERED:
        for (true, seen), share in np.ndenumerate(shares):
            # Below half a percent there is nothing to read, and nan is no number.
            if share >= 0.5:
                shade = "white" if share > 45 else canvas.INK
                axes.text(seen, true, f"{share:.0f}", ha="center", va="center", fontsize=6.5, color=shade)
    return image


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """In percent of each row; nan on the diagonal, and where no image of a class flips."""
    leaving = counts.sum(1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(100 * counts, leaving, out=np.full_like(counts, np.nan), where=leaving > 0)
    np.fill_diagonal(shares, np.nan)
    return shares
