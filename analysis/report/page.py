"""The page: one HTML file that stands alone. Its words and looks are in templates/, every text is escaped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import jinja2
import pandas as pd

from analysis.figures import style
from analysis.frames.columns import varying
from analysis.frames.events import UNFINISHED
from analysis.report import tables
from analysis.report.contents import Contents
from analysis.report.drawings import Drawing
from analysis.report.tables import Table
from harness.outcome import OutcomeName


@dataclass(frozen=True)
class Drawings:
    """The drawings of a report: of all runs, of the claims, and of what happened inside the networks."""

    runs: Sequence[Drawing]
    claims: Sequence[Drawing]
    layers: Sequence[Drawing]

    @property
    def all(self) -> list[Drawing]:
        """All of them, as the page has them."""
        return [*self.runs, *self.claims, *self.layers]


@dataclass(frozen=True)
class Page:
    """What the page shows, as plain words, in its order.

    name: the folder's. differ_in: the fields that the runs differ in, the seed apart. counts: how many runs ended how,
    each with its word. A table without rows and a list without entries have no section.
    """

    name: str
    differ_in: Sequence[str]
    counts: Sequence[tuple[int, str]]
    drawings: Drawings
    claims: Table
    losses: Table
    layers_damaged: Sequence[str]
    others: Table
    failed: Table
    damaged: Sequence[str]
    evaluations: Table
    runs: Table
    provenance: Table
    sweep: str | None
    written: str


def lay_out(contents: Contents, drawings: Drawings, written: str) -> Page:
    """What the page shows of a folder; `written` says when."""
    runs, layers = contents.runs, contents.layers
    return Page(
        name=contents.name,
        differ_in=[column for column in varying(runs) if column != "seed"],
        counts=_counts(runs),
        drawings=drawings,
        claims=tables.of_claims(contents.claims.findings),
        losses=tables.of_losses(layers, runs) if layers is not None else Table(),
        layers_damaged=layers.damaged if layers is not None else (),
        others=tables.of_others(contents.others),
        failed=tables.of_failed(runs),
        damaged=contents.damaged,
        evaluations=tables.of_evaluations(contents.evaluations),
        runs=tables.of_runs(runs),
        provenance=tables.of_provenance(contents.provenance),
        sweep=contents.sweep,
        written=written,
    )


def render(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["counted"] = style.count
    return environment.get_template("report.html").render(page=page)


def _counts(runs: pd.DataFrame) -> list[tuple[int, str]]:
    """How many runs there are, and how many ended how; what ought to be seen is counted where it is none, too."""
    counts = [(len(runs), "runs" if len(runs) != 1 else "run")]
    for column, every, always in (
        ("outcome", get_args(OutcomeName), ("died", "survived")),
        ("state", UNFINISHED, ("failed",)),
    ):
        found = [(int((runs[column] == word).sum()), word) for word in every]
        counts += [(number, word) for number, word in found if number or word in always]
    return counts
