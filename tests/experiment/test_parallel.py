"""A worker of `reproduce` that dies ends the run in one sentence, and the next start goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from featuregen.config import plugins
from featuregen.models.io import read_model_record
from tests.experiment.test_kept_files import CONFIG, without_time
from tests.helpers.cli_runs import done, refused
from tests.helpers.torchrun_runs import environment

# It ends every worker that comes so far, once.
PLUGIN = """
import multiprocessing, os, signal, sys
def end():
    with open({told!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    os.kill(os.getpid(), signal.{number})
def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("digits-det.h5"):
        end()
if multiprocessing.parent_process() and not os.path.exists({told!r}):
    {what}
"""
SENTENCE = "run it again to resume, or in one process with runtime.jobs=1."


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    # Or the workers of later tests would load the plugins of these.
    monkeypatch.setattr(plugins, "_loaded", {})


def words(folder: Path, out: str, number: str = "SIGKILL", what: str = "pass") -> list[str | Path]:
    config, plugin = folder / "small.yaml", folder / "mine.py"
    config.write_text(CONFIG, encoding="utf-8")
    plugin.write_text(PLUGIN.format(told=str(folder / "told"), number=number, what=what), encoding="utf-8")
    return ["--plugin", plugin, "reproduce", "--config", config, "--out", folder / out, "--set", "runtime.jobs=2"]


def check_ended(told: str, folder: Path, number: str) -> None:
    assert f"A worker process ended early ({number})" in told and told.endswith(SENTENCE)
    for process in (folder / "told").read_text(encoding="utf-8").split():
        assert not Path(f"/proc/{process}").exists()


def test_a_worker_that_dies_while_it_starts(tmp_path: Path) -> None:
    check_ended(refused(*words(tmp_path, "o", "SIGKILL", "end()")), tmp_path, "SIGKILL")


def is_evaluated(path: Path) -> bool:
    return "accuracy" in read_model_record(path)["record"]


def results(out: Path) -> Any:
    return without_time(json.loads((out / "small" / "results.json").read_text(encoding="utf-8")))


def test_a_worker_that_dies_at_work(tmp_path: Path) -> None:
    command = words(tmp_path, "o", "SIGSEGV", "sys.addaudithook(hook)")
    check_ended(refused(*command), tmp_path, "SIGSEGV")
    # A model that the other worker was about to evaluate is written once more.
    models = [path for path in (tmp_path / "o" / "models").glob("*.safetensors") if is_evaluated(path)]
    kept = {path: path.stat().st_ino for path in models}
    done(*command, "--set", "runtime.jobs=1")
    assert len(kept) >= 2 and {path: path.stat().st_ino for path in models} == kept
    done(*words(tmp_path, "alone"), "--set", "runtime.jobs=1")
    assert results(tmp_path / "o") == results(tmp_path / "alone")
    assert not list((tmp_path / "o").rglob("*partial*"))


@pytest.mark.slow
def test_an_error_in_a_worker_is_told_as_without_workers(tmp_path: Path) -> None:
    command = [*words(tmp_path, "o"), "--set", "sources.standard.lr=1e30"]
    told = refused(*command)
    assert "standard model diverged in epoch 1 at lr 1e+30" in told
    assert told == refused(*command, "--set", "runtime.jobs=1")


SCRIPT = """
import sys
import featuregen as fg
from featuregen.cli.errors import run_with_exit_code
short = ["runtime.jobs=2", "sources.standard.epochs=1", "sources.robust.epochs=1"]
experiment = fg.Experiment(sys.argv[1], out=sys.argv[2], overrides=short)
code = run_with_exit_code(lambda: fg.reproduce(experiment))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="jobs need a second core")
def test_a_script_without_the_guard_ends_in_a_sentence(tmp_path: Path) -> None:
    words(tmp_path, "o")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, *(str(tmp_path / name) for name in ("script.py", "small.yaml", "o"))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment())
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("error: "))
    assert "exit code 1" in line and "outside `if __name__ == '__main__':`" in line


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="jobs need a second core")
def test_ctrl_c_of_a_terminal_prints_no_traceback(tmp_path: Path) -> None:
    """It reaches every process, also while the workers start."""
    command = [sys.executable, "-m", "featuregen", *map(str, words(tmp_path, "o")[2:])]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment())
    assert running.stderr
    for line in running.stderr:
        if line.startswith("note: about"):
            break
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while len(children.read_text(encoding="utf-8").split()) < 2:
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGINT)
    told = running.communicate(timeout=600)[1]
    assert running.returncode == 130 and told.splitlines()[-1].startswith("stopped; ") and "Traceback" not in told
