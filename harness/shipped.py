"""What comes with the package: the sweep files, and the claims' compact results.

They are those of experiments/ in the checkout. The folder beside this module is a link there; a wheel holds a copy.
"""

from __future__ import annotations

from pathlib import Path

from harness.located import InputError

_FOLDER = Path(__file__).parent / "experiments"


def quickstart() -> Path:
    """The sweep that `harness quickstart` trains. Raises InputError where the package lacks it."""
    path = _FOLDER / "quickstart.yaml"
    if not path.is_file():
        raise InputError([f"{path}: missing from this installation; in a checkout: make quickstart"])
    return path


def results() -> list[Path]:
    """The folders of the claims' compact results, one a sweep. Raises InputError where the package lacks them."""
    root = _FOLDER / "results"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise InputError(
            [
                f"{root}: this installation holds no results; give the output folders of the claims' sweeps "
                "(harness claims DIR ...), which `make claims` in a checkout trains"
            ]
        )
    return folders
