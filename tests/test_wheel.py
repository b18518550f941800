"""What a user installs works without the checkout: the wheel, in an environment of its own, used from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import __version__
from tests.test_shipped import without_results

ROOT = Path(__file__).parent.parent
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "harness", "analysis", "experiments")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
BARE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
Harness = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders in its source."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source)]
    subprocess.run([*PIP, *build], check=True)
    (built,) = target.glob("residual_harness-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """The command `harness` of an environment that has the wheel and, of this one, all packages but the project."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*PIP, *install], check=True, env=BARE)
    (site,) = place.glob("lib/python*/site-packages")
    # Folders named in a .pth file are not searched for .pth files, so an editable install of the checkout stays behind.
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "packages.pth").write_text("\n".join(sorted(here)) + "\n")

    def harness(*arguments: str, at: Path) -> str:
        done = subprocess.run(
            [str(place / "bin" / "harness"), *arguments],
            capture_output=True, text=True, check=False, cwd=at, env=BARE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return harness


def test_it_holds_every_module_the_sweep_files_and_the_claims_results(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for room in ("harness", "analysis")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix not in (".md", ".pyc") and "notebooks" not in path.parts
    }
    expected |= {
        f"harness/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "experiments").rglob("*")
        if path.suffix == ".yaml" or ("results" in path.parts and path.is_file())
    }
    assert "harness/experiments/quickstart.yaml" in expected and "harness/py.typed" in expected
    assert sorted(expected - held) == []
    meta = f"residual_harness-{__version__}.dist-info/"
    surplus = sorted(name for name in held - expected if not name.startswith(meta))
    assert surplus == []
    assert any(name.startswith(meta) and name.endswith("LICENSE") for name in held)


def test_its_commands_work_from_an_empty_folder(installed: Harness, tmp_path: Path) -> None:
    assert installed("--version", at=tmp_path) == f"harness {__version__}\n"
    assert "27 runs" in installed("quickstart", "--dry-run", at=tmp_path)
    assert "inception_resnet_v2" in installed("models", at=tmp_path)
    claims = json.loads(installed("claims", "--json", at=tmp_path))
    assert len(claims) >= 20
    assert [claim["claim"] for claim in claims if "Not judged" in json.dumps(claim)] == without_results()
    assert list(tmp_path.iterdir()) == []


def test_it_trains_and_reports(installed: Harness, tmp_path: Path) -> None:
    settings = [
        "model.width=0.03125",
        "model.repeats=[1,1,1]",
        "data.batch_size=8",
        "train.steps=4",
        "compute.device=cpu",
    ]
    installed("run", *settings, "--out", "out", "--wandb", "disabled", at=tmp_path)
    assert "report.html" in installed("report", "out", at=tmp_path)
    assert (tmp_path / "out" / "report.html").is_file()
