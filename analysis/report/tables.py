"""The tables of a report as plain words: what a reader sees in each cell, still without HTML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import pandas as pd

from analysis.claims import Finding, scoreboard
from analysis.figures import style
from analysis.frames import selection
from analysis.frames.columns import varying
from analysis.report.layers import LayerReadings
from harness import store

LAST = ("prepool/dead_share_batch", "train/loss", "val/accuracy")
"""Metrics whose last value the table of runs shows."""
DELAY = "mean delay (updates)"
"""Heading: how many updates lie in the mean between the parameters of a gradient and its use, the first ones apart."""
_MOST_VALUES = 4
"""Provenance that has more different values than this is counted, not listed."""
_NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand to the right, text keeps its line breaks."""

    heading: str
    kind: Literal["", "number", "text"] = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table. href: what it links to, relative to the page. tone: the outcome or state it is coloured by."""

    text: str
    href: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table; one without rows is not shown. Each row has a cell for each column."""

    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[Cell]] = ()


def of_runs(runs: pd.DataFrame) -> Table:
    """Every run: how it ended, what tells it apart, how late its gradients were if any were, and its last readings."""
    fields, metrics = telling_apart(runs), [metric for metric in LAST if metric in runs]
    late = runs["optim.replicas"] > 1 if "optim.replicas" in runs else pd.Series(False, index=runs.index)
    if late.any():
        runs = runs.assign(**{DELAY: runs["optim.replicas"] - 1})
        fields = [*fields, DELAY]
    columns = [Column("run"), Column("outcome"), Column("event in steps", "number"), Column("last step", "number")]
    columns += [Column(name, "number") for name in (*fields, *(f"last {metric}" for metric in metrics))]
    rows = [
        [_run(run), _end(run), Cell(_when(run)), *_values(run, ["last_step", *fields, *metrics])]
        for run in selection.in_order(runs).to_dict("records")
    ]
    return Table(columns, rows)


def of_others(others: pd.DataFrame) -> Table:
    """Runs of the folder that its sweep does not have."""
    rows = [[_run(run), Cell(_end_word(run))] for run in others.to_dict("records")]
    return Table([Column("run"), Column("outcome")], rows)


def of_failed(runs: pd.DataFrame) -> Table:
    """Runs that ended without an outcome, and why."""
    fields, failed = telling_apart(runs), runs[runs["state"] == "failed"]
    columns = [Column("run"), *(Column(field, "number") for field in fields), Column("reason", "text")]
    rows = [
        [_run(run), *_values(run, fields), Cell(str(run["failure"]))]
        for run in selection.in_order(failed).to_dict("records")
    ]
    return Table(columns, rows)


def of_losses(layers: LayerReadings, runs: pd.DataFrame) -> Table:
    """Every run's first layers to lose their units, on the training batch and on the probe set."""
    fields = telling_apart(runs)
    columns = [Column("run"), Column("outcome"), *(Column(field, "number") for field in fields), Column("read on")]
    for share in layers.losses:
        columns += [Column(f"first to lose {100 * share:g} %"), Column("in steps", "number")]
    losses: dict[tuple[str, str], list[Cell]] = {}
    for of_share in layers.losses.values():
        for loss in of_share.to_dict("records"):
            losses.setdefault((loss["run"], loss["set"]), []).extend([Cell(_first(loss)), Cell(_between(loss))])
    rows = [
        [_run(run), _end(run), *_values(run, fields), Cell(words), *losses[run["run_id"], name]]
        for run in selection.in_order(runs).to_dict("records")
        for name, words in (("batch", "training batch"), ("probe", "probe set"))
        if (run["run_id"], name) in losses
    ]
    return Table(columns, rows)


def of_claims(findings: Sequence[Finding]) -> Table:
    """The scoreboard of the claims that were judged."""
    rows = [[Cell(text) for text in line] for line in scoreboard.lines(findings)]
    return Table([Column(heading) for heading in scoreboard.HEAD], rows)


