"""A soak: a sweep that is killed again and again, in every way, and what is lost by it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness import store
from harness.files import TEMPORARY
from harness.located import InputError
from harness.store import Damaged, Row, timeless

SMALL = 64_000_000
"""Bytes of the file system that is filled."""
AWAY = 1.5
"""Seconds for which a disk is full or read-only."""
FAREWELL = 180.0
"""Seconds for which processes may outlive the last command: those of a killed Ray driver take two minutes."""
_QUIET = ("--wandb", "disabled")
_PATIENCE = 120.0


@dataclass
class Soak:
    """What happened to the sweeps that one executor did, and what is wrong with the result: all zeros is right.

    disturbances: by kind. sweeps: done from nothing, until there were enough of them. commands: that it took, each
    continuing what the one before had left. lost_rows: that were on disk before a disturbance and are not in the end.
    differing: runs whose rows are not those of an undisturbed sweep, what depends on the clock apart. done_twice: whose
    outcome was written again. orphans: processes that are there FAREWELL seconds after the last sweep. temporary: files
    that were left.
    """

    executor: str
    disturbances: Counter[str] = field(default_factory=Counter)
    sweeps: int = 0
    commands: int = 0
    runs: int = 0
    lost_rows: int = 0
    differing: int = 0
    done_twice: int = 0
    orphans: int = 0
    temporary: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost_rows or self.differing or self.done_twice or self.orphans or self.temporary)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.disturbances.items()))
        return (
            f"{self.executor}: {self.disturbances.total()} disturbances ({kinds}) of {self.sweeps} sweeps, "
            f"{self.runs} runs, {self.commands} commands, {self.seconds:.0f} s\n"
            f"  acknowledged rows lost {self.lost_rows}, runs that differ {self.differing}, "
            f"done twice {self.done_twice}, orphan processes {self.orphans}, temporary files {self.temporary}"
        )


def soak(file: Path, executor: Sequence[str], disturbances: int, seed: int = 0) -> Soak:
    """Do the sweep of a file over and over, disturbing it so often.

    executor: a name and further options of `harness sweep`. Some seconds after its start each command is disturbed: a
    worker, the command, its whole process group or a node (Ray's, Slurm's) is killed, or ended politely, or its disk is
    full or read-only for a while (only as root, who can mount one).
    Raises InputError where the undisturbed sweep fails.
    """
    found, dice, begin = Soak(executor[0]), random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="harness-soak-") as folder, _small_disk(Path(folder)) as disk:
        whole = Path(folder) / "whole"
        if subprocess.run([*_command(file, whole, ("local",))], stdout=subprocess.DEVNULL, check=False).returncode:
            raise InputError([f"{file}: the sweep fails without any disturbance"])
        expected = {run.run_id: timeless(run.rows()) for run in store.runs(whole)}
        kinds = _KINDS | _OF_NODES.get(found.executor, {}) | (_OF_DISKS if disk else {})
        family: set[psutil.Process] = set()
        while found.disturbances.total() < disturbances:
            out = (disk or Path(folder)) / f"sweep-{found.sweeps}"
            _one(_Sweep(file, out, executor, dict(expected), family), found, disturbances, dice, kinds)
            shutil.rmtree(out)
        found.seconds = time.monotonic() - begin
        _, alive = psutil.wait_procs(family, timeout=FAREWELL)
        found.orphans = sum(each.status() != psutil.STATUS_ZOMBIE for each in alive if each.is_running())
    return found


@dataclass
class _Sweep:
    """A sweep under way: what is known of its runs, and the processes that this and earlier sweeps' commands had."""

    file: Path
    out: Path
    executor: Sequence[str]
    expected: dict[str, list[Row]]
    family: set[psutil.Process]
    acknowledged: dict[str, list[Row]] = field(default_factory=dict)
    outcomes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def look(self) -> None:
        """Take what is on disk now: rows that were acknowledged, and which outcome each finished run has."""
        for run in store.runs(self.out):
            with contextlib.suppress(OSError, Damaged):
                if run.file("outcome.json").exists():
                    self.outcomes.setdefault(run.run_id, _identity(run.file("outcome.json")))
                elif rows := run.open_rows():
                    self.acknowledged[run.run_id] = rows

    def finished(self) -> bool:
        return {run.run_id for run in store.runs(self.out) if run.state() == "finished"} == self.expected.keys()


