"""The report: one page that stands alone and tells what is in the folder, all of it, in its numbers."""

import dataclasses
import json
import os
import re
import shutil
import time
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from analysis.load import DamagedRuns
from analysis.report import report, tables
from analysis.report.drawings import Drawing
from analysis.report.page import Drawings, Page, render
from harness import store
from harness.cli import main
from harness.located import InputError
from tests.analysis_folders import (
    config,
    counted,
    damage,
    died,
    outcome,
    quickstart_fate,
    survived,
    write_grid,
    write_run,
)
from tests.analysis_frames import frame
from tests.test_wandb import records


class PageReader(HTMLParser):
    """What a reader of the page gets: tables as lists of texts, links, and which tags were left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "wbr"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "data"):
                self.resources.append(value or "")
            elif name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, heading: str) -> list[dict[str, str]]:
        """The table whose head has a column, as records."""
        head, *lines = next(table for table in self.tables if heading in table[0])
        return [dict(zip(head, line, strict=True)) for line in lines]


def read(path: Path) -> PageReader:
    return PageReader(path.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without figures, for tests of its words: to draw them takes most of its time."""
    monkeypatch.setattr(report, "_draw", lambda _: Drawings([], [], []))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_grid(tmp_path_factory.mktemp("quickstart"), quickstart_fate)
    store.write_sweep_text(out, "# why do they die?\nmethod: grid\n")
    report.write(out)
    return out


def test_the_page_and_the_figures_are_written_beside_the_runs(quickstart: Path) -> None:
    names = sorted(path.name for path in (quickstart / "figures").iterdir())
    drawn = ("dead_share", "event_steps", "health", "phase_map", "survival")
    assert names == [f"{name}.{kind}" for name in drawn for kind in ("png", "svg")]
    assert (quickstart / "report.html").stat().st_size > 10_000
    assert not list(quickstart.rglob("*.tmp"))


def test_the_page_stands_alone(quickstart: Path) -> None:
    text = (quickstart / "report.html").read_text(encoding="utf-8")
    page = PageReader(text)
    assert not page.open, "every tag is closed"
    assert all(target.startswith(("#", "data:")) for target in page.resources)
    assert not re.search(r"<(script|link|iframe|img)\b|@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids)), "the drawings' identifiers do not collide"
    references = re.findall(r"url\(#([^)]+)\)", text) + [target[1:] for target in page.resources if target[0] == "#"]
    assert references and set(references) <= set(page.ids)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text and "@media print" in text
    assert "#1b1f24" not in text.split("</style>")[1], "drawings take the page's ink"


def test_every_link_leads_to_something(quickstart: Path) -> None:
    links = read(quickstart / "report.html").links
    assert len([link for link in links if link.startswith("runs/")]) == 27
    assert all((quickstart / link).exists() for link in links)


def test_the_table_has_each_run_with_its_outcome(quickstart: Path) -> None:
    table = {line["run"]: line for line in read(quickstart / "report.html").table("outcome")}
    assert len(table) == 27
    run = table[config(0.25, 1.0, 2).run_id]
    assert run["outcome"] == "died" and run["event in steps"] == "(160, 170]" and run["last step"] == "190"
    assert (run["model.width"], run["model.residual_scale"], run["seed"]) == ("0.25", "1", "2")
    assert run["last prepool/dead_share_batch"] == "1"
    run = table[config(0.25, 0.1, 2).run_id]
    assert run["outcome"] == "survived" and run["event in steps"] == "> 200"


def test_the_numbers_at_the_top_and_in_the_map(quickstart: Path) -> None:
    text = (quickstart / "report.html").read_text(encoding="utf-8")
    tiles = dict(re.findall(r'<b class="(\w+)">([\d,]+)</b>', text))
    assert tiles == {"runs": "27", "died": "11", "survived": "16", "failed": "0"}
    assert [text.count(f">{count}</text>") for count in ("3/3", "1/3", "0/3")] == [6, 4, 8]


def test_provenance_and_the_sweep_file_are_told_once(quickstart: Path) -> None:
    page = read(quickstart / "report.html")
    told = {line["what"]: line["value"] for line in page.table("what")}
    assert told["versions.torch"] == "2.14.1" and told["git.revision"] == "0123456789abcdef"
    assert told["command"] == "harness sweep experiments/quickstart.yaml --out out/quickstart"
    assert "# why do they die?\nmethod: grid" in page.words


@pytest.mark.usefixtures("undrawn")
def test_what_differs_in_provenance_is_counted(tmp_path: Path) -> None:
    for seed in range(6):
        run = write_run(tmp_path, config(seed=seed), survived())
        run.write_config(config(seed=seed), {"device": "cpu" if seed else "cuda", "started": f"2030-01-0{seed + 1}"})
    told = {line["what"]: line["value"] for line in read(report.write(tmp_path)).table("what")}
    assert sorted(told["device"].split("\n")) == ["cpu (5 runs)", "cuda (1 run)"]
    assert told["started"] == "6 different values, from 2030-01-01 to 2030-01-06"


def test_failed_and_pending_runs_are_shown_and_never_survived(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), survived())
    failed = write_run(tmp_path, config(seed=1), None, failure="RuntimeError: <out of memory> & more")
    page = read(report.write(tmp_path, planned=[config(seed=seed) for seed in range(3)]))
    assert "Failed: 1 run, no outcome" in page.words
    [line] = page.table("reason")
    assert line["run"] == failed.run_id and line["reason"] == "RuntimeError: <out of memory> & more"
    assert sorted(line["outcome"] for line in page.table("outcome")) == ["failed", "pending", "survived"]
    assert "0 of 1 finished run died" in page.words
    assert f"runs/{config(seed=2).run_id}/" not in page.links, "a run without a folder has no link"


