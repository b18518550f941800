"""Health against death in one look: which runs died, how much of the others is dead, and what they have learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.cells import LINE, draw_cells, write
from analysis.figures.facets import facets, share_bar
from analysis.figures.words import event_words, explain_event, not_counted, together
from analysis.frames import columns
from analysis.frames.events import EVENTS
from analysis.statistics import health, phase


def health_map(runs: pd.DataFrame, x: str | None = None, y: str | None = None) -> Figure:
    """Three maps over two configuration columns: the share of runs that died, dead units, and held-out accuracy.

    Left out, `x` and `y` are those of `columns.choose`; runs that differ in further columns are counted together, and
    the caption says so. Darker is worse in all three. Raises InputError for an unknown column, or a frame without the
    readings of `statistics.health`.
    """
    x, y = columns.pair(runs, x, y)
    across, up = columns.factor(runs, x), columns.factor(runs, y)
    columns.demand(runs, health.DEAD_SHARE, health.ACCURACY)
    word = event_words(runs)
    died = phase.cells(runs, across, up)
    counts = [[f"{row['died']:.0f}/{row['finished']:.0f}"] if row["finished"] else ["no run"] for row in _rows(died)]
    maps = [(f"runs that {word}", died["share"], counts)]
    for column, title in ((health.DEAD_SHARE, "dead units"), (health.ACCURACY, "held-out accuracy")):
        found = health.cells(runs, across, up, column)
        shade = 1 - found["median"] if column == health.ACCURACY else found["median"]
        maps.append((title, shade, [_spread(row) for row in _rows(found)]))
    with style.applied():
        figure, grid = facets(
            [title for title, _, _ in maps],
            (max(1.8, 0.95 * len(across.levels)), 0.72 * len(up.levels) + 0.15),
            _headline(runs, word),
            _caption(runs, [column for column in columns.candidates(runs) if column not in (x, y)]),
            x=across.label,
            y=up.label,
            wide=3,
            margin=2.3,
        )
        for axes, (_, shade, _) in zip(grid, maps, strict=True):
            draw_cells(axes, shade, across, up)
        for axes, (_, shade, texts) in zip(grid, maps, strict=True):
            write(axes, shade, texts, LINE / 0.72, 13.0)
        share_bar(figure, grid, f"share: {word}, dead, wrong")
    return figure


def _rows(cells: pd.DataFrame) -> list[Mapping[Any, float]]:
    return list(cells.to_dict("records"))


def _spread(cell: Mapping[Any, float]) -> list[str]:
    """The median in per cent, and below it the least and the largest where several runs have the reading."""
    if not cell["n"]:
        return ["no reading"]
    low, high = 100 * cell["low"], 100 * cell["high"]
    return [f"{100 * cell['median']:.0f} %"] + ([f"{low:.0f}–{high:.0f} %"] if cell["n"] > 1 else [])


def _headline(runs: pd.DataFrame, word: str) -> str:
    finished = runs[runs["state"] == "finished"]
    dead = health.functionally_dead(finished)
    happened = int(finished["outcome"].isin(EVENTS).sum())
    return (
        f"{happened} of {style.count(len(finished), 'finished run')} {word}; "
        f"{int(dead.sum())} of {int(dead.notna().sum())} are functionally dead"
    )


def _caption(runs: pd.DataFrame, pooled: list[str]) -> str:
    notes = [
        f"Left: runs that {event_words(runs)} / finished runs. Middle: share of pre-pool units dead on the probe set, "
        "right: held-out accuracy, both of each run's last reading: median, and least to largest. Darker is worse.",
        explain_event(runs),
        f"Functionally dead: accuracy at most {health.TIMES_CHANCE:g} times chance, or at least "
        f"{100 * health.MOST_DEAD:g} % of the pre-pool units dead.",
    ]
    return " ".join([*notes, *not_counted(runs), *together(pooled)])
