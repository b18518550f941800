"""What the instruments of stability read in the course of every run: margin, sharpness, noise, features."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from seaborn import objects as so

from analysis.figures import style
from analysis.figures.course import layout_of
from analysis.figures.facets import add, facets, log_scale, step_scale
from analysis.figures.words import STEP
from analysis.statistics.signal import blocks
from harness.located import InputError

READINGS = (
    r"curvature/(margin|sharpness|noise_scale)|prepool/(feature_rank_probe|tau_dormant_share_batch)"
    r"|block/b\d+/(sum/common_mode|up_projection/(mean_share_probe|spectral_norm))"
)
"""The metrics that `instruments` takes from rows, as a regular expression."""

FEW = 3
"""Runs of one level whose curves can be told apart; with more their median is drawn on top."""


@dataclass(frozen=True)
class _Line:
    """A line of panels: its label, its words in the caption, whether it is logarithmic, and what it takes of rows."""

    label: str
    words: str
    log: bool
    take: Callable[[pd.DataFrame], pd.Series[float] | None]


def _metric(name: str) -> Callable[[pd.DataFrame], pd.Series[float] | None]:
    return lambda rows: rows.get(name)


def _of_last_block(metric: str) -> Callable[[pd.DataFrame], pd.Series[float] | None]:
    """Of each run's own last block: runs differ in depth."""

    def take(rows: pd.DataFrame) -> pd.Series[float] | None:
        names = [f"block/{block}/{metric}" for block in blocks(rows, metric)]
        if not names:
            return None
        deepest = {run: part[names].notna().any().to_numpy().nonzero()[0] for run, part in rows.groupby("run_id")}
        last = {run: names[found[-1]] for run, found in deepest.items() if len(found)}
        values = [part[last[run]] for run, part in rows.groupby("run_id") if run in last]
        return pd.concat(values).reindex(rows.index) if values else None

    return take


def _largest(metric: str) -> Callable[[pd.DataFrame], pd.Series[float] | None]:
    def take(rows: pd.DataFrame) -> pd.Series[float] | None:
        names = [f"block/{block}/{metric}" for block in blocks(rows, metric)]
        return rows[names].max(axis=1) if names else None

    return take


_LINES = (
    _Line(
        "stability\nmargin",
        "learning rate times sharpness over the largest stable product with that momentum and delay, unstable above 1",
        True,
        _metric("curvature/margin"),
    ),
    _Line("sharpness", "largest eigenvalue of the preconditioned Hessian", True, _metric("curvature/sharpness")),
    _Line(
        "noise scale\n(images)",
        "batch at which the gradient's noise is as large as itself",
        True,
        _metric("curvature/noise_scale"),
    ),
    _Line(
        "common mode,\nlast sum",
        "mean over standard deviation, training batch",
        False,
        _of_last_block("sum/common_mode"),
    ),
    _Line(
        "share from\nmean input",
        "of the last up-projection's output, probe set",
        False,
        _of_last_block("up_projection/mean_share_probe"),
    ),
    _Line("largest\nspectral norm", "among the up-projections", True, _largest("up_projection/spectral_norm")),
    _Line(
        "feature rank",
        "effective, of the pooled features on the probe set",
        False,
        _metric("prepool/feature_rank_probe"),
    ),
    _Line(
        "τ-dormant\nunits / units",
        "units before the pool whose mean is at most 0.025 of the layer's, training batch",
        False,
        _metric("prepool/tau_dormant_share_batch"),
    ),
)


def instruments(runs: pd.DataFrame, rows: pd.DataFrame, panel: str | None = None, colour: str | None = None) -> Figure:
    """Each instrument against the step, a line of panels for each that was read, one curve a run, or medians of many.

    `runs` and `rows` are frames of `load` and `load_rows`; `panel` and `colour` name columns of `runs`, left out those
    of `columns.choose`. Raises InputError for an unknown column and for rows without such readings.
    """
    taken = [(line, line.take(rows)) for line in _LINES]
    read = [(line, values) for line, values in taken if values is not None and values.notna().any()]
    if not read:
        raise InputError(["no readings of curvature, features or up-projections in these rows"])
    layout = layout_of(runs, panel, colour)
    of_run = pd.DataFrame({"panel": layout.panels.codes, "level": layout.lines.codes, "run_id": runs["run_id"]})
    parts = []
    for place, (line, values) in enumerate(read):
        part = rows[["run_id", "step"]].assign(value=values, line=place).dropna(subset="value")
        parts.append(part[np.isfinite(part["value"]) & ((part["value"] > 0) | (not line.log))])
    found = pd.concat(parts).merge(of_run, on="run_id")
    words = (f"{line.label.replace(chr(10), ' ').split(' (')[0]}: {line.words}" for line, _ in read)
    many = found.groupby(["panel", "level"])["run_id"].nunique().max() > FEW
    curve = "Thick: median of the runs followed until then; thin: one curve a run" if many else "One curve a run"
    lone = found.groupby(["line", "run_id"])["value"].transform("size") == 1
    caption = f"{'; '.join(words)}. {curve}{'; a dot: its only reading' if lone.any() else ''}; "
    caption += "what a logarithm cannot show is left out."
    plot = so.Plot()
    for level, look in enumerate(layout.looks):
        curves = found[found["level"] == level]
        strength = {"alpha": 0.25, "linewidth": 0.6} if many else {"alpha": 0.8, "linewidth": 1.2}
        mark = so.Path(color=look.colour, linestyle=look.dash, **strength)
        plot = add(plot, mark, curves, x="step", y="value", group="run_id")
        dot = so.Dot(color=look.colour, marker=look.mark, pointsize=3.5, alpha=0.8)
        plot = add(plot, dot, found[lone & (found["level"] == level)], x="step", y="value")
    for level, look in enumerate(layout.looks if many else ()):
        middle = found[found["level"] == level].groupby(["panel", "line", "step"], as_index=False)["value"].median()
        mark = so.Path(color=look.colour, linestyle=look.dash, linewidth=1.9)
        plot = add(plot, mark, middle, x="step", y="value")
    with style.applied():
        figure, grid = facets(
            layout.titles,
            (2.2, 1.15),
            f"Instruments of stability, {style.count(found['run_id'].nunique(), 'run')}",
            " ".join([caption[0].upper() + caption[1:], *layout.pooled(runs)]),
            style.key(layout.lines.levels, layout.looks, size=0)[::-1],
            layout.lines.label,
            x=STEP,
            y=[line.label for line, _ in read],
            plot=plot,
        )
        for axes, (line, _) in zip(grid, read, strict=True):
            if line.log:
                log_scale(axes)
            if line.label.endswith("margin"):
                for each in axes:
                    each.axhline(1, color=style.MUTED, linewidth=0.8)
        for each in grid[-1]:
            step_scale(each, rows["step"])
        for each in grid.flat:
            for dots in each.collections:  # one of the last step lies on the edge
                dots.set_clip_on(False)
    return figure


def read_of(metrics: list[str]) -> list[str]:
    """Which of some metrics the figure takes."""
    return [name for name in metrics if re.fullmatch(READINGS, name)]