@pytest.mark.usefixtures("undrawn")
def test_damaged_runs_are_named_left_out_and_counted(tmp_path: Path) -> None:
    write_grid(tmp_path, lambda *_: survived(), widths=[0.125], scales=[1.0], seeds=[0, 1, 2])
    run = damage(tmp_path, "metrics.parquet")
    with pytest.warns(DamagedRuns, match=run.run_id):
        page = read(report.write(tmp_path))
    assert "Damaged: 1 run, left out" in page.words and f"{run.run_id}/metrics.parquet" in page.words
    assert run.run_id not in [line["run"] for line in page.table("outcome")]


EVIL = "<script>alert(1)</script> & \"q\" 'a' {{ 7 * 7 }} {% endraw %} </pre></style>"
"""Markup, a template and quotes: what a page may show and never be."""


def test_texts_are_shown_as_they_are_and_are_neither_markup_nor_template(tmp_path: Path) -> None:
    out = tmp_path / EVIL.replace("/", "|")
    run = write_run(out, config(seed=0), survived())
    run.write_config(config(seed=0), {EVIL: EVIL})
    write_run(out, config(seed=1), None, failure=EVIL)
    write_run(out, config(seed=2), survived(), name=f"{EVIL.replace('/', '|')} #?%20")
    damaged = write_run(out, config(seed=3), survived()).path.rename(out / "runs" / "<i>{{ 7 * 7 }}")
    (damaged / "config.json").write_text("{")
    store.write_sweep_text(out, EVIL)
    with pytest.warns(DamagedRuns):
        target = report.write(out)
    text, page = target.read_text(encoding="utf-8"), read(target)
    assert not re.search("<script|<i>", text) and text.count("</style>") == text.count("</pre>") == 1
    assert not page.open, "every tag is closed"
    assert page.table("what")[0] == {"what": EVIL, "value": EVIL}
    assert page.table("reason")[0]["reason"] == EVIL
    assert f"{EVIL.replace('/', '|')} #?%20" in [line["run"] for line in page.table("outcome")]
    assert f"Report on {out.name}" in page.words
    assert f"{damaged.name}/config.json: damaged" in page.words
    assert page.words.count(EVIL) == 4, "as provenance (name and value), reason, and sweep file"
    assert all((out / unquote(link)).exists() for link in page.links)


