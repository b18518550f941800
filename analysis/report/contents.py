"""What a report tells of an output folder: everything that is read for it, before anything is drawn or worded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims import CLAIMS, Finding, judge
from analysis.figures.instruments import read_of
from analysis.frames.load import load_rows, load_sweep, provenance
from analysis.frames.results import Results, name_of
from analysis.report.layers import LayerReadings, read_layers
from harness import store
from harness.config import RunConfig
from harness.located import InputError

_DRAWN = tuple(f"prepool/{kind}_share_{source}" for kind in ("dead", "inert") for source in ("batch", "probe"))
"""Metrics whose every row the figures of all runs are drawn from."""


@dataclass(frozen=True)
class Claims:
    """The claims that the folder's sweep alone decides, and the results that they were judged by."""

    findings: tuple[Finding, ...] = ()
    results: Mapping[str, Results] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """An output folder.

    runs: one row a run of its sweep, as `load` gives them, and others, those of another sweep. rows: one row a run and
    step of `runs`. layers: readings of layers, None where there are none. evaluations: what `harness evaluate` found,
    by run. provenance: where each run came from. damaged: what is wrong with the runs that are left out. sweep: the
    sweep file as it was given.
    """

    folder: Path
    runs: pd.DataFrame
    others: pd.DataFrame
    rows: pd.DataFrame
    layers: LayerReadings | None
    claims: Claims
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]]
    provenance: Sequence[Mapping[str, Any]]
    damaged: Sequence[str]
    sweep: str | None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def read(folder: Path, planned: Sequence[RunConfig]) -> Contents:
    """Read an output folder; `planned` are the configurations of its sweep.

    Warns with DamagedRuns, and raises InputError for a folder that is missing or holds no readable run.
    """
    runs, others = load_sweep(folder, planned)
    rows = load_rows(folder, runs, [*(metric for metric in _DRAWN if metric in runs), *read_of(list(map(str, runs)))])
    damaged = [*runs.attrs["damaged"], *rows.attrs["damaged"]]
    return Contents(
        folder=folder,
        runs=runs,
        others=others,
        rows=rows,
        layers=read_layers(folder, runs),
        claims=_claims(folder, runs),
        evaluations=_evaluations(folder, runs, damaged),
        provenance=provenance(folder, runs),
        damaged=damaged,
        sweep=store.sweep_text(folder),
    )


def _claims(folder: Path, runs: pd.DataFrame) -> Claims:
    try:
        name = name_of(folder)
    except InputError:  # a sweep file that cannot be read: the runs speak for themselves
        return Claims()
    claims = [claim for claim in CLAIMS if claim.sweeps == (name,)]
    if not claims or not (runs["state"] == "finished").any():
        return Claims()
    metrics = {metric for claim in claims for metric in claim.metrics if metric in runs}
    results = {name: Results(name, folder, runs, load_rows(folder, runs, sorted(metrics)))}
    return Claims(judge(claims, results), results)


def _evaluations(folder: Path, runs: pd.DataFrame, damaged: list[str]) -> dict[str, list[dict[str, Any]]]:
    finished = runs.loc[runs["state"] == "finished", "run_id"]
    found: dict[str, list[dict[str, Any]]] = {}
    for run_id in finished:
        try:
            found[run_id] = store.RunDirectory(folder / "runs" / run_id).evaluations()
        except store.Damaged as error:
            damaged.append(str(error))
    return found
