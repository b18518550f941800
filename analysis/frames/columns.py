"""Which configuration columns a figure is drawn over, and the levels that a column is cut into."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from harness.architectures import up_projected
from harness.config import IDENTITY, RunConfig
from harness.located import InputError
from harness.patterns import suggestion

MOST_LEVELS = 12
"""A numeric column with more different values than this is cut into intervals."""
INTERVALS = 8
_FIRST = ("model.width", "model.trunk_width", "model.branch_width", "model.residual_scale", "optim.lr")
_DEFAULTS = ("model.width", "model.residual_scale")
LABELS = {
    "model.width": "width (factor on all filters)",
    "model.trunk_width": "trunk width (factor on filters)",
    "model.branch_width": "branch width (factor on filters)",
    "model.residual_scale": "residual scale α",
    "model.name": "architecture",
    "optim.lr": "learning rate",
    "optim.name": "optimizer",
    "optim.replicas": "asynchronous replicas",
    "optim.replica_order": "order of the replicas",
    "train.steps": "steps (updates of the weights)",
    "prepool/units": "pre-pool filters",
}
_FRACTIONS = ("model.width", "model.trunk_width", "model.branch_width")


@dataclass(frozen=True)
class Factor:
    """A factor of the study: a column of a frame of runs as ordered levels.

    column: its name. label: what a figure writes at the axis. levels: what it writes at each level, lowest first.
    codes: for each run, by the frame's index, the number of its level.
    """

    column: str
    label: str
    levels: tuple[str, ...]
    codes: pd.Series[int]

    def words(self, code: int) -> str:
        """One level in a line of text, such as `learning rate = 0.5`."""
        level = " ".join(self.levels[code].split())
        name = self.label.split(" (")[0]
        return f"{name}: {level}" if level.endswith(")") else f"{name} = {level}"


def factor(runs: pd.DataFrame, column: str) -> Factor:
    """The levels of a column: its values in order, numbers before words, `none` last; intervals where they are many.

    Widths are shown with the number of filters that they gave, where each gave one: before the pool, or, of the
    branches, into the last stage's up-projections. Raises InputError for a
    column that the frame lacks, naming those it has.
    """
    if column not in runs:
        raise InputError([f"no column {column!r} in these runs{suggestion(column, config_columns(runs))}"])
    label, values = LABELS.get(column, column), runs[column]
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.nunique() > MOST_LEVELS:
        return _intervals(column, label, values, numbers)
    keys = sorted({_key(value) for value in values})
    codes = pd.Series([keys.index(_key(value)) for value in values], index=runs.index, dtype=int)
    levels = [_text(column, key[1] if key[0] == 0 else key[2]) for key in keys]
    counted = _into_up_projections if column == "model.branch_width" else _before_the_pool
    if column in _FRACTIONS and (filters := _one_each(counted(runs), codes)):
        place = "filters into an up-projection" if column == "model.branch_width" else "pre-pool filters"
        label = f"{place} ({label.split(' (')[0]} factor)"
        levels = [
            f"{filters[code]}\n({level})" if code in filters else f"({level})" for code, level in enumerate(levels)
        ]
    return Factor(column, label, tuple(levels), codes)


def choose(runs: pd.DataFrame) -> tuple[str, str]:
    """The two columns to draw the runs over, x and y.

    Of the training fields that vary: numbers before words, widths before the residual scale before the learning rate.
    Where fewer than two vary, width and residual scale fill up.
    """
    picked = candidates(runs)[:2]
    picked += [column for column in _DEFAULTS if column not in picked][: 2 - len(picked)]
    x, y = sorted(picked, key=lambda column: _rank(runs, column))
    return x, y


def pair(runs: pd.DataFrame, x: str | None, y: str | None) -> tuple[str, str]:
    """The two columns to draw over where the caller may have named one, or both."""
    chosen = choose(runs)
    return x or next(c for c in chosen if c != y), y or next(c for c in reversed(chosen) if c != x)


def candidates(runs: pd.DataFrame) -> list[str]:
    """The training fields that vary, seed apart, most telling first.

    A field whose value follows from the name of the architecture, optimizer, ..., or from the number of replicas, is
    left out.
    """
    fields = [column for column in varying(runs) if column.split(".")[0] in IDENTITY and column != "seed"]
    names = [column for column in fields if column.endswith(".name")]
    names += ["optim.replicas"] if "optim.replicas" in fields else []  # one replica has no order, several have theirs
    own = [column for column in fields if column in names or not any(_follows(runs, column, name) for name in names)]
    return sorted(own, key=lambda column: _rank(runs, column))


def pieces(runs: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """The runs divided by every combination of levels of some columns, each with its words."""
    if not columns:
        return [("", runs)]
    first = factor(runs, columns[0])
    return [
        (", ".join(filter(None, (first.words(code), words))), part)
        for code in range(len(first.levels))
        for words, part in pieces(runs[first.codes == code], columns[1:])
    ]


def _rank(runs: pd.DataFrame, column: str) -> tuple[int, int]:
    if column in _FIRST:
        return 0, _FIRST.index(column)
    words = any(_key(value)[0] == 1 for value in runs[column].unique())
    return (2 if words else 1), list(runs.columns).index(column)


def _follows(runs: pd.DataFrame, column: str, name: str) -> bool:
    return bool((runs.groupby(name, dropna=False)[column].nunique(dropna=False) == 1).all())


def _key(value: Any) -> tuple[int, float, str]:
    """Sorts numbers, then words, then nothing."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return 2, 0.0, "none"
    if isinstance(value, bool | np.bool_):
        return 1, 0.0, "on" if value else "off"
    if isinstance(value, int | float | np.number):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _text(column: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    share = Fraction(value).limit_denominator(64)
    if column in _FRACTIONS and 0 < share < 1 and float(share) == value:
        return f"×{share}"
    return f"×{value:g}" if column in _FRACTIONS else f"{value:g}"


def _before_the_pool(runs: pd.DataFrame) -> Sequence[float | None]:
    return runs["prepool/units"].to_list() if "prepool/units" in runs else [None] * len(runs)


def _into_up_projections(runs: pd.DataFrame) -> Sequence[float | None]:
    fields = ("model.name", "model.width", "model.branch_width")
    if not set(fields) <= set(runs):
        return [None] * len(runs)
    of_runs = runs[list(fields)].astype({"model.width": float, "model.branch_width": float})
    return [
        None if math.isnan(width * branch) else up_projected(name, width * branch)
        for name, width, branch in of_runs.itertuples(index=False)
    ]


def _one_each(filters: Sequence[float | None], codes: pd.Series[int]) -> dict[int, int]:
    """The number of filters at each level, empty unless every level has one of its own."""
    found: dict[int, set[int]] = {}
    for code, count in zip(codes, filters, strict=True):
        if count is not None and not math.isnan(count):
            found.setdefault(code, set()).add(int(count))
    single = {code: units.pop() for code, units in found.items() if len(units) == 1}
    return single if len(set(single.values())) == len(found) else {}


def _intervals(column: str, label: str, values: pd.Series[Any], numbers: pd.Series[float]) -> Factor:
    """Cut a column of many numbers into intervals, equal in ratio where they span decades; what is no number, apart."""
    low, high = float(numbers.min()), float(numbers.max())
    edges = (np.geomspace if low > 0 and high / low > 20 else np.linspace)(low, high, INTERVALS + 1)
    levels = [f"{start:.2g} to {end:.2g}" for start, end in itertools.pairwise(edges)]
    others = sorted({_key(value) for value in values[numbers.isna()]})

    def code(value: Any, number: float) -> int:
        if np.isnan(number):
            return INTERVALS + others.index(_key(value))
        return int(np.searchsorted(edges[1:-1], number, side="right"))

    codes = [code(value, number) for value, number in zip(values, numbers, strict=True)]
    return Factor(column, label, (*levels, *(words for _, _, words in others)), pd.Series(codes, index=values.index))


def demand(frame: pd.DataFrame, *columns: str) -> None:
    """Raise InputError for each column that the frame lacks, listing metrics or configuration fields that it has."""
    problems = []
    for column in columns:
        if column in frame:
            continue
        kind = "metric" if "/" in column else "column"
        there = [name for name in map(str, frame.columns) if ("/" in name) == ("/" in column)]
        problems.append(f"no {kind} {column!r} in these runs{suggestion(column, there)}")
    if problems:
        raise InputError(problems)


def config_columns(runs: pd.DataFrame) -> list[str]:
    """The columns of a frame that are configuration fields, in the configuration's order."""
    return [name for name in map(str, runs.columns) if name.split(".")[0] in RunConfig.model_fields]


def varying(runs: pd.DataFrame) -> list[str]:
    """The configuration columns in which the runs differ; a missing value is a value."""
    return [name for name in config_columns(runs) if runs[name].nunique(dropna=False) > 1]
