"""Data-parallel runs: two gloo processes on the CPU, started by torch's own launcher.

The runs that end by themselves are done by the same two processes, since most of a run's time is their start.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from harness import store
from harness.cli import main
from harness.config import RunConfig
from harness.store import Row, RunDirectory
from tests.runs import INCEPTION, timeless, tiny
from tests.test_train import run_in

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]


def run_command(folder: Path, config: RunConfig) -> list[str]:
    file = folder / "config.json"
    file.write_text(json.dumps(config.model_dump(mode="json", exclude_none=True)))
    return ["run", str(file), "--out", str(folder / "out"), "--wandb", "disabled"]


def launch(*command: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        [*TORCHRUN, "--master-port", str(free_port()), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def losses(rows: list[Row]) -> list[float]:
    return [row["train/loss"] for row in rows if "train/loss" in row]


CONFIGS = {
    "without batch-norm": tiny(
        model={"batch_norm": "none", "dropout_keep": 1.0},
        optim={"lr": 0.01, "replicas": 3, "replica_order": "random"},
        probes={"every": 1},
        train={"steps": 8},
    ),
    "with batch-norm": tiny(model={"dropout_keep": 1.0}, optim={"lr": 0.01}, probes={"every": 1}, train={"steps": 6}),
    "dying": tiny(
        model={**INCEPTION, "residual_scale": 1.0, "repeats": [1, 1, 2], "dropout_keep": 1.0},
        optim={"lr": 5.0},
        train={"steps": 300, "check_every": 5},
    ),
    "curvature": tiny(
        model={"batch_norm": "none", "dropout_keep": 1.0},
        train={"steps": 4},
        probes={"preset": "curvature", "every": 2, "curvature": {"every": 2}},
    ),
    "no curvature": tiny(model={"batch_norm": "none", "dropout_keep": 1.0}, train={"steps": 4}, probes={"every": 2}),
}
ONE_AFTER_THE_OTHER = """\
import json, os, sys
from harness.cli import main
for port, command in json.loads(sys.argv[1]):
    # At the launcher's own meeting place, what the run before wrote would still be there.
    os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}
    assert main(command) == 0
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """The runs of CONFIGS, each done by two processes."""
    folders = {name: tmp_path_factory.mktemp(name.replace(" ", "-")) for name in CONFIGS}
    script = folders["dying"] / "runs.py"
    script.write_text(ONE_AFTER_THE_OTHER)
    commands = [(str(free_port()), run_command(folders[name], config)) for name, config in CONFIGS.items()]
    process = launch(str(script), json.dumps(commands))
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        process.terminate()  # and its processes with it, which would wait for each other
    assert process.returncode == 0, output + errors
    found = {}
    for name, folder in folders.items():
        (found[name],) = store.runs(folder / "out")
        assert found[name].state() == "finished"
    return found


@pytest.mark.slow
def test_the_same_global_batch_gives_the_same_losses_as_one_process(
    finished: dict[str, RunDirectory], tmp_path: Path
) -> None:
    """With asynchronous replicas: all processes take the gradient of the same one."""
    one, two = run_in(tmp_path, CONFIGS["without batch-norm"]), finished["without batch-norm"]
    assert losses(two.rows()) == pytest.approx(losses(one[1]), rel=1e-4)
    rows, single = timeless(two.rows()), one[1]
    for name in ("prepool/dead_units_batch", "prepool/dead_units_probe", "prepool/dormant_units_batch"):
        assert [row.get(name) for row in rows] == [row.get(name) for row in single], name
    for name in ("prepool/rms", "prepool/zero_fraction", "train/accuracy"):
        assert [row[name] for row in rows[:-1]] == pytest.approx([row[name] for row in single[:-1]], rel=1e-3)


@pytest.mark.slow
def test_one_process_reads_the_curvature_of_its_share_and_the_others_train_the_same(
    finished: dict[str, RunDirectory], tmp_path: Path
) -> None:
    read, plain = finished["curvature"], finished["no curvature"]
    assert losses(read.rows()) == losses(plain.rows())
    halved = CONFIGS["curvature"].model_copy(update={"data": tiny(data={"batch_size": 4}).data})
    alone = run_in(tmp_path, halved)[1]
    assert read.rows()[0]["curvature/sharpness"] == pytest.approx(alone[0]["curvature/sharpness"], rel=1e-4)


@pytest.mark.slow
def test_with_batch_norm_each_half_batch_is_normalised_apart(finished: dict[str, RunDirectory]) -> None:
    from harness.data.dataset import load_dataset
    from harness.data.order import BatchOrder
    from harness.training.trainer import Trainer

    config, two = CONFIGS["with batch-norm"], finished["with batch-norm"]
    data = load_dataset(config.data, torch.device("cpu"))
    trainer = Trainer.new(config, data, torch.device("cpu"))
    order = BatchOrder(len(data.train), 8, config.seed, torch.device("cpu"))
    expected = []
    for step in range(6):
        gradients: list[torch.Tensor] = []
        loss = 0.0
        for half in order[step].chunk(2):
            trainer.forward_backward(*data.train[half])
            loss += trainer.losses[step % len(trainer.losses)].item() / 2
            found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trainer.model.parameters()]
            gradients = [a + b for a, b in zip(gradients, found, strict=True)] if gradients else found
        for parameter, gradient in zip(trainer.model.parameters(), gradients, strict=True):
            parameter.grad = gradient / 2
        trainer.update()
        expected.append(loss)
    assert losses(two.rows()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_death_is_decided_on_all_ranks_alike_and_all_stop_together(finished: dict[str, RunDirectory]) -> None:
    outcome, _ = finished["dying"].outcome()
    assert outcome.outcome == "died" and outcome.last_step < 300


@pytest.mark.slow
def test_a_rank_that_dies_ends_them_all_and_the_run_is_failed(tmp_path: Path) -> None:
    config = tiny(train={"steps": 100_000}, optim={"lr": 1e-6})
    process = launch("-m", "harness", *run_command(tmp_path, config))
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("runs/*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
        ranks["1"].send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    (run,) = store.runs(tmp_path / "out")
    assert run.state() == "failed"
    assert "rank" in (run.failure() or "")


def test_a_batch_that_the_ranks_cannot_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each refuses it by what the launcher tells it, before they meet."""
    for rank in ("0", "1"):
        for name, value in {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        assert main(run_command(tmp_path, tiny(data={"batch_size": 9}))) == 2
        assert "data.batch_size: 9 is not a multiple of the 2 processes" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
