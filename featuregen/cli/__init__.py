"""The commands: parse, call, print. Nothing heavy is imported before a command runs, so that help is instant."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import typer

from featuregen.cli.attacking import attack, attacks
from featuregen.cli.comparing import transfer
from featuregen.cli.errors import OneLineErrors, install_signal_handlers, run_with_exit_code, with_exit_code
from featuregen.cli.exchange import export_file, import_released, share
from featuregen.cli.flipping import flips
from featuregen.cli.making import make_dataset, make_robust_dataset, reproduce
from featuregen.cli.merging import merge
from featuregen.cli.reading import evaluate, info, models, preview, verify
from featuregen.cli.repeating import diff, remake
from featuregen.cli.training import train

app = typer.Typer(
    name="featuregen",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Make, share and check robust and non-robust image datasets (Ilyas et al. 2019).

Start here:

    featuregen reproduce

    featuregen make-robust-dataset

    featuregen evaluate datasets_out/digits-robust.h5

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 130 Ctrl-C, 143 SIGTERM.
""",
)

COMMANDS = (
    make_robust_dataset, make_dataset, merge, train, evaluate, reproduce, transfer, attack, attacks, flips, info,
    preview, verify, remake, diff, share, models,
)  # fmt: skip
for command in COMMANDS:
    app.command()(with_exit_code(command))
app.command("import")(with_exit_code(import_released))
app.command("export")(with_exit_code(export_file))


def main(words: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without × or ─ gets a question mark instead of a traceback.
            stream.reconfigure(errors="replace")
    _wait_briefly()
    install_signal_handlers()
    return run_with_exit_code(lambda: app(words))


def _wait_briefly() -> None:
    """Threads that spin for long while they wait take the cores from whoever else computes; read as torch loads."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
