"""One HTML page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from featuregen.errors import UserError, printable
from featuregen.report.results import headline
from featuregen.report.tables import (
    KIND_NAMES,
    NORMS,
    PAPER_GROUP,
    PAPER_NOTE,
    Cell,
    Column,
    Results,
    accuracy_columns,
    describe_seeds,
    describe_test_images,
    duration,
    grouped,
    number,
    paper_columns,
    percent,
    titles_of,
    training_columns,
)
from featuregen.runtime.atomic import atomic_write

# A line break, and a space at which no line may break.
_SPACES = "\n\xa0"
Picture = tuple[str, str, str | Path]
# Columns, and the title of every row.
Table = tuple[list[Column], list[str]]


def write_report(results: Results, pictures: Iterable[Picture], path: str | Path) -> Path:
    """Tables, pictures of (title, caption, PNG file) and the record of an experiment, in one file."""
    name, base = results["config"]["name"], results["base"]["name"]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_without_control_characters,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=f"featuregen report: {name if base in name else f'{name} on {base}'}",
        # No line ends inside a number with its spread and sign.
        lead=" ".join(headline(results)).replace(" ± ", "\xa0±\xa0").replace(" %", "\xa0%"),
        accuracies=_accuracies(results),
        several_seeds=any(len(model["runs"]) > 1 for model in results["models"]),
        seeds=describe_seeds(results["models"]),
        tested=describe_test_images(results),
        pictures=[(heading, caption, _base64(file)) for heading, caption, file in pictures],
        datasets=_datasets(results["datasets"]),
        audits={KIND_NAMES.get(kind, kind): _audit(rows) for kind, rows in results["honesty"].items() if rows},
        config=yaml.safe_dump(results["config"], sort_keys=False, allow_unicode=True),
        timings=_timings(results["timings"]),
        software=results["software"],
        base=results["base"],
        grouped=grouped,
        PAPER_GROUP=PAPER_GROUP,
        PAPER_NOTE=PAPER_NOTE,
    )
    atomic_write(path, page)
    return Path(path)


def _without_control_characters(value: object) -> object:
    """Values of the template, some of which are names from files; lines of settings stay lines."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(char if char in _SPACES else printable(char) for char in value)


def _accuracies(results: Results) -> Table:
    models = results["models"]
    measured = (
        Column(column.group.replace("eps", "ε"), column.name, column.cells) for column in accuracy_columns(models)
    )
    columns = [*measured, *training_columns(models), *paper_columns(models)]
    return columns, titles_of(models)


def _datasets(datasets: Sequence[Results]) -> Table:
    cells: dict[str, list[Cell]] = {}
    for made in datasets:
        ball = f"{NORMS[made['norm_name']]} ball, ε = {made['eps']:g}" if made["norm_name"] != "none" else ""
        digest = str(made["content_sha256"])
        row = {
            "rows": Cell(f"{made['rows']:,}"),
            "success, %": Cell(percent(made["success_rate"])),
            "distance": Cell(number(made["norm"], ".3f")),
            "objective": Cell(number(made["objective"], ".4f")),
            "constraint": Cell(ball or "pixels in [0, 1]"),
            "steps": Cell(f"{made['steps']:,}"),
            "file": Cell(str(made["file"])),
            "content sha256": Cell(f"{digest[:12]}…", full=digest),
        }
        for name, cell in row.items():
            cells.setdefault(name, []).append(cell)
    columns = [Column("", name, tuple(column)) for name, column in cells.items()]
    return columns, [KIND_NAMES.get(kind, kind) for kind in (made["kind"] for made in datasets)]


def _audit(rows: Sequence[Results]) -> Table:
    """For each eps the images, then for each judge the shares of true class, stored label and any other class."""
    columns = [Column.of("", "images", (f"{row['rows']:,}" for row in rows))]
    for judge in dict.fromkeys(judge for row in rows for judge in row["judges"]):
        for part in ("true", "stored", "neither"):
            shares = [row["judges"].get(judge, {}).get(part) for row in rows]
            columns.append(Column.of(judge, part, map(percent, shares)))
    return columns, [f"{row['eps']:g}" for row in rows]


def _timings(stages: Sequence[Results]) -> Table:
    seconds = [stage["seconds"] for stage in stages]
    titles = [*(stage["stage"] for stage in stages), "sum over stages, several of which run at once"]
    return [Column.of("", "time", map(duration, [*seconds, math.fsum(seconds)]))], titles


def _base64(picture: str | Path) -> str:
    try:
        return base64.b64encode(Path(picture).read_bytes()).decode("ascii")
    except OSError as error:
        raise UserError(f"Cannot read picture {picture} for the report: {error.strerror}.") from None
