"""What the runs of a folder tell about the layers of their networks, and of which runs the page shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures import signal, style
from analysis.frames import columns, selection
from analysis.statistics import unit_deaths
from harness import store
from harness.timeline import Timeline

MOST_RUNS = 4
"""Runs that stand side by side in a figure."""
SHARES = (0.5, 1.0)
"""Shares of units whose loss the table tells."""
SETS = ("batch", "probe")
"""The images on which units were read: the training batch, the probe set."""


@dataclass(frozen=True)
class LayerReadings:
    """Readings of layers, all of them counted and some shown.

    count: how many runs have such readings. rows: the words of each run that figures show -> its rows. cells: words ->
    rows of it and of those that differ from it in the seed only. timelines: the words, as in `rows`, of those that
    have some -> their timelines by set. losses: `unit_deaths.firsts` for each share of SHARES, of every run with
    timelines, `run` being its run_id, with the column `set`. damaged: what is wrong with timelines that cannot be read.
    """

    count: int
    rows: Mapping[str, pd.DataFrame]
    cells: Mapping[str, pd.DataFrame]
    timelines: Mapping[str, Mapping[str, Timeline]]
    losses: Mapping[float, pd.DataFrame]
    damaged: Sequence[str]

    @property
    def choice(self) -> str:
        """Which runs are shown, in a sentence; none where that goes without saying."""
        with_readings = f"{style.count(self.count, 'run')} with readings of layers"
        if len(self.rows) == self.count:
            return f"Shown: all of {with_readings}." if self.count > 1 else ""
        return (
            f"Shown: {len(self.rows)} of {with_readings}, so that as many levels of what varies, and outcomes, are "
            "seen as can be; of equals one that died, then the lowest seed."
        )


def read_layers(out: Path, runs: pd.DataFrame) -> LayerReadings | None:
    """The readings of layers of the runs of a frame of `load`, None where none was run with such a preset.

    Runs whose timelines are damaged are named in `damaged` and counted by their rows alone.
    """
    timelines, damaged = _timelines(out, runs["run_id"])
    metrics = [name for name in map(str, runs.columns) if re.fullmatch(signal.READINGS, name)]
    blocks = [name for name in metrics if name.startswith("block/")]
    with_layers = runs[runs["run_id"].isin(list(timelines)) | runs[blocks].notna().any(axis=1)]
    if not len(with_layers) and not damaged:
        return None
    shown = {_words(runs, run): run for run in selection.representatives(with_layers, MOST_RUNS).to_dict("records")}
    cells = {}
    for words, run in shown.items():
        seeds = list(selection.seeds_of(with_layers, run["run_id"])["run_id"])
        of_cell = words if len(seeds) == 1 else f"{_place(runs, run)}{len(seeds)} seeds"
        cells[of_cell] = _rows(out, seeds, metrics)
    return LayerReadings(
        count=len(with_layers),
        rows={words: _rows(out, [run["run_id"]], metrics) for words, run in shown.items()},
        cells=cells,
        timelines={words: timelines[run["run_id"]] for words, run in shown.items() if run["run_id"] in timelines},
        losses={share: _losses(timelines, share) for share in SHARES},
        damaged=damaged,
    )


def of_set(timelines: Mapping[str, Mapping[str, Timeline]], name: str) -> dict[str, Timeline]:
    """The timelines of one of SETS, of the runs that have readings there."""
    return {run: sets[name] for run, sets in timelines.items() if name in sets and sets[name].layers}


def _timelines(out: Path, run_ids: Sequence[str] | pd.Series[str]) -> tuple[dict[str, dict[str, Timeline]], list[str]]:
    """Run id -> timelines by set, for the runs that have some, and what is wrong with those that cannot be read."""
    found: dict[str, dict[str, Timeline]] = {}
    damaged: list[str] = []
    for run_id in run_ids:
        directory = store.RunDirectory(out / "runs" / run_id)
        try:
            timelines = {name: Timeline.from_arrays(arrays) for name, arrays in directory.timelines().items()}
        except store.Damaged as error:
            damaged.append(str(error))
        except (KeyError, ValueError) as error:
            damaged.append(str(store.Damaged(directory.file("timelines.npz"), error)))
        else:
            found |= {run_id: timelines} if timelines else {}
    return found, damaged


def _words(runs: pd.DataFrame, run: Mapping[Any, Any]) -> str:
    """What tells a run apart, and how it ended."""
    end = run["state"]
    if end == "finished":
        end = f"{run['outcome']} {'to' if run['outcome'] == 'survived' else 'at'} step {run['outcome_step']}"
    return f"{_place(runs, run)}seed {run['seed']}: {end}"


def _place(runs: pd.DataFrame, run: Mapping[Any, Any]) -> str:
    """The levels of a run in the factors that vary, to be followed by more words."""
    place = runs.index[runs["run_id"] == run["run_id"]][0]
    factors = [columns.factor(runs, column) for column in columns.candidates(runs)]
    return "".join(f"{factor.words(factor.codes[place])}, " for factor in factors)


def _rows(out: Path, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """`run_id`, `step` and such of the metrics as these runs have."""
    frames = [
        store.RunDirectory(out / "runs" / run_id).table(["step", *metrics]).to_pandas().assign(run_id=run_id)
        for run_id in run_ids
    ]
    rows: pd.DataFrame = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    return rows


def _losses(timelines: Mapping[str, Mapping[str, Timeline]], share: float) -> pd.DataFrame:
    """The first layer of each run to lose that share of its units, by set."""
    of_sets = [unit_deaths.firsts(of_set(timelines, name), share).assign(set=name) for name in SETS]
    return pd.concat(of_sets, ignore_index=True)
