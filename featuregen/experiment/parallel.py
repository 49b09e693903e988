"""Runs stages, in worker processes where the config asks for several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from featuregen.config.plugins import load_plugin, loaded_plugins
from featuregen.config.schema import Config
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.stages import Stage
from featuregen.runtime.console import progress
from featuregen.runtime.device import ComputeSpec


def run_stages(experiment: Experiment, rounds: list[list[Stage]]) -> None:
    """Run round after round; the stages of a round run side by side where there are worker processes for it."""
    workers = min(experiment.config.runtime.jobs, os.cpu_count() or 1, max(len(stages) for stages in rounds))
    if workers > 1 and experiment.device.type == "cpu":
        _run_in_workers(experiment, rounds, workers)
        return
    for stage in (stage for stages in rounds for stage in stages):
        stage.run(experiment, *stage.arguments)


def _run_in_workers(experiment: Experiment, rounds: list[list[Stage]], workers: int) -> None:
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    setup = (experiment.config, str(experiment.out), experiment.base, experiment.compute)
    process = (os.getpid(), torch.get_num_threads(), loaded_plugins())
    pool = ProcessPoolExecutor(workers, context, _start_worker, (*setup, *process))
    try:
        for number, stages in enumerate(rounds, 1):
            futures = [pool.submit(_run_stage, stage) for stage in stages]
            for future in progress(as_completed(futures), f"round {number} of {len(rounds)}", len(futures)):
                future.result()
    except BaseException as error:
        # What the workers have finished is on disk; what they are computing is not worth waiting for.
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        raise UserError(
            "A worker process ended early, for want of memory or, in a script of your own, because reproduce is called "
            "outside `if __name__ == '__main__':`; run it again to resume, or in one process with runtime.jobs=1."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_experiment: Experiment


def _start_worker(
    config: Config,
    out: str,
    base: BaseDataset,
    compute: ComputeSpec,
    parent: int,
    threads: int,
    plugins: tuple[Path, ...],
) -> None:
    global _experiment
    # Ctrl-C reaches every process of the terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    for plugin in plugins:
        load_plugin(plugin)
    _experiment = Experiment(config, out, base=base, compute=compute)
    # As many as the parent has, since the last bits of a sum depend on how many threads share it.
    torch.set_num_threads(threads)


def _exit_with_parent(parent: int) -> None:
    """Without this, the workers of a killed parent would go on holding the locks of what they write."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _run_stage(stage: Stage) -> None:
    stage.run(_experiment, *stage.arguments)
