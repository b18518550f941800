"""What can be known of a run before it starts is said before anything is written."""

import json
from pathlib import Path

import pytest

from harness import store
from harness.cli import main
from tests.jpegs import write_jpegs

QUIET = ["--wandb", "disabled"]
SMALL = [
    "model.width=0.03125", "model.repeats=[1,1,1]", "data.image_size=32", "data.batch_size=6", "train.steps=2",
    "compute.device=cpu",
]  # fmt: skip
FOLDER = [*SMALL, "data.name=imagefolder", "data.num_classes=3", "data.workers=0"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a command that is refused."""
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


# -- whose images a run was trained on -------------------------------------------------------------------------------------


@pytest.fixture
def two_folders(tmp_path: Path) -> Path:
    for name in ("one", "other"):
        write_jpegs(tmp_path / name / "imgs", train=4, val=2)
    return tmp_path


def test_a_run_on_another_folders_images_does_not_answer(
    two_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = two_folders / "out"
    command = ["run", *FOLDER, "data.root=imgs", "--out", str(out), *QUIET]
    monkeypatch.chdir(two_folders / "one")
    assert main(command) == 0
    (run,) = store.runs(out)
    before = run.file("outcome.json").read_bytes()
    assert main([*command[:-2], "--wandb", "disabled"]) == 0  # from the same folder it is found finished

    monkeypatch.chdir(two_folders / "other")
    said = refused(command, capsys)
    assert f"data.root: imgs is {two_folders}/other/imgs here" in said
    assert f"the run on the images in {two_folders}/one/imgs: give data.root in full, or choose another --out" in said
    assert run.file("outcome.json").read_bytes() == before

    assert main(["run", *FOLDER, f"data.root={two_folders}/other/imgs", "--out", str(out), *QUIET]) == 0
    assert len(store.runs(out)) == 2

    content = json.loads(run.file("config.json").read_bytes())
    del content["provenance"]["images"]  # as older versions left it
    run.file("config.json").write_text(json.dumps(content))
    assert main(command) == 0


def test_finished_runs_of_other_images_are_not_taken_over(
    two_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = two_folders / "sweep.yaml"
    sweep.write_text("method: grid\nparameters: {data: {value: {name: imagefolder, root: imgs, num_classes: 3, workers: 0, image_size: 32, batch_size: 6}}, train: {value: {steps: 2}}, compute: {value: {device: cpu}}, model: {value: {width: 0.03125, repeats: [1, 1, 1]}}}\n")  # fmt: skip
    inline = ["--executor", "inline", *QUIET]
    monkeypatch.chdir(two_folders / "one")
    assert main(["sweep", str(sweep), "--out", str(two_folders / "first"), *inline]) == 0
    reuse = ["sweep", str(sweep), "--reuse", str(two_folders / "first"), *inline]
    capsys.readouterr()
    assert main([*reuse, "--out", str(two_folders / "second")]) == 0
    assert "1 finished runs taken over" in capsys.readouterr().out
    monkeypatch.chdir(two_folders / "other")
    assert main([*reuse, "--out", str(two_folders / "third")]) == 0
    assert "taken over" not in capsys.readouterr().out
