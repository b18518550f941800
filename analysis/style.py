"""How every figure looks: colours, marks, type, captions, and the files it is saved to. No pyplot, no global state kept.

Colours are Okabe and Ito's, told apart by colour-blind readers and of middling lightness, so that they stand on white and
on dark paper alike. In grey print it is the dashes and marks, one for each colour, that tell lines apart.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

INK = "#1b1f24"
MUTED = "#59636e"
GRID = "#d5dae0"
PAPER = "#fefefe"
"""Text, secondary text, rules and background: colours used for nothing else, so that a page can exchange them."""

BLUE, GREEN, PURPLE, VERMILION = "#0072b2", "#009e73", "#cc79a7", "#d55e00"
_COLOURS = {1: (BLUE,), 2: (BLUE, VERMILION), 3: (BLUE, GREEN, VERMILION), 4: (BLUE, GREEN, PURPLE, VERMILION)}
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")

SHARES: Colormap = LinearSegmentedColormap.from_list("shares", ["#e9eff3", "#f2c9a8", "#dc6b2f", "#7d1d10"])
"""Shares from 0 to 1, ever darker, in grey too."""

_FONT = 9.5
_SETTINGS: dict[str, Any] = {
    "font.size": _FONT,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.titlesize": _FONT,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "hatch.color": GRID,
    "hatch.linewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "analysis",
}


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """The style, for as long as the block lasts; figures are made and saved in it."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of a size in inches with a bold title above its top left.

    Title and caption stand outside the figure's frame: save it by `image`, or with bbox_inches="tight".
    """
    made = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(made)
    made.text(0.012, 1.01, title, va="bottom", fontsize=_FONT + 1.5, fontweight="bold")
    return made


def colours(count: int) -> list[str]:
    """A colour for each of `count` ordered levels, from the lowest to the highest."""
    if count in _COLOURS:
        return list(_COLOURS[count])
    ramp = matplotlib.colormaps["viridis"]
    return [to_hex(ramp(0.1 + 0.75 * level / max(count - 1, 1))) for level in range(count)]


def on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever can be read on a cell of this colour."""
    red, green, blue, _ = colour
    return "#101214" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.2 else "#fdfdff"


def caption(figure: Figure, text: str) -> None:
    """Put a caption below the figure; it says what is counted."""
    width = round(figure.get_figwidth() * 15.5)
    below = figure.text(0.012, -0.02, textwrap.fill(text, width), va="top", fontsize=_FONT - 1.5, color=MUTED)
    below.set_gid("caption")
    figure.set_label(text)


def caption_of(figure: Figure) -> str:
    """The caption, unwrapped."""
    return str(figure.get_label())


def trim(grid: np.ndarray[Any, Any], used: int, x: str, y: str) -> None:
    """Label the outer panels of a grid of which the first `used` hold something, and blank the others."""
    columns = grid.shape[1]
    for number, panel in enumerate(grid.flat):
        if number >= used:
            panel.set_axis_off()
            continue
        if number % columns == 0:
            panel.set_ylabel(y)
        if number + columns >= used:
            panel.set_xlabel(x)
            panel.tick_params(labelbottom=True)


def image(figure: Figure, kind: str, *, captioned: bool = True) -> bytes:
    """The figure as `png` or `svg`, trimmed, the same bytes for the same figure; without its caption if asked."""
    for text in figure.texts:
        if text.get_gid() == "caption":
            text.set_visible(captioned)
    buffer = io.BytesIO()
    with applied():
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, bbox_inches="tight", pad_inches=0.12, metadata=metadata)
    return buffer.getvalue()


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 run, 2 runs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
