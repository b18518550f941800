"""The executor `slurm`, on a real cluster of two nodes on this machine: the same rows, whatever dies on the way."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import store
from harness.cli import main
from harness.sweep.executors import slurm
from harness.sweep.executors.slurm import Taker, submitted, take
from harness.sweep.run import read_sweep
from harness.sweep.work import Report, Task
from tests.runs import timeless, tiny_sweep
from tests.slurm_cluster import ask, cluster, missing

QUIET = ["--wandb", "disabled"]
HARNESS = [sys.executable, "-m", "harness", "sweep"]
on_a_cluster = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with cluster(tmp_path_factory.mktemp("slurm")) as path:
        yield path


@pytest.fixture
def there(conf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster, seen by this test's commands."""
    monkeypatch.setenv("SLURM_CONF", str(conf))
    return conf


def sweep_of_twenty(folder: Path, steps: int) -> Path:
    path = tiny_sweep(folder, steps)
    path.write_text(path.read_text().replace("seed: {values: [0, 1]}", f"seed: {{values: {list(range(10))}}}"))
    return path


def rows_of(out: Path) -> dict[str, Any]:
    assert {run.state() for run in store.runs(out)} == {"finished"}
    return {run.run_id: timeless(run.rows()) for run in store.runs(out)}


def until(holds: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def workers(out: Path) -> dict[str, str]:
    """The process that works on each run that has rows."""
    found = [run for run in store.runs(out) if run.file("metrics.jsonl").exists() and run.is_locked()]
    return {run.run_id: store.holder(run.path).split()[1] for run in found}


def lone_job(folder: Path) -> tuple[Path, Path]:
    """Submit one job for a sweep of four runs that save no checkpoint unless they are asked to; gives file and folder."""
    sweep, out = tiny_sweep(folder, 250), folder / "out"
    sweep.write_text(sweep.read_text().replace("checkpoint_every: {value: 10}", "checkpoint_every: {value: 10000}"))
    command = ["sweep", str(sweep), "--out", str(out), "--executor", "slurm", "--workers", "1", "--detach", *QUIET]
    assert main(command) == 0
    return sweep, out


def goes_on_to_the_end(there: Path, array: str, sweep: Path, out: Path) -> None:
    """Let the job that is queued again begin now, and hold its rows against those of an undisturbed sweep."""
    ask(there, "scontrol", "update", f"JobId={array}", "StartTime=now")
    until(lambda: {each.state() for each in store.runs(out)} == {"finished"} and len(store.runs(out)) == 4, 120)
    whole = out.with_name("whole")
    assert main(["sweep", str(sweep), "--out", str(whole), "--executor", "local", *QUIET]) == 0
    assert rows_of(out) == rows_of(whole)


@on_a_cluster
@pytest.mark.slow
def test_a_killed_job_a_requeued_one_and_a_drained_node_cost_no_run(there: Path, tmp_path: Path) -> None:
    sweep, out = sweep_of_twenty(tmp_path, 90), tmp_path / "out"
    command = [*HARNESS, str(sweep), "--out", str(out), "--executor", "slurm", "--workers", "3", *QUIET]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: len(workers(out)) == 2)
    array = submitted(out)[-1]

    ask(there, "scontrol", "requeue", f"{array}_0")
    until(lambda: "PENDING" in ask(there, "squeue", "--noheader", "--format=%T", f"--jobs={array}_0"))
    ask(there, "scontrol", "update", f"JobId={array}_0", "StartTime=now")  # Slurm itself waits two minutes
    until(lambda: len(workers(out)) == 2)

    psutil.Process(int(next(iter(workers(out).values())))).kill()
    until(lambda: len(workers(out)) == 2)

    node = ask(there, "squeue", "--noheader", "--states=RUNNING", "--format=%N", f"--jobs={array}").split()[0]
    ask(there, "scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    said, _ = process.communicate(timeout=240)
    ask(there, "scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert process.returncode == 0, said
    assert "20/20 runs done" in said
    assert not list(out.rglob("*.tmp"))
    whole = tmp_path / "whole"
    assert main(["sweep", str(sweep), "--out", str(whole), "--executor", "local", *QUIET]) == 0
    assert rows_of(out) == rows_of(whole)


@on_a_cluster
@pytest.mark.slow
def test_a_job_at_its_time_limit_saves_a_checkpoint_and_queues_itself_again(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, out = lone_job(tmp_path)
    assert "harness status" in capsys.readouterr().out
    (run_id,) = until(lambda: workers(out))
    array = submitted(out)[-1]
    ask(there, "scancel", "--signal=USR2", array)  # what Slurm sends before the limit
    run = store.RunDirectory(out / "runs" / run_id)
    until(lambda: run.file("checkpoint.pt").exists() and not run.is_locked())
    until(lambda: "PENDING" in ask(there, "squeue", "--noheader", "--format=%T", f"--jobs={array}"))
    capsys.readouterr()
    assert main(["status", str(out)]) == 0
    assert "Slurm's jobs: 1 PENDING BeginTime" in capsys.readouterr().out
    goes_on_to_the_end(there, array, sweep, out)


@on_a_cluster
@pytest.mark.slow
def test_a_preempted_job_saves_a_checkpoint_and_slurm_queues_it_again(there: Path, tmp_path: Path) -> None:
    sweep, out = lone_job(tmp_path)
    (run_id,) = until(lambda: workers(out))
    array = submitted(out)[-1]
    urgent = ask(
        there, "sbatch", "--parsable", "--partition=urgent", "--array=0-1", "--output=/dev/null", "--wrap=sleep 1"
    )
    run = store.RunDirectory(out / "runs" / run_id)
    until(lambda: run.file("checkpoint.pt").exists() and not run.is_locked())
    until(lambda: not slurm.jobs(urgent.strip()))
    until(lambda: "PENDING" in ask(there, "squeue", "--noheader", "--format=%T", f"--jobs={array}"))
    goes_on_to_the_end(there, array, sweep, out)


@on_a_cluster
@pytest.mark.slow
def test_a_run_of_two_processes_gets_a_cpu_for_each(there: Path, tmp_path: Path) -> None:
    sweep, out = tiny_sweep(tmp_path, 10), tmp_path / "out"
    text = sweep.read_text().replace("device: {value: cpu}", "device: {value: cpu}, processes: {value: 2}")
    sweep.write_text(text.replace("[0, 1]", "[0]").replace("[1.0, 0.1]", "[0.1]"))
    options = ["--executor", "slurm", "--partition", "wide", "--workers", "1", "--array-parallelism", "1"]
    assert main(["sweep", str(sweep), "--out", str(out), *options, "--slurm", "comment=two ranks", *QUIET]) == 0
    (script,) = (out / "slurm" / submitted(out)[-1]).glob("*.sh")
    assert "#SBATCH --cpus-per-task=2" in script.read_text() and "#SBATCH --comment" in script.read_text()
    whole = tmp_path / "whole"
    assert main(["sweep", str(sweep), "--out", str(whole), "--executor", "inline", *QUIET]) == 0
    assert rows_of(out) == rows_of(whole)


@on_a_cluster
@pytest.mark.slow
@pytest.mark.parametrize("cancel", [True, False], ids=["cancels", "leaves"])
def test_ctrl_c_cancels_the_jobs_or_leaves_them_as_asked(there: Path, tmp_path: Path, cancel: bool) -> None:
    out = tmp_path / "out"
    command = [*HARNESS, str(tiny_sweep(tmp_path, 200)), "--out", str(out), "--executor", "slurm", *QUIET]
    command += ["--cancel"] if cancel else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: workers(out))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    array = submitted(out)[-1]
    assert process.returncode == 130
    assert (f"jobs {array} cancelled" if cancel else f"jobs {array} go on; `scancel") in said
    assert "continues where it was" in said
    if cancel:
        until(lambda: not slurm.jobs(array) and not workers(out))
        assert {run.state() for run in store.runs(out)} != {"finished"}
    else:
        until(lambda: [run.state() for run in store.runs(out)] == ["finished"] * 4)


@on_a_cluster
@pytest.mark.slow
def test_a_job_gets_the_gpu_that_it_asks_for(there: Path, tmp_path: Path) -> None:
    said = ask(there, "srun", "--gpus-per-node=1", "sh", "-c", "echo got=$CUDA_VISIBLE_DEVICES")
    assert "got=0" in said, "the fake is seen"
    out = tmp_path / "out"
    command = ["sweep", str(tiny_sweep(tmp_path)), "--out", str(out), "--executor", "slurm", "--gpus-per-run", "1"]
    assert main([*command, "--workers", "1", *QUIET]) == 0
    (script,) = (out / "slurm" / submitted(out)[-1]).glob("*.sh")
    assert "#SBATCH --gpus-per-node=1" in script.read_text()


@on_a_cluster
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--partition", "nowhere"], "Slurm: sbatch: error: invalid partition specified: nowhere"),
        (["--gpus-per-run", "5"], "Slurm: sbatch: error: Batch job submission failed: Requested node configuration"),
        (["--slurm", "qos=none", "--time", "no time"], "Slurm: sbatch: error: Invalid --time specification"),
        (["--gpus-per-run", "0.5"], "--gpus-per-run: 0.5; Slurm gives whole ones only"),
    ],
)
def test_what_slurm_refuses_is_said_in_its_words(
    there: Path, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(tiny_sweep(tmp_path)), "--out", str(tmp_path / "out"), "--executor", "slurm", *QUIET]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err
    assert not store.runs(tmp_path / "out")


