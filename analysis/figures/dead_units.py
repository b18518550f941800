"""Which layers of a network lose which units, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figures import style
from analysis.figures.facets import facets, share_bar, step_scale
from analysis.figures.words import STEP, evenly, short
from analysis.statistics.unit_deaths import dead_shares, is_output, layers_of, prepool_of, unit_states
from harness.located import InputError
from harness.timeline import Timeline

Source = Literal["batch", "probe"]
Floats = NDArray[np.float64]
_SETS = {"batch": "the training batch", "probe": "the fixed probe set (train-mode batch-norm)"}
MOST_LABELS = 36
"""Lines of a map that are named."""
_WIDTH = 2.45
"""Of a panel, in inches."""
_ALIVE, _DEAD, _REVIVED = "#e9eff3", "#101214", "#e39a5b"


def raster(
    timelines: Mapping[str, Timeline],
    layers: Mapping[str, str] | None = None,
    source: Source = "batch",
    note: str = "",
) -> Figure:
    """Units by steps: when each unit of one layer was dead, sorted by the reading at which it first was.

    `layers`: for each entry the layer to draw; left out, the pre-pool layer, or the last one where there is no such.
    `source`: what the timelines were read on, for the caption. Raises InputError where there are no readings, KeyError
    for an unknown layer.
    """
    _demand_readings(timelines)
    chosen = layers or {words: prepool_of(timeline) for words, timeline in timelines.items()}
    names = {words: short(layer) for words, layer in chosen.items()}
    caption = (
        "One line a unit (channel), in order of the reading at which it first was dead, that is zero at every position "
        f"of {_SETS[source]}. A reading holds until the next one."
    )
    counts = [_count(timeline, chosen[words]) for words, timeline in timelines.items()]
    caption += f" Dead at the last reading{', from left to right' if len(counts) > 1 else ''}: {', '.join(counts)}."
    looks = {"alive so far": _ALIVE, "dead": _DEAD, "alive again": _REVIVED}
    legend = [(word, Patch(facecolor=tone, edgecolor=style.MUTED, linewidth=0.5)) for word, tone in looks.items()]
    with style.applied():
        figure, grid = facets(
            list(timelines),
            (_WIDTH, 2.3),
            "Deaths of units",
            f"{caption} {note}".strip(),
            legend,
            x=STEP,
            y=[f"units of {next(iter(names.values()))}"],
            share_y=False,
        )
        for axes, (words, timeline) in zip(grid[0], timelines.items(), strict=True):
            steps, states = unit_states(timeline, chosen[words])
            _mesh(axes, steps, states, ListedColormap(list(looks.values())), 2)
            axes.set_ylim(len(states), 0)
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            if len(set(names.values())) > 1:
                axes.set_ylabel(f"units of {names[words]}")
    return figure


def _count(timeline: Timeline, layer: str) -> str:
    (_, dead), revivals = timeline.raster(layer), timeline.deaths(layer).revivals
    units = f"{np.count_nonzero(dead[:, -1]):,} of {style.count(len(dead), 'unit')} of {short(layer)}"
    return f"{units} ({np.count_nonzero(revivals):,} revived at least once)"


def share_map(timelines: Mapping[str, Timeline], source: Source = "batch", note: str = "") -> Figure:
    """Layers by steps: the share of dead units of every layer, layers in forward order from the top.

    `source`: what the timelines were read on, for the caption. Raises InputError where there are no readings.
    """
    _demand_readings(timelines)
    caption = (
        "Share of a layer's units (channels) that are dead: zero at every position of "
        f"{_SETS[source]}. A reading holds until the next one."
    )
    names = {words: layers_of(timeline) for words, timeline in timelines.items()}
    if any(is_output(layer) for found in names.values() for layer in found):
        caption += " b01, b02, ... are the outputs of blocks."
    height = min(6.5, max(2.6, 0.115 * max(map(len, names.values()))))
    with style.applied():
        title, text = "Dead units, layer by layer", f"{caption} {note}".strip()
        label = "layer, in forward order from the top"
        figure, grid = facets(list(timelines), (_WIDTH, height), title, text, x=STEP, y=[label], share_y=False)
        for axes, (words, timeline) in zip(grid[0], timelines.items(), strict=True):
            steps, shares = dead_shares(timeline, names[words])
            _mesh(axes, steps, shares, style.SHARES, 1)
            named = _named(names[words])
            axes.set_ylim(len(shares), 0)
            axes.set_yticks([row + 0.5 for row in named], [short(names[words][row]) for row in named])
            axes.tick_params(axis="y", labelsize=style.SMALL)
            if axes is not grid[0, 0] and names[words] == next(iter(names.values())):
                axes.tick_params(axis="y", labelleft=False)
        share_bar(figure, grid, "dead units / units of the layer")
    return figure


def _named(layers: Sequence[str]) -> list[int]:
    """Which lines of a map are named: all, of many the blocks' outputs, or as many as there is room for."""
    outputs = [row for row, layer in enumerate(layers) if is_output(layer)]
    rows = list(range(len(layers))) if len(layers) <= MOST_LABELS or not outputs else outputs
    return [rows[number] for number in evenly(len(rows), MOST_LABELS)]


def _demand_readings(timelines: Mapping[str, Timeline]) -> None:
    if not timelines or not all(timeline.layers for timeline in timelines.values()):
        raise InputError(["no readings of layers; the presets blocks and full have them"])


def _mesh(axes: Axes, steps: NDArray[np.int64], values: NDArray[Any], colours: Colormap, top: float) -> None:
    """A cell for each line and reading; readings that change nothing are one cell with the one before."""
    changes = np.append(True, (values[:, 1:] != values[:, :-1]).any(axis=0))
    end = steps[-1] + max(1, int(np.diff(steps[-2:]).sum()))
    edges = np.append(steps[changes], end)
    masked = np.ma.masked_invalid(values[:, changes])
    axes.pcolormesh(edges, np.arange(len(values) + 1), masked, cmap=colours, vmin=0, vmax=top, rasterized=True)
    axes.grid(visible=False)
    step_scale(axes, np.append(steps, end))
