"""A sweep from its file to its finished runs: what is done, what is left, and doing it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import file_system, store
from harness.config import RunConfig
from harness.files import explain_system
from harness.located import InputError, read_text
from harness.plain import shown
from harness.sinks.wandb import WandbMode, WandbOptions, project
from harness.store import Damaged, RunDirectory
from harness.sweep.check import check_images, check_inputs
from harness.sweep.display import SweepDisplay
from harness.sweep.executors import Executor
from harness.sweep.executors.local import Local
from harness.sweep.expand import Sweep, cell, expand, get_field
from harness.sweep.work import Report, Task, interruptible, same_images


@dataclass(frozen=True)
class Settings:
    """How a sweep is done: none of it changes a result."""

    executor: Executor = field(default_factory=Local)
    wandb: WandbMode = "offline"
    reuse: tuple[Path, ...] = ()


def read_sweep(path: Path) -> Sweep:
    """The validated sweep of a file. Raises InputError."""
    return expand(read_text(path), str(path))


def sweep_of(out: Path) -> Sweep:
    """The sweep that an output folder belongs to; of single runs, one of the folder's name without runs.

    Raises InputError for a sweep file that is damaged.
    """
    text = store.sweep_text(out)
    title = out.resolve().name
    return Sweep(title, "", (), (), "") if text is None else expand(text, str(out / "sweep.yaml"), title)


def label(config: RunConfig, varied: Iterable[str]) -> str:
    """A run in words: the fields in which the sweep's runs differ."""
    values = cell(config, tuple(varied))
    return " ".join([*(f"{field}={show(value)}" for field, value in values.items()), f"seed={config.seed}"])


def show(value: object) -> str:
    """A configuration value, short."""
    if isinstance(value, tuple):
        return store.text_of(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def prepare(out: Path, sweep: Sweep) -> None:
    """Make the output folder the sweep's. Raises InputError for the folder of another sweep or one not writable."""
    try:
        held = store.take_for(out, sweep.text)
    except OSError as error:
        raise InputError([f"{out}: cannot be written: {explain_system(error)}"]) from None
    if held == sweep.text:
        return
    ids = {config.run_id for config in expand(held, str(out / "sweep.yaml")).configs}
    if ids != {config.run_id for config in sweep.configs}:
        raise InputError(
            [
                f"{out}: holds a different sweep (see {out / 'sweep.yaml'}): choose another --out; "
                f"with --reuse {out} it takes over the runs that both have"
            ]
        )


def run_sweep(sweep: Sweep, out: Path, settings: Settings, command: str, console: Console) -> list[Report]:
    """Do every run of a sweep that is not finished in `out`; gives the reports of those that failed.

    Raises InputError as `prepare` does, and KeyboardInterrupt when stopped.
    """
    for source in settings.reuse:
        if not source.is_dir():
            raise InputError([f"{source}: --reuse: {'not a' if source.exists() else 'no such'} folder"])
    check_inputs(sweep.configs, settings.executor.here)
    prepare(out, sweep)
    if unsafe := file_system.warning(out):
        console.print(shown(unsafe), soft_wrap=True)
    folders = store.folders(out, sweep.configs)
    labels = {config.run_id: label(config, sweep.varied) for config in sweep.configs}
    check_images(sweep.configs, folders)
    taken = _take_over(sweep.configs, folders, settings.reuse)
    if taken:
        console.print(f"{taken} finished runs taken over", highlight=False)
    left = [config for config in sweep.configs if not _finished(folders[config.run_id])]
    found = len(sweep.configs) - len(left)
    console.print(shown(f"{sweep.name}: {len(sweep.configs)} runs, {found} finished before, in {out}"))
    tasks = [
        Task(config, folders[config.run_id].path, command, wandb_options(config, sweep, out, settings.wandb))
        for config in left
    ]
    with SweepDisplay(len(sweep.configs), found, labels, console) as display, interruptible():
        if tasks:
            settings.executor.run(tasks, display)
    store.write_index(out, sweep.configs)
    return display.failed


def _finished(run: RunDirectory) -> bool:
    """Whether the run is finished and nothing of it damaged; a damaged one is work, which repairs it."""
    try:
        store.verify(run)
    except Damaged:
        return False
    return run.state() == "finished"


def _take_over(configs: Iterable[RunConfig], folders: dict[str, RunDirectory], sources: Iterable[Path]) -> int:
    count = 0
    for source in sources:
        known = store.by_identity(store.runs(source))
        for config in configs:
            run, other = folders[config.run_id], known.get(config.run_id)
            if not run.path.exists() and other is not None and _finished(other) and same_images(config, other):
                store.adopt(run, other)
                count += 1
    return count


def wandb_options(config: RunConfig, sweep: Sweep, out: Path, mode: WandbMode) -> WandbOptions | None:
    """How a run of a sweep appears in wandb, grouped with the other seeds of its grid cell; None when disabled."""
    if mode == "disabled":
        return None
    group = " ".join(f"{field}={show(value)}" for field, value in cell(config, sweep.varied).items()) or sweep.name
    tags = (sweep.name[:64], config.model.name, config.data.name)
    return WandbOptions(mode, out, project(), distinct(group, GROUP), tags)


GROUP = 100
"""Letters of a group's name; W&B takes 128, and a run's name is longer by its seed."""


def distinct(name: str, longest: int) -> str:
    """A name of at most so many letters: what is cut ends in a digest of the whole, so that two stay two."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: longest - len(digest) - 2]} #{digest}"


def dry_run(sweep: Sweep) -> Table:
    """What each run of a sweep would train."""
    fields = [field for field in sweep.varied if field != "seed"]
    table = Table(box=None)
    table.add_column("run", no_wrap=True)
    for heading in (*(name.split(".", 1)[-1] for name in fields), "seed", "trains"):
        table.add_column(heading)
    for config in sweep.configs:
        values = [show(get_field(config, name)) for name in fields]
        repeats = show(config.model.repeats) if config.model.repeats else ""
        length = f"{config.train.epochs} epochs" if config.train.epochs else f"{config.train.steps} steps"
        images = f"{config.data.name} {config.data.image_size}x{config.data.image_size}, batch {config.data.batch_size}"
        trains = f"{config.model.name} {repeats} on {images}, {config.optim.name} lr {config.optim.lr:g}, {length}"
        table.add_row(*map(shown, (config.run_id, *values, config.seed, trains)))
    return table


def failure_table(failed: Sequence[Report]) -> Table:
    """What failed and why."""
    table = Table("run", "why", box=None, title=f"{len(failed)} failed", title_justify="left")
    for report in failed:
        table.add_row(report.run_id, shown(report.message))
    return table
