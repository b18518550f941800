"""The executor `ray`, on real clusters on loopback: the same rows, whatever dies on the way."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import store
from harness.cli import main
from harness.located import InputError
from harness.provenance import versions
from harness.sweep.executors import ray as executor
from harness.sweep.executors.ray import Ray, _Drive, _look
from harness.sweep.work import Report
from tests.runs import timeless, tiny_sweep

QUIET = ["--wandb", "disabled"]
HARNESS = [sys.executable, "-m", "harness", "sweep"]


def rows_of(out: Path) -> dict[str, Any]:
    assert {run.state() for run in store.runs(out)} == {"finished"}
    return {run.run_id: timeless(run.rows()) for run in store.runs(out)}


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside the test: no telemetry, no token in the home folder, nothing that listens but on loopback."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed sweep of four runs, trained in this process."""
    folder = tmp_path_factory.mktemp("whole")
    assert (
        main(["sweep", str(tiny_sweep(folder, 200)), "--out", str(folder / "out"), "--executor", "inline", *QUIET]) == 0
    )
    return folder / "out"


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    node = {
        "num_cpus": 1,
        "node_ip_address": "127.0.0.1",
        "object_store_memory": 80_000_000,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=node)
    node.pop("include_dashboard")
    cluster.second = cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


def trains(out: Path) -> list[store.RunDirectory]:
    """Runs that have rows and are being worked on."""
    return [run for run in store.runs(out) if run.file("metrics.jsonl").exists() and run.is_locked()]


