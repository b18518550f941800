"""How well early readings foretell death."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style


def warning_curve(table: pd.DataFrame) -> Figure:
    """How well death is predicted against the step of the prediction, from the table of `early_warning.by_step`."""
    lines = [
        ("auc", "readings of the first steps", style.VERMILION, "o", "solid"),
        ("baseline", "width, residual scale and learning rate alone", style.BLUE, "s", style.DASHES[1]),
        ("within", "readings, among seeds of one cell", style.GREEN, "^", style.DASHES[2]),
    ]
    lines = [line for line in lines if table[line[0]].notna().any()]
    legend = [
        (label, Line2D([], [], color=tone, marker=mark, linestyle=dash, markersize=4))
        for _, label, tone, mark, dash in lines
    ]
    n = f"{table['n'].max():.0f} runs of {table['groups'].max():.0f} cells"
    caption = (
        "Area under the ROC curve: of pairs of runs alive at the step, one that died later and one that did not, the "
        "share ranked the right way round; 0.5 is chance. Cross-validated over cells; bars: 95 % intervals from "
        "bootstrap samples of the cells. Below: runs known to be alive at the step, and those of them that died later."
    )
    with style.applied():
        figure = style.figure(6.4, 3.3, f"Death foretold, {n}", caption, legend)
        axis, strip = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 0.55])
        steps = table["step"].to_numpy(dtype=float)
        width = float(np.ptp(steps)) or 1.0
        for place, (name, _, tone, mark, dash) in enumerate(lines):
            beside = steps + 0.008 * width * (place - (len(lines) - 1) / 2)
            axis.vlines(beside, table[f"{name}_low"], table[f"{name}_high"], color=tone, linewidth=1.1, alpha=0.75)
            axis.plot(beside, table[name], color=tone, marker=mark, linestyle=dash, markersize=4.5)
        axis.axhline(0.5, color=style.MUTED, linewidth=0.8)
        axis.set(ylim=(min(0.4, float(table[[line[0] for line in lines]].min().min()) - 0.05), 1.02), ylabel="AUC")
        for row, name in enumerate(("died", "n")):
            for step, count in zip(steps, table[name], strict=True):
                strip.text(step, row, f"{count:.0f}", ha="center", va="center", fontsize=style.SMALL)
        strip.set(ylim=(-0.6, 1.6), xlabel="step of the prediction (updates of the weights)")
        strip.set_yticks([0, 1], ["died later", "alive"], fontsize=style.SMALL)
        strip.grid(visible=False)
        strip.tick_params(length=0)
        strip.spines[["left", "bottom"]].set_visible(False)
    return figure
