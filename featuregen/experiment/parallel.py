"""Stages side by side in processes of their own: they fill the cache, and the experiment then finds all done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featuregen.config import Config
from featuregen.data import BaseDataset
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.runtime import ComputeSpec, progress


@dataclass(frozen=True)
class Stage:
    """A function of this package, called as work(shop, *arguments)."""

    work: Callable[..., None]
    arguments: tuple[Any, ...]


def run_parallel(experiment: Experiment, rounds: list[list[Stage]]) -> bool:
    """Do the stages of each round in any order; False where one process is all there is, or the device is a GPU."""
    jobs = min(experiment.config.runtime.jobs, os.cpu_count() or 1, max(len(stages) for stages in rounds))
    if jobs == 1 or experiment.device.type != "cpu":
        return False
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        jobs,
        context,
        _begin,
        (experiment.config, experiment.out, experiment.base, experiment.compute, os.getpid(), torch.get_num_threads()),
    )
    try:
        for number, stages in enumerate(rounds, 1):
            begun = [pool.submit(_work, stage) for stage in stages]
            for done in progress(as_completed(begun), f"round {number} of {len(rounds)}", len(begun)):
                done.result()
    except BaseException as error:
        # What the processes have finished is on disk; what they are at is not worth waiting for.
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        raise UserError(
            "A worker process ended early, for want of memory or, in a script of your own, because reproduce is called "
            "outside `if __name__ == '__main__':`; it goes on from there, and in one process with runtime.jobs=1."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return True


_experiment: Experiment


def _begin(config: Config, out: Path, base: BaseDataset, compute: ComputeSpec, parent: int, threads: int) -> None:
    global _experiment
    # Ctrl-C reaches every process of the terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _experiment = Experiment(config, out, base, compute)
    # As many as the parent has, since the last bits of a sum depend on how many threads share it.
    torch.set_num_threads(threads)


def _end_with(parent: int) -> None:
    """Without this, a killed parent would leave its workers holding the locks of what they write."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(stage: Stage) -> None:
    stage.work(_experiment, *stage.arguments)
