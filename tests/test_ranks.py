"""Runs of several processes inside a sweep: torch's launcher, started by whichever executor."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import store
from harness.located import InputError
from harness.store import RunDirectory
from harness.sweep.check import check_inputs, memory_need
from harness.sweep.executors.local import worker_slots
from harness.sweep.work import Task, work
from tests.runs import timeless, tiny, tiny_sweep

QUIET = ["--wandb", "disabled"]
HARNESS = [sys.executable, "-m", "harness"]


def shared(**changes: Any) -> Any:
    return tiny(compute={"processes": 2}, **changes)


@pytest.mark.slow
def test_a_sweeps_run_of_two_processes_is_the_one_that_torchrun_does(tmp_path: Path) -> None:
    config = shared()
    report = work(Task(config, tmp_path / "swept" / "runs" / config.run_id, "test", None))
    assert report.state == "finished", report.message
    file = tmp_path / "config.json"
    file.write_text(tiny().model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "harness"]
    by_hand = [*command, "run", str(file), "--out", str(tmp_path / "by_hand"), *QUIET]
    subprocess.run(by_hand, check=True, capture_output=True)
    (swept,), (alone,) = store.runs(tmp_path / "swept"), store.runs(tmp_path / "by_hand")
    assert swept.run_id == alone.run_id != tiny().run_id, "each process normalises its own part of the batch"
    assert timeless(swept.rows()) == timeless(alone.rows())
    assert report.outcome == swept.outcome()[0]


@pytest.mark.slow
def test_processes_end_with_the_sweep_that_is_killed_and_the_same_command_goes_on(tmp_path: Path) -> None:
    sweep, out = tiny_sweep(tmp_path, 60), tmp_path / "out"
    text = sweep.read_text().replace("device: {value: cpu}", "device: {value: cpu}, processes: {value: 2}")
    sweep.write_text(text.replace("[0, 1]", "[0]"))
    command = [*HARNESS, "sweep", str(sweep), "--out", str(out), "--workers", "1", *QUIET]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(out.glob("runs/*/checkpoint.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 4, "a worker, the launcher, two ranks"
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.state() for run in store.runs(out)] == ["finished"] * 2


@pytest.mark.slow
def test_processes_that_end_without_a_report_fail_the_run_with_their_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.sweep.ranks.sys.executable", "/usr/bin/false")
    config = shared()
    report = work(Task(config, tmp_path / "runs" / config.run_id, "test", None))
    assert report.state == "failed"
    assert report.message == "RuntimeError: its 2 processes ended without a report: no word"
    assert RunDirectory(tmp_path / "runs" / config.run_id).failure() == report.message


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.batch_size: 8 is not a multiple of the 3 processes"):
        check_inputs([tiny(compute={"processes": 3})])


def test_within_torchrun_another_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"compute\.processes: 2, but this is one of 4 processes of torchrun's"):
        check_inputs([shared()])


def test_each_process_holds_its_part_of_the_batch() -> None:
    assert memory_need(shared()).activations == memory_need(tiny()).activations / 2


def test_a_worker_gets_as_many_gpus_or_cores_as_its_runs_have_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_slots("auto", None, None, ["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    assert worker_slots("auto", None, 2, ["0", "1"], 2) == ["0,1", "0,1"]
    monkeypatch.setattr("harness.sweep.executors.local.cpu_count", lambda: 8)
    assert len(worker_slots("cpu", None, None, [], 3)) == 2
    assert len(worker_slots("cpu", None, None, [], 16)) == 1
    with pytest.raises(InputError, match=r"compute\.processes: 4, but there are 2 GPUs: 0, 1"):
        worker_slots("auto", None, None, ["0", "1"], 4)
