"""Runs stages, in worker processes where the config asks for several."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
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
from featuregen.runtime.worker_pool import WorkerLost, WorkerPool


def run_stages(experiment: Experiment, rounds: list[list[Stage]]) -> None:
    """Run round after round; the stages of a round run side by side where there are worker processes for it."""
    workers = min(experiment.config.runtime.jobs, os.cpu_count() or 1, max(len(stages) for stages in rounds))
    if workers > 1 and experiment.device.type == "cpu":
        _run_in_workers(experiment, rounds, workers)
        return
    for stage in (stage for stages in rounds for stage in stages):
        stage.run(experiment, *stage.arguments)


def _run_in_workers(experiment: Experiment, rounds: list[list[Stage]], workers: int) -> None:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that imports a script without `if __name__ == "__main__":`; the parent says so in a sentence.
        raise SystemExit(1)
    process = (torch.get_num_threads(), loaded_plugins())
    setup = (experiment.config, str(experiment.out), experiment.base, experiment.compute)
    try:
        with WorkerPool(workers, _start_worker, *process, *setup) as pool:
            for number, stages in enumerate(rounds, 1):
                tasks = [(_run_stage, (stage,)) for stage in stages]
                # The bar is all that is wanted of them: results lie in files.
                for _ in progress(pool.run(tasks), f"round {number} of {len(rounds)}", len(tasks)):
                    pass
    except WorkerLost as lost:
        raise UserError(
            f"A worker process ended early ({lost}), for want of memory or, in a script of your own, because reproduce "
            "is called outside `if __name__ == '__main__':`; run it again to resume, or in one process with "
            "runtime.jobs=1."
        ) from None


def _start_worker(
    threads: int, plugins: Sequence[Path], config: Config, out: str, base: BaseDataset, compute: ComputeSpec
) -> Experiment:
    for plugin in plugins:
        load_plugin(plugin)
    experiment = Experiment(config, out, base=base, compute=compute)
    # As many as the parent has, since the last bits of a sum depend on how many threads share it.
    torch.set_num_threads(threads)
    return experiment


def _run_stage(experiment: Experiment, stage: Stage) -> None:
    stage.run(experiment, *stage.arguments)