def until(holds: Any, seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_a_cluster_of_its_own_gives_the_same_rows_as_inline(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*HARNESS, str(whole / "sweep.yaml"), "--out", str(out), "--executor", "ray", *QUIET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "4/4 runs done" in done.stdout
    assert rows_of(out) == rows_of(whole)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_a_run_of_two_processes_gets_a_cpu_for_each(tmp_path: Path) -> None:
    sweep = tiny_sweep(tmp_path, 10)
    text = sweep.read_text().replace("device: {value: cpu}", "device: {value: cpu}, processes: {value: 2}")
    sweep.write_text(text.replace("[0, 1]", "[0]").replace("[1.0, 0.1]", "[0.1]"))
    for name in ("ray", "inline"):
        command = [*HARNESS, str(sweep), "--out", str(tmp_path / name), "--executor", name, *QUIET]
        command += ["--workers", "2"] if name == "ray" else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "inline")


@pytest.mark.slow
def test_a_removed_node_and_a_killed_worker_cost_no_run(cluster: Any, whole: Path, tmp_path: Path) -> None:
    import psutil

    out = tmp_path / "out"
    command = [*HARNESS, str(whole / "sweep.yaml"), "--out", str(out), "--executor", "ray", *QUIET]
    command += ["--ray-address", cluster.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    victim = until(lambda: trains(out))[0]
    psutil.Process(int(store.holder(victim.path).split()[1])).kill()
    until(lambda: len(trains(out)) == 2)
    cluster.remove_node(cluster.second, allow_graceful=False)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert rows_of(out) == rows_of(whole)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_a_bad_node_gets_no_more_runs(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second node fails whatever it is given: three runs in a row, and no more."""
    bad = cluster.second.node_id

    def work(task: int) -> tuple[Report, str]:
        import ray

        time.sleep(0.05)
        node = ray.get_runtime_context().get_node_id()
        return Report(str(task), "failed" if node == bad else "finished"), node

    said: list[Any] = []
    display = SimpleNamespace(started=lambda running: None, ended=said.append, say=said.append)
    monkeypatch.setattr(executor, "_work", work)
    with Ray(cluster.address)._cluster() as ray:
        _Drive(ray, Ray(), 0.0, display).run(range(40))  # type: ignore[arg-type]
    failed = [each for each in said if isinstance(each, Report) and each.state == "failed"]
    assert 3 <= len(failed) <= 5, "what was on its way when the third failed"
    assert len([each for each in said if isinstance(each, Report)]) == 40
    (word,) = [each for each in said if isinstance(each, str)]
    assert word.endswith("gets no more runs: 3 in a row have failed on it")


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    begin = time.monotonic()
    assert main(["sweep", str(tiny_sweep(tmp_path)), "--out", str(tmp_path / "out"), *QUIET, *options]) == 2
    assert time.monotonic() - begin < 30
    assert not store.runs(tmp_path / "out")
    return capsys.readouterr().err


def test_an_address_without_a_cluster_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    said = refused(tmp_path, capsys, "--executor", "ray", "--ray-address", address)
    assert said.startswith(f"--ray-address: {address}: no cluster answers there")


@pytest.mark.slow
def test_what_listens_and_is_no_cluster_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        command = [*HARNESS, str(tiny_sweep(tmp_path)), "--out", str(tmp_path / "out"), "--executor", "ray", *QUIET]
        begin = time.monotonic()
        done = subprocess.run([*command, "--ray-address", address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"--ray-address: {address}: no answer within 15 s" in done.stderr
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:port", ":6379"])
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--ray-address: {address}" in refused(tmp_path, capsys, "--executor", "ray", "--ray-address", address)


def test_ray_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'residual-harness[ray]'" in refused(tmp_path, capsys, "--executor", "ray")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--executor", "inline", "--workers", "2"],
            "--workers: nothing to --executor inline; it is for local, ray, slurm",
        ),
        (["--ray-address", "127.0.0.1:6379"], "--ray-address: nothing to --executor local; it is for ray"),
        (["--executor", "ray", "--per-gpu", "2"], "--per-gpu: nothing to --executor ray; it is for local"),
    ],
)
def test_an_option_of_another_executor_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(tmp_path, capsys, *options)


def test_runs_that_ask_for_more_than_any_node_has_are_refused() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 9.0, "GPU": 1.0}}]
    ray = SimpleNamespace(nodes=lambda: nodes)
    assert Ray()._gpus(ray, "auto") == 0
    with pytest.raises(InputError, match=r"--gpus-per-run: 0.5, but no node of the Ray cluster has more than 0 GPUs"):
        Ray(gpus_per_run=0.5)._gpus(ray, "auto")
    with pytest.raises(InputError, match=r"--cpus-per-run: 4, but no node of the Ray cluster has more than 2 CPUs"):
        Ray(cpus_per_run=4)._gpus(ray, "cpu")
    with pytest.raises(InputError, match=r"compute\.device: cuda"):
        Ray()._gpus(ray, "cuda")


def test_runs_get_a_gpu_each_where_there_are_gpus_and_they_may_use_them() -> None:
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}])
    assert Ray()._gpus(ray, "auto") == 1.0 == Ray()._gpus(ray, "cuda")
    assert Ray()._gpus(ray, "cpu") == 0.0
    assert Ray(gpus_per_run=0.25)._gpus(ray, "auto") == 0.25


def test_a_node_that_sees_another_folder_or_has_other_versions_says_so(tmp_path: Path) -> None:
    asked = tmp_path / ".probe.tmp"
    assert "does not see" in _look(str(tmp_path / "gone" / ".probe.tmp"), "word", versions())
    asked.write_text("another word")
    assert "another folder" in _look(str(asked), "word", versions())
    asked.write_text("word")
    assert _look(str(asked), "word", versions()) == ""
    assert _look(str(asked), "word", versions() | {"torch": "1.0"}) == f"has torch {versions()['torch']} instead of 1.0"
    assert [path.name for path in tmp_path.iterdir()] == [".probe.tmp"]


def test_what_a_killed_driver_has_left_is_removed_and_a_living_ones_sign_is_not(tmp_path: Path) -> None:
    left = tmp_path / executor._SIGN.format(host=socket.gethostname(), word="left")
    of_another_host = tmp_path / executor._SIGN.format(host="elsewhere", word="theirs")
    left.touch()
    of_another_host.touch()
    with executor._sign(tmp_path) as (one, _), executor._sign(tmp_path) as (other, word):
        assert not left.exists() and of_another_host.exists()
        assert one.exists() and other.read_text() == word
    assert list(tmp_path.iterdir()) == [of_another_host]


def test_as_many_runs_are_handed_out_as_nodes_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "NodeID": "a", "Resources": {"CPU": 4.0}},
        {"Alive": True, "NodeID": "b", "Resources": {"CPU": 3.0, "GPU": 2.0}},
    ]
    ray = SimpleNamespace(nodes=lambda: nodes)
    display = SimpleNamespace()
    assert _Drive(ray, Ray(), 0.0, display)._room() == 7
    assert _Drive(ray, Ray(cpus_per_run=2), 0.0, display)._room() == 3
    assert _Drive(ray, Ray(), 0.5, display)._room() == 3
    assert _Drive(ray, Ray(workers=5), 0.0, display)._room() == 5
    assert _Drive(ray, Ray(), 0.0, display, excluded={"a"})._room() == 3


@pytest.mark.slow
def test_two_executors_at_once_on_one_folder_do_no_run_twice(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*HARNESS, str(whole / "sweep.yaml"), "--out", str(out), *QUIET, "--executor"]
    both = [subprocess.Popen([*command, name], stdout=subprocess.DEVNULL) for name in ("ray", "local")]
    assert [each.wait(timeout=180) for each in both] == [0, 0]
    assert rows_of(out) == rows_of(whole)
    for run in store.runs(out):
        assert "continued" not in run.provenance()


def test_of_ten_thousand_runs_few_are_handed_out_at_once() -> None:
    flying: list[int] = []
    most = 0

    def hand_out(task: int) -> int:
        nonlocal most
        flying.append(task)
        most = max(most, len(flying))
        return task

    def wait(references: list[int], timeout: float) -> tuple[list[int], list[int]]:
        assert set(references) == set(flying)
        flying.remove(references[0])
        return [references[0]], references[1:]

    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "NodeID": "a", "Resources": {"CPU": 4.0}}],
        remote=lambda **options: lambda function: SimpleNamespace(remote=hand_out),
        wait=wait,
        get=lambda reference: (Report(str(reference), "finished"), "a"),
    )
    told: list[Report] = []
    display = SimpleNamespace(started=lambda running: None, ended=told.append)
    _Drive(ray, Ray(), 0.0, display).run(range(10_000))  # type: ignore[arg-type]
    assert [report.run_id for report in told] == [str(number) for number in range(10_000)]
    assert most == 8, "twice as many as there is room for"
