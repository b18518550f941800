"""The executor `ray`: the worker processes of a Ray cluster, which stay alive between runs.

Every node needs the same environment, this package installed in it, and the output folder under the same path: a probe
on each node looks before the first run begins. Ray itself tries a run again whose worker or node died; it continues
from its checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from harness.devices import cpu_count
from harness.located import InputError
from harness.provenance import versions
from harness.store import RunDirectory
from harness.sweep.executors.local import work_in_worker
from harness.sweep.executors.protocol import BUSY_PAUSE, Display
from harness.sweep.work import Report, Task, device_of, failed, processes_of

PATIENCE = 15.0
"""Seconds that a cluster has to answer."""
RETRIES = 2
"""How often Ray tries a run again whose worker or node died."""
BAD = 3
"""Runs in a row that failed on a node, after which it gets no more as long as there are others."""
_TOKEN = Path("~/.ray/auth_token")
_LOOPBACK = "127.0.0.1"
_STORE = 100_000_000


@dataclass(frozen=True)
class Ray:
    """Does the runs in the workers of a Ray cluster.

    address: host:port of its head, or `auto` for one that runs on this machine; None starts one here, for the time of
    the sweep. workers: at most so many runs at once. cpus_per_run, gpus_per_run: what each process of a run takes of a
    node, fractions allowed; gpus_per_run is by default 1 where there are GPUs and the runs may use them.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float | None = None
    here: ClassVar[bool] = False

    def run(self, tasks: Sequence[Task], display: Display) -> None:
        """See `Executor.run`."""
        with self._cluster() as ray:
            processes = processes_of(tasks)
            each = replace(self, cpus_per_run=self.cpus_per_run * processes)
            gpus = each._gpus(ray, device_of(tasks), processes)
            _probe(ray, tasks[0].folder.parent.parent)
            _Drive(ray, each, gpus, display).run(tasks)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[Any]:
        """The ray package, joined to the cluster. Raises InputError where there is none."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address is None:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else a node on loopback hangs
        elif _TOKEN.expanduser().exists():  # with which `ray start` guards a cluster; one without guards does not mind
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ImportError:
            raise InputError(
                ["--executor: ray is not installed; `pip install 'residual-harness[ray]'`, or choose inline, local"]
            ) from None
        try:
            if self.address is None:
                ray.init(
                    address="local",  # without it one that somebody else runs on this machine is joined
                    num_cpus=self.workers or cpu_count(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                    object_store_memory=_STORE,
                    _node_ip_address=_LOOPBACK,
                )
            else:
                _join(ray, self.address)
            yield ray
        finally:
            ray.shutdown()

    def _gpus(self, ray: Any, device: str, processes: int = 1) -> float:
        """The GPUs that a run takes. Raises InputError for more than any node of the cluster has."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = max(node.get("GPU", 0) for node in nodes)
        gpus = self.gpus_per_run
        if gpus is None:
            gpus = 1.0 if most and device != "cpu" else 0.0
        gpus *= processes
        if gpus > most:
            raise InputError([f"--gpus-per-run: {gpus:g}, but no node of the Ray cluster has more than {most:g} GPUs"])
        if device == "cuda" and not gpus:
            raise InputError(["compute.device: cuda, but the runs are to get no GPU of the Ray cluster"])
        cpus = max(node.get("CPU", 0) for node in nodes)
        if self.cpus_per_run > cpus:
            raise InputError(
                [f"--cpus-per-run: {self.cpus_per_run:g}, but no node of the Ray cluster has more than {cpus:g} CPUs"]
            )
        return gpus


