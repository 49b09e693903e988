"""A process without standard streams, without a home, of another user, or run with python -O: it ends properly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli_runs import dataset, model, tiny

ROOT = Path(__file__).parents[2]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell, in which $FEATUREGEN is the command."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": path, "FEATUREGEN": f"{sys.executable} -m featuregen", **environment},
    )  # fmt: skip


def without_traceback(ran: subprocess.CompletedProcess[str]) -> bool:
    return not re.search(r"Traceback|Exception ignored|^\w*Error", ran.stderr, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$FEATUREGEN attacks >&-", 0),
        ("$FEATUREGEN attacks <&- >&- 2>&-", 0),
        ("$FEATUREGEN nothing 2>&-", 2),
        ("$FEATUREGEN attacks >/dev/full", 2),
        ("$FEATUREGEN --help >/dev/full", 2),
        ("$FEATUREGEN nothing 2>/dev/full", 2),
    ],
)
def test_streams_that_take_nothing(line: str, code: int, tmp_path: Path) -> None:
    ran = shell(line, tmp_path)
    assert ran.returncode == code and without_traceback(ran), ran.stderr


def test_what_is_written_is_not_what_was_printed(tmp_path: Path) -> None:
    """Without the file that stands for a closed stream, the next file to be opened would be the standard output."""
    ran = shell(f"$FEATUREGEN export {dataset('det')} --format npz --out det.npz >&- 2>&-", tmp_path)
    assert ran.returncode == 0 and (tmp_path / "det.npz").read_bytes().startswith(b"PK")


@pytest.mark.parametrize("threads", ["abc", "2,x", ""])
def test_a_number_of_threads_that_is_none(threads: str, tmp_path: Path) -> None:
    ran = shell("$FEATUREGEN reproduce --dry-run", tmp_path, OMP_NUM_THREADS=threads)
    assert ran.returncode == 0 and f"note: OMP_NUM_THREADS is '{threads}', which" in ran.stderr, ran.stderr


def test_a_process_that_starts_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    ran = shell("cd gone; rmdir ../gone; $FEATUREGEN reproduce --dry-run", tmp_path, PYTHONPATH=str(ROOT))
    assert ran.returncode == 2 and "error: The current folder has been deleted" in ran.stderr and without_traceback(ran)


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    ran = shell(f"$FEATUREGEN info {model('standard')} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert ran.returncode in (0, 1) and without_traceback(ran), ran.stderr


def test_no_check_is_an_assertion(tmp_path: Path) -> None:
    command = f"{sys.executable} -OO -m featuregen"
    (tmp_path / "wrong.h5").write_bytes(dataset("det").read_bytes()[:-200])
    lines = [
        (f"verify {dataset('det')} --source {model('standard')}", 0),
        ("info wrong.h5", 2),
        (f"attack {model('standard')}", 2),
        (f"attack {model('standard')} --attack lbfgs --rows 4 --set steps=2 --set searches=1 --out a.h5", 0),
    ]
    for line, code in lines:
        ran = shell(f"$FEATUREGEN {line}", tmp_path, FEATUREGEN=command)
        assert ran.returncode == code and without_traceback(ran), (line, ran.stderr)


AS_ANOTHER_USER = """
import os, pkgutil, sys, importlib, contextlib
import featuregen, featuregen.cli
for found in pkgutil.walk_packages(featuregen.__path__, "featuregen."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
os.setgid(65534); os.setuid(65534)
from featuregen.cli import main
for line in sys.stdin.read().splitlines():
    print("code", main(line.split()), line)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_without_a_home_in_a_folder_that_is_not_theirs(tmp_path: Path) -> None:
    """The modules of Python itself may not be readable to that user either, which is a sentence as well."""
    for name in ("det.h5", "net.safetensors", "tiny.yaml"):
        source = {"det.h5": dataset("det"), "net.safetensors": model("standard"), "tiny.yaml": tiny()}[name]
        (tmp_path / name).write_bytes(source.read_bytes())
        (tmp_path / name).chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    lines = [
        "info det.h5", "verify det.h5 --source net.safetensors", "diff det.h5 det.h5", "preview det.h5",
        "make-dataset det --config tiny.yaml", "train --config tiny.yaml", "evaluate net.safetensors",
        "attack net.safetensors --attack fgsm --rows 10", "share det.h5 --source net.safetensors",
        "remake det.h5 --source net.safetensors", "export det.h5 --format npz", "reproduce --config tiny.yaml",
        "transfer --models convnet:8 --config tiny.yaml", "flips net.safetensors",
    ]  # fmt: skip
    nobody = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    }
    ran = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER], input="\n".join(lines), cwd=tmp_path, capture_output=True, text=True,
        env={**nobody, "PYTHONPATH": str(ROOT), "HOME": "/nowhere"}, timeout=600, check=False,
    )  # fmt: skip
    told = [line for line in ran.stdout.splitlines() if line.startswith("code ")]
    assert len(told) == len(lines) and without_traceback(ran), (told, ran.stderr)
    # What reads may end well; nothing can be written here.
    assert all(line.startswith(("code 0 ", "code 1 ", "code 2 ")) for line in told), told
    reading = ("info", "verify", "diff", "evaluate")
    assert all(line.startswith("code 2 ") for line in told if line.split()[2] not in reading), "\n".join(told)


def test_modules_in_the_current_folder_are_not_run(tmp_path: Path) -> None:
    """`python -m` looks there first."""
    for module in ("numpy", "typer", "h5py", "torch"):
        (tmp_path / f"{module}.py").write_text("open('it-ran', 'w').close()\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "featuregen", "verify", str(dataset("det"))],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "it-ran").exists()
