"""The figures of a report, and a figure as the page and the folder hold it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import course, dead_units, instruments, phase_map, signal, style, time_to_event
from analysis.figures.health import health_map
from analysis.frames.events import EVENTS
from analysis.report.layers import LayerReadings, of_set
from analysis.statistics import health, unit_deaths

_WIDE = 6
"""Inches; a wider figure scrolls sideways on a narrow screen."""


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn.

    name: that of its files, without ending. caption: in one line. wide: whether it needs a wide screen. svg: an element
    for the page. files: its images by ending, png and svg.
    """

    name: str
    caption: str
    wide: bool
    svg: str
    files: Mapping[str, bytes]


def draw(name: str, figure: Figure) -> Drawing:
    """Draw a figure; its name keeps its identifiers apart from those of others on the page."""
    files = {kind: style.image(figure, kind) for kind in ("png", "svg")}
    svg = style.inline_svg(figure, files["svg"], name)
    return Drawing(name, style.caption_of(figure), figure.get_figwidth() > _WIDE, svg, files)


def of_runs(runs: pd.DataFrame, rows: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The figures of all runs by name; those without data are left out."""
    if {health.DEAD_SHARE, health.ACCURACY} <= set(runs) and (runs["state"] == "finished").any():
        yield "health", health_map(runs)
    yield "phase_map", phase_map.phase_map(runs)
    if "prepool/dead_share_batch" in rows:
        yield "dead_share", course.unit_share(runs, rows)
    if "prepool/inert_share_batch" in rows and (runs["outcome"] == "collapsed").any():
        yield "inert_share", course.unit_share(runs, rows, "inert")
    if any(rows[name].notna().any() for name in instruments.read_of(list(map(str, rows.columns)))):
        yield "instruments", instruments.instruments(runs, rows)
    if (runs["state"] == "finished").any():
        yield "event_steps", course.event_steps(runs)
    if runs["outcome"].isin(EVENTS).any():
        yield "survival", time_to_event.survival_curves(runs)
    if (runs["outcome"] == "diverged").any():
        yield "incidence", time_to_event.incidence_curves(runs)


def of_layers(layers: LayerReadings) -> Iterator[tuple[str, Figure]]:
    """The figures of what happened inside the networks by name; those without data are left out."""
    metrics = {name for rows in layers.rows.values() for name in map(str, rows.columns)}
    if any(name.startswith("block/") for name in metrics):
        yield "propagation", signal.propagation(layers.cells, note=layers.choice)
    lines = of_set(layers.timelines, "batch")
    if lines:
        yield "layer_deaths", dead_units.share_map(lines, note=layers.choice)
        yield "unit_deaths", dead_units.raster(lines, note=layers.choice)
        first = unit_deaths.firsts(lines).dropna(subset="layer")
        dying = {run: layer for run, layer in zip(first["run"], first["layer"], strict=True) if layer != "prepool"}
        if dying:
            note = f"Each run's first layer to lose all its units, where that is another than prepool. {layers.choice}"
            yield "unit_deaths_first", dead_units.raster({run: lines[run] for run in dying}, dying, note=note)
    if any(re.fullmatch(r"update/.+\.(weight|bias)/ratio", name) for name in metrics):
        yield "update_ratios", signal.update_ratios(layers.rows, note=layers.choice)
