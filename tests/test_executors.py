"""Executors: which worker gets which slot, without a GPU."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import psutil
import pytest
import torch

from harness.devices import Gpu, cpu_count
from harness.located import InputError
from harness.outcome import Detector
from harness.store import RunDirectory
from harness.sweep.check import memory_need
from harness.sweep.display import SweepDisplay
from harness.sweep.executors.local import _drive, _named, _slots_folder, _take_slot, check_gpu_memory, worker_slots
from harness.sweep.work import Report, Task, failed
from tests.runs import tiny


def test_cpu_workers_are_one_a_core_unless_said_otherwise() -> None:
    assert worker_slots("auto", None, None, []) == [None] * cpu_count()
    assert worker_slots("cpu", 3, None, ["0", "1"]) == [None] * 3


def test_each_gpu_takes_its_number_of_workers_in_turn() -> None:
    assert worker_slots("auto", None, None, ["0", "1"]) == ["0", "1"]
    assert worker_slots("cuda", None, 2, ["0", "1"]) == ["0", "1", "0", "1"]
    assert worker_slots("auto", 3, 2, ["0", "1"]) == ["0", "1", "0"]


def test_workers_take_different_slots_and_a_dead_workers_slot_is_free_again(tmp_path: Path) -> None:
    slots = ("0", "1", "0")
    first, second, third = (_take_slot(tmp_path, slots) for _ in range(3))
    assert [first[0], second[0], third[0]] == ["0", "1", "0"]
    second[1].close()  # what the kernel does when a worker ends
    again = _take_slot(tmp_path, slots)
    assert again[0] == "1"
    for _, lock in (first, third, again):
        lock.close()


def test_a_killed_workers_failure_names_the_signal() -> None:
    error = RuntimeError("worker died")
    error.exitcode = -9  # type: ignore[attr-defined]
    assert "SIGKILL; the kernel does that when memory runs out" in str(_named(error))
    assert _named(ValueError("x")).args == ("x",)


def test_the_display_counts_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    detector = Detector(event="died")
    with SweepDisplay(4, 1, {"b": "seed=1"}, Console(width=200)) as display:
        display.started(2)
        display.ended(Report("a", "finished", outcome=detector.outcome(5), notes=("x.json: damaged",)))
        display.ended(Report("b", "busy", "another process"))
        display.ended(Report("b", "failed", "ValueError: no"))
        assert display.text().startswith("3/4 runs done (1 before), 1 running, 1 survived, 1 failed, about 0 s left")
        display.ended(Report("c", "finished", outcome=detector.outcome(5)))
    out = capsys.readouterr().out
    assert "a: x.json: damaged" in out and "failed: b seed=1: ValueError: no" in out
    assert "4/4 runs done (1 before), 0 running, 2 survived, 1 failed" in out


def test_the_folder_of_slots_goes_with_its_sweep_and_takes_with_it_what_killed_sweeps_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from harness.sweep.executors.local import _slots_folder\n"
        "with _slots_folder() as folder: print(folder, flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    with _slots_folder() as own:
        assert left.exists(), "its sweep lives"
        process.kill()
        process.communicate()
        assert own.exists()
    assert not own.exists() and left.exists()
    with _slots_folder():
        assert not left.exists()


def test_a_worker_whose_sweep_was_killed_while_it_started_ends(tmp_path: Path) -> None:
    """The signal for a parent's death is set too late when the parent is gone already."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys, time\n"
        "from harness.sweep.executors.local import _start_worker\n"
        "parent = int(sys.argv[1])\n"
        "while os.getppid() == parent: time.sleep(0.01)\n"
        "_start_worker(sys.argv[2], (None,), parent)\n"
        "time.sleep(60)\n"
    )
    code = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {str(worker)!r}, str(os.getpid()), {str(tmp_path)!r}])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_file_system_without_locks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    from harness.files import explain_system

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError) as found, _slots_folder():
        pass
    assert tempfile.gettempdir() in explain_system(found.value)


def test_the_end_that_a_launcher_asks_for_waits_until_a_failure_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.store import RunDirectory
    from harness.sweep.work import Terminated, failed, interruptible

    record = RunDirectory.fail

    def interrupted(run: RunDirectory, *what: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        record(run, *what)

    monkeypatch.setattr(RunDirectory, "fail", interrupted)
    run = RunDirectory(tmp_path / "run")
    with interruptible(), pytest.raises(Terminated):
        failed(run, RuntimeError("a peer has died"))
    assert run.failure() == "RuntimeError: a peer has died"


# -- memory ------------------------------------------------------------------------------------------------------------


class Fates:
    """Stands for the pool: a run ends as its next fate says, well if it has none."""

    def __init__(self, fates: dict[str, list[str]]) -> None:
        self.fates = fates

    def schedule(self, task: Task) -> Future[Report]:
        run_id, future = task.config.run_id, Future[Report]()
        fate = self.fates[run_id].pop(0) if self.fates.get(run_id) else "finished"
        state: Literal["finished", "failed"] = "finished" if fate == "finished" else "failed"
        future.set_result(Report(run_id, state, fate, out_of_memory=fate == "out of memory"))
        return future


@pytest.mark.parametrize("fates", [["out of memory", "finished"], ["out of memory", "out of memory"]])
def test_a_run_that_finds_no_memory_is_tried_once_more(fates: list[str]) -> None:
    tasks = [Task(tiny(seed=seed), Path("nowhere"), "test", None) for seed in range(3)]
    pool, told = Fates({tasks[0].config.run_id: list(fates)}), list[Report]()
    display = SimpleNamespace(started=lambda running: None, ended=told.append, say=lambda text: None)
    without = _drive(tasks, display, pool.schedule)
    assert without == tasks[:1]
    assert sorted(report.run_id for report in told) == sorted(task.config.run_id for task in tasks[1:])
    assert _drive(without, display, pool.schedule, again=False) == []
    assert told[-1].state == ("finished" if fates[1] == "finished" else "failed")
    assert len(told) == 3


@pytest.mark.parametrize(
    ("error", "lacked"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:120] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_errors_of_memory_are_known_as_such(error: Exception, lacked: bool, tmp_path: Path) -> None:
    assert failed(RunDirectory(tmp_path / "run"), error).out_of_memory is lacked


def test_a_second_worker_on_a_gpu_needs_room_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Task(tiny(), Path("nowhere"), "test", None)]
    need = memory_need(tasks[0].config).total
    card = Gpu("0", "GPU-3a1c", "a card", 0.0, 0, int(2.5 * need))
    monkeypatch.setattr("harness.sweep.executors.local.gpus", lambda: [card])
    for slots in (["0"], ["0", "0"], ["GPU-3a1c", "GPU-3a1c"], ["MIG-1", "MIG-1", "MIG-1"], [None] * 9):
        check_gpu_memory(slots, tasks)
    with pytest.raises(
        InputError, match=r"--per-gpu: 3 runs of at least .* MB each do not fit into .* of GPU 0 \(a card\)"
    ):
        check_gpu_memory(["0", "0", "0"], tasks)
