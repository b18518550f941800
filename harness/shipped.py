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


def is_of_gpus(folder: Path) -> bool:
    """Whether a folder beside the results holds what `harness bench gpu` wrote of some cards, and no runs."""
    return folder.name == "gpu" and not (folder / "sweep.yaml").exists() and any(folder.glob("*.json"))


def results() -> list[Path]:
    """The folders of the claims' compact results, one a sweep. Raises InputError where the package lacks them."""
    root = _FOLDER / "results"
    folders = sorted(path.parent for path in root.glob("*/sweep.yaml")) if root.is_dir() else []
    if not folders:
        raise InputError(
            [
                f"{root}: this installation holds no results; give the output folders of the claims' sweeps "
                "(harness claims DIR ...), which `make claims` in a checkout trains"
            ]
        )
    return folders
