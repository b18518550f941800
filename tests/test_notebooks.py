"""The notebooks run, and show what the folder holds."""

import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

from tests.analysis_folders import quickstart_fate, write_grid

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "analysis" / "notebooks"


@pytest.mark.slow
def test_phase_map_shows_the_counts_and_three_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_grid(tmp_path, quickstart_fate)
    monkeypatch.setenv("HARNESS_OUT", str(tmp_path))
    notebook = jupytext.read(NOTEBOOKS / "phase_map.py")
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    printed = "".join(output.get("text", "") for output in outputs)
    assert "27 runs that differ in seed, model.width, model.residual_scale" in printed
    [table] = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    lines = [re.findall("<td>(.*?)</td>", line, flags=re.DOTALL) for line in table.split("<tr>")]
    counts = [(line[0], line[1]) for line in lines if line]  # finished, died
    assert counts == [("3", died) for died in "000011333"]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_notebooks_only_import_and_plot(path: Path) -> None:
    assert not re.search(r"^\s*(def|class|for|while)\b", path.read_text(), flags=re.MULTILINE)
