"""The benchmark page: what is compared with something else in the same run, as ratios with their spread."""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from harness.bench.decoding import SHAPE, measure_decoding
from harness.bench.executors import Rate, measure_executors
from harness.bench.load import measure_csv
from harness.bench.probes import bench_probes
from harness.bench.step import AS_USED, LAST, OURS, SMALL, TORCH_BOTH, StepTimes, measure_small_step, measure_step
from harness.config import RunConfig
from harness.devices import cpu_count
from harness.provenance import git_revision, processor, versions
from harness.sweep.run import read_sweep

SIZES = ((299, 4), (139, 8), (75, 8))
"""Pixels and batch sizes at which released Inception-ResNet-v2 is held against timm's."""
REPETITIONS = 3
"""Times that what takes seconds is measured, in turns."""
_FEWER = 20
"""Of the sweep's seeds, as its process a run takes seconds."""


def write_page(short: Path, told: Callable[[str], None]) -> str:
    """The page, in Markdown. Takes some minutes, and tells each part as it begins.

    short: a sweep of short runs, of which the first seeds are done.
    """
    torch.set_num_threads(1)
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. A ratio is of times measured in turns, the median over repetitions with its",
        "quartiles; below 1 the harness is faster.",
        "",
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, torch {versions()['torch']}, revision {git_revision() or 'unknown'}",
        "",
        "| what | beside | ratio | quartiles | how often |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, part in (
        ("step", _steps),
        ("small step", _small_step),
        ("sweep", lambda: _sweeps(short)),
        ("probes", _probes),
        ("reading runs", _reading),
        ("reading photographs", _decoding),
    ):
        told(name)
        lines += [f"| {' | '.join(cells)} |" for cells in part()]
    return "\n".join(lines) + "\n"


def _steps() -> Iterator[Sequence[str]]:
    for pixels, batch in SIZES:
        times = measure_step(
            "inception_resnet_v2_released", image_size=pixels, batch_size=batch, device=torch.device("cpu"), rounds=7
        )
        what = f"forward and backward pass, released Inception-ResNet-v2, {pixels}x{pixels}, batch {batch}, one thread"
        for other in (LAST, AS_USED):
            if other in times.times:
                yield _row(what, other, times)


def _small_step() -> Iterator[Sequence[str]]:
    times = measure_small_step()
    what = (
        f"training step, {times.network}, {times.image_size}x{times.image_size}, batch {times.batch_size}, one thread"
    )
    yield _row(what, "torch's own convolutions and RMSProp", times, TORCH_BOTH)


def _row(what: str, beside: str, times: StepTimes, other: str | None = None) -> Sequence[str]:
    middle, low, high = times.ratio(OURS, other or beside)
    return what, beside, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{len(times.times[OURS])} steps"


def _sweeps(short: Path) -> Iterator[Sequence[str]]:
    """The executor `local` beside a process a run, and the executor `ray` beside Ray Tune."""
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        file = Path(folder) / short.name
        file.write_text(short.read_text().replace("max: 99", f"max: {_FEWER - 1}"))
        configs = read_sweep(file).configs
        rates: list[list[Rate]] = []
        for _ in range(REPETITIONS):
            rates.append(measure_executors(file, configs, ["local", "process", "ray", "tune"]))
    for ours, theirs, words in ((0, 1, "a process a run"), (2, 3, "Ray Tune, the same trainer"), (0, 3, "Ray Tune")):
        of = [each[theirs].a_minute / each[ours].a_minute for each in rates]
        name = f"{len(configs)} runs of 20 steps, start and end included, `--executor {rates[0][ours].name}`"
        yield name, words, *_spread(of), f"{len(of)} sweeps"


def _probes() -> Iterator[Sequence[str]]:
    costs = {cost.name: cost for cost in bench_probes(RunConfig.model_validate(SMALL), 40).costs}
    theirs = costs["fastai's three .item()"]
    for name in ("blocks", "full"):
        of = [ours / max(other, 1e-9) for ours, other in zip(costs[name].extra, theirs.extra, strict=True)]
        what = f"a step that preset `{name}` reads, beyond a plain one, the small net's"
        yield what, "fastai's `ActivationStats` (three `.item()` a layer)", *_spread(of), f"{len(of)} steps"


def _reading() -> Iterator[Sequence[str]]:
    found = [measure_csv() for _ in range(REPETITIONS)]
    what = f"two metrics of {found[0].runs} runs of {found[0].rows_each:,} rows, and the index"
    yield (
        what,
        "wandb's export: a CSV a run, joined by pandas",
        *_spread([each.folders / each.csv for each in found]),
        (f"{len(found)} times"),
    )


def _decoding() -> Iterator[Sequence[str]]:
    for pixels in (299, 64):
        what = f"a batch of random views, {pixels}x{pixels}, of JPEGs of {SHAPE[0]}x{SHAPE[1]}, one process"
        of = measure_decoding(pixels, batches=24)
        yield what, "torchvision's ImageFolder and DataLoader", *_spread(of), f"{len(of)} batches"


def _spread(values: Sequence[float]) -> tuple[str, str]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f}", f"{low:.2f} to {high:.2f}"