def test_every_text_of_a_page_is_escaped() -> None:
    cell = tables.Cell(EVIL, href=EVIL, tone=EVIL)
    table = tables.Table([tables.Column(EVIL)], [[cell], [tables.Cell(EVIL, tone=EVIL)], [tables.Cell(EVIL)]])
    drawing = Drawing(EVIL, EVIL, False, "<svg><script/></svg>", {EVIL: b""})
    fields = {
        "str": EVIL, "str | None": EVIL, "Sequence[str]": [EVIL], "Sequence[tuple[int, str]]": [(1, EVIL)],
        "Table": table, "Drawings": Drawings([drawing], [drawing], [drawing]),
    }  # fmt: skip
    given: dict[str, Any] = {field.name: fields[str(field.type)] for field in dataclasses.fields(Page)}
    text = render(Page(**given))
    assert text.count("<script") == 3, "the drawings' own, which are ours"
    assert text.count("</style>") == text.count("</pre>") == 1 and "49" not in text.split("</style>")[1]
    assert not PageReader(text).open


@pytest.mark.usefixtures("undrawn")
def test_messages_and_names_that_are_no_utf8_are_shown_with_escapes_and_linked_by_their_bytes(tmp_path: Path) -> None:
    write_run(tmp_path, config(), None, failure="half a pair: \ud83d")
    assert read(report.write(tmp_path)).table("reason")[0]["reason"] == "half a pair: \\ud83d"
    page = report.Report(tmp_path, os.fsdecode(b"non\xffutf"), {}, {}).save()
    assert page.read_bytes() == b"non\\udcffutf"
    other = pd.DataFrame([{"run_id": os.fsdecode(b"run \xff"), "state": "failed", "last_step": 1}])
    assert tables.of_others(other).rows[0][0].href == "runs/run%20%FF/"


@pytest.mark.usefixtures("undrawn")
def test_a_very_long_name_has_a_page(tmp_path: Path) -> None:
    out = tmp_path / ("w" * 255)
    write_run(out, config(), survived())
    assert "w" * 255 in read(report.write(out)).words


def test_collapsed_runs_bring_the_inert_units(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), outcome("collapsed", 40, 30))
    write_run(tmp_path, config(seed=1), survived())
    page = read(report.write(tmp_path))
    assert (tmp_path / "figures" / "inert_share.svg").exists()
    assert "1 of 2 finished runs collapsed" in page.words


@pytest.mark.parametrize("finished", [True, False])
def test_a_single_run_has_a_report(tmp_path: Path, finished: bool) -> None:
    write_run(tmp_path, config(), died(40) if finished else None)
    page = read(report.write(tmp_path))
    assert len(page.table("outcome")) == 1
    assert (tmp_path / "figures" / "event_steps.png").exists() is finished