def _join(ray: Any, address: str) -> None:
    """Join a cluster that runs. Raises InputError where none answers within PATIENCE."""
    where = f"--ray-address: {address}"
    if "://" in address:
        raise InputError(
            [f"{where}: a Ray client's address; give HOST:PORT of the head, on one of the cluster's nodes"]
        )
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InputError([f"{where}; expected HOST:PORT of the cluster's head, or auto"])
        try:
            socket.create_connection((host, int(port)), timeout=PATIENCE / 3).close()
        except (OSError, OverflowError) as error:
            raise InputError([f"{where}: no cluster answers there: {error}; `ray start --head` starts one"]) from None
    found: list[BaseException | None] = []

    def init() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            found.append(None)
        except BaseException as error:
            found.append(error)

    # Ray waits much longer, or for ever, for something that listens and is no cluster.
    thread = threading.Thread(target=init, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not found:
        raise InputError(
            [f"{where}: no answer within {PATIENCE:.0f} s; is that the head of a Ray cluster, and {_TOKEN} its token?"]
        )
    if found[0] is not None:
        raise InputError([f"{where}: {' '.join(str(found[0]).split())}"])


def _probe(ray: Any, out: Path) -> None:
    """Raise InputError unless every node has this version of the package and writes into the same output folder."""
    with _sign(out.absolute()) as (asked, word):
        problems = _ask_nodes(ray, asked, word)
    if problems:
        raise InputError(
            [
                *problems,
                f"every node needs this package, installed in the same environment, and {out.absolute()} shared",
            ]
        )


_SIGN = ".probe.{host}.{word}.tmp"


@contextlib.contextmanager
def _sign(out: Path) -> Iterator[tuple[Path, str]]:
    """A file of the output folder that the nodes look for, and the word in it.

    It is locked while its driver lives; those that killed drivers of this host have left are removed on the way.
    """
    host = socket.gethostname()
    for left in out.glob(_SIGN.format(host=host, word="*")):
        with contextlib.suppress(OSError), left.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    word = uuid.uuid4().hex
    path = out / _SIGN.format(host=host, word=word)
    with path.open("x") as file:
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(word)
            file.flush()
            os.fsync(file.fileno())
            yield path, word
        finally:
            path.unlink(missing_ok=True)


def _ask_nodes(ray: Any, asked: Path, word: str) -> list[str]:
    """What is wrong with nodes that are to find a file with this word in it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    answers = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            str(asked), word, versions()
        ): name
        for node, name in nodes.items()
    }
    done, late = ray.wait(list(answers), num_returns=len(answers), timeout=60 + 4 * PATIENCE)
    problems = [f"node {answers[each]}: no answer to a first task" for each in late]
    for each in done:
        try:
            said = ray.get(each)
        except Exception as error:  # the package is not there, or of another version
            lines = [line for line in str(error).splitlines() if line.strip()]
            said = f"cannot run the package's code: {lines[-1].strip() if lines else type(error).__name__}"
        if said:
            problems.append(f"node {answers[each]}: {said}")
    return problems


def _look(asked: str, word: str, expected: dict[str, str]) -> str:
    """What is wrong with a node, in words; empty if nothing is."""
    path = Path(asked)
    try:
        if path.read_text() != word:
            return f"{path.parent} is another folder there"
    except OSError as error:
        return f"does not see {path.parent}: {error.strerror}"
    try:
        answer = path.with_name(_SIGN.format(host=socket.gethostname(), word=uuid.uuid4().hex))
        answer.touch()
        answer.unlink()
    except OSError as error:
        return f"cannot write into {path.parent}: {error.strerror}"
    found = versions()
    other = [f"{name} {found[name]} instead of {expected[name]}" for name in expected if found[name] != expected[name]]
    return f"has {', '.join(other)}" if other else ""


def _work(task: Task) -> tuple[Report, str]:
    """Do a run in a Ray worker; gives its report and the node's id."""
    import ray

    return work_in_worker(task), ray.get_runtime_context().get_node_id()


@dataclass
class _Drive:
    """Hands out runs, a few more than there is room for, and hears how they went."""

    ray: Any
    settings: Ray
    gpus: float
    display: Display
    in_a_row: Counter[str] = field(default_factory=Counter)
    excluded: set[str] = field(default_factory=set)

    def run(self, tasks: Sequence[Task]) -> None:
        queue, flying = list(reversed(tasks)), dict[Any, Task]()
        room, asked = self._room(), time.monotonic()
        while queue or flying:
            if time.monotonic() - asked > 5:  # nodes come and go
                room, asked = self._room(), time.monotonic()
            limit = room if self.settings.workers else 2 * room  # something waits where a run ends, and for new nodes
            while queue and len(flying) < limit:
                task = queue.pop()
                flying[self._remote().remote(task)] = task
            self.display.started(min(len(flying), room))
            done, _ = self.ray.wait(list(flying), timeout=0.5)
            for each in done:
                task = flying.pop(each)
                report = self._report(each, task)
                if not report.ended:
                    time.sleep(BUSY_PAUSE)
                    queue.insert(0, task)
                self.display.ended(report)

    def _room(self) -> int:
        """How many runs the cluster's nodes take at once."""
        cpus, gpus, count = self.settings.cpus_per_run, self.gpus, 0.0
        for node in self.ray.nodes():
            if node["Alive"] and node["NodeID"] not in self.excluded:
                has = node["Resources"]
                fits = [has.get("CPU", 0) // cpus if cpus else 1e9, has.get("GPU", 0) // gpus if gpus else 1e9]
                count += min(fits)
        return max(1, min(int(count), self.settings.workers or 10**6))

    def _remote(self) -> Any:
        options: dict[str, Any] = {
            "num_cpus": self.settings.cpus_per_run,
            "num_gpus": self.gpus,
            "max_retries": RETRIES,
            "max_calls": 0,  # a worker with a GPU stays alive too
        }
        if self.excluded:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self.excluded))})"}
        return self.ray.remote(**options)(_work)

    def _report(self, reference: Any, task: Task) -> Report:
        try:
            found: tuple[Report, str] = self.ray.get(reference)
        except Exception as error:  # Ray has many kinds, and a worker's own error is one of them
            return failed(RunDirectory(task.folder), _named(error))
        report, node = found
        if report.state == "failed":
            self._suspect(node)
        elif report.ended:
            self.in_a_row[node] = 0
        return report

    def _suspect(self, node: str) -> None:
        """Give no more runs to a node on which several failed in a row, if others are left."""
        self.in_a_row[node] += 1
        names = {each["NodeID"]: each["NodeManagerHostname"] for each in self.ray.nodes() if each["Alive"]}
        others = names.keys() - self.excluded - {node}
        if self.in_a_row[node] >= BAD and node not in self.excluded and others:
            self.excluded.add(node)
            self.display.say(f"node {names.get(node, node)} gets no more runs: {BAD} in a row have failed on it")


def _named(error: BaseException) -> BaseException:
    """A Ray error in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return RuntimeError(f"its Ray worker is gone: {type(error).__name__}: {first}")
