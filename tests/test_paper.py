"""The paper's sweeps, each for a few steps on a small folder of real JPEGs at a reduced width; and evaluation of a run."""

from pathlib import Path
from typing import Any

import pytest

from harness import store
from harness.cli import main
from harness.config import RunConfig
from harness.store import RunDirectory
from harness.sweep.expand import expand
from harness.sweep.work import Task, work
from tests.jpegs import write_jpegs

PAPER = sorted((Path(__file__).parent.parent / "experiments" / "paper").glob("*.yaml"))
SMALL: dict[str, dict[str, Any]] = {
    "model": {"width": 0.03125, "repeats": [1, 1, 2]},
    "data": {"num_classes": 3, "image_size": 75, "batch_size": 6, "workers": 0},
    "train": {"steps": 3, "epochs": None, "check_every": 2},
    "probes": {"every": 1},
    "compute": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jpegs(tmp_path_factory.mktemp("jpegs"))


def reduced(config: RunConfig, root: Path) -> RunConfig:
    """A paper's run, everything of its recipe kept but its size."""
    fields = config.model_dump()
    for section, changes in SMALL.items():
        fields[section] |= changes
    fields["data"]["root"] = str(root)
    if fields["optim"]["warmup"]["steps"]:
        fields["optim"]["warmup"]["steps"] = 2
    fields["model"] |= {"stem": "paper"}
    return RunConfig.model_validate(fields)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_recipe_runs(path: Path, jpegs: Path, tmp_path: Path) -> None:
    configs = expand(path.read_text(), str(path)).configs
    for config in (configs[0], configs[-1])[: len(configs)]:
        small = reduced(config, jpegs)
        report = work(Task(small, tmp_path / small.run_id, "test", None))
        assert report.state == "finished", report.message
        assert report.outcome is not None and report.outcome.last_step == 3
        rows = RunDirectory(tmp_path / small.run_id).rows()
        assert 0 <= rows[1]["time/data/wait_fraction"] <= 1
        if config.train.averaging.decay:
            assert "val/accuracy_averaged" in rows[-1]


@pytest.mark.slow
def test_a_run_is_evaluated_and_its_report_shows_it_beside_the_papers(
    jpegs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "model={width: 0.03125, repeats: [1, 1, 1]}",
        "train.steps=3",
        "data.name=imagefolder",
        "data.num_classes=3",
        "data.workers=0",
    ]
    settings += [f"data.root={jpegs}", "data.image_size=75", "data.batch_size=6", "compute.device=cpu"]
    assert main(["run", *settings, "--out", str(tmp_path), "--wandb", "disabled"]) == 0
    (run,) = store.runs(tmp_path)
    assert main(["evaluate", str(run.path), "--protocol", "ten_crop"]) == 0
    printed = capsys.readouterr().out
    assert "Table 3" in printed and "ten_crop" in printed
    (found,) = run.evaluations()
    assert found["images"] == 12 and 0 <= found["top1_low"] <= found["top1_error"] <= found["top1_high"] <= 1
    assert found["top5_error"] == 0  # of three classes
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Evaluations" in page and "ResNet-152 (paper, table 3)" in page


def test_bad_evaluations_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--protocol", "tencrop"]) == 2
    assert "did you mean 'ten_crop'?" in capsys.readouterr().err
