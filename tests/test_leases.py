"""Who works on a run, across machines: two hosts, no common locks, clocks an hour apart, kills."""

import contextlib
import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.outcome import Detector
from harness.store import Locked, Lost, RunDirectory, lease
from harness.store.lease import holder
from tests.lease_hosts import SILENCE

HOSTS = Path(__file__).parent / "lease_hosts.py"
HOUR = 3600.0
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes of hosts, and ends them with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(host: str, action: str, folder: Path, skew: float = 0.0) -> subprocess.Popen[str]:
        command = [sys.executable, str(HOSTS), host, str(skew), action, str(folder)]
        environment = os.environ | {"PYTHONPATH": str(HOSTS.parent.parent)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() in ("holds", "begins")
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "SILENCE", SILENCE)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def take(run: RunDirectory, patience: float) -> float:
    """Ask for the run until it is ours; the seconds that it took."""
    begin = time.monotonic()
    while time.monotonic() - begin < patience:
        with contextlib.suppress(Locked), run.lock():
            return time.monotonic() - begin
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("skew", [0.0, HOUR, -HOUR])
def test_a_living_holder_on_another_machine_keeps_its_run_whatever_its_clock_says(
    start: Start, tmp_path: Path, skew: float
) -> None:
    run = RunDirectory(tmp_path / "run")
    start("elsewhere", "hold", run.path, skew)
    with pytest.raises(TimeoutError):
        take(run, 2.5 * SILENCE)
    with pytest.raises(Locked, match=r"process \d+ on elsewhere"), run.lock():
        pass
    assert run.state() == "running"


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("skew", [0.0, HOUR, -HOUR])
def test_the_run_of_a_dead_holder_on_another_machine_is_taken_over_after_its_silence(
    start: Start, tmp_path: Path, skew: float
) -> None:
    run = RunDirectory(tmp_path / "run")
    kill(start("elsewhere", "hold", run.path, skew))
    with pytest.raises(Locked, match="unless that is dead: no heartbeat for 0 s") as found, run.lock():
        pass
    assert not found.value.lives
    assert take(run, 5 * SILENCE) > SILENCE * 0.8
    assert run.state() == "pending"


@pytest.mark.usefixtures("fast")
def test_a_dead_holder_on_another_machine_is_not_shown_as_running_for_long(start: Start, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    kill(start("elsewhere", "hold", run.path))
    assert run.state() == "running", "who knows"
    time.sleep(SILENCE * 1.2)
    assert run.state() == "pending"
    assert "elsewhere" in holder(run.path)


@pytest.mark.usefixtures("fast")
def test_who_was_stopped_and_taken_for_dead_writes_nothing_more(start: Start, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    stopped = start("elsewhere", "append", run.path)
    stopped.send_signal(signal.SIGSTOP)
    take(run, 5 * SILENCE)
    with run.lock():
        rows = run.rows()
        stopped.send_signal(signal.SIGCONT)
        assert stopped.stdout is not None
        said = stopped.stdout.read()
        assert f"taken over by process {os.getpid()} on" in said and "as nothing had been heard of this process" in said
        assert run.rows() == rows
    assert holder(run.path).startswith(f"process {os.getpid()}")


@pytest.mark.usefixtures("fast")
def test_a_holder_without_word_for_long_that_nobody_replaced_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")
    monkeypatch.setattr(lease, "BEAT", 60.0)
    with run.lock():
        before = run.file("lease-1").read_bytes()
        monkeypatch.setattr(lease, "SILENCE", 0.0)
        run.append({"step": 0})
        assert run.file("lease-1").read_bytes() != before, "it says that it lives"


def test_a_lost_lease_stops_rows_checkpoints_and_outcome(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.lock():
        run.file("lease-2").write_bytes(b"held 000000000000\nprocess 7 on elsewhere\nanother kernel\n")
        for write in (run.append, run.write_checkpoint):
            with pytest.raises(Lost, match="process 7 on elsewhere"):
                write({"step": 0})
        with pytest.raises(Lost, match="process 7 on elsewhere"):
            run.finish(Detector(event="died").outcome(30))
    assert run.file("lease-2").exists(), "what is another's is left alone"


@pytest.mark.slow
def test_no_two_hosts_are_inside_at_once_whoever_is_killed_when(start: Start, tmp_path: Path) -> None:
    """Four contenders on two hosts, clocks an hour apart; every half second one is killed and replaced."""
    dice, folder = random.Random(0), tmp_path / "run"
    folder.mkdir()
    hosts = [("one", 0.0), ("one", 0.0), ("two", HOUR), ("two", HOUR)]
    contenders = [start(host, "contend", folder, skew) for host, skew in hosts]
    said: list[str] = []
    for _ in range(12):
        time.sleep(0.5)
        victim = dice.randrange(len(hosts))
        kill(contenders[victim])
        said += contenders[victim].communicate()[0].split("\n")
        contenders[victim] = start(hosts[victim][0], "contend", folder, hosts[victim][1])
    time.sleep(3 * SILENCE)
    for each in contenders:
        kill(each)
        said += each.communicate()[0].split("\n")
    assert [line for line in said if line.startswith("together")] == []
    assert said.count("alone") > 30
    left = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert len(left) <= 3, "one lease, and what killed ones had in hand"


def test_without_locks_the_heartbeat_has_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = RunDirectory(tmp_path / "run")
    with run.lock():
        assert run.state() == "running"
        with pytest.raises(Locked) as found, run.lock():
            pass
        assert not found.value.lives, "as far as is known yet"
    assert run.state() == "pending"


def test_without_hard_links_a_lease_is_made_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    run = RunDirectory(tmp_path / "run")
    for _ in range(2):
        with run.lock(), pytest.raises(Locked), run.lock():
            pass
    assert [path.name for path in run.path.iterdir()] == ["lease-2"]


def test_of_an_old_view_of_the_folder_no_lease_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's file system may show a folder as it was: lease 1 is free, where 3 is held."""
    run = RunDirectory(tmp_path / "run")
    for _ in range(2):
        with run.lock():
            pass
    with run.lock():
        numbers, old = lease._numbers, [[1]]
        monkeypatch.setattr(lease, "_numbers", lambda folder: old.pop() if old else numbers(folder))
        with pytest.raises(Locked, match=f"process {os.getpid()}"), run.lock():
            pass
        run.append({"step": 0})
    assert [path.name for path in sorted(run.path.iterdir())] == ["lease-3", "metrics.jsonl"]


@pytest.mark.parametrize("content", [b"", b"\0" * 60, b"held", b"\xff\xfe"], ids=["empty", "zeros", "half", "no text"])
@pytest.mark.usefixtures("fast")
def test_a_damaged_lease_is_waited_for_and_replaced(tmp_path: Path, content: bytes) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.file("lease-4").write_bytes(content)
    assert take(run, 5 * SILENCE) >= SILENCE * 0.8
    assert [path.name for path in run.path.iterdir()] == ["lease-5"]
