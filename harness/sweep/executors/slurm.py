"""The executor `slurm`: a job array whose jobs take runs from the output folder until none is left.

submitit writes and submits the jobs; what has become of a run is read from its folder alone. A first job looks whether
the nodes see the folder at all; the array waits for it. A job that is near its time limit saves a checkpoint and queues
itself again; one that is preempted saves a checkpoint, and Slurm queues it again.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from harness import stop
from harness.files import write_atomically
from harness.located import InputError
from harness.store import Damaged, RunDirectory
from harness.sweep.executors.local import work_in_worker
from harness.sweep.executors.protocol import BUSY_PAUSE, Display
from harness.sweep.work import Report, Task, processes_of

MOST_JOBS = 100
"""Jobs of an array, unless said otherwise."""
BAD = 3
"""Runs in a row that failed on a node, after which it gets no more."""
POLL = 2.0
"""Seconds between two looks at the folder and the queue."""
WARNING = 90
"""Seconds before its time limit at which a job is told; it needs them for a checkpoint."""
HOUR = "1:00:00"
"""The time limit of a job, unless said otherwise; one that reaches it queues itself again."""
_PROBE_MINUTES = 5


@dataclass(frozen=True)
class Job:
    """A job as squeue tells it: its id (`12_3` in an array), state (RUNNING, PENDING), why it waits, its node."""

    id: str
    state: str
    reason: str
    node: str


@dataclass(frozen=True)
class Slurm:
    """Does the runs in the jobs of a Slurm array.

    workers: jobs of the array. partition; time (a limit for each job, as sbatch reads it: minutes, H:M:S, D-H:M:S; by
    default an hour); cpus_per_run, gpus_per_run: of a job, for each process of a run. array_parallelism: how many may
    run at once. more: further options of sbatch. detach: return when the jobs are submitted. cancel: end them, rather
    than leave them, on Ctrl-C.
    """

    workers: int | None = None
    partition: str | None = None
    time: str | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    array_parallelism: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    detach: bool = False
    cancel: bool = False
    here: ClassVar[bool] = False

    def run(self, tasks: Sequence[Task], display: Display) -> None:
        """See `Executor.run`."""
        folder = tasks[0].folder.parent.parent.absolute() / "slurm"
        probe, array = self._submit(tasks, folder)
        display.say(f"Slurm: jobs {array}, once job {probe} has seen the folder; logs in {folder}")
        if self.detach:
            display.say(
                f"`harness status {folder.parent}` tells how they go; the same command goes on with what is left"
            )
            return
        try:
            _wait_for_probe(probe, folder, display)
            _wait(tasks, array, display)
        except BaseException as error:
            if self.cancel or isinstance(error, InputError):  # without the first job's sign none of the array may begin
                subprocess.run(["scancel", probe, array], capture_output=True, check=False)
                display.say(f"Slurm: jobs {array} cancelled")
            else:
                display.say(f"Slurm: jobs {array} go on; `scancel {probe} {array}` ends them")
            raise

    def _submit(self, tasks: Sequence[Task], folder: Path) -> tuple[str, str]:
        """Submit a job that probes and the array; gives their ids. Raises InputError where Slurm refuses."""
        try:
            import submitit
            from submitit.core.utils import FailedJobError
        except ImportError:
            advice = "`pip install 'residual-harness[slurm]'`, or choose inline, local"
            raise InputError([f"--executor: submitit is not installed; {advice}"]) from None
        if shutil.which("sbatch") is None:
            raise InputError(["--executor: slurm, but this machine has no sbatch; type it where jobs are submitted"])
        for option, value in (("cpus-per-run", self.cpus_per_run), ("gpus-per-run", self.gpus_per_run)):
            if value != int(value):
                raise InputError([f"--{option}: {value:g}; Slurm gives whole ones only"])
        processes = processes_of(tasks)
        folder.mkdir(exist_ok=True)
        given = folder / f"tasks-{uuid.uuid4().hex[:12]}.pickle"
        write_atomically(given, pickle.dumps(list(tasks)))
        for task in tasks:  # those of this command only, so that a failure is not tried again by every job
            run = RunDirectory(task.folder)
            if run.path.is_dir() and not run.is_locked():
                run.forget_failure()
        more = {"requeue": True, **self.more}
        try:
            executor = submitit.AutoExecutor(folder=folder / "%j", cluster="slurm")
            executor.update_parameters(
                name="harness",
                cpus_per_task=int(self.cpus_per_run) * processes,
                timeout_min=_PROBE_MINUTES,
                slurm_signal_delay_s=WARNING,
                slurm_additional_parameters=more,
                **{"slurm_partition": self.partition} if self.partition else {},
                **{"gpus_per_node": int(self.gpus_per_run) * processes} if self.gpus_per_run else {},
            )
            probe = executor.submit(Probe(str(folder)))
            count = min(len(tasks), self.workers or MOST_JOBS)
            more |= {"dependency": f"afterok:{probe.job_id}", "kill-on-invalid-dep": "yes"}
            executor.update_parameters(
                slurm_array_parallelism=self.array_parallelism or count,
                slurm_additional_parameters=more | {"time": self.time or HOUR},
            )
            jobs = executor.map_array(Taker(str(given)), range(count))
        except FailedJobError as error:
            lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
            raise InputError([f"Slurm: {line}" for line in lines] or [f"Slurm: {error}"]) from None
        return probe.job_id, jobs[0].job_id.split("_")[0]


@dataclass(frozen=True)
class Probe:
    """What the first job does: leave a sign in the folder, which says that a node sees it and can run the package."""

    folder: str

    def __call__(self) -> None:
        """Leave the sign."""
        write_atomically(_sign(Path(self.folder), os.environ["SLURM_JOB_ID"]), socket.gethostname().encode())


def _sign(folder: Path, job: str) -> Path:
    return folder / f"seen-by-job-{job}"


@dataclass(frozen=True)
class Taker:
    """What each job of the array does: take runs until none is left that nobody works on."""

    given: str

    def __call__(self, number: int) -> None:
        """Take runs, those at other places of the list than other jobs begin at. Raises RuntimeError on a bad node."""
        tasks: list[Task] = pickle.loads(Path(self.given).read_bytes())
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        bad = Path(f"{self.given}.bad-{node}")  # in this submission: by the next the node may have been mended
        if bad.exists():
            raise RuntimeError(f"{BAD} runs in a row have failed on {node}; it gets no more ({bad})")
        with stop.on(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM) as came:
            try:
                if not take(tasks[number:] + tasks[:number]):
                    bad.touch()
                    raise RuntimeError(f"{BAD} runs in a row have failed on {node}")
            except stop.Stopped:
                # With SIGTERM Slurm ends what is cancelled, or preempted and queued again by itself: either is no
                # longer running. But a preempted job is running while its grace lasts, and ending now would be its end.
                if signal.SIGTERM not in came or [job.state for job in jobs(_own_id())] == ["RUNNING"]:
                    _queue_again()


def take(tasks: Sequence[Task]) -> bool:
    """Do one run after the other, those apart that are finished, failed or being worked on by others.

    Gives False, leaving the rest, after BAD in a row have failed. Raises Stopped when asked to stop.
    """
    queue, in_a_row = list(tasks), 0
    while queue:
        if stop.asked():
            raise stop.Stopped
        waiting = []
        for task in queue:
            if RunDirectory(task.folder).state() in ("finished", "failed"):
                continue
            report = work_in_worker(task)
            in_a_row = in_a_row + 1 if report.state == "failed" else 0
            if in_a_row == BAD:
                return False
            if report.state == "unsure":  # of another machine, dead perhaps: then nobody else may come for it
                waiting.append(task)
        queue = waiting
        if queue:
            time.sleep(BUSY_PAUSE)
    return True


def _own_id() -> str:
    """This job's id, as squeue tells it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _queue_again() -> None:
    subprocess.run(["scontrol", "requeue", _own_id()], check=True)
    time.sleep(60)  # Slurm ends this process; a job that ended by itself before that would not come again


