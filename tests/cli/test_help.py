"""Help is instant and has examples to copy; both entry points run the same commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from featuregen import cli
from featuregen.cli import app
from tests.helpers.cli_runs import done, run

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "make-robust-dataset",
    "make-dataset",
    "merge",
    "train",
    "evaluate",
    "reproduce",
    "transfer",
    "attack",
    "attacks",
    "flips",
    "info",
    "preview",
    "verify",
    "remake",
    "diff",
    "share",
    "import",
    "export",
)


def python(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )


def shown(*words: str, width: int = 100) -> list[str]:
    """The lines of the help in a terminal of that width."""
    plain = {"COLUMNS": str(width), "TERMINAL_WIDTH": str(width), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    output = python("-m", "featuregen", *words, "--help", environment=plain)
    assert (output.returncode, output.stderr) == (0, "")
    return [line.strip() for line in output.stdout.splitlines()]


def examples(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("featuregen ")]


def test_main_help_has_examples_and_every_command() -> None:
    lines = shown()
    assert "featuregen reproduce" in examples(lines) and "featuregen make-robust-dataset" in examples(lines)
    output = "\n".join(lines)
    assert "Exit codes: 0 done, 1 a check failed, 2 wrong use" in output
    assert {*COMMANDS, "models"} == {*get_command(app).commands}  # type: ignore[attr-defined]  # a group, as below
    assert all(re.search(rf"│ {name} ", output) for name in (*COMMANDS, "models"))


def test_every_example_has_its_own_line_even_in_a_narrow_terminal() -> None:
    lines = shown("make-robust-dataset", width=80)
    assert len(examples(lines)) >= 3
    for line in examples(lines):
        # An example that was broken would leave an option without its value, or a second line of options.
        assert get_command(app).make_context("featuregen", shlex.split(line)[1:]) is not None
    assert not [line for line in lines if line.startswith("--")]


@pytest.mark.parametrize("name", [*COMMANDS, "models"])
def test_the_examples_of_a_command_are_parsed(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]  # a group, which typer's types do not say
    output = [line.strip() for line in command.help.splitlines() if line.strip().startswith("featuregen ")]
    assert output, "a command without an example"
    for line in output:
        words = shlex.split(line)[1:]
        assert words[0] == name and len(line) <= 78, line
        command.make_context(name, words[1:])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from featuregen.cli import app\n"
        "try: app(['make-robust-dataset', '--help'])\n"
        "except SystemExit as end: code = end.code\n"
        "print('end', code, sorted({'torch', 'numpy', 'h5py', 'matplotlib'} & set(sys.modules)))"
    )
    output = python("-c", code)
    assert output.stdout.splitlines()[-1] == "end 0 []" and "--step-size" in output.stdout


@pytest.mark.parametrize(
    "entry_point", [["cli.py"], ["-m", "featuregen"]], ids=["python cli.py", "python -m featuregen"]
)
def test_both_entry_points_run_the_same_commands(entry_point: list[str]) -> None:
    ended = python(*entry_point, "make-dataset", "wrong")
    assert ended.returncode == 2 and ended.stdout == ""
    assert (
        ended.stderr.startswith("error: 'wrong' is no kind of dataset; known: robust,")
        and len(ended.stderr.splitlines()) == 1
    )


def test_a_terminal_without_drawing_characters_still_gets_the_table() -> None:
    code = (
        "import sys; from featuregen.cli import app, main\n"
        "@app.command('say')\ndef say() -> None: print('3\u00d78\u00d78 \u2500\u2500')\n"
        "sys.argv = ['featuregen', 'say']; main()"
    )
    output = python("-c", code, environment={"PYTHONIOENCODING": "ascii"})
    assert output.returncode == 0, output.stderr
    assert "3?8?8 ??" in output.stdout


def test_without_a_command_the_help_is_shown() -> None:
    ran = run()
    assert ran.code == 2 and "Usage" in ran.out + ran.err and "error:" not in ran.err


def test_help_in_this_process() -> None:
    assert "Usage" in done("--help").out and "Usage" in done("verify", "--help").out


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_openmp_threads_spin_briefly_unless_set_otherwise(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        # Set first, so that what the command sets is taken back, too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen: list[str | None] = []
    monkeypatch.setattr(cli, "app", lambda words: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    assert cli.main() == 0 and seen == [expected]
