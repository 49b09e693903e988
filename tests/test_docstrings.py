"""The docstrings of the public names: each has an example, and every example runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import featuregen

# What is raised, not called.
ERRORS = {"CheckFailed", "UserError"}
# In a process and a folder of their own: examples register attacks and write files.
RUN = """
import doctest, sys
import featuregen
finder = doctest.DocTestFinder(recurse=True)
failed = tried = 0
for name in featuregen.__all__:
    value = getattr(featuregen, name)
    for test in finder.find(value, name, module=False, globs={}):
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        failed, tried = failed + result.failed, tried + result.attempted
print("tried", tried)
sys.exit(failed > 0)
"""


@pytest.mark.parametrize("name", sorted(set(featuregen.__all__) - ERRORS))
def test_a_public_name_has_an_example(name: str) -> None:
    text = getattr(featuregen, name).__doc__ or ""
    assert "Example:" in text and ">>> " in text


def test_every_example_runs(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(featuregen.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 100
