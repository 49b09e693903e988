"""The command line: parse, call, print. Nothing heavy is imported before a command runs, so that help is instant."""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer

from featuregen.cli.attack import attack
from featuregen.cli.attacks import attacks
from featuregen.cli.diff import diff
from featuregen.cli.errors import (
    OneLineErrors,
    install_signal_handlers,
    interrupt_code,
    run_with_exit_code,
    single_process,
    with_exit_code,
)
from featuregen.cli.evaluate import evaluate
from featuregen.cli.export import export_file
from featuregen.cli.flips import flips
from featuregen.cli.import_ import import_released
from featuregen.cli.info import info
from featuregen.cli.make_dataset import make_dataset
from featuregen.cli.make_robust_dataset import make_robust_dataset
from featuregen.cli.merge import merge
from featuregen.cli.models import models
from featuregen.cli.options import load_plugins
from featuregen.cli.preview import preview
from featuregen.cli.remake import remake
from featuregen.cli.reproduce import reproduce
from featuregen.cli.share import share
from featuregen.cli.train import train
from featuregen.cli.transfer import transfer
from featuregen.cli.verify import verify
from featuregen.errors import UserError
from featuregen.runtime.console import close_standard_streams, log, log_error, log_traceback, open_standard_streams

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

With a kind, an attack or an architecture of your own, registered in my.py:

    featuregen --plugin my.py make-dataset mykind

Exit codes: 0 done, 1 a check failed, 2 wrong use or bad input, 130 Ctrl-C, 143 SIGTERM.
""",
)
app.callback()(with_exit_code(load_plugins))

# In the order of --help. Several processes of torchrun would do the work of any other command twice.
DISTRIBUTED = (make_dataset, make_robust_dataset, train)
COMMANDS = (
    make_robust_dataset, make_dataset, merge, train, evaluate, reproduce, transfer, attack, attacks, flips, info,
    preview, verify, remake, diff, share, models,
)  # fmt: skip
for command in COMMANDS:
    app.command()(with_exit_code(command if command in DISTRIBUTED else single_process(command)))
app.command("import")(with_exit_code(single_process(import_released, "import")))
app.command("export")(with_exit_code(single_process(export_file, "export")))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words name (default: those of the process) and return its exit code."""
    open_standard_streams()
    _shorten_spin_wait()
    install_signal_handlers()
    try:
        return _run_to_end(words)
    except KeyboardInterrupt as error:
        # A signal that came while the command was ending.
        return interrupt_code(error)


def _run_to_end(words: Sequence[str] | None) -> int:
    try:
        code = run_with_exit_code(lambda: _run(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except Exception as error:
        log_traceback(error)
        code = 1
    # What was printed may still be waiting, and a full disk shows only when it is written.
    lost = close_standard_streams()
    if lost and not code:
        log_error(f"error: Cannot write standard output: {lost.strerror}.")
        code = 2
    return code


def _run(words: Sequence[str] | None) -> None:
    # What libraries make of either is no sentence: one that scikit-learn imports raises, and MKL ends the process.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if not all(part.strip().isdecimal() for part in threads.split(",")):
        log(f"note: OMP_NUM_THREADS is '{threads[:50]}', which is no number of threads, and is ignored")
        del os.environ["OMP_NUM_THREADS"]
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("The current folder has been deleted; change to one that exists.") from None
    app(words)


def _shorten_spin_wait() -> None:
    """OpenMP threads that spin while they wait take cores from other processes; read when torch is loaded."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