def _wait_for_probe(probe: str, folder: Path, display: Display) -> None:
    """Wait until a node has seen the folder. Raises InputError when the first job has ended without a sign."""
    display.started(0)
    while not _sign(folder, probe).exists():
        if not jobs(probe):
            time.sleep(POLL)  # the sign may be on its way
            if _sign(folder, probe).exists():
                return
            logs = sorted(folder.glob(f"{probe}/*.err"))
            why = f": {logs[0].read_text().strip().splitlines()[-1]}" if logs and logs[0].stat().st_size else ""
            raise InputError(
                [
                    f"Slurm: job {probe} has ended without a sign in {folder}{why}",
                    f"every node needs the same environment with this package installed, and {folder.parent} shared",
                ]
            )
        time.sleep(POLL)


def _wait(tasks: Sequence[Task], array: str, display: Display) -> None:
    """Follow the runs until all have ended, or no job is left that would do them."""
    left = {task.config.run_id: RunDirectory(task.folder) for task in tasks}
    silent = 0
    while left:
        begin = time.monotonic()
        there = jobs(array)
        for run_id, run in list(left.items()):
            if report := ended(run):
                display.ended(report)
                del left[run_id]
        display.started(sum(job.state == "RUNNING" for job in there))
        silent = silent + 1 if not there else 0
        if silent > 2:
            break
        if left:
            time.sleep(max(POLL, 10 * (time.monotonic() - begin)))  # thousands of runs: a folder takes its time
    if not left:  # jobs that have not begun would find nothing to do
        subprocess.run(["scancel", "--state=PENDING", array], capture_output=True, check=False)
    for run_id in left:
        display.ended(Report(run_id, "failed", f"no job of the Slurm array {array} is left that would do it"))


def ended(run: RunDirectory) -> Report | None:
    """How a run has ended, from its folder; None while it has not."""
    state = run.state()
    if state == "finished":
        try:
            return Report(run.run_id, "finished", outcome=run.outcome()[0])
        except Damaged as damage:
            return Report(run.run_id, "failed", str(damage))
    return Report(run.run_id, "failed", run.failure() or "") if state == "failed" else None


def jobs(*ids: str) -> list[Job]:
    """The jobs of these ids that Slurm has queued or runs, each job of an array for itself; none without Slurm."""
    if not ids or shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r|%N", f"--jobs={','.join(ids)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        if "Invalid job id" in done.stderr:  # squeue says so once all of them are gone
            return []
        raise InputError([f"Slurm: {done.stderr.strip()}"])
    return [Job(*line.split("|")) for line in done.stdout.splitlines() if line.count("|") == 3]


def submitted(out: Path) -> list[str]:
    """The ids of all jobs that were ever submitted for an output folder."""
    names = (path.name.split("_")[0] for path in (out / "slurm").glob("[0-9]*") if path.is_dir())
    return sorted(set(names), key=int)
