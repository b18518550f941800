"""The command `harness` as a user types it: exit codes, messages, recovery. Real processes, real files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import store
from harness.cli import _usual_mode, _width, main
from harness.config import RunConfig
from harness.outcome import Outcome
from harness.store import RunDirectory
from tests.runs import timeless, tiny_sweep
from tests.terminals import shown_on_terminal

HARNESS = [sys.executable, "-m", "harness"]
QUIET = ["--wandb", "disabled"]
INLINE = ["--executor", "inline", *QUIET]
RUN = [
    "model.width=0.03125", "model.repeats=[1,1,1]", "data.name=synthetic", "data.num_images=64", "data.image_size=16",
    "data.batch_size=8", "train.steps=10", "compute.device=cpu",
]  # fmt: skip


def harness(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HARNESS, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def inline(*arguments: object) -> int:
    """The exit code of `harness sweep`, one run after the other, in this process, which has torch already."""
    return main(["sweep", *map(str, arguments), *INLINE])


def finished(out: Path) -> list[RunDirectory]:
    return [run for run in store.runs(out) if run.state() == "finished"]


# -- what is refused: exit code 2, one message with a place, nothing written ---------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "missing.yaml"], "missing.yaml: no such file"),
        (["sweep", "."], ".: cannot be read"),
        (["sweep", "empty.yaml"], "empty.yaml:1:1: the file is empty"),
        (["sweep", "bad.yaml"], "bad.yaml:3:3: sede: unknown key; did you mean 'seed'?"),
        (["sweep", "good.yaml", "--executor", "lokal"], "'lokal' is unknown; did you mean 'local'? allowed: inline, local"),
        (["sweep", "good.yaml", "--reuse", "nowhere"], "nowhere: --reuse: no such folder"),
        (["sweep", "good.yaml", "--out", "good.yaml/x"], "cannot be written"),
        (["sweep", "gpu.yaml"], "compute.device: cuda, but torch finds no GPU here"),
        (["run", "missing.yaml"], "missing.yaml: no such file"),
        (["run", "model.widht=1.0"], "command line: model.widht: unknown key; did you mean 'width'?"),
        (["run", "optim.lr=1e-4"], "command line: optim.lr: found 1e-4, which YAML reads as text: write 1.0e-4"),
        (["run", "seed=no"], "command line: seed: found no, which YAML reads as false"),
        (["run", "run.yaml", "model.width=0"], "command line: model.width: found 0; expected greater than 0"),
        (["run", "run.yaml"], "run.yaml:2:3: model.width: found 'wide'"),
        (["run", "run.json"], "run.json:1:2: not JSON: Expecting property name"),
        (["run", "seed=1", "run.yaml"], "run.yaml: the configuration file comes before key=value"),
        (["run", "compute.device=cuda"], "compute.device: cuda, but torch finds no GPU here"),
        (["status", "nowhere"], "nowhere: no such folder"),
        (["status", "."], ".: not an output folder"),
    ],
)  # fmt: skip
def test_bad_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    Path("empty.yaml").touch()
    Path("bad.yaml").write_text("method: grid\nparameters:\n  sede: {value: 1}\n")
    Path("good.yaml").write_text("method: grid\nparameters:\n  seed: {value: 1}\n")
    Path("gpu.yaml").write_text("method: grid\nparameters:\n  compute: {parameters: {device: {value: cuda}}}\n")
    Path("run.yaml").write_text("model:\n  width: wide\n")
    Path("run.json").write_text("{model: 1}")
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    found = capsys.readouterr().err.strip()
    assert message in found and "\n" not in found
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments", [[], ["swep"], ["sweep"], ["sweep", "x.yaml", "--workers", "0"], ["models", "--width", "x"]]
)
def test_unusable_command_lines_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "sweep", "status", "report", "models", "schema"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example:\n  harness {command}" in capsys.readouterr().out


# -- what works ----------------------------------------------------------------------------------------------------------


def test_dry_run_lists_the_runs_quickly_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, harness.cli; code = harness.cli.main(['sweep', sys.argv[1], '--dry-run']);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_sweep(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0
    assert time.monotonic() - started < 20  # a limit against hanging: under 2 s on a quiet machine
    assert "4 runs" in done.stdout and "resnet20_cifar" in done.stdout and "synthetic" in done.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny.yaml"]


@pytest.mark.slow
def test_a_sweep_that_begins_leaves_torch_to_its_workers(tmp_path: Path) -> None:
    """Torch takes seconds and half a gigabyte, and a sweep's own process needs none of it."""
    code = (
        "import sys, harness.cli, harness.sweep.run as run; run.local = lambda *_: None;"
        "sys.exit(harness.cli.main(['sweep', *sys.argv[1:]]) or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tiny_sweep(tmp_path)), "--out", str(tmp_path / "out"), *QUIET]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["model"]


def test_one_run(tmp_path: Path) -> None:
    done = harness("run", *RUN, "--out", tmp_path, *QUIET)
    assert done.returncode == 0, done.stderr
    assert "survived at step 10" in done.stdout
    (run,) = finished(tmp_path)
    provenance = run.provenance()
    assert provenance["command"].startswith("harness run model.width=0.03125")
    assert provenance["versions"]["torch"] and provenance["device"].startswith("cpu")
    assert (tmp_path / "index.parquet").exists()
    assert json.loads(harness("status", tmp_path, "--json").stdout)["outcomes"] == {"survived": 1}


def test_json_numbers_are_numbers(tmp_path: Path) -> None:
    from harness.config.command_line import resolve

    file = tmp_path / "run.json"
    file.write_text(json.dumps({"optim": {"lr": 1e-05}}))
    assert resolve([str(file)]).optim.lr == 1e-5


def agent_environment(folder: Path) -> dict[str, str]:
    parameters = folder / "wandb" / "sweep-s1" / "config-r1.yaml"
    parameters.parent.mkdir(parents=True)
    parameters.write_text("wandb_version: 1\nseed: {value: 3}\n")
    environment = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    return {**os.environ, **environment, "WANDB_MODE": "offline"}


def test_a_run_started_as_a_wandb_agent_starts_one(tmp_path: Path) -> None:
    arguments: dict[str, object] = {"model": {"width": 0.03125, "repeats": [1, 1, 1]}, "train": {"steps": 6}, "seed": 3}
    arguments["optim"] = {"lr": 1e-5}  # which json writes as 1e-05
    arguments["data"] = {"name": "synthetic", "num_images": 64, "image_size": 16, "batch_size": 8}
    file = tmp_path / "args.json"
    file.write_text(json.dumps(arguments))
    done = harness("run", file, "--out", tmp_path / "out", env=agent_environment(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wandb failed" not in done.stderr
    (run,) = finished(tmp_path / "out")
    assert (run.config().seed, run.config().optim.lr) == (3, 1e-5)
    (folder,) = (tmp_path / "out" / "wandb").glob("offline-run-*-r1")
    assert list(folder.glob("*.wandb"))


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_SWEEP_ID": "s1"}, "online"),
        ({"WANDB_SWEEP_ID": "s1", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "nonsense"}, "offline"),
    ],
)
def test_an_agents_runs_are_online_unless_the_environment_says_otherwise(
    environment: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _usual_mode() == mode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep never interrupted, one run after the other."""
    folder = tmp_path_factory.mktemp("whole")
    assert inline(tiny_sweep(folder, steps=40), "--out", folder / "out") == 0
    return folder / "out"


def test_the_same_command_again_finds_everything_finished(whole: Path, tmp_path: Path) -> None:
    outcomes = {run.run_id: run.file("outcome.json").stat().st_mtime_ns for run in finished(whole)}
    assert len(outcomes) == 4
    started = time.monotonic()
    done = harness("sweep", tiny_sweep(tmp_path, steps=40), "--out", whole, *QUIET)
    assert time.monotonic() - started < 30  # a limit against hanging: under 3 s on a quiet machine
    assert done.returncode == 0 and "4 finished before" in done.stdout
    assert {run.run_id: run.file("outcome.json").stat().st_mtime_ns for run in finished(whole)} == outcomes


def test_local_gives_the_same_rows_as_inline(whole: Path, tmp_path: Path) -> None:
    sweep = tiny_sweep(tmp_path, steps=40)
    done = harness("sweep", sweep, "--out", tmp_path / "out", "--workers", 2, *QUIET)
    assert done.returncode == 0, done.stderr
    compare(tmp_path / "out", whole)


def compare(out: Path, whole: Path) -> None:
    assert {run.run_id for run in finished(out)} == {run.run_id for run in finished(whole)}
    for run in finished(out):
        assert timeless(run.rows()) == timeless(RunDirectory(whole / "runs" / run.run_id).rows())
        assert run.outcome()[0] == RunDirectory(whole / "runs" / run.run_id).outcome()[0]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGKILL, 2), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_sweep_that_is_stopped_in_the_middle_continues_to_the_same_rows(
    whole: Path, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    sweep, out = tiny_sweep(tmp_path, steps=40), tmp_path / "out"
    command = [*HARNESS, "sweep", str(sweep), "--out", str(out), "--workers", str(workers), *QUIET]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    # SIGKILL comes to the sweep alone, as from the kernel, the others to its workers too, as from a terminal.
    (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
    _, messages = process.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert re.search(r"stopped; `harness sweep .*tiny\.yaml.*` continues", messages)
    assert len(store.runs(out)) > 0 and len(finished(out)) < 4
    acknowledged = {run.run_id: timeless(run.rows()) for run in store.runs(out)}
    deadline = time.monotonic() + 10
    while any(run.is_locked() for run in store.runs(out)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(run.is_locked() for run in store.runs(out)), "a worker outlived the sweep"
    assert inline(sweep, "--out", out) == 0
    compare(out, whole)
    for run in finished(out):
        rows = acknowledged.get(run.run_id, [])
        assert timeless(run.rows())[: len(rows)] == rows


@pytest.mark.slow
def test_a_killed_worker_fails_only_its_run_and_the_same_command_tries_again(whole: Path, tmp_path: Path) -> None:
    import psutil

    sweep, out = tiny_sweep(tmp_path, steps=40), tmp_path / "out"
    command = [*HARNESS, "sweep", str(sweep), "--out", str(out), "--workers", "1", *QUIET]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    holder = None
    while holder is None:
        for run in store.runs(out):
            if run.file("metrics.jsonl").exists() and run.is_locked():
                holder = int(store.holder(run.path).split()[1])
        time.sleep(0.02)
    psutil.Process(holder).kill()
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1, output
    assert "its worker process was ended by SIGKILL" in output
    assert sorted(run.state() for run in store.runs(out)) == ["failed", "finished", "finished", "finished"]
    assert inline(sweep, "--out", out) == 0
    compare(out, whole)


@pytest.mark.parametrize("name", ["outcome.json", "metrics.parquet"])
def test_a_damaged_file_is_named_set_aside_and_the_run_repeated(
    whole: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    victim = finished(out)[0]
    victim.file(name).write_bytes(victim.file(name).read_bytes()[:-20])
    assert inline(out / "sweep.yaml", "--out", out) == 0
    said = capsys.readouterr().out
    assert f"{name}: damaged" in said and "set aside in damaged-1/" in said
    compare(out, whole)


def test_a_damaged_checkpoint_is_named_set_aside_and_the_run_repeated(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = finished(whole)[0]
    run = RunDirectory(tmp_path / "runs" / source.run_id)
    with run.lock():
        run.write_config(source.config(), {})
        run.append({"step": 0, "train/loss": 1.0})
        run.file("checkpoint.pt").write_bytes(b"half a checkpoint")
    assert inline(whole / "sweep.yaml", "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert "checkpoint.pt: damaged" in said and "set aside in damaged-1/" in said
    compare(tmp_path, whole)


def test_the_folder_of_another_sweep_is_refused_and_kept(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "sweep.yaml").read_text()
    assert inline(tiny_sweep(tmp_path, steps=41), "--out", whole) == 2
    said = capsys.readouterr().err
    assert "holds a different sweep" in said and "--reuse" in said
    assert (whole / "sweep.yaml").read_text() == before


def test_a_sweep_file_with_other_words_and_the_same_runs_is_the_same_sweep(whole: Path, tmp_path: Path) -> None:
    sweep = tiny_sweep(tmp_path, steps=40)
    sweep.write_text("# another comment\n" + sweep.read_text())
    assert inline(sweep, "--out", whole) == 0


def test_a_sweep_file_is_expanded_once_a_command(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from harness.sweep.expand import Sweep, expand

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    expanded: list[str] = []

    def counting(*given: str) -> Sweep:
        expanded.append(given[1])
        return expand(*given)

    monkeypatch.setattr("harness.sweep.run.expand", counting)
    sweep = tiny_sweep(tmp_path, steps=40)
    for command in (
        ["sweep", str(sweep), "--out", str(out), *QUIET],
        ["status", str(out), "--json"],
        ["report", str(out)],
        ["claims", str(out)],
    ):
        assert main(command) == 0
        assert len(expanded) == 1, (command, expanded)
        expanded.clear()
    sweep.write_text("# another comment\n" + sweep.read_text())
    assert main(["sweep", str(sweep), "--out", str(out), *QUIET]) == 0
    assert expanded == [str(sweep), str(out / "sweep.yaml")]


def test_finished_runs_of_another_folder_are_taken_over(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tiny_sweep(tmp_path, steps=40)
    sweep.write_text(sweep.read_text().replace("[0, 1]", "[1]"))
    assert inline(sweep, "--out", tmp_path / "out", "--reuse", whole) == 0
    said = capsys.readouterr().out
    assert "2 finished runs taken over" in said and "2 runs, 2 finished before" in said


def test_a_run_that_cannot_be_finished_is_failed_with_its_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import harness.training.train

    train = harness.training.train.train

    def break_down(config: RunConfig, *arguments: Any) -> Outcome:
        if config.seed == 1 and config.model.residual_scale == 1:
            raise MemoryError("out of memory")
        return train(config, *arguments)

    monkeypatch.setattr("harness.training.train.train", break_down)
    command = [tiny_sweep(tmp_path), "--out", tmp_path / "out"]
    assert inline(*command) == 1
    output = capsys.readouterr().out
    assert "MemoryError: out of memory" in output and "1 failed" in output
    (victim,) = [run for run in store.runs(tmp_path / "out") if run.state() == "failed"]
    assert "Traceback" in json.loads(victim.file("failure.json").read_text())["traceback"]
    assert len(finished(tmp_path / "out")) == 3
    monkeypatch.undo()
    assert inline(*command) == 0
    assert len(finished(tmp_path / "out")) == 4 and not victim.file("failure.json").exists()


def test_status_counts_pending_runs_of_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tiny_sweep(tmp_path)
    (tmp_path / "out" / "runs").mkdir(parents=True)
    (tmp_path / "out" / "sweep.yaml").write_text(sweep.read_text())
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    states = json.loads(capsys.readouterr().out)["states"]
    assert states == {"pending": 4, "running": 0, "finished": 0, "failed": 0}


@pytest.mark.slow
def test_of_two_sweeps_that_begin_at_once_in_one_folder_one_gets_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweeps = [tiny_sweep(tmp_path, steps=steps, name=f"{steps}.yaml") for steps in (2, 3, 4)]
    commands = [[*HARNESS, "sweep", str(sweep), "--out", str(out), *INLINE] for sweep in sweeps]
    running = [subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for each in commands]
    ended = [(*process.communicate(timeout=200), process.returncode) for process in running]
    assert sorted(code for _, _, code in ended) == [0, 2, 2], ended
    assert all("holds a different sweep" in problem for _, problem, code in ended if code == 2)
    assert len({run.config().train.steps for run in store.runs(out)}) == 1


def test_a_folder_is_taken_by_one_of_many_threads(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    for number in range(20):
        barrier = Barrier(4)

        def take(text: str, out: Path = tmp_path / str(number), barrier: Barrier = barrier) -> str:
            barrier.wait()
            return store.take_for(out, text)

        with ThreadPoolExecutor(4) as pool:
            held = set(pool.map(take, "abcd"))
        assert len(held) == 1 and held == {store.sweep_text(tmp_path / str(number))}


@pytest.mark.parametrize("command", ["status", "report", "claims"])
def test_a_sweep_file_that_is_no_text_is_named(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "sweep.yaml").write_bytes(b"\xff\x00\x8b")
    assert main([command, str(tmp_path)]) == 2
    assert f"{tmp_path / 'sweep.yaml'}: damaged: not text" in capsys.readouterr().err


def test_an_index_that_is_a_folder_makes_room(whole: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "index.parquet").unlink()
    (tmp_path / "out" / "index.parquet").mkdir()
    assert main(["sweep", str(whole / "sweep.yaml"), "--out", str(tmp_path / "out"), *QUIET]) == 0
    assert (tmp_path / "out" / "index.parquet").is_file()


def test_a_system_error_is_a_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["schedule", "--out", str(tmp_path / "file" / "schedule.png")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'file' / 'schedule.png'}: Not a directory\n"


def test_a_command_that_is_misspelt_is_told_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["statsu", "out"])
    assert caught.value.code == 2
    assert "'statsu'; did you mean 'status'? allowed: bench," in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("", 160), ("0", 160), ("wide", 160)])
def test_columns_are_heeded_where_the_output_is_no_terminal(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert _width() == width


def test_a_finished_sweep_leaves_its_counts_and_the_next_command_on_the_terminal(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "sweep", str(tiny_sweep(tmp_path, steps=40)), "--out", str(whole)]
    code, said = shown_on_terminal([*command, "--wandb", "disabled"])
    assert code == 0
    assert "4/4 runs done (4 before)" in said and "next: harness report" in said
    code, said = shown_on_terminal([sys.executable, "-m", "harness", "status", str(whole), "--watch"])
    assert code == 0 and "finished" in said and "\x1b[1A" in said, "drawn in place: the cursor goes up"
