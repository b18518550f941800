"""What is committed about the claims, redrawn from the compact results: `make findings`.

Reads every folder of experiments/results/, writes experiments/figures/claims/*.png and the scoreboard into README.md
and experiments/FINDINGS.md, between the lines that mark its place. Only that needs a checkout.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from analysis.claims import CLAIMS, judge, scoreboard
from analysis.figures import health, style
from analysis.figures.signal import DRIFT, READINGS, drift
from analysis.frames.results import Results, read_all, write_compact
from harness import files
from harness.located import InputError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
FIGURES = ROOT / "experiments" / "figures" / "claims"
PAGES = (ROOT / "README.md", ROOT / "experiments" / "FINDINGS.md")
DRAWN = {"first_to_die": 10}
"""Sweeps whose signal propagation a notebook draws, and the steps between the readings that it needs."""
OPENING, CLOSING = "<!-- scoreboard: `make findings` writes it -->", "<!-- end of the scoreboard -->"


def committed() -> dict[str, Results]:
    """The compact results that are committed, by sweep. Raises InputError where they are missing or cannot be read."""
    if not RESULTS.is_dir():
        raise InputError([f"{RESULTS}: no such folder; the claims' results are in a checkout of the repository"])
    return read_all(sorted(path.parent for path in RESULTS.glob("*/sweep.yaml")))


def save(results: Results, root: Path) -> Path:
    """Write a sweep's compact results below a folder, with the metrics that any claim needs of it.

    Raises InputError for a folder that cannot be written.
    """
    wanted = {metric for claim in CLAIMS if results.name in claim.sweeps for metric in claim.metrics}
    read = map(str, results.rows) if results.name in DRAWN else ()
    drawn = {name for name in read if re.fullmatch(f"{READINGS}|{DRIFT}", name) and _seen(name)}
    target = root / results.name
    try:
        write_compact(results, target, sorted(wanted | drawn), DRAWN.get(results.name, 1))
    except OSError as error:
        raise InputError([f"{error.filename or target}: cannot be written: {error.strerror}"]) from None
    return target


def _seen(name: str) -> bool:
    """Whether a figure of update ratios shows this metric: those of the up-projections, where there are any."""
    return not name.startswith("update/") or "up_projection" in name


def overview(results: Mapping[str, Results]) -> Iterator[tuple[str, Figure]]:
    """Figures of no single claim, by name: who is lost, who learns, and what happens to the last sum before."""
    if "filters" in results:
        yield "map", health.health_map(results["filters"].runs, "model.width", "model.residual_scale")
    if "first_to_die" in results:
        runs, rows = results["first_to_die"].runs, results["first_to_die"].rows
        seen = rows.merge(runs[["run_id", "model.residual_scale"]], on="run_id")
        yield "drift", drift({f"scale {scale:g}": part for scale, part in seen.groupby("model.residual_scale")})


def with_scoreboard(text: str, table: str, where: str) -> str:
    """A page with its scoreboard replaced. Raises InputError if the page does not mark the place."""
    before, opening, rest = text.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise InputError([f"{where}: does not mark the scoreboard's place with {OPENING} and {CLOSING}"])
    return f"{before}{OPENING}\n\n{table}\n{CLOSING}{after}"


def redraw() -> str:
    """Write every figure, and the scoreboard into the pages; gives the scoreboard as Markdown.

    Raises InputError, before anything is written, for results or pages that are missing or cannot be read.
    """
    results = committed()
    findings = judge(CLAIMS, results)
    table = scoreboard.markdown(findings)
    pages = {page: with_scoreboard(_text(page), table, str(page)) for page in PAGES}
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, figure in itertools.chain(scoreboard.figures(findings, results), overview(results)):
        files.write_atomically(FIGURES / f"{name}.png", style.image(figure, "png"))
    for page, text in pages.items():
        files.write_atomically(page, text.encode())
    return table


def _text(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError([f"{page}: cannot be read: {error.strerror}; a checkout of the repository has it"]) from None


def main() -> int:
    """Redraw everything; gives the exit code."""
    try:
        print(redraw(), end="")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
