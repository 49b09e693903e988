"""Crafted checkpoints end in one sentence, within bounds of time and memory, whatever opens them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reliability.crafted_pickles import checkpoints
from reliability.open_crafted import COMMANDS

_REPOSITORY = Path(__file__).parents[1]


def opened(*words: str) -> dict[str, object]:
    """In a process of its own, which the system ends where a reader does not end."""
    command = [sys.executable, "-m", "reliability.open_crafted", *words]
    paths = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=_REPOSITORY, env=paths, capture_output=True, text=True, check=False)
    assert ran.stdout, f"it ended with {ran.returncode}: {ran.stderr[-1000:]}"
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_crafted_checkpoints_are_refused_by_whatever_opens_them() -> None:
    """Each by the functions that read checkpoints and states of trainings, and by one of the commands in turn."""
    found = opened("--every", "15", "--commands", "1")
    assert found["bad"] == [] and int(str(found["cases"])) > 55


@pytest.mark.slow
def test_all_crafted_checkpoints_are_refused_by_every_command() -> None:
    found = opened()
    assert found["bad"] == [] and found["cases"] == len(checkpoints())


def test_the_cases_differ_and_every_command_has_some() -> None:
    cases = checkpoints()
    assert len(set(cases.values())) > 0.95 * len(cases) > 800
    assert len(cases) / 15 > 5 * len(COMMANDS)
