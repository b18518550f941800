"""The report's part on what happened inside the networks: which runs it shows, and what of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import dead_units, signal, style
from analysis.frames import columns
from analysis.frames.columns import varying
from analysis.frames.events import EVENTS
from analysis.statistics import unit_deaths
from harness import store
from harness.timeline import Timeline

MOST_RUNS = 4
"""Runs that stand side by side in a figure."""
SHARES = (0.5, 1.0)
"""Shares of units whose loss the table tells."""


@dataclass(frozen=True)
class Inside:
    """What an output folder holds about the layers of its networks.

    read: how many runs have readings of layers. shown: words -> row of the frame, for the runs that figures show.
    timelines: the same words -> their timelines by name (`batch`, `probe`), for those that have some. rows: the same
    words -> rows of the run. cells: words -> rows of it and of those that differ from it in the seed only.
    losses: `layers.firsts` for each share of SHARES, of every run with timelines, `run` being its run_id, with the
    column `set`, batch or probe. damaged: what is wrong with timelines that cannot be read.
    """

    read: int
    shown: Mapping[str, Mapping[Any, Any]]
    timelines: Mapping[str, Mapping[str, Timeline]]
    rows: Mapping[str, pd.DataFrame]
    cells: Mapping[str, pd.DataFrame]
    losses: Mapping[float, pd.DataFrame]
    damaged: Sequence[str]

    @property
    def choice(self) -> str:
        """Which runs are shown, in a sentence."""
        if len(self.shown) == self.read:
            return f"Shown: all of {style.count(self.read, 'run')} with readings of layers." if self.read > 1 else ""
        return (
            f"Shown: {len(self.shown)} of {style.count(self.read, 'run')} with readings of layers, so that as many "
            "levels of what varies, and outcomes, are seen as can be; of equals one that died, then the lowest seed."
        )

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """The figures by name; those without data are left out."""
        every = {name for rows in self.rows.values() for name in map(str, rows.columns)}
        if any(name.startswith("block/") for name in every):
            yield "propagation", signal.propagation(self.cells, note=self.choice)
        lines = {words: of_run["batch"] for words, of_run in self.timelines.items() if _is_read(of_run, "batch")}
        if lines:
            yield "layer_deaths", dead_units.share_map(lines, note=self.choice)
            yield "unit_deaths", dead_units.raster(lines, note=self.choice)
            first = unit_deaths.firsts(lines)
            dying = {words: name for words, name in zip(first["run"], first["layer"], strict=True) if name == name}
            dying = {words: name for words, name in dying.items() if name != "prepool"}
            if dying:
                note = (
                    f"Each run's first layer to lose all its units, where that is another than prepool. {self.choice}"
                )
                yield "unit_deaths_first", dead_units.raster({words: lines[words] for words in dying}, dying, note=note)
        if any(re.fullmatch(r"update/.+\.(weight|bias)/ratio", name) for name in every):
            yield "update_ratios", signal.update_ratios(self.rows, note=self.choice)


def read_inside(out: Path, runs: pd.DataFrame) -> Inside | None:
    """What the runs of a frame of `load` tell about their layers, None where none was run with such a preset.

    Runs whose timelines are damaged are named in `damaged` and counted by their rows alone.
    """
    read: dict[str, dict[str, Timeline]] = {}
    damaged: list[str] = []
    for run_id in runs["run_id"]:
        directory = store.RunDirectory(out / "runs" / run_id)
        try:
            read[run_id] = {name: Timeline.from_arrays(arrays) for name, arrays in directory.timelines().items()}
        except store.Damaged as error:
            damaged.append(str(error))
        except (KeyError, ValueError) as error:
            damaged.append(str(store.Damaged(directory.file("timelines.npz"), error)))
    read = {run_id: timelines for run_id, timelines in read.items() if timelines}
    metrics = [name for name in map(str, runs.columns) if re.fullmatch(signal.READINGS, name)]
    blocks = [name for name in metrics if name.startswith("block/")]
    with_layers = runs[runs["run_id"].isin(list(read)) | runs[blocks].notna().any(axis=1)]
    if not len(with_layers) and not damaged:
        return None
    chosen = choose(with_layers)
    shown = {_words(runs, run): run for run in chosen.to_dict("records")}
    return Inside(
        read=len(with_layers),
        shown=shown,
        timelines={words: read[run["run_id"]] for words, run in shown.items() if run["run_id"] in read},
        rows={words: _rows(out, [run["run_id"]], metrics) for words, run in shown.items()},
        cells={
            words if len(seeds) == 1 else f"{_place(runs, run)}{len(seeds)} seeds": _rows(out, seeds, metrics)
            for words, run in shown.items()
            for seeds in [_siblings(with_layers, run)]
        },
        losses={share: _losses(read, share) for share in SHARES},
        damaged=damaged,
    )


def choose(runs: pd.DataFrame, most: int = MOST_RUNS) -> pd.DataFrame:
    """Up to `most` runs that together show as many levels of the columns that vary, and outcomes, as they can.

    Of runs that add equally many levels one that died goes before one that did not, a lower seed before a higher one.
    Stops where every level is shown. In the order of the columns that vary.
    """
    codes = pd.DataFrame(
        {column: columns.factor(runs, column).codes for column in columns.candidates(runs)}, index=runs.index
    )
    order = codes.assign(alive=~runs["outcome"].isin(EVENTS), seed=runs["seed"], run_id=runs["run_id"])
    order = order.sort_values(["alive", "seed", *codes.columns, "run_id"])
    end = runs["outcome"].where(runs["state"] == "finished", runs["state"])
    levels = {run: {*codes.loc[run].items(), ("end", end[run])} for run in order.index}
    picked: list[Any] = []
    covered: set[Any] = set()
    while levels and len(picked) < most:
        best = max(levels, key=lambda run: len(levels[run] - covered))  # the first of equals
        if not levels[best] - covered:
            break
        picked.append(best)
        covered |= levels[best]
    return runs.loc[order.loc[picked].sort_values([*codes.columns, "alive", "seed"]).index]


def _words(runs: pd.DataFrame, run: Mapping[Any, Any]) -> str:
    """What tells a run apart, and how it ended."""
    end = run["state"]
    if end == "finished":
        end = f"{run['outcome']} {'to' if run['outcome'] == 'survived' else 'at'} step {run['outcome_step']}"
    return f"{_place(runs, run)}seed {run['seed']}: {end}"


def _place(runs: pd.DataFrame, run: Mapping[Any, Any]) -> str:
    """The levels of a run in the columns that vary, to be followed by more words."""
    place = runs.index[runs["run_id"] == run["run_id"]][0]
    varied = [columns.factor(runs, column) for column in columns.candidates(runs)]
    return "".join(f"{axis.words(axis.codes[place])}, " for axis in varied)


def _siblings(runs: pd.DataFrame, run: Mapping[Any, Any]) -> list[str]:
    """The run and those that differ from it in the seed only."""
    same = pd.Series(True, index=runs.index)
    for column in varying(runs):
        if column != "seed":
            same &= runs[column].map(repr) == repr(run[column])
    return list(runs.loc[same, "run_id"])


def _rows(out: Path, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """`run_id`, `step` and such of the metrics as these runs have."""
    frames = [
        store.RunDirectory(out / "runs" / run_id).table(["step", *metrics]).to_pandas().assign(run_id=run_id)
        for run_id in run_ids
    ]
    rows: pd.DataFrame = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    return rows


def _losses(read: Mapping[str, Mapping[str, Timeline]], share: float) -> pd.DataFrame:
    parts = []
    for source in ("batch", "probe"):
        lines = {run_id: timelines[source] for run_id, timelines in read.items() if _is_read(timelines, source)}
        parts.append(unit_deaths.firsts(lines, share).assign(set=source))
    return pd.concat(parts, ignore_index=True)


def _is_read(timelines: Mapping[str, Timeline], source: str) -> bool:
    return source in timelines and bool(timelines[source].layers)
