"""The notebooks with their pictures: `python -m analysis.report.notebooks [NAME ...]` writes .ipynb beside .py.

The .py, in jupytext's percent format, is the source; the .ipynb is what a page of a code host shows. It holds nothing
that depends on the clock, and pictures of few colours, which are small.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from harness import files

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
COLOURS = 256
"""Of a picture, chosen so that none is far from what was drawn."""
DPI = 120
"""Of a picture, in dots an inch; a page shows a figure about as wide as that."""
_TIMEOUT = 300


def sources() -> list[Path]:
    """The notebooks' sources."""
    return sorted(NOTEBOOKS.glob("*.py"))


def execute(source: Path) -> Any:
    """A notebook, run in the working directory, as an object of nbformat."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(source)
    NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=[f"--InlineBackend.print_figure_kwargs={{'dpi': {DPI}}}"],
        resources={"metadata": {"path": str(Path.cwd())}},
    ).execute()
    return tidy(notebook)


def tidy(notebook: Any) -> Any:
    """The notebook without what would differ in the next run (identifiers, versions), and with small pictures."""
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = base64.b64encode(_small(base64.b64decode(data["image/png"]))).decode()
    return notebook


def _small(png: bytes) -> bytes:
    """A PNG image with a palette."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    small = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    small.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def main(names: Sequence[str]) -> int:
    """Execute the named notebooks, or all; gives the exit code."""
    import nbformat

    known = {source.stem: source for source in sources()}
    if unknown := [name for name in names if name not in known]:
        print(f"no notebook {', '.join(unknown)} in {NOTEBOOKS}; allowed: {', '.join(known)}", file=sys.stderr)
        return 2
    for source in [known[name] for name in names or known]:
        target = source.with_suffix(".ipynb")
        files.write_atomically(target, (nbformat.writes(execute(source)) + "\n").encode())
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
