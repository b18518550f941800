"""How every figure looks: theme, palettes, marks, captions, and the files it is saved to. No pyplot, no global state.

The theme is seaborn's with our colours. Those are Okabe and Ito's, told apart by colour-blind readers and of middling
lightness, so that they stand on white and on dark paper alike. In grey print it is the dashes and marks, one for each
colour, that tell lines apart.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import seaborn
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
_PALETTES = {1: [BLUE], 2: [BLUE, VERMILION], 3: [BLUE, GREEN, VERMILION], 4: [BLUE, GREEN, PURPLE, VERMILION]}
_RAMP = [BLUE, GREEN, "#b8860b", VERMILION]
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")
SHARES: Colormap = seaborn.blend_palette(["#e9eff3", "#f2c9a8", "#dc6b2f", "#7d1d10"], as_cmap=True)
"""Shares from 0 to 1, ever darker, in grey too."""
BAND = 0.18
"""Opacity of a band around a line."""
_FONT = 9.5
SMALL = 7.5
"""Size of letters beside data, in points."""
_TITLE, _CAPTION = "title", "caption"
_SIZES = {"font.size": _FONT, "axes.linewidth": 0.8, "grid.linewidth": 0.6} | {
    f"{part}size": _FONT for part in ("axes.label", "axes.title", "xtick.label", "ytick.label", "legend.font")
}
THEME: Any = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("paper", rc=_SIZES),
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.prop_cycle": cycler(color=[BLUE, VERMILION, GREEN, PURPLE]),
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.bottom": True,
    "ytick.left": True,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "patch.force_edgecolor": False,
    "hatch.color": GRID,
    "hatch.linewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "analysis",
}
"""Settings of matplotlib; whole, so that a plot of seaborn's takes them as its theme."""
Legend = Sequence[tuple[str, Artist]]
"""What a legend says, each with what it is said of."""


@dataclass(frozen=True)
class Look:
    """What tells one of several levels from the others: a colour, dashes and a mark."""

    colour: str
    dash: Any
    mark: str

    def line(self, size: float = 5) -> dict[str, Any]:
        """Of a line; `size` is that of its marks in points, 0 for none."""
        marked = {"marker": self.mark, "markersize": size} if size else {}
        return {"color": self.colour, "linestyle": self.dash, **marked}

    def path(self, size: float = 5) -> dict[str, Any]:
        """The same for a mark of seaborn.objects."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.mark if size else "", "pointsize": size}


def looks(count: int) -> list[Look]:
    """A look for each of `count` ordered levels, from the lowest to the highest, which has the plainest."""
    tones = colours(count)
    turns = range(count - 1, -1, -1)
    return [
        Look(tone, _DASHES[turn % len(_DASHES)], _MARKS[turn % len(_MARKS)])
        for tone, turn in zip(tones, turns, strict=True)
    ]


def key(labels: Sequence[str], of: Sequence[Look], size: float = 5) -> list[tuple[str, Artist]]:
    """A legend that says which level has which look."""
    return [(label, Line2D([], [], **look.line(size))) for label, look in zip(labels, of, strict=True)]


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """The style, for as long as the block lasts; figures are made and saved in it."""
    with matplotlib.rc_context(THEME):
        yield


def figure(
    width: float,
    height: float,
    title: str,
    caption: str,
    legend: Legend = (),
    legend_title: str = "",
) -> Figure:
    """An empty figure: title, legend (if any), room for the panels, and a caption that says what is counted.

    `width`, in inches, is that of the whole figure, `height` that of the panels with their labels; the room for the
    words is added. Panels made in it are laid out in their room.
    """
    lines = textwrap.wrap(caption, round(15.5 * width))
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
    palette = _PALETTES.get(count) or seaborn.blend_palette(_RAMP, count)
    return list(seaborn.color_palette(palette).as_hex())


def on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever can be read on a cell of this colour."""
    red, green, blue, _ = colour
    return "#101214" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.2 else "#fdfdff"


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
