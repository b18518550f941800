"""The wandb mirror: the real SDK, offline, read back; and what happens when it fails."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.sinks.wandb import WandbOptions, WandbSink, quiet_wandb
from harness.store import RunDirectory
from harness.sweep.expand import expand
from harness.sweep.run import wandb_options
from harness.sweep.work import Task, work
from tests.runs import TINY_SWEEP, tiny
from tests.terminals import on_terminal, without_login

SETTINGS = [
    "model.name=resnet20_cifar", "model.width=0.25", "model.repeats=[1,1,1]", "data.name=synthetic", "data.num_images=64",
    "data.num_classes=4", "data.image_size=16", "data.batch_size=8", "train.steps=2", "compute.device=cpu",
]  # fmt: skip
"""The smallest run, as the command takes it."""


def records(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_the_mirror_holds_the_rows_of_the_store(tmp_path: Path) -> None:
    sweep = expand(TINY_SWEEP.replace("STEPS", "12"), "tiny")
    config = sweep.configs[0]
    options = wandb_options(config, sweep, tmp_path, "offline")
    assert options is not None and options.group == "model.residual_scale=1"
    report = work(Task(config, tmp_path / "runs" / config.run_id, "test", options))
    assert report.state == "finished", report.message
    content = records(tmp_path)
    text = json.dumps(content)
    for word in (config.run_id, "train", "model.residual_scale=1", "tiny", "resnet20_cifar", "residual-harness"):
        assert word in text
    assert {"glob_name": "*", "step_metric": "step"}.items() <= next(
        record["metric"] for record in content if record["type"] == "metric" and "glob_name" in record["metric"]
    ).items()
    rows = RunDirectory(tmp_path / "runs" / config.run_id).rows()
    items = [record["history"]["item"] for record in content if record["type"] == "history"]
    logged = {item["step"]: item for item in items}
    assert sorted(logged) == [row["step"] for row in rows]
    numbers = 8 * 4 * 4 * rows[0]["prepool/units"]  # of a batch of 4x4 grids
    for step in (0, 10):
        assert logged[step]["prepool/activations._type"] == "histogram"
        assert sum(logged[step]["prepool/activations.values"]) == numbers
    for row in rows:
        for name, value in row.items():
            assert logged[row["step"]][name] == pytest.approx(value), name
    told = json.dumps([record["summary"] for record in content if record["type"] == "summary"])
    for word in ("outcome/outcome", "survived", "outcome/died"):
        assert word in told


def test_a_mirror_that_fails_says_so_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("wandb.init", broken)
    monkeypatch.setattr(WandbSink, "_complained", False)
    options = WandbOptions("offline", tmp_path, "p", "g", ())
    for seed in (0, 1):
        config = tiny(seed=seed, train={"steps": 2})
        assert work(Task(config, tmp_path / "runs" / config.run_id, "test", options)).state == "finished"
    assert capsys.readouterr().err.count("no space left on device") == 1


def test_online_without_a_login_never_asks_for_one(tmp_path: Path) -> None:
    """On a terminal, where wandb would ask and wait: the run goes on, and the report, once written, says what is missing."""
    home = without_login(tmp_path, WANDB_BASE_URL="http://127.0.0.1:9")
    harness = [sys.executable, "-m", "harness"]
    out = str(tmp_path / "out")
    code, said = on_terminal([*harness, "run", *SETTINGS, "--out", out, "--wandb", "online"], home)
    assert (code, said.count("wandb failed, the runs go on without it")) == (0, 1), said
    code, said = on_terminal([*harness, "report", out, "--wandb", "online"], home)
    assert code == 2 and "wandb did not take the report" in said, said
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "{folder}/file"])
def test_a_home_that_is_unset_or_cannot_be_written_changes_nothing(tmp_path: Path, home: str | None) -> None:
    """What the command says and what the mirror holds; without a place for it, wandb's service logs to the terminal."""
    (tmp_path / "file").touch()
    environment = {name: each for name, each in os.environ.items() if not name.startswith(("HOME", "XDG_", "WANDB_"))}
    if home is not None:
        environment["HOME"] = home.format(folder=tmp_path)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "harness", "run", *SETTINGS, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert any(record["type"] == "history" for record in records(out))


@pytest.mark.parametrize(
    ("variables", "moved"),
    [
        ({"HOME": "{folder}"}, set()),
        ({"HOME": "{folder}/not/yet/there"}, set()),
        ({}, {"CACHE", "DATA"}),
        ({"HOME": "{folder}/file"}, {"CACHE", "DATA"}),
        ({"XDG_CACHE_HOME": "{folder}"}, {"DATA"}),
        ({"HOME": "{folder}", "XDG_CACHE_HOME": "relative"}, {"CACHE"}),
        ({"HOME": "{folder}", "XDG_DATA_HOME": "{folder}/file/none"}, {"DATA"}),
        ({"WANDB_CACHE_DIR": "{folder}", "WANDB_DATA_DIR": "{folder}"}, set()),
        ({"HOME": "{folder}", "WANDB_CACHE_DIR": "/dev/null"}, {"CACHE"}),
    ],
)
def test_wandb_keeps_its_own_beside_the_mirror_only_where_the_home_cannot_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], moved: set[str]
) -> None:
    (tmp_path / "file").touch()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "")  # so that what is set in between is undone
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    quiet_wandb(tmp_path / "out")
    beside = str(tmp_path / "out" / "wandb" / "cache")
    assert {name for name in ("CACHE", "DATA") if os.environ.get(f"WANDB_{name}_DIR") == beside} == moved
    assert not (tmp_path / "not").exists()


def test_a_mirror_that_fails_in_the_middle_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        def __init__(self) -> None:
            self.summary: dict[str, object] = {}

        def define_metric(self, *_: object, **__: object) -> None: ...

        def log(self, *_: object, **__: object) -> None:
            raise ConnectionError("gone")

    monkeypatch.setattr("wandb.init", lambda **_: Run())
    config = tiny(train={"steps": 6})
    options = WandbOptions("offline", tmp_path, "p", "g", ())
    assert work(Task(config, tmp_path / "runs" / config.run_id, "test", options)).state == "finished"
    assert len(RunDirectory(tmp_path / "runs" / config.run_id).rows()) == 3


def test_a_run_with_its_mirror_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness import store; from harness.sinks.wandb import WandbOptions\n"
        "from harness.sweep.work import Task, work; from tests.runs import tiny\n"
        "folder = Path(sys.argv[1]); options = WandbOptions('offline', folder, 'p', 'g', ())\n"
        "report = work(Task(tiny(train={'steps': 2}), folder / 'runs' / 'x', 'test', options))\n"
        "assert report.state == 'finished', report; store.write_index(folder)\n"
        "found = {'pandas', 'sklearn', 'matplotlib', 'torch._dynamo'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
