"""What everything beyond the bare training loop costs a sweep, measured beside that loop at the same parallelism."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness import store
from harness.config import RunConfig
from harness.located import InputError

if TYPE_CHECKING:
    from pebble import ProcessPool


@dataclass(frozen=True)
class Overhead:
    """Seconds of wall time, and the largest worker in bytes of resident memory.

    sweep: the command `harness sweep` into an empty folder, from its start to its end. report: `harness report`.
    bare: the same steps of the same runs in a bare loop (batch, forward, backward, update) in as many processes,
        started and imported before the clock starts; the mean of one pass before the sweep and one after it.
    """

    runs: int
    steps: int
    workers: int
    sweep: float
    report: float
    bare: tuple[float, float]
    largest_worker: int

    def __str__(self) -> str:
        bare = sum(self.bare) / 2
        return (
            f"{self.runs} runs, {self.steps} steps, {self.workers} workers\n"
            f"harness sweep         {self.sweep:6.1f} s\n"
            f"harness report        {self.report:6.1f} s\n"
            f"bare loop             {bare:6.1f} s (before {self.bare[0]:.1f}, after {self.bare[1]:.1f})\n"
            f"beyond the bare loop  {self.sweep + self.report - bare:6.1f} s\n"
            f"largest worker        {self.largest_worker / 1e6:6.0f} MB resident"
        )


def measure_overhead(sweep_file: Path, configs: Sequence[RunConfig], workers: int) -> Overhead:
    """Run a sweep and its report as a user would, then the same steps bare. Raises InputError when the sweep fails.

    `configs` are the file's runs in the order in which the sweep does them.
    """
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder, _bare_pool(workers) as pool:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "harness"]
        # which steps a run takes is known only once it has died, so the first bare pass needs a sweep before it
        rehearsal = Path(folder) / "rehearsal"
        _timed([*command, "sweep", str(sweep_file), "--out", str(rehearsal), "--workers", str(workers)])
        ended = {run.run_id: run.outcome()[0].last_step for run in store.runs(rehearsal)}
        work = [(config, ended[config.run_id]) for config in configs]
        before = _bare(pool, work)
        sweep, largest = _timed([*command, "sweep", str(sweep_file), "--out", str(out), "--workers", str(workers)])
        report, _ = _timed([*command, "report", str(out)])
        after = _bare(pool, work)
    steps = sum(step for _, step in work)
    return Overhead(len(work), steps, workers, sweep, report, (before, after), largest)


def _timed(command: list[str]) -> tuple[float, int]:
    """Seconds that a command takes, and the resident memory of its largest child process."""
    largest = 0
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    done = threading.Event()

    def watch() -> None:
        nonlocal largest
        parent = psutil.Process(process.pid)
        while not done.wait(0.2):
            try:
                for child in parent.children():
                    largest = max(largest, child.memory_info().rss)
            except psutil.NoSuchProcess:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    if code:
        raise InputError([f"{' '.join(command)}: ended with {code}"])
    return seconds, largest


def _bare_pool(workers: int) -> ProcessPool:
    import multiprocessing

    from pebble import ProcessPool

    return ProcessPool(max_workers=workers, context=multiprocessing.get_context("spawn"))


def _bare(pool: ProcessPool, work: list[tuple[RunConfig, int]]) -> float:
    for future in [pool.schedule(_bare_run, (config, 1)) for config, _ in work]:  # imports and first calls
        future.result()
    started = time.perf_counter()
    for future in [pool.schedule(_bare_run, item) for item in work]:
        future.result()
    return time.perf_counter() - started


def _bare_run(config: RunConfig, steps: int) -> None:
    """The training loop with nothing in it that is not training."""
    import torch

    from harness.data.dataset import load_dataset
    from harness.devices import pick_device
    from harness.training.trainer import Trainer

    torch.set_num_threads(config.compute.threads)
    device = pick_device(config.compute.device)
    data = load_dataset(config.data, device)
    trainer = Trainer.new(config, data, device)
    with data.batches(config.seed) as batches:
        trainer.begin(batches)
        for _ in range(steps):
            trainer.forward_backward(*next(batches))
            trainer.update()