def _one(sweep: _Sweep, found: Soak, disturbances: int, dice: random.Random, kinds: dict[str, _Disturbance]) -> None:
    deadline = time.monotonic() + _PATIENCE + 10 * len(sweep.expected)
    while not sweep.finished():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{sweep.out}: not finished after {found.commands} commands")
        command = _command(sweep.file, sweep.out, sweep.executor)
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        found.commands += 1
        while process.poll() is None and found.disturbances.total() < disturbances:
            wait = time.monotonic() + dice.uniform(1.0, 6.0)
            while process.poll() is None and time.monotonic() < wait:
                time.sleep(0.1)
            if process.poll() is not None:
                break
            with contextlib.suppress(psutil.Error):
                sweep.family.update({process, *process.children(recursive=True)})
            sweep.look()
            kind = dice.choice(sorted(kinds))
            if kinds[kind](process, sweep.out, dice):
                found.disturbances[kind] += 1
        process.wait()
        sweep.look()
    found.sweeps += 1
    found.runs += len(sweep.expected)
    found.temporary += len(list(sweep.out.rglob(TEMPORARY)))
    for run in store.runs(sweep.out):
        rows, before = timeless(run.rows()), timeless(sweep.acknowledged.get(run.run_id, []))
        found.lost_rows += sum(row not in rows for row in before)
        found.differing += rows != sweep.expected[run.run_id]
        now = _identity(run.file("outcome.json"))
        found.done_twice += sweep.outcomes.get(run.run_id, now) != now


def _identity(path: Path) -> tuple[int, int]:
    """What differs once a file has been written again."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def _command(file: Path, out: Path, executor: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "harness", "sweep", str(file), "--out", str(out), "--executor", *executor, *_QUIET]


# -- disturbances: each says whether there was something to disturb ----------------------------------------------------

_Disturbance = Callable[[psutil.Popen, Path, random.Random], bool]


def _kill_worker(process: psutil.Popen, out: Path, dice: random.Random) -> bool:
    working = [run for run in store.runs(out) if run.is_locked()]
    if not working:
        return False
    with contextlib.suppress(psutil.Error, ValueError, IndexError):
        psutil.Process(int(store.holder(dice.choice(working).path).split()[1])).kill()
        return True
    return False


def _sends(number: signal.Signals, group: bool) -> _Disturbance:
    """A signal to the command, or to its whole process group."""

    def send(process: psutil.Popen, out: Path, dice: random.Random) -> bool:
        (os.killpg if group else os.kill)(process.pid, number)
        return True

    return send


def _fill(process: psutil.Popen, out: Path, dice: random.Random) -> bool:
    filling = out.parent / "filling"
    with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    time.sleep(AWAY)
    filling.unlink()
    return True


def _make_read_only(process: psutil.Popen, out: Path, dice: random.Random) -> bool:
    if not _mount("-o", "remount,ro", str(out.parent)):  # refused while something is being written
        return False
    time.sleep(AWAY)
    return _mount("-o", "remount,rw", str(out.parent))


def _kill_raylet(process: psutil.Popen, out: Path, dice: random.Random) -> bool:
    """Ray's own daemon of the only node, which takes its workers with it."""
    with contextlib.suppress(psutil.Error):
        for child in process.children(recursive=True):
            if child.name() == "raylet":
                child.kill()
                return True
    return False


def _down(process: psutil.Popen, out: Path, dice: random.Random) -> bool:
    """A node of Slurm's, whose jobs are killed and queued again, for a while: where its administrator runs the soak."""
    node = dice.choice(_told("sinfo", "--Node", "--noheader", "--format=%N").split() or [""])
    change = ["scontrol", "update", f"nodename={node}"]
    if subprocess.run([*change, "state=down", "reason=soak"], check=False, capture_output=True).returncode:
        return False
    time.sleep(AWAY)
    return subprocess.run([*change, "state=resume"], check=False, capture_output=True).returncode == 0


def _told(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


_KINDS: dict[str, _Disturbance] = {
    "worker killed": _kill_worker,
    "command killed": _sends(signal.SIGKILL, group=False),
    "group killed": _sends(signal.SIGKILL, group=True),
    "command ended": _sends(signal.SIGTERM, group=False),
    "group ended": _sends(signal.SIGTERM, group=True),
}
_OF_NODES: dict[str, dict[str, _Disturbance]] = {"ray": {"node killed": _kill_raylet}, "slurm": {"node down": _down}}
_OF_DISKS: dict[str, _Disturbance] = {"disk full": _fill, "disk read-only": _make_read_only}


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own, SMALL bytes large; None for who may not mount one."""
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or not _mount("-t", "tmpfs", "-o", f"size={SMALL}", "soak", str(disk)):
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False, capture_output=True)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], check=False, capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False
