"""Executors: which worker gets which slot, without a GPU."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from harness.devices import cpu_count, visible_gpus
from harness.outcome import Detector
from harness.sweep.display import SweepDisplay
from harness.sweep.executors.local import _named, _slots_folder, _take_slot, worker_slots
from harness.sweep.work import Report


def test_cpu_workers_are_one_a_core_unless_said_otherwise() -> None:
    assert worker_slots("auto", None, None, []) == [None] * cpu_count()
    assert worker_slots("cpu", 3, None, ["0", "1"]) == [None] * 3


def test_each_gpu_takes_its_number_of_workers_in_turn() -> None:
    assert worker_slots("auto", None, None, ["0", "1"]) == ["0", "1"]
    assert worker_slots("cuda", None, 2, ["0", "1"]) == ["0", "1", "0", "1"]
    assert worker_slots("auto", 3, 2, ["0", "1"]) == ["0", "1", "0"]


@pytest.mark.parametrize(
    ("value", "gpus"), [("0,2", ["0", "2"]), ("GPU-8f2, GPU-9a1", ["GPU-8f2", "GPU-9a1"]), ("", []), ("-1", [])]
)
def test_visible_gpus_are_those_that_cuda_would_show(
    monkeypatch: pytest.MonkeyPatch, value: str, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus


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
