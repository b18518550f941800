"""The executor `local`: worker processes on this machine, which stay alive between runs."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from harness.devices import cpu_count, gpus, visible_gpus
from harness.files import named
from harness.located import InputError
from harness.store import RunDirectory
from harness.sweep.check import memory_need
from harness.sweep.executors.protocol import BUSY_PAUSE, Display
from harness.sweep.work import Report, Task, device_of, failed, processes_of, work


@dataclass(frozen=True)
class Local:
    """Does the runs in worker processes that stay alive between runs.

    A worker that is killed fails its own run only, and another takes its slot. A run that finds no memory is tried once
    more in the end, alone. workers: by default one a core, or on GPUs `per_gpu` each.
    """

    workers: int | None = None
    per_gpu: int | None = None
    here: ClassVar[bool] = True

    def run(self, tasks: Sequence[Task], display: Display) -> None:
        """See `Executor.run`."""
        from pebble import ProcessPool

        slots = worker_slots(device_of(tasks), self.workers, self.per_gpu, visible_gpus(), processes_of(tasks))
        check_gpu_memory(slots, tasks)
        with _slots_folder() as folder:
            pool = ProcessPool(
                max_workers=min(len(slots), len(tasks)),
                initializer=_start_worker,
                initargs=(str(folder), tuple(slots), os.getpid()),
                context=_spawn(),
            )
            try:
                for task in _drive(tasks, display, schedule := _scheduler(pool)):
                    display.say(f"{task.config.run_id}: found no memory; once more, alone")
                    _drive([task], display, schedule, again=False)
                pool.close()
            except BaseException:
                pool.stop()
                raise
            finally:
                pool.join()


def work_in_worker(task: Task) -> Report:
    """Do a run in a worker that stays alive, and give its memory back to the system before the next one."""
    report = work(task)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library that is not glibc
            ctypes.CDLL(None).malloc_trim(0)
    return report


def _scheduler(pool: Any) -> Callable[[Task], Future[Report]]:
    return lambda task: pool.schedule(work_in_worker, (task,))


def _drive(
    tasks: Sequence[Task], display: Display, schedule: Callable[[Task], Future[Report]], again: bool = True
) -> list[Task]:
    """Follow the runs until all have ended. With `again`, gives those that found no memory, as not ended yet."""
    pending = {schedule(task): task for task in tasks}
    without: list[Task] = []
    while pending:
        done, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            task = pending.pop(future)
            error = future.exception()
            report = future.result() if error is None else failed(RunDirectory(task.folder), _named(error))
            if report.out_of_memory and again:
                without.append(task)
                continue
            if not report.ended:
                time.sleep(BUSY_PAUSE)
                pending[schedule(task)] = task
            display.ended(report)
        display.started(sum(future.running() for future in pending))
    return without


def _named(error: BaseException) -> BaseException:
    """A killed worker's error in words: which signal, and what that usually means."""
    code = getattr(error, "exitcode", None)
    if not isinstance(code, int) or code >= 0:
        return error
    name = signal.Signals(-code).name
    hint = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
    return RuntimeError(f"its worker process was ended by {name}{hint}")


def _spawn() -> Any:
    import multiprocessing

    return multiprocessing.get_context("spawn")


_SLOTS, _OWNER = "harness-slots-", "owner"


@contextlib.contextmanager
def _slots_folder() -> Iterator[Path]:
    """A folder for the locks of worker slots. Those that killed sweeps have left are removed on the way."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SLOTS}*"):
        with contextlib.suppress(OSError), (left / _OWNER).open("r+") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_SLOTS) as name, (Path(name) / "new").open("w") as owner:
        with named(Path(name)):
            fcntl.flock(owner, fcntl.LOCK_EX)
        (Path(name) / "new").rename(Path(name) / _OWNER)  # seen only when it is locked
        yield Path(name)


_slot_lock: IO[str] | None = None


def _start_worker(folder: str, slots: tuple[str | None, ...], parent: int) -> None:
    """Prepare a worker process: take a free slot, one thread, and end when the sweep's process `parent` ends."""
    global _slot_lock
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which stops its workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before the line above: nobody would end this process
        os._exit(1)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    slot, _slot_lock = _take_slot(Path(folder), slots)
    if slot is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot


def _take_slot(folder: Path, slots: tuple[str | None, ...]) -> tuple[str | None, IO[str]]:
    """A slot that no living process holds, and the lock that holds it; the lock ends with the process."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for number, slot in enumerate(slots):
            lock = (folder / f"slot-{number}").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return slot, lock
            except BlockingIOError:
                lock.close()
        time.sleep(0.05)
    raise RuntimeError("every worker slot is taken")


def worker_slots(
    device: str, workers: int | None, per_gpu: int | None, gpus: Sequence[str], processes: int = 1
) -> list[str | None]:
    """One entry a worker: the GPU that it uses, those of its `processes` separated by commas, or None for a CPU worker.

    On GPUs: `per_gpu` workers each (default 1), no more than `workers` in all. Else: `workers`, by default one a core
    and process. Raises InputError for more processes than GPUs.
    """
    if device == "cpu" or not gpus:
        return [None] * (workers or max(1, cpu_count() // processes))
    if processes > len(gpus):
        raise InputError([f"compute.processes: {processes}, but there are {len(gpus)} GPUs: {', '.join(gpus)}"])
    groups = [",".join(gpus[at : at + processes]) for at in range(0, len(gpus) - processes + 1, processes)]
    slots: list[str | None] = [group for _ in range(per_gpu or 1) for group in groups]
    return slots[:workers] if workers else slots


def check_gpu_memory(slots: Sequence[str | None], tasks: Sequence[Task]) -> None:
    """Raise InputError where the workers of a GPU need more memory together than it has.

    By the run that needs most, estimated from below (`memory_need`), and what nvidia-smi says; unknown for a part of a
    divided GPU.
    """
    shared = {slot: count for slot, count in Counter(slots).items() if slot is not None and count > 1}
    if not shared:
        return
    need = max(memory_need(task.config).total for task in tasks)
    sizes = {name: gpu for gpu in gpus() for name in (gpu.index, gpu.uuid)}
    problems = [
        f"--per-gpu: {count} runs of at least {need / 1e6:,.0f} MB each do not fit into the "
        f"{sizes[slot].memory / 1e6:,.0f} MB of GPU {slot} ({sizes[slot].name})"
        for slot, count in shared.items()
        if slot in sizes and count * need > sizes[slot].memory
    ]
    if problems:
        raise InputError(problems)
