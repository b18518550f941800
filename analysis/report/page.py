"""The pieces of a self-contained HTML page. Every text that goes in is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #59636e; --grid: #d5dae0; --paper: #ffffff;
  --soft: #f4f6f8; --link: #0a5aa8; --died: #a8330c; --survived: #0d6b4f; --failed: #8a1d5a;
  --blue: #0072b2; --green: #009e73; --purple: #cc79a7; --vermilion: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --muted: #9aa5b1; --grid: #363d45; --paper: #14181c;
  --soft: #1d2329; --link: #7db9f0; --died: #ff9a6b; --survived: #5fd0a5; --failed: #f29ac6;
  --blue: #4aa8e8; --green: #2cc79a; --purple: #e29cc6; --vermilion: #f58345; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } a { color: var(--link); }
.muted, figcaption { color: var(--muted); font-size: .875rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--soft); border: 1px solid var(--grid); border-radius: .5rem; padding: .45rem .9rem;
  min-width: 5.2rem; }
.tiles b { display: block; font-size: 1.45rem; line-height: 1.2; }
figure { margin: 1.6rem 0; } figcaption { max-width: 46rem; margin-top: .3rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
svg { display: block; width: 100%; height: auto; } figure.wide svg { min-width: 40rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; overflow-wrap: normal; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 12rem; }
.died, .collapsed { color: var(--died); font-weight: 600; } .survived { color: var(--survived); }
.failed, .diverged { color: var(--failed); font-weight: 600; }
pre { background: var(--soft); border: 1px solid var(--grid); border-radius: .5rem; padding: .7rem; font-size: .8rem;
  overflow-x: auto; } summary { cursor: pointer; }
@media print { :root { color-scheme: light; --ink: #000000; --muted: #444444; --grid: #bbbbbb; --paper: #ffffff;
  --soft: #ffffff; --link: #000000; --died: #7d1d10; --survived: #0b4d3a; --failed: #6b1647;
  --blue: #0072b2; --green: #009e73; --purple: #cc79a7; --vermilion: #d55e00; }
  section, figure, tr { break-inside: avoid; } section.long { break-inside: auto; } .scroll { overflow: visible; }
  figure.wide svg { min-width: 0; }
  body { max-width: none; padding: 0; font-size: 13px; } table { font-size: 9px; } th, td { padding-right: .5rem; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page. `title` is text, `body` are pieces of HTML."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def heading(text: str) -> str:
    """The page's own heading."""
    return f"<h1>{escape(text)}</h1>"


def section(heading: str, *parts: str, long: bool = False) -> str:
    """A section of pieces of HTML; a long one may be broken over printed pages."""
    return f"<section{' class=long' if long else ''}><h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str, muted: bool = False) -> str:
    """A paragraph of text."""
    return f"<p{' class=muted' if muted else ''}>{escape(text)}</p>"


def tiles(numbers: Iterable[tuple[int, str]]) -> str:
    """Numbers to be seen first, each with its word; the word is also its CSS class."""
    items = (f'<li><b class="{escape(word)}">{number:,}</b>{escape(word)}</li>' for number, word in numbers)
    return f"<ul class=tiles>{''.join(items)}</ul>"


def figure(svg: str, caption: str, files: Sequence[str], wide: bool) -> str:
    """A drawing with its caption and links to its files; a wide one scrolls sideways on a narrow screen."""
    links = " · ".join(link(file, file.rpartition(".")[2].upper()) for file in files)
    drawing = f"<div class=scroll>{svg}</div>"
    return (
        f"<figure{' class=wide' if wide else ''}>{drawing}<figcaption>{escape(caption)} {links}</figcaption></figure>"
    )


def link(target: str, text: str) -> str:
    """A link to a file or folder beside the page."""
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def marked(text: str) -> str:
    """A word in the colour of its own CSS class."""
    return f'<span class="{escape(text)}">{escape(text)}</span>'


def cell(text: str, kind: str = "") -> tuple[str, str]:
    """A table cell of text; kind is "", number or text (keeps its line breaks)."""
    return escape(text), kind


def table(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[tuple[str, str]]]) -> str:
    """A table. `head` is text, `rows` are cells, each a piece of HTML; both have the kinds of `cell`."""

    def line(cells: Sequence[tuple[str, str]], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} class="{kind}">{content}</{tag}>' for content, kind in cells) + "</tr>"

    top = line([(re.sub(r"([./])", r"\1<wbr>", escape(text)), kind) for text, kind in head], "th")
    body = "\n".join(line(row, "td") for row in rows)
    return f"<div class=scroll><table><thead>{top}</thead>\n<tbody>{body}</tbody></table></div>"


def folded(summary: str, text: str) -> str:
    """Text kept as it is written, behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
