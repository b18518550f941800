"""One self-contained page about an output folder, and its figures as files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from matplotlib.figure import Figure

from analysis.claims import CLAIMS, Finding, judge, scoreboard
from analysis.figures import course, phase_map, style, time_to_event
from analysis.frames import columns, results
from analysis.frames.columns import varying
from analysis.frames.events import EVENTS, UNFINISHED
from analysis.frames.load import load, load_rows, of_other_sweeps, provenance
from analysis.report import page
from analysis.report.inside import Inside, read_inside
from harness import files, store
from harness.config import RunConfig
from harness.located import InputError
from harness.outcome import OutcomeName

_LAST = ("prepool/dead_share_batch", "train/loss", "val/accuracy")
"""Metrics whose last value the table of runs shows."""
_DRAWN = tuple(f"prepool/{kind}_share_{source}" for kind in ("dead", "inert") for source in ("batch", "probe"))
"""Metrics whose every row the figures of all runs are drawn from."""
_MOST_VALUES = 4
"""Provenance that has more different values than this is counted, not listed."""


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
            files.write_atomically(target, self.html.encode())
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
    folder, planned = Path(out), tuple(planned)
    found = load(folder, planned)
    foreign = of_other_sweeps(folder, found, planned)
    runs, others = found[~foreign].reset_index(drop=True), found[foreign]
    rows = load_rows(folder, runs, [metric for metric in _DRAWN if metric in runs])
    layers = read_inside(folder, runs)
    judged = _judged(folder, runs)
    drawn, within = dict(figures(runs, rows)), dict(layers.figures()) if layers else {}
    files = {
        f"{name}.{kind}": style.image(figure, kind)
        for name, figure in (drawn | within | dict(judged.figures)).items()
        for kind in ("png", "svg")
    }
    body = [
        *_head(folder, runs),
        *(_figure(name, figure, files[f"{name}.svg"]) for name, figure in drawn.items()),
        *_claims(judged, files),
        *_inside(layers, runs, [_figure(name, figure, files[f"{name}.svg"]) for name, figure in within.items()]),
        *_others(others),
        *_troubles(runs, [*found.attrs["damaged"], *rows.attrs["damaged"]]),
        *_evaluations(folder, runs),
        page.section("Runs", _runs_table(runs), long=True),
        page.section("Provenance", *_provenance(folder, runs), long=True),
        page.paragraph(f"Written by harness report on {time.strftime('%Y-%m-%d at %H:%M:%S %Z')}.", muted=True),
    ]
    html = page.page(f"Report on {_name(folder)}", body)
    return Report(folder, html, files, dict(_tables(runs, judged, layers)))


def _tables(runs: pd.DataFrame, judged: _Judged, layers: Inside | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """What the page's tables hold: the runs, the claims, and the first layers to lose each share of their units."""
    columns = ["run_id", "state", "outcome", "outcome_step", "last_step", *_columns(runs)]
    yield "runs", _sorted(runs)[[*columns, *(metric for metric in _LAST if metric in runs)]]
    if judged.findings:
        yield "claims", pd.DataFrame(scoreboard.lines(judged.findings), columns=scoreboard.HEAD)
    for share, losses in (layers.losses if layers else {}).items():
        yield f"first_to_lose_{100 * share:g}_percent", losses