def test_a_sweep_that_has_not_started_has_a_report(tmp_path: Path) -> None:
    page = read(report.write(tmp_path, planned=[config(seed=0), config(seed=1)]))
    assert [line["outcome"] for line in page.table("outcome")] == ["pending", "pending"]
    assert "No run has finished" in page.words


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_written_over_an_older_one(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), survived())
    report.write(tmp_path)
    write_run(tmp_path, config(seed=1), died(40))
    assert len(read(report.write(tmp_path)).table("outcome")) == 2


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_cannot_be_written_is_unusable_input(tmp_path: Path) -> None:
    write_run(tmp_path, config(), survived())
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(InputError, match="figures: cannot be written: File exists"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_runs_is_unusable_input_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no readable run"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_thousand_runs_take_no_three_times_as_long_as_a_hundred(tmp_path: Path) -> None:
    """In seconds of this process, and against another report: neither a slow machine nor a busy one fails the test."""

    def seconds(folder: Path, seeds: int) -> float:
        write_grid(
            folder,
            lambda width, scale, seed: died(10 + seed // 5 * 10) if width * scale > 0.05 else survived(),
            widths=[number / 32 for number in range(1, 6)],
            scales=[number / 10 for number in range(1, 5)],
            seeds=range(seeds),
        )
        start = time.process_time()
        report.write(folder)
        return time.process_time() - start

    few = seconds(tmp_path / "few", seeds=5)
    assert seconds(tmp_path / "many", seeds=50) < 3 * few
    assert len(read(tmp_path / "many" / "report.html").table("outcome")) == 1000


def test_runs_of_another_sweep_are_listed_and_in_no_figure_or_count(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, config(seed=seed), died(50))
    stranger = write_run(tmp_path, config(lr=0.1), survived())
    page = read(report.write(tmp_path, planned=[config(seed=seed) for seed in range(3)]))
    assert "Of another sweep: 1 run, in no figure or count" in page.words
    assert "3 of 3 finished runs died" in page.words
    assert [line["run"] for line in page.table("seed")].count(stranger.run_id) == 0
    assert f"runs/{stranger.run_id}/" in page.links


def test_each_configuration_is_read_once_for_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [config(seed=seed) for seed in range(3)]
    assert len({run.run_id for run in planned}) == 3
    for run in [*planned[:2], config(lr=0.1)]:
        write_run(tmp_path, run, died(50))
    with counted(monkeypatch) as counts:
        report.compose(tmp_path, planned)
    assert counts == {"resolved": 3, "hashed": 1}, "those that are there; the one that no name tells"
    store.write_index(tmp_path)
    with counted(monkeypatch) as counts:
        report.compose(tmp_path, planned)
    assert counts == {"resolved": 1, "hashed": 1}


def test_the_page_shows_the_claims_that_its_sweep_decides(tmp_path: Path) -> None:
    for lr, seeds in ((0.3, 10), (0.15, 10), (0.075, 10)):
        for seed in range(seeds):
            write_run(tmp_path, config(1 / 16, seed=seed, lr=lr), died(50) if lr == 0.3 else survived())
    store.write_sweep_text(tmp_path, "name: learning_rate\nmethod: grid\n")
    page = read(report.write(tmp_path))
    [line] = page.table("verdict")
    assert (line["claim"], line["verdict"]) == ("C3", "does not hold")
    assert (tmp_path / "figures" / "claim_C3.png").exists()


@pytest.mark.slow
def test_the_figures_and_tables_go_to_wandb(quickstart: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(quickstart, out)
    store.write_sweep_text(out, SWEEP)
    assert main(["report", str(out), "--wandb", "offline"]) == 0
    text = json.dumps(records(out))
    for word in (
        "report-small",
        '"small"',
        "report/phase_map",
        "report/survival",
        "report/runs",
        "table-file",
        "image-file",
    ):
        assert word in text, word
    [table] = (out / "wandb").glob("offline-run-*/files/media/table/report/runs_*.table.json")
    content = json.loads(table.read_text())
    assert len(content["data"]) == 27
    place = content["columns"].index("outcome")
    assert sorted(line[place] for line in content["data"]).count("died") == 11


SWEEP = """
name: small
method: grid
parameters:
  model:
    parameters:
      width: {values: [0.0625, 0.125, 0.25]}
      repeats: {value: [2, 4, 2]}
      residual_scale: {values: [1.0, 0.3, 0.1]}
  optim: {parameters: {lr: {value: 0.5}}}
  train: {parameters: {steps: {value: 200}}}
  seed: {values: [0, 1, 2]}
"""
"""The sweep that `write_grid` writes the runs of."""


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("content", ["{", "[1]", '[{"networks": []}]', "3", "null"])
def test_evaluations_that_cannot_be_read_are_named_and_the_rest_is_shown(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path, config(), died(40))
    run.file("evaluations.json").write_text(content)
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert "evaluations.json: damaged" in text and run.run_id in text


@pytest.mark.usefixtures("undrawn")
def test_the_command_says_what_is_left_out_and_no_librarys_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli import main

    compose = report.compose

    def warning(*arguments: Any) -> Any:
        warnings.warn("copy is deprecated", DeprecationWarning, stacklevel=1)
        warnings.warn("1 damaged run left out", UserWarning, stacklevel=1)
        return compose(*arguments)

    write_run(tmp_path, config(), died(40))
    monkeypatch.setattr(report, "compose", warning)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "1 damaged run left out\n"


def test_how_late_gradients_were_is_told_where_they_were() -> None:
    def told(*replicas: int) -> list[list[str]]:
        table = tables.of_runs(frame(({"optim.replicas": n, "seed": n}, survived()) for n in replicas))
        at = [column.heading for column in table.columns].index(tables.DELAY)
        return [[row[at].text] for row in table.rows]

    assert told(1, 20) == [["0"], ["19"]]
    with pytest.raises(ValueError, match=re.escape(tables.DELAY)):
        told(1)
