"""What this machine has made: remembered across processes, private to the user, and never an error."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from featuregen.runtime import ledger

_ASK = """
import sys
from featuregen.runtime.ledger import is_remembered, remember
remember("x", sys.argv[1])
print(is_remembered("x", sys.argv[2]))
"""


def ask(state: Path | str, made: str, asked: str, **more: str) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "XDG_STATE_HOME": str(state)}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, made, asked], env=environment | more, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_another_process_remembers(tmp_path: Path) -> None:
    assert ask(tmp_path, "a", "b") == "False" and ask(tmp_path, "b", "a") == "True"
    assert ask(tmp_path / "elsewhere", "c", "a") == "False"
    folder = tmp_path / "featuregen"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]


def test_equal_values_of_two_sorts_differ() -> None:
    ledger.remember("accuracy", [1, {"clean": 0.5}])
    assert ledger.is_remembered("accuracy", [1, {"clean": 0.5}])
    assert not ledger.is_remembered("audit", [1, {"clean": 0.5}])
    assert not ledger.is_remembered("accuracy", [1, {"clean": 0.6}])


def test_a_torn_line_is_nothing(tmp_path: Path) -> None:
    assert ask(tmp_path, "a", "a") == "True"
    list_ = tmp_path / "featuregen" / "made-here"
    list_.write_bytes(list_.read_bytes()[:40])
    assert ask(tmp_path, "b", "a") == "False"


_ASK_AFTER_REMOVAL = """
import subprocess, sys
from featuregen.runtime.ledger import _path, is_remembered, remember
remember("x", "first")
remember("x", "second")
assert not is_remembered("x", "theirs")
_path().unlink()
theirs = "from featuregen.runtime.ledger import remember; remember('x', 'theirs')"
subprocess.run([sys.executable, "-c", theirs], check=True)
print(is_remembered("x", "theirs"))
"""


def test_a_list_that_was_begun_again_is_read_from_its_start(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XDG_STATE_HOME": str(tmp_path)}
    words = [sys.executable, "-c", _ASK_AFTER_REMOVAL]
    assert subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize("obstacle", ["a file", "a link", "open to all"])
def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, obstacle: str) -> None:
    folder, home = tmp_path / "featuregen", tmp_path / "home"
    home.mkdir()
    if obstacle == "a file":
        folder.write_text("")
    elif obstacle == "a link":
        (tmp_path / "other").mkdir()
        folder.symlink_to(tmp_path / "other")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    assert ask(tmp_path, "a", "a", HOME=str(home)) == "True"
    assert (home / ".local" / "state" / "featuregen" / "made-here").is_file()
    assert not folder.is_dir() or not any(folder.iterdir())


def test_without_a_home_a_private_temporary_folder_serves(tmp_path: Path) -> None:
    where = {"HOME": "/dev/null/none", "TMPDIR": str(tmp_path)}
    assert ask("/dev/null/none", "a", "a", **where) == "True"
    assert (tmp_path / f"featuregen-{os.geteuid()}" / "made-here").is_file()
