"""How every figure looks: colours, marks, type, captions, and the files it is saved to. No pyplot, no global state.

Colours are Okabe and Ito's, told apart by colour-blind readers and of middling lightness, so that they stand on white
and on dark paper alike. In grey print it is the dashes and marks, one for each colour, that tell lines apart.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

INK = "#1b1f24"
MUTED = "#59636e"
GRID = "#d5dae0"
PAPER = "#fefefe"
"""Text, secondary text, rules and background: colours used for nothing else, so that a page can exchange them."""
BLUE, GREEN, PURPLE, VERMILION = "#0072b2", "#009e73", "#cc79a7", "#d55e00"
EXCHANGED = {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER} | {
    "blue": BLUE,
    "green": GREEN,
    "purple": PURPLE,
    "vermilion": VERMILION,
}
"""The colours that a page gives by CSS variables of these names, to fit its own scheme."""
_COLOURS = {1: (BLUE,), 2: (BLUE, VERMILION), 3: (BLUE, GREEN, VERMILION), 4: (BLUE, GREEN, PURPLE, VERMILION)}
_RAMP = LinearSegmentedColormap.from_list("ramp", [BLUE, GREEN, "#b8860b", VERMILION])
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")
SHARES: Colormap = LinearSegmentedColormap.from_list("shares", ["#e9eff3", "#f2c9a8", "#dc6b2f", "#7d1d10"])
"""Shares from 0 to 1, ever darker, in grey too."""
_FONT = 9.5
SMALL = 7.5
"""Size of letters beside data, in points."""
_TITLE, _CAPTION = "title", "caption"
_SETTINGS: Any = {
    "font.size": _FONT,
    "font.family": "DejaVu Sans",
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


def figure(
    width: float,
    height: float,
    title: str,
    caption: str,
    legend: Sequence[tuple[str, Artist]] = (),
    legend_title: str = "",
) -> Figure:
    """An empty figure: title, legend (if any), room for the panels, and a caption that says what is counted.

    `width`, in inches, is that of the whole figure, `height` that of the panels with their labels; the room for the
    words is added. Panels made in it are laid out in their room.
    """
    lines = textwrap.wrap(caption, round(16.5 * width))
    columns = max(1, int(width / (0.6 + 0.075 * max((len(label) for label, _ in legend), default=1))))
    rows = -(-len(legend) // columns) + bool(legend_title and legend)
    top, bottom = 0.36 + 0.2 * rows, 0.16 + 0.14 * len(lines)
    total = top + height + bottom
    made = Figure(figsize=(width, total), dpi=150)
    FigureCanvasAgg(made)
    made.set_layout_engine("constrained", rect=(0.05 / width, bottom / total, 1 - 0.1 / width, height / total))
    left = 0.1 / width
    made.text(left, 1 - 0.1 / total, title, va="top", fontsize=_FONT + 1.5, fontweight="bold", gid=_TITLE)
    if legend:
        labels, handles = zip(*legend, strict=True)
        made.legend(
            handles,
            labels,
            title=legend_title or None,
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(left, 1 - 0.34 / total),
            bbox_transform=made.transFigure,
            ncols=columns,
            columnspacing=1.4,
            borderpad=0,
            borderaxespad=0,
            labelspacing=0.3,
        ).set_in_layout(False)
    small: dict[str, Any] = {"fontsize": _FONT - 1.5, "color": MUTED, "gid": _CAPTION}
    made.text(left, (bottom - 0.07) / total, "\n".join(lines), va="top", **small)
    made.set_label(caption)
    return made


def caption_of(figure: Figure) -> str:
    """The caption, unwrapped."""
    return str(figure.get_label())


def colours(count: int) -> list[str]:
    """A colour for each of `count` ordered levels, from the lowest to the highest."""
    if count in _COLOURS:
        return list(_COLOURS[count])
    return [to_hex(_RAMP(level / (count - 1))) for level in range(count)]


def line_look(place: int, tones: Sequence[str]) -> dict[str, Any]:
    """Colour, mark and dashes of one of several levels, for a line; the highest has the plainest."""
    turn = len(tones) - 1 - place
    dashes, mark = DASHES[turn % len(DASHES)], MARKS[turn % len(MARKS)]
    return {"color": tones[place], "marker": mark, "linestyle": dashes, "markersize": 5}


def on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever can be read on a cell of this colour."""
    red, green, blue, _ = colour
    return "#101214" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.2 else "#fdfdff"


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


def image(figure: Figure, kind: str) -> bytes:
    """The figure as `png` or `svg`, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with applied():
        if figure.get_layout_engine() is not None:  # lay out once, not for every file
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
            for panel in figure.axes:  # the solver's last digits vary, and names in the file depend on them
                panel.set_position(Bbox(panel.get_position(original=True).get_points().round(6)))
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()


def inline_svg(figure: Figure, svg: bytes, name: str) -> str:
    """A figure's `svg` image as an element of a page: without its caption, in colours that the page may exchange.

    The page gives the colours of EXCHANGED. `name` keeps this figure's identifiers apart from those of others.
    """
    width, height = (72 * inches for inches in figure.get_size_inches())
    words = {text.get_gid(): text for text in figure.texts}
    height *= 1 - words[_CAPTION].get_position()[1]
    title = html.escape(words[_TITLE].get_text())
    look = f"max-width: {width:g}pt; stroke-linejoin: round"
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{title}" style="{look}">'
    text = re.sub(r".*?<svg.*?>.*?</metadata>", head, svg.decode(), count=1, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(rf'<g id="{_CAPTION}">.*?</g>', "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    for variable, colour in EXCHANGED.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 run, 2 runs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