def figures(runs: pd.DataFrame, rows: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The report's figures by name; those without data are left out."""
    yield "phase_map", phase_map.phase_map(runs)
    if "prepool/dead_share_batch" in rows:
        yield "dead_share", course.unit_share(runs, rows)
    if "prepool/inert_share_batch" in rows and (runs["outcome"] == "collapsed").any():
        yield "inert_share", course.unit_share(runs, rows, "inert")
    if (runs["state"] == "finished").any():
        yield "event_steps", course.event_steps(runs)
    if runs["outcome"].isin(EVENTS).any():
        yield "survival", time_to_event.survival_curves(runs)
    if (runs["outcome"] == "diverged").any():
        yield "incidence", time_to_event.incidence_curves(runs)


@dataclass(frozen=True)
class _Judged:
    """The claims that this sweep alone decides, and their figures."""

    findings: tuple[Finding, ...] = ()
    figures: tuple[tuple[str, Figure], ...] = ()


def _judged(folder: Path, runs: pd.DataFrame) -> _Judged:
    try:
        name = results.name_of(folder)
    except InputError:  # a sweep file that cannot be read: the runs speak for themselves
        return _Judged()
    claims = [claim for claim in CLAIMS if claim.sweeps == (name,)]
    if not claims or not (runs["state"] == "finished").any():
        return _Judged()
    metrics = {metric for claim in claims for metric in claim.metrics if metric in runs}
    own = {name: results.Results(name, folder, runs, load_rows(folder, runs, sorted(metrics)))}
    findings = judge(claims, own)
    return _Judged(findings, tuple(scoreboard.figures(findings, own)))


def _claims(judged: _Judged, files: Mapping[str, bytes]) -> Iterator[str]:
    """The scoreboard of the claims that this sweep decides, each with its figures."""
    if not judged.findings:
        return
    head = [(word, "") for word in scoreboard.HEAD]
    lines = ([page.cell(text) for text in line] for line in scoreboard.lines(judged.findings))
    note = "Claims that need other sweeps too are judged by harness claims DIR DIR ..."
    drawings = [_figure(name, figure, files[f"{name}.svg"]) for name, figure in judged.figures]
    yield page.section("Claims", page.table(head, lines), page.paragraph(note, muted=True), *drawings, long=True)


def _others(others: pd.DataFrame) -> Iterator[str]:
    """Runs of the folder that its sweep does not have."""
    if others.empty:
        return
    lines = ([_run_link(run), page.cell(str(run["outcome"] if run["state"] == "finished" else run["state"]))]
             for run in others.to_dict("records"))  # fmt: skip
    table = page.table([("run", ""), ("outcome", "")], lines)
    yield page.section(f"Of another sweep: {style.count(len(others), 'run')}, in no figure or count", table)


def _name(folder: Path) -> str:
    return folder.resolve().name


def _head(folder: Path, runs: pd.DataFrame) -> Iterator[str]:
    yield f"<header>{page.heading(_name(folder))}"
    axis_names = [column for column in varying(runs) if column != "seed"]
    yield page.paragraph(f"Runs differ in {', '.join(axis_names) or 'nothing but their seed'}.", muted=True)
    verdicts = [
        word for word in get_args(OutcomeName) if word in ("died", "survived") or (runs["outcome"] == word).any()
    ]
    states = [state for state in UNFINISHED if state == "failed" or (runs["state"] == state).any()]
    counts = [(int((runs["outcome"] == word).sum()), word) for word in verdicts]
    counts += [(int((runs["state"] == state).sum()), state) for state in states]
    yield page.tiles([(len(runs), "runs" if len(runs) != 1 else "run"), *counts]) + "</header>"


def _figure(name: str, figure: Figure, svg: bytes) -> str:
    files = [f"figures/{name}.{kind}" for kind in ("png", "svg")]
    wide = figure.get_figwidth() > 6
    return page.figure(style.inline_svg(figure, svg, name), style.caption_of(figure), files, wide)


def _inside(layers: Inside | None, runs: pd.DataFrame, drawings: list[str]) -> Iterator[str]:
    """The figures of what happened inside the networks, and every run's first layers to lose their units."""
    if layers is None:
        return
    parts = list(drawings)
    if any(len(losses) for losses in layers.losses.values()):
        parts.append(_losses_table(layers, runs))
        note = (
            "First layer to lose that share of its units, and the readings, in steps, between which it did; "
            "+n: as many more layers at the same reading, behind it in the forward pass. A unit of a small layer is "
            "easily dead on one batch; the probe set is the reference, read more rarely."
        )
        parts.append(page.paragraph(note, muted=True))
    parts += [page.paragraph(f"Left out: {message}", muted=True) for message in layers.damaged]
    yield page.section("Inside the networks", *parts, long=True)


def _losses_table(layers: Inside, runs: pd.DataFrame) -> str:
    columns = _columns(runs)
    head = [("run", ""), ("outcome", ""), *((column, "number") for column in columns), ("read on", "")]
    for share in layers.losses:
        head += [(f"first to lose {100 * share:g} %", ""), ("in steps", "number")]
    lost: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for losses in layers.losses.values():
        for line in losses.to_dict("records"):
            cells = lost.setdefault((line["run"], line["set"]), [])
            cells += [page.cell(_first(line)), page.cell(_between(line), "number")]
    lines = (
        [
            _run_link(run),
            (page.marked(run["outcome"] if run["state"] == "finished" else run["state"]), ""),
            *(_cell(run[column]) for column in columns),
            page.cell(words),
            *lost[run["run_id"], source],
        ]
        for run in _sorted(runs).to_dict("records")
        for source, words in (("batch", "training batch"), ("probe", "probe set"))
        if (run["run_id"], source) in lost
    )
    return page.table(head, lines)


def _first(line: Mapping[Any, Any]) -> str:
    """The first layer to lose a share, and how many more did at that reading."""
    if pd.isna(line["layer"]):
        return "none"
    return f"{line['layer']} (+{line['at_once'] - 1})" if line["at_once"] > 1 else str(line["layer"])


def _between(line: Mapping[Any, Any]) -> str:
    if pd.isna(line["step"]):
        return "–"
    return f"≤ {line['step']}" if pd.isna(line["alive_before"]) else f"({line['alive_before']}, {line['step']}]"


def _troubles(runs: pd.DataFrame, damaged: list[str]) -> Iterator[str]:
    """Runs that no figure counts, and why."""
    failed = _sorted(runs[runs["state"] == "failed"])
    if len(failed):
        columns = _columns(runs)
        head = [("run", ""), *((column, "number") for column in columns), ("reason", "")]
        lines = (
            [_run_link(run), *(_cell(run[column]) for column in columns), page.cell(str(run["failure"]), "text")]
            for run in failed.to_dict("records")
        )
        yield page.section(f"Failed: {style.count(len(failed), 'run')}, no outcome", page.table(head, lines))
    if damaged:
        lines = ([page.cell(message, "text")] for message in damaged)
        yield page.section(f"Damaged: {style.count(len(damaged), 'run')}, left out", page.table([("", "")], lines))


def _evaluations(folder: Path, runs: pd.DataFrame) -> Iterator[str]:
    """What `harness evaluate` found, each above the paper's rows for its protocol."""
    lines = []
    for run_id in runs.loc[runs["state"] == "finished", "run_id"]:
        for found in store.RunDirectory(folder / "runs" / run_id).evaluations():
            ours = [f"{100 * found[f'{k}_error']:.2f} [{100 * found[f'{k}_low']:.2f}, {100 * found[f'{k}_high']:.2f}]"
                    for k in ("top1", "top5")]  # fmt: skip
            name = f"{' + '.join(found['networks'])} ({run_id}, {found['weights'][0]} weights, {found['dataset']})"
            lines.append([name, found["protocol"], f"{found['images']:,}", *ours])
            for row in found["paper"]:
                theirs = ["-" if row[k] is None else f"{row[k]:.1f}" for k in ("top1", "top5")]
                lines.append([f"{row['network']} (paper, table {row['table']})", row["protocol"], "", *theirs])
    if lines:
        head = [("network", ""), ("protocol", ""), ("images", "number")]
        head += [("top-1 error %", "number"), ("top-5 error %", "number")]
        cells = ([page.cell(text, kind) for text, (_, kind) in zip(line, head, strict=True)] for line in lines)
        note = "Intervals are Wilson's, 95 %. The paper's figures are for ImageNet's validation images."
        yield page.section("Evaluations", page.table(head, cells), page.paragraph(note, muted=True), long=True)


def _columns(runs: pd.DataFrame) -> list[str]:
    """The configuration columns that tell the runs apart, the seed last."""
    return sorted(varying(runs), key=lambda column: column == "seed")


def _sorted(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the order of the axes that they vary over, then of the seed."""
    keys = pd.DataFrame(
        {column: columns.factor(runs, column).codes for column in columns.candidates(runs)}, index=runs.index
    )
    keys["seed"], keys["run_id"] = runs["seed"], runs["run_id"]
    return runs.loc[keys.sort_values(keys.columns.to_list()).index]


def _runs_table(runs: pd.DataFrame) -> str:
    columns = _columns(runs)
    metrics = [metric for metric in _LAST if metric in runs]
    head = [("run", ""), ("outcome", ""), ("event in steps", "number"), ("last step", "number")]
    head += [(name, "number") for name in (*columns, *(f"last {metric}" for metric in metrics))]
    lines = (
        [
            _run_link(run),
            (page.marked(run["outcome"] if run["state"] == "finished" else run["state"]), ""),
            page.cell(_when(run), "number"),
            *(_cell(run[column]) for column in ("last_step", *columns, *metrics)),
        ]
        for run in _sorted(runs).to_dict("records")
    )
    return page.table(head, lines)


def _run_link(run: Mapping[Any, Any]) -> tuple[str, str]:
    known = run["state"] != "pending" or not pd.isna(run["last_step"])
    name = str(run["run_id"])
    return (page.link(f"runs/{name}/", name), "") if known else page.cell(name)


def _when(run: Mapping[Any, Any]) -> str:
    """The interval of steps that holds the run's event, open at its left end."""
    step, live = run["outcome_step"], run["outcome_last_live_step"]
    if pd.isna(step):
        return "–"
    if run["outcome"] == "survived":
        return f"> {step}"
    return f"({live}, {step}]" if not pd.isna(live) else f"≤ {step}"


def _cell(value: Any) -> tuple[str, str]:
    if value is None or value is pd.NA or value != value:
        return page.cell("–", "number")
    if isinstance(value, float):
        return page.cell(f"{value:.4g}", "number")
    return page.cell(str(value), "number")


def _provenance(folder: Path, runs: pd.DataFrame) -> Iterator[str]:
    """What the runs' provenance says, equal things once, and the sweep file."""
    values: dict[str, dict[str, int]] = {}
    for found in provenance(folder, runs):
        for name, value in _flat(found, ""):
            counts = values.setdefault(name, {})
            counts[value] = counts.get(value, 0) + 1
    lines = ([page.cell(name), page.cell(_tally(counts), "text")] for name, counts in values.items())
    yield page.table([("what", ""), ("value", "")], lines) if values else page.paragraph("Nothing is recorded.")
    text = store.sweep_text(folder)
    if text is not None:
        yield page.folded("The sweep file, as it was given", text)


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield name, " ".join(str(item) for item in value)
    else:
        yield name, str(value)


def _tally(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    if len(counts) > _MOST_VALUES:
        return f"{len(counts)} different values, from {min(counts)} to {max(counts)}"
    return "\n".join(f"{value} ({style.count(number, 'run')})" for value, number in counts.items())
