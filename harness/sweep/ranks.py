"""A data-parallel run of a sweep (`compute.processes`): its ranks, under torch's own launcher.

    python -m harness.sweep.ranks agent|rank TASK ANSWER PROCESSES

The agent is torch's launcher; each rank does the task that TASK holds, and rank 0 leaves its report in ANSWER. All of
them end with the process that asked for the run, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness import distributed, stop

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.sweep.work import Report, Task

_LINES = 3
"""Of what ranks said that ended without a report, so many last lines are told."""


def launch(task: Task) -> Report:
    """Do a run in `compute.processes` processes. Raises RuntimeError where they end without a report, and Stopped."""
    with tempfile.TemporaryDirectory(prefix="harness-ranks-") as folder:
        given, answer, said = (Path(folder) / name for name in ("task", "answer", "said"))
        given.write_bytes(pickle.dumps(task))
        command = [sys.executable, "-m", __name__, "agent", str(given), str(answer), str(task.config.compute.processes)]
        with said.open("wb") as output:
            agent = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while agent.poll() is None:
                if stop.asked():  # goes on from the last checkpoint: ranks would stop at different steps
                    raise stop.Stopped
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(0.2)
        finally:
            agent.kill()
            agent.wait()
        if answer.exists():
            report: Report = pickle.loads(answer.read_bytes())
            return report
        lines = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
        last = " / ".join(line.strip() for line in lines[-_LINES:])
        raise RuntimeError(f"its {task.config.compute.processes} processes ended without a report: {last or 'no word'}")


@contextlib.contextmanager
def joined(config: RunConfig) -> Iterator[None]:
    """Join the other ranks, if there are any."""
    if distributed.world_size() == 1:
        yield
        return
    from harness.devices import pick_device

    with distributed.joined(pick_device(config.compute.device)):
        yield


def _agent(given: str, answer: str, processes: str) -> None:
    from torch.distributed import run

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run.main(["--standalone", f"--nproc-per-node={processes}", "-m", __spec__.name, "rank", given, answer, processes])


def _rank(given: str, answer: str) -> None:
    from harness.sweep.work import interruptible, work

    task: Task = pickle.loads(Path(given).read_bytes())
    with interruptible(), joined(task.config):
        report = work(task)
    if distributed.rank() == 0:
        Path(answer).write_bytes(pickle.dumps(report))


def _end_with_parent() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent or parent == 1:
        os._exit(1)


if __name__ == "__main__":
    _end_with_parent()
    for each in (signal.SIGUSR1, signal.SIGUSR2):  # a scheduler's, for who asked for the run
        signal.signal(each, signal.SIG_IGN)
    if sys.argv[1] == "agent":
        _agent(*sys.argv[2:5])
    else:
        _rank(*sys.argv[2:4])
