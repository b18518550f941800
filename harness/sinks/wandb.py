"""The mirror in wandb, which is never needed: runs, and the report on them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.config import RunConfig
from harness.located import InputError
from harness.outcome import Outcome
from harness.plain import plain
from harness.sinks.sink import Histogram
from harness.store import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

WandbMode = Literal["online", "offline", "disabled"]


def project() -> str:
    """The W&B project that everything is logged to: the harness's, unless the environment names one."""
    return os.environ.get("WANDB_PROJECT", "residual-harness")


@dataclass(frozen=True)
class WandbOptions:
    """How a run appears in wandb.

    group: the run's grid cell without its seed; tags: among others the sweep's name.
    """

    mode: WandbMode
    folder: Path
    project: str
    group: str
    tags: tuple[str, ...]


class WandbSink:
    """Mirrors rows to wandb. When wandb fails in any way, says so once in this process and lets the run go on.

    All of it happens in a thread of the sink's own, one thing after the other, and begins with the first row, so that
    no step waits for wandb, which takes a second and more to begin. `close` waits for what is left.
    """

    wants_histogram = True
    _complained = False

    def __init__(self, config: RunConfig, run: RunDirectory, options: WandbOptions) -> None:
        self._run: Any = None
        self._thread = ThreadPoolExecutor(1, "wandb")
        self._beginning: tuple[RunConfig, RunDirectory, WandbOptions] | None = (config, run, options)

    def row(self, step: int, metrics: Mapping[str, Any], histogram: Histogram | None) -> None:
        """Log the row, with the histogram as `prepool/activations`."""
        self._do(self._log, {"step": step, **metrics}, histogram)

    def close(self, outcome: Outcome | None) -> None:
        """Write the outcome into the summary and finish."""
        self._do(self._end, outcome)
        self._thread.shutdown()

    def _do(self, what: Callable[..., None], *args: Any) -> None:
        def carefully() -> None:
            try:
                if self._beginning is not None:
                    beginning, self._beginning = self._beginning, None
                    self._begin(*beginning)
                what(*args)
            except Exception as error:  # a mirror must never stop the run, whatever breaks in it
                self._give_up(error)

        self._thread.submit(carefully)

    def _begin(self, config: RunConfig, run: RunDirectory, options: WandbOptions) -> None:
        self._wandb = quiet_wandb(options.folder)
        # it would import pandas, 60 MB in each worker, to ask whether a histogram is a data frame
        self._wandb.util.pd_available = False
        mirror = self._wandb.init(
            mode=options.mode,
            dir=str(options.folder),
            project=options.project,
            # a run that a `wandb agent` started has its id from the agent
            id=os.environ.get("WANDB_RUN_ID") or run.run_id,
            name=f"{options.group} seed={config.seed}",
            resume="allow",
            group=options.group,
            job_type="train",
            tags=list(options.tags),
            config={**config.model_dump(mode="json"), "run_id": run.run_id, "provenance": run.provenance()},
            settings=_settings(self._wandb),
        )
        mirror.define_metric("step")
        mirror.define_metric("*", step_metric="step")
        self._run = mirror

    def _log(self, record: dict[str, Any], histogram: Histogram | None) -> None:
        if self._run is None:
            return
        if histogram is not None:
            record["prepool/activations"] = self._wandb.Histogram(np_histogram=histogram)
        self._run.log(record, step=record["step"])

    def _end(self, outcome: Outcome | None) -> None:
        if self._run is None:
            return
        if outcome is not None:
            told = {f"outcome/{key}": value for key, value in outcome.as_dict().items()}
            # a number, for parallel coordinates and W&B's importance of parameters
            self._run.summary.update({**told, "outcome/died": int(outcome.outcome in ("died", "collapsed"))})
        self._run.finish(exit_code=0 if outcome is not None else 1)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        if not WandbSink._complained:
            WandbSink._complained = True
            why = f"{type(error).__name__}: {error}"
            print(plain(f"wandb failed, the runs go on without it: {why}"), file=sys.stderr)


def quiet_wandb(folder: Path | None = None) -> Any:
    """The module wandb, which then raises where it would ask for a login.

    What it would keep in a home that is unset or cannot be written goes into `folder`/wandb/cache: without a place for
    it, wandb's service writes its log to stderr, and no table can be logged.
    """
    import wandb

    if folder is not None:
        kept = str(folder.absolute() / "wandb" / "cache")
        for variable, base, usual in _KEPT_AT_HOME:
            if not _can_be_written(os.environ.get(variable) or _under_home(base, usual)):
                os.environ[variable] = kept
        if os.path.expanduser("~") == "~":  # noqa: PTH111  Path raises for a user whom the system does not know
            os.environ.setdefault("WANDB_CONFIG_DIR", kept)
    wandb.setup(wandb.Settings(silent=True))
    return wandb


_KEPT_AT_HOME = (
    ("WANDB_CACHE_DIR", "XDG_CACHE_HOME", ".cache"),
    ("WANDB_DATA_DIR", "XDG_DATA_HOME", ".local/share"),
)
"""Variables that move what wandb keeps of its own, and where it is otherwise (XDG Base Directory Specification)."""


def _under_home(base: str, usual: str) -> str | None:
    """The folder that a variable names, or the usual one in the home; None where there is no home."""
    if given := os.environ.get(base):
        return given if Path(given).is_absolute() else None
    home = os.environ.get("HOME")
    return str(Path(home, usual)) if home else None


def _can_be_written(folder: str | None) -> bool:
    """Whether files can be made in a folder, which need not exist yet."""
    if folder is None:
        return False
    path = Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def log_report(
    name: str, figures: Iterable[Path], tables: Mapping[str, pd.DataFrame], folder: Path, mode: WandbMode
) -> None:
    """Log the report on a sweep, its figures (image files) and tables, beside its runs, as one run of type `report`.

    Its id is made from the sweep's name, so that a report drawn again takes the place of the one before. Raises
    InputError where wandb refuses.
    """
    try:
        wandb = quiet_wandb(folder)
        run = wandb.init(
            mode=mode,
            dir=str(folder),
            project=project(),
            id="report-" + re.sub(r"[^A-Za-z0-9_-]", "-", name)[:100],
            name=f"report on {name}",
            resume="allow",
            group=name[:128],
            job_type="report",
            tags=[name[:64]],
            settings=_settings(wandb),
        )
        content: dict[str, Any] = {f"report/{path.stem}": wandb.Image(str(path)) for path in figures}
        for table, frame in tables.items():
            rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
            content[f"report/{table}"] = wandb.Table(columns=list(map(str, frame)), data=rows, allow_mixed_types=True)
        run.log(content)
        run.finish()
    except Exception as error:  # whatever breaks in it, the report itself is written
        raise InputError([f"wandb did not take the report: {type(error).__name__}: {error}"]) from error


def _settings(wandb: Any) -> Any:
    return wandb.Settings(
        console="off",
        quiet=True,
        silent=True,
        init_timeout=30,
        x_disable_stats=True,
        # config.json has the provenance; wandb's own would cost seconds in every first init
        x_save_requirements=False,
        x_disable_machine_info=True,
        disable_git=True,
        disable_code=True,
        x_transaction_log_flush_interval=1.0,
    )