@on_a_cluster
@pytest.mark.slow
def test_a_folder_that_the_nodes_do_not_see_is_found_out_by_the_first_job(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node without it: the first job's Python does not find the package."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/false")
    out = tmp_path / "out"
    assert main(["sweep", str(tiny_sweep(tmp_path)), "--out", str(out), "--executor", "slurm", *QUIET]) == 2
    told, said = capsys.readouterr()
    assert f"jobs {submitted(out)[-1]} cancelled" in told
    assert "has ended without a sign in" in said and "every node needs the same environment" in said
    until(lambda: not slurm.jobs(*submitted(out)))
    assert not store.runs(out)


# -- without a cluster -------------------------------------------------------------------------------------------------


def test_a_machine_without_sbatch_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ["sweep", str(tiny_sweep(tmp_path)), "--out", str(tmp_path / "out"), "--executor", "slurm", *QUIET]
    assert main(command) == 2
    assert "no sbatch" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(command) == 2
    assert "pip install 'residual-harness[slurm]'" in capsys.readouterr().err


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    configs = read_sweep(sweep_of_twenty(tmp_path, 5)).configs
    return [Task(config, tmp_path / "out" / "runs" / config.run_id, "test", None) for config in configs]


def test_a_job_leaves_what_is_finished_failed_or_anothers(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def work(task: Task) -> Report:
        done.append(task.config.run_id)
        return Report(task.config.run_id, "finished")

    monkeypatch.setattr(slurm, "work_in_worker", work)
    for task in tasks[:2]:
        task.folder.mkdir(parents=True)
    (tasks[0].folder / "outcome.json").touch()
    (tasks[1].folder / "failure.json").touch()
    assert take(tasks)
    assert done == [task.config.run_id for task in tasks[2:]]


def test_a_job_gives_up_after_three_failures_in_a_row(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    fates = iter(["failed", "failed", "finished", "failed", "failed", "failed", "finished"])
    done: list[Any] = []

    def work(task: Task) -> Report:
        report = Report(task.config.run_id, next(fates))  # type: ignore[arg-type]
        done.append(report)
        return report

    monkeypatch.setattr(slurm, "work_in_worker", work)
    assert not take(tasks)
    assert len(done) == 6


def test_a_bad_node_gets_no_more_of_one_submission_and_another_chance_with_the_next(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setattr(slurm, "work_in_worker", lambda task: Report(task.config.run_id, "failed"))
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(pickle.dumps(tasks))
        with pytest.raises(RuntimeError, match=r"3 runs in a row have failed on node7$"):
            Taker(str(tmp_path / name))(0)
        with pytest.raises(RuntimeError, match="on node7; it gets no more"):
            Taker(str(tmp_path / name))(1)


def test_a_run_that_nobody_may_work_on_any_more_is_asked_for_until_it_is_known(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    fates = iter(["unsure", "busy", "unsure", "finished"])
    monkeypatch.setattr(slurm, "BUSY_PAUSE", 0.0)
    monkeypatch.setattr(slurm, "work_in_worker", lambda task: Report(task.config.run_id, next(fates)))  # type: ignore[arg-type]
    assert take(tasks[:2])
    assert next(fates, None) is None, "the one that lives is left to its process, the other asked for again"


def test_the_queue_as_squeue_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nprintf '7_0|RUNNING|None|node1\\n7_1|PENDING|Resources|\\n'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert slurm.jobs("7") == [
        slurm.Job("7_0", "RUNNING", "None", "node1"),
        slurm.Job("7_1", "PENDING", "Resources", ""),
    ]
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    assert slurm.jobs("7") == [] == slurm.jobs()
