"""What it costs to read many runs: a folder of simulated runs into the index, its rows and a phase map."""

from __future__ import annotations

import itertools
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import store
from harness.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from harness.outcome import Outcome, OutcomeName

WIDTHS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
SCALES = (0.1, 0.2, 0.3, 0.5, 1.0)
RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
METRICS = ("train/loss", "prepool/dead_share_batch")
"""Metrics of which every row is read."""
METRICS_EACH = 24
TEMPLATES = 25
"""Runs that die, and that survive, whose rows are simulated; the others hold copies of theirs."""


@dataclass(frozen=True)
class LoadCost:
    """Seconds of wall time, and bytes.

    index: `analysis.load`, checksums of all rows included. indexed: the same where index.parquet is up to date.
    phase_map: drawn and written as PNG. rows: `load_rows` of METRICS. disk: all files of the runs. memory: largest
    resident memory of the process, interpreter and all, before the rows are read, and after that.
    """

    runs: int
    rows_each: int
    disk: int
    index: float
    indexed: float
    phase_map: float
    rows: float
    memory: int
    memory_with_rows: int

    def __str__(self) -> str:
        return (
            f"{self.runs:,} runs of {self.rows_each:,} rows of {METRICS_EACH} metrics, {self.disk / 1e9:.2f} GB\n"
            f"index, checksums checked  {self.index:6.1f} s\n"
            f"from index.parquet        {self.indexed:6.1f} s\n"
            f"phase map, as PNG         {self.phase_map:6.1f} s\n"
            f"index and phase map       {self.index + self.phase_map:6.1f} s\n"
            f"rows of {len(METRICS)} metrics         {self.rows:6.1f} s\n"
            f"largest resident memory   {self.memory / 1e6:6.0f} MB, with the rows {self.memory_with_rows / 1e6:.0f} MB"
        )


def measure_load(runs: int = 10_000, rows: int = 1_000) -> LoadCost:
    """Simulate a folder of finished runs in a temporary folder, and time how it is read. Takes a minute or two."""
    from analysis.figures import phase_map, style
    from analysis.frames.load import load, load_rows

    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        out = Path(folder)
        simulate(out, runs, rows)
        disk = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        store.write_index(out)
        started = time.perf_counter()
        load(out)
        indexed = time.perf_counter() - started
        (out / "index.parquet").unlink()
        marks = [time.perf_counter()]
        index = load(out)
        marks.append(time.perf_counter())
        style.image(phase_map.phase_map(index), "png")
        marks.append(time.perf_counter())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        read = load_rows(out, index, METRICS)
        marks.append(time.perf_counter())
        assert len(read) == runs * rows, "every row is read"
    with_rows = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    index_seconds, map_seconds, rows_seconds = np.diff(marks).tolist()
    return LoadCost(runs, rows, disk, index_seconds, indexed, map_seconds, rows_seconds, memory, with_rows)


@dataclass(frozen=True)
class CsvCost:
    """Seconds to read METRICS of every row of runs: from their folders, the index included, and from a CSV a run."""

    runs: int
    rows_each: int
    folders: float
    csv: float


def measure_csv(runs: int = 400, rows: int = 1_000) -> CsvCost:
    """Time how runs are read beside the way in which wandb's are exported: a CSV a run, joined by pandas."""
    import pandas as pd

    from analysis.frames.load import load, load_rows

    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        out, exported = Path(folder) / "out", Path(folder) / "csv"
        simulate(out, runs, rows)
        exported.mkdir()
        for run in store.runs(out):
            pd.DataFrame(run.rows()).to_csv(exported / f"{run.run_id}.csv", index=False)
        marks = [time.perf_counter()]
        read = load_rows(out, load(out), METRICS)
        marks.append(time.perf_counter())
        joined = pd.concat(
            pd.read_csv(file, usecols=["step", *METRICS]).assign(run_id=file.stem) for file in exported.glob("*.csv")
        )
        marks.append(time.perf_counter())
        assert len(read) == len(joined) == runs * rows, "every row is read"
    folders, csv = np.diff(marks).tolist()
    return CsvCost(runs, rows, folders, csv)


def simulate(out: Path, runs: int, rows: int) -> None:
    """Write finished runs over widths, scales, learning rates and seeds, each with `rows` rows of METRICS_EACH metrics.

    The wider the net and the larger its scale and rate, the likelier it dies.
    """
    random = np.random.default_rng(0)
    templates: dict[bool, list[store.RunDirectory]] = {False: [], True: []}
    cells = list(itertools.product(WIDTHS, SCALES, RATES))
    for number in range(runs):
        width, scale, rate = cells[number % len(cells)]
        model = ModelConfig(width=width, residual_scale=scale)
        optim, train = OptimConfig(lr=rate), TrainConfig(steps=rows)
        config = RunConfig(seed=number // len(cells), model=model, optim=optim, train=train)
        dies = bool(random.random() < 1 / (1 + (0.02 / (width * scale * rate)) ** 2))
        run = store.RunDirectory(out / "runs" / config.run_id)
        if len(templates[dies]) < TEMPLATES:
            with run.lock():
                run.write_config(config, {})
                for row in _rows(random, rows):
                    run.append(row)
                run.finish(_outcome(dies, int(random.integers(1, rows)), rows))
            templates[dies].append(run)
        else:
            store.adopt(run, templates[dies][int(random.integers(TEMPLATES))])
            run.write_config(config, {})


def _rows(random: np.random.Generator, count: int) -> Iterator[dict[str, float]]:
    """Rows of readings that no compression makes smaller."""
    names = [*METRICS, *(f"simulated/m{number:02d}" for number in range(METRICS_EACH - len(METRICS)))]
    for step, values in enumerate(random.random((count, METRICS_EACH)).tolist()):
        yield {"step": step, **dict(zip(names, values, strict=True))}


def _outcome(dies: bool, step: int, last_step: int) -> Outcome:
    verdict: OutcomeName = "died" if dies else "survived"
    return Outcome(
        outcome=verdict,
        step=step if dies else last_step,
        last_live_step=step - 1 if dies else last_step,
        collapsed_step=step if dies else None,
        collapsed_last_live_step=step - 1 if dies else None,
        revival_step=None,
        event="died",
        last_step=last_step,
        reason="simulated",
    )
