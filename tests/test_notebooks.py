"""The notebooks run, show what the results hold, and are committed with their pictures."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from analysis.frames import results
from analysis.report import findings
from analysis.report.notebooks import NOTEBOOKS, execute, sources, tidy
from tests.analysis_folders import quickstart_fate, write_grid

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {
    "asynchrony": 4,
    "critical_rate": 3,
    "own_network": 3,
    "phase_map": 4,
    "signal_propagation": 6,
    "survival": 6,
}
LARGEST = 350_000
"""Bytes of a committed notebook."""


def committed(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def pictures(notebook: Any) -> list[bytes]:
    found = (output.get("data", {}).get("image/png") for output in outputs(notebook))
    return [base64.b64decode(picture) for picture in found if picture]


def printed(notebook: Any) -> str:
    return "".join(output["text"] for output in outputs(notebook) if output.output_type == "stream")


# -- what they show ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_phase_map_shows_the_counts_and_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_grid(tmp_path, quickstart_fate)
    monkeypatch.setenv("HARNESS_OUT", str(tmp_path))
    notebook = execute(NOTEBOOKS / "phase_map.py")
    assert len(pictures(notebook)) == PICTURES["phase_map"]
    assert "27 runs that differ in seed, model.width, model.residual_scale" in printed(notebook)
    [table] = [output["data"]["text/html"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    lines = [re.findall("<td>(.*?)</td>", line, flags=re.DOTALL) for line in table.split("<tr>")]
    found = [(line[0], line[1]) for line in lines if line]  # finished, died
    assert found == [("3", died) for died in "000011333"]


@pytest.mark.slow
def test_survival_counts_the_deaths_of_its_three_sweeps() -> None:
    notebook = execute(NOTEBOOKS / "survival.py")
    assert len(pictures(notebook)) == PICTURES["survival"]
    text = printed(notebook)
    runs = {name: results.read(findings.RESULTS / name).runs for name in ("learning_rate", "bias", "dose")}
    died = {name: int((each["outcome"] == "died").sum()) for name, each in runs.items()}
    assert text.splitlines()[:3] == [f"{name}: {len(runs[name])} runs, {died[name]} died" for name in runs]
    arms = re.findall(r"^[\w.]+ +(\d+) +(\d+) +\d+\.\d$", text, flags=re.MULTILINE)  # n, observed, expected
    tested = [sum(int(observed) for _, observed in arms[start : start + 3]) for start in range(0, len(arms), 3)]
    assert tested == [died["learning_rate"], died["learning_rate"], died["bias"]]  # by step, by cumulative rate, by arm
    assert text == printed(committed("survival")), "run `python -m analysis.report.notebooks survival`"


@pytest.mark.slow
def test_signal_propagation_reads_every_run_and_residual_sum() -> None:
    notebook = execute(NOTEBOOKS / "signal_propagation.py")
    assert len(pictures(notebook)) == PICTURES["signal_propagation"]
    text = printed(notebook)
    read, untrained = (results.read(findings.RESULTS / name) for name in ("first_to_die", "variance"))
    sums = len(untrained.runs) * sum(str(name).endswith("/sum/channel_variance") for name in untrained.rows)
    assert f"first_to_die: {len(read.runs)} runs, read at steps 0 to {read.rows['step'].max()}\n" in text
    assert f"variance: {len(untrained.runs)} runs, {sums} residual sums\n" in text
    assert text == printed(committed("signal_propagation")), (
        "run `python -m analysis.report.notebooks signal_propagation`"
    )


@pytest.mark.slow
def test_own_network_reads_every_relu_of_resnet18() -> None:
    pytest.importorskip("torchvision")
    notebook = execute(NOTEBOOKS / "own_network.py")
    assert len(pictures(notebook)) == PICTURES["own_network"]
    assert "readings of 17 layers" in printed(notebook)  # the stem's, and two in each of 8 blocks
    assert "with observe(model" in "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asynchrony", "critical_rate"])
def test_the_second_study_is_drawn_from_its_committed_results(name: str) -> None:
    notebook = execute(NOTEBOOKS / f"{name}.py")
    assert len(pictures(notebook)) == PICTURES[name]
    text = printed(notebook)
    for line in text.splitlines()[:3]:
        sweep, count = line.split(": ")
        assert count == f"{len(results.read(findings.RESULTS / sweep).runs)} runs"
    assert text == printed(committed(name)), f"run `python -m analysis.report.notebooks {name}`"


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_notebooks_only_import_and_plot(path: Path) -> None:
    assert not re.search(r"^\s*(def|class|for|while)\b", path.read_text(), flags=re.MULTILINE)


# -- what is committed -------------------------------------------------------------------------------------------------


def test_every_notebook_is_committed() -> None:
    assert {path.stem for path in sources()} == {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_committed_notebook_is_its_source_with_pictures(name: str) -> None:
    notebook, source = committed(name), jupytext.read(NOTEBOOKS / f"{name}.py")
    cells = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (notebook, source)]
    assert cells[0] == cells[1], f"run `python -m analysis.report.notebooks {name}`"
    assert len(pictures(notebook)) == PICTURES[name]
    assert not [each for each in outputs(notebook) if each.output_type == "error" or each.get("name") == "stderr"]
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < LARGEST


def test_committed_phase_map_is_that_of_the_committed_results() -> None:
    runs = results.read(findings.RESULTS / "filters").runs
    notebook = committed("phase_map")
    assert printed(notebook).startswith(f"filters: {len(runs)} runs that differ in ")
    [table] = [output["data"]["text/plain"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    lines = re.findall(r"^(?:\d+| ) +\d+ +\d+ .*$", table, flags=re.MULTILINE)
    died = [line[2:].split()[2] for line in lines]  # after the horizontal level and the finished runs
    assert sum(map(int, died)) == (runs["outcome"] == "died").sum()


def test_an_executed_notebook_keeps_nothing_that_changes_from_run_to_run() -> None:
    cell = nbformat.v4.new_code_cell("1", metadata={"execution": {"iopub.execute_input": "2026-01-01"}})
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.2"}}
    )
    text = nbformat.writes(tidy(notebook))
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert "2026" not in text and "3.11.2" not in text and '"cell-0"' in text


@pytest.mark.parametrize("name", PICTURES)
def test_committed_notebooks_are_tidy(name: str) -> None:
    notebook = committed(name)
    assert set(notebook.metadata) == {"jupytext", "kernelspec", "language_info"}
    assert [cell["id"] for cell in notebook.cells] == [f"cell-{number}" for number in range(len(notebook.cells))]
    assert not any(cell["metadata"] for cell in notebook.cells)