def of_evaluations(evaluations: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """What `harness evaluate` found, by run, each above the paper's rows for its protocol."""
    rows = []
    for run_id, of_run in evaluations.items():
        for found in of_run:
            ours = [f"{100 * found[f'{k}_error']:.2f} [{100 * found[f'{k}_low']:.2f}, {100 * found[f'{k}_high']:.2f}]"
                    for k in ("top1", "top5")]  # fmt: skip
            name = f"{' + '.join(found['networks'])} ({run_id}, {found['weights'][0]} weights, {found['dataset']})"
            rows.append([name, found["protocol"], f"{found['images']:,}", *ours])
            for row in found["paper"]:
                theirs = ["-" if row[k] is None else f"{row[k]:.1f}" for k in ("top1", "top5")]
                rows.append([f"{row['network']} (paper, table {row['table']})", row["protocol"], "", *theirs])
    columns = [Column("network"), Column("protocol"), Column("images", "number")]
    columns += [Column("top-1 error %", "number"), Column("top-5 error %", "number")]
    return Table(columns, [[Cell(text) for text in row] for row in rows])


def of_provenance(provenance: Iterable[Mapping[str, Any]]) -> Table:
    """Where the runs came from, equal things once."""
    values: dict[str, dict[str, int]] = {}
    for found in provenance:
        for name, value in store.flat(found).items():
            counts = values.setdefault(name, {})
            words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            counts[words] = counts.get(words, 0) + 1
    rows = [[Cell(name), Cell(_tally(counts))] for name, counts in values.items()]
    return Table([Column("what"), Column("value", "text")], rows)


def telling_apart(runs: pd.DataFrame) -> list[str]:
    """The configuration columns that tell the runs apart, the seed last."""
    return sorted(varying(runs), key=lambda column: column == "seed")


def _run(run: Mapping[Any, Any]) -> Cell:
    """A run's name, a link where it has a folder."""
    name = str(run["run_id"])
    started = run["state"] != "pending" or not pd.isna(run["last_step"])
    return Cell(name, href=quote(os.fsencode(f"runs/{name}/")) if started else "")


def _end(run: Mapping[Any, Any]) -> Cell:
    return Cell(_end_word(run), tone=_end_word(run))


def _end_word(run: Mapping[Any, Any]) -> str:
    return str(run["outcome"] if run["state"] == "finished" else run["state"])


def _values(run: Mapping[Any, Any], columns: Iterable[str]) -> list[Cell]:
    return [Cell(_value(run[column])) for column in columns]


def _value(value: Any) -> str:
    if value is None or value is pd.NA or value != value:
        return _NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _when(run: Mapping[Any, Any]) -> str:
    """The interval of steps that holds the run's event, open at its left end."""
    if run["outcome"] == "survived" and not pd.isna(run["outcome_step"]):
        return f"> {run['outcome_step']}"
    return _interval(run["outcome_last_live_step"], run["outcome_step"])


def _first(loss: Mapping[Any, Any]) -> str:
    """The first layer to lose a share, and how many more did at that reading."""
    if pd.isna(loss["layer"]):
        return "none"
    return f"{loss['layer']} (+{loss['at_once'] - 1})" if loss["at_once"] > 1 else str(loss["layer"])


def _between(loss: Mapping[Any, Any]) -> str:
    return _interval(loss["alive_before"], loss["step"])


def _interval(before: Any, step: Any) -> str:
    """Steps between which something happened."""
    if pd.isna(step):
        return _NOTHING
    return f"≤ {step}" if pd.isna(before) else f"({before}, {step}]"


def _tally(counts: Mapping[str, int]) -> str:
    """The values and how many runs have each; many are counted."""
    if len(counts) == 1:
        return next(iter(counts))
    if len(counts) > _MOST_VALUES:
        return f"{len(counts)} different values, from {min(counts)} to {max(counts)}"
    return "\n".join(f"{value} ({style.count(number, 'run')})" for value, number in counts.items())
