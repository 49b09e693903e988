"""Commands, options and defaults of the first release stay, so that scripts written for it keep working."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from featuregen.cli import app

# By command: each option with its default; an argument has its name and null. The empty name stands for `featuregen`.
COMMANDS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("command_list.json").read_text(encoding="utf-8")
)
GROUP: Any = typer.main.get_command(app)
# The command lines of the first release's README, with a name for every … and SHARD.
README = """\
featuregen reproduce
featuregen reproduce --seeds 5
featuregen reproduce --dry-run --json
featuregen reproduce --config cifar10-cpu
featuregen reproduce --data fashion-mnist
featuregen make-robust-dataset
featuregen make-dataset det
featuregen make-dataset det --out shared/det.h5 --shard 2/7
featuregen make-dataset det --recipe paper --eps 1.25
featuregen make-robust-dataset --set synthesis.robust.steps=300
featuregen merge shared/det.shard-1-of-7.h5 shared/det.shard-2-of-7.h5 --remove
featuregen train
featuregen train --robust
featuregen train --loss mixed --early-stop clean
featuregen train --on digits-det.h5
featuregen evaluate digits-det.h5
featuregen evaluate digits-det.h5 --sweep lr
featuregen transfer --models convnet:8
featuregen attack m.safetensors --attack pgd --from other.safetensors --set steps=40
featuregen attack m.safetensors --sanity
featuregen attacks
featuregen flips m.safetensors --set pgd.steps=40
featuregen import d_robust_CIFAR --kind robust
featuregen export digits-det.h5 --format npz
featuregen info digits-det.h5
featuregen preview digits-det.h5
featuregen verify digits-det.h5 --source digits-det-source.safetensors
featuregen remake digits-det.h5
featuregen diff digits-det.h5 other.h5
featuregen share datasets_out/digits/digits-det.h5
featuregen models
"""


def parameters(command: Any) -> dict[str, Any]:
    """Names as on a command line, with defaults as words or numbers."""
    options = {}
    for each in command.params:
        name = " / ".join([*each.opts, *each.secondary_opts]) if each.param_type_name == "option" else each.name
        options[name] = str(each.default) if isinstance(each.default, Path) else each.default
    return options


def test_the_group_has_every_command_in_its_order() -> None:
    assert [name for name in GROUP.commands if name in COMMANDS] == [name for name in COMMANDS if name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_every_option_and_default(name: str) -> None:
    current = parameters(GROUP.commands[name] if name else GROUP)
    assert {option: current.get(option, "missing") for option in COMMANDS[name]} == COMMANDS[name]


def test_arguments_stand_in_their_order() -> None:
    for name, options in COMMANDS.items():
        command = GROUP.commands[name] if name else GROUP
        current = [each.name for each in command.params if each.param_type_name == "argument"]
        assert current == [option for option in options if not option.startswith("-")]


@pytest.mark.parametrize("line", README.splitlines())
def test_a_command_line_of_the_readme_is_parsed(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    context = GROUP.commands[name].make_context(name, words)
    assert not context.args
