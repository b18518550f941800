"""One self-contained page about an output folder, and its figures as files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.claims import scoreboard
from analysis.frames import selection
from analysis.report import contents, drawings, page, tables
from analysis.report.contents import Contents
from analysis.report.page import Drawings
from harness import files
from harness.config import RunConfig
from harness.located import InputError


@dataclass(frozen=True)
class Report:
    """A report that is not written yet.

    folder: the output folder. html: the page. files: the figures, by file name. tables: what the page's tables hold, by
    name.
    """

    folder: Path
    html: str
    files: Mapping[str, bytes]
    tables: Mapping[str, pd.DataFrame]

    def save(self) -> Path:
        """Write OUT/report.html and OUT/figures/*; gives the page's path. Raises InputError where that cannot be."""
        target = self.folder / "report.html"
        try:
            (self.folder / "figures").mkdir(exist_ok=True)
            for name, content in self.files.items():
                files.write_atomically(self.folder / "figures" / name, content)
            # A name or message that is no UTF-8 has lone surrogates.
            files.write_atomically(target, self.html.encode(errors="backslashreplace"))
        except OSError as error:
            raise InputError([f"{error.filename or self.folder}: cannot be written: {error.strerror}"]) from None
        return target


def write(out: str | os.PathLike[str], planned: Iterable[RunConfig] = ()) -> Path:
    """Write OUT/report.html and OUT/figures/*.png and *.svg from the runs in OUT; gives the page's path.

    Warns and raises as `compose` does, and InputError where the folder cannot be written.
    """
    return compose(out, planned).save()


def compose(out: str | os.PathLike[str], planned: Iterable[RunConfig] = ()) -> Report:
    """The report on the runs in OUT.

    `planned` are the sweep's configurations: shown as pending where they have no folder yet; runs of the folder that
    are not among them are of another sweep, listed on the page and in no figure. Damaged run folders are left out,
    named on the page and in a DamagedRuns warning. Raises InputError for a folder that is missing or holds no readable
    run.
    """
    found = contents.read(Path(out), tuple(planned))
    drawn = _draw(found)
    written = time.strftime("%Y-%m-%d at %H:%M:%S %Z")
    return Report(
        folder=found.folder,
        html=page.render(page.lay_out(found, drawn, written)),
        files={f"{each.name}.{kind}": image for each in drawn.all for kind, image in each.files.items()},
        tables=dict(_frames(found)),
    )


def _draw(found: Contents) -> Drawings:
    of_runs = drawings.of_runs(found.runs, found.rows)
    of_claims = scoreboard.figures(found.claims.findings, found.claims.results)
    of_layers = drawings.of_layers(found.layers) if found.layers is not None else ()
    return Drawings(*([drawings.draw(*each) for each in figures] for figures in (of_runs, of_claims, of_layers)))


def _frames(found: Contents) -> Iterator[tuple[str, pd.DataFrame]]:
    """The page's tables as frames: the runs, the claims, and the first layers to lose each share of their units."""
    columns = ["run_id", "state", "outcome", "outcome_step", "last_step", *tables.telling_apart(found.runs)]
    last = [metric for metric in tables.LAST if metric in found.runs]
    yield "runs", selection.in_order(found.runs)[[*columns, *last]]
    if found.claims.findings:
        yield "claims", pd.DataFrame(scoreboard.lines(found.claims.findings), columns=scoreboard.HEAD)
    for share, losses in (found.layers.losses if found.layers is not None else {}).items():
        yield f"first_to_lose_{100 * share:g}_percent", losses
