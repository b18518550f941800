"""What a GPU must do as the CPU does it: each test has both devices, so that the CPU's is the twin of the GPU's."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from harness import store
from harness.config import RunConfig
from harness.data.dataset import load_dataset
from harness.devices import gpus, visible_gpus
from harness.models import build_model
from harness.optim.build import build_optimizer
from harness.probes import observe
from harness.probes.curvature import sharpness
from harness.probes.prepool import PrePool
from harness.store import RunDirectory
from harness.sweep.executors.local import Local
from harness.sweep.run import Settings, read_sweep, run_sweep
from harness.sweep.work import failed
from harness.training.train import train
from harness.training.trainer import Trainer
from tests.runs import INCEPTION, tiny, tiny_sweep
from tests.test_train import run_in, same_weights

pytestmark = pytest.mark.timeout(300)
CPU = torch.device("cpu")
OPTIMIZERS = ("rmsprop_tf", "rmsprop_torch", "sgd", "adam")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def exactly() -> Iterator[None]:
    """No tf32, whatever ran before."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def on(device: torch.device, **sections: Any) -> RunConfig:
    compute = {"device": device.type, **sections.pop("compute", {})}
    return tiny(**sections, compute=compute)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_updates_are_those_of_the_cpu(
    tmp_path: Path, device: torch.device, optimizer: str, replicas: int
) -> None:
    """The data and their order, the initial weights, whose turn it is, the optimizer: all but the rounding."""
    changes: dict[str, Any] = {
        "optim": {"name": optimizer, "lr": 0.001, "replicas": replicas},
        "train": {"steps": 6},
        "probes": {"every": 1},
    }
    there = run_in(tmp_path / "there", on(device, **changes))[1]
    here = run_in(tmp_path / "here", on(CPU, **changes))[1]
    assert [row["step"] for row in there] == [row["step"] for row in here]
    for name in ("train/loss", "optim/lr", "optim/delay", "prepool/rms"):
        values = [[row[name] for row in rows if name in row] for rows in (there, here)]
        assert len(values[1]) >= 6 and values[0] == pytest.approx(values[1], rel=2e-3), name


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_run_in_every_arithmetic_ends_and_continues(
    tmp_path: Path, device: torch.device, precision: str, compiled: bool
) -> None:
    if device == CPU and (precision == "tf32" or compiled):
        pytest.skip("on the CPU: tests/test_train.py compiles; tf32 is refused there, which test_refusals holds")
    config = on(
        device,
        model={} if compiled else {**INCEPTION, "repeats": [1, 1, 1]},  # the former compiles in seconds
        train={"steps": 20, "precision": precision, "compile": compiled},
    )
    outcome, rows, checkpoint = run_in(tmp_path, config)
    assert outcome.last_step == 20 and rows[-1]["step"] == 20
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())


def test_an_interrupted_run_goes_on_to_the_same_rows(tmp_path: Path, device: torch.device) -> None:
    """Bitwise with deterministic algorithms, which a GPU has for these layers."""
    changes: dict[str, Any] = {"optim": {"replicas": 2}, "train": {"steps": 25, "check_every": 5}}
    torch.backends.cudnn.deterministic, before = True, torch.backends.cudnn.deterministic
    try:
        whole = run_in(tmp_path / "whole", on(device, **changes))
        run = RunDirectory(tmp_path / "cut" / on(device, **changes).run_id)
        config = on(device, **changes)
        with run.lock():
            run.write_config(config, {})
            with pytest.raises(KeyboardInterrupt):
                _train_until(config, run, 13)
            train(config, run)
    finally:
        torch.backends.cudnn.deterministic = before
    continued = [row["train/loss"] for row in run.rows() if "train/loss" in row]
    expected = [row["train/loss"] for row in whole[1] if "train/loss" in row]
    checkpoint = run.checkpoint()
    assert checkpoint is not None
    assert continued == expected and same_weights(whole[2], checkpoint)


def _train_until(config: RunConfig, run: RunDirectory, step: int) -> None:
    class Stop:
        def __init__(self) -> None:
            self.config, self.update = config, Trainer.update

        def __call__(self, trainer: Trainer) -> None:
            if trainer.step == step:
                raise KeyboardInterrupt
            self.update(trainer)

    stop = Stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", lambda trainer: stop(trainer))
        train(config, run)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_waits_for_nothing(device: torch.device, optimizer: str) -> None:
    """No step brings a value to the host, with replicas, clipping, averages and a layer's readings and all."""
    config = on(
        device,
        model={**INCEPTION, "repeats": [1, 1, 1]},
        optim={"name": optimizer, "lr": 0.001, "replicas": 2, "clip_norm": 1.0},
        train={"steps": 25, "averaging": {"decay": 0.9}},
        probes={"preset": "blocks", "cadence": {"every": 2, "early": False}},
    )
    data = load_dataset(config.data, device)
    trainer = Trainer.new(config, data, device)
    assert trainer.probe is not None
    with data.batches(config.seed) as batches:
        trainer.begin(batches)
        with trainer.probe:
            for step in range(6):
                if step == 2 and device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    trainer.forward_backward(*next(batches))
                    trainer.update()
                finally:
                    if device.type == "cuda":
                        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 6


def net() -> tuple[nn.Module, torch.Tensor]:
    """A network with dead units in every layer, and images (16, 3, 32, 32)."""
    torch.manual_seed(0)
    model = build_model("inception_resnet_v2", num_classes=10, image_size=32, width=0.0625, repeats=[1, 1, 1])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.ndim == 1:
                parameter[::3] = -100.0
    return model, torch.randn(16, 3, 32, 32)


def test_every_layer_has_the_dead_units_that_the_cpu_finds(device: torch.device, exactly: None) -> None:
    model, images = net()
    found = []
    for place in (CPU, device):
        model.to(place)
        with observe(model, "full", every=1) as probe:
            probe.step(0)
            model(images.to(place))
        found.append(probe.take()[0])
    here, there = found
    assert len(here) > 50 and set(here) == set(there)
    here.pop("time/probe")
    for name, value in here.items():
        assert there[name] == pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True), name


def test_the_prepool_reading_is_that_of_the_cpu(device: torch.device, exactly: None) -> None:
    model, images = net()
    found = []
    for place in (CPU, device):
        model.to(place)
        with PrePool(model.get_submodule("pool")) as prepool:
            found.append(prepool.read_set(model, images.to(place), 8))
    assert found[0]["prepool/dead_units_probe"] > 0
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-4, nan_ok=True)


def test_the_sharpness_is_that_of_the_cpu(device: torch.device, exactly: None) -> None:
    model, images = net()
    labels = torch.arange(16) % 10
    config = on(CPU, optim={"lr": 0.01, "momentum": 0.9})

    def loss(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(network(batch[0]), batch[1])

    found = []
    for place in (CPU, device):
        model.to(place)
        optimizer = build_optimizer(model, config.optim)
        torch.manual_seed(1)
        found.append(
            sharpness(model, loss, (images.to(place), labels.to(place)), optimizer, products=40, tolerance=1e-4)
        )
    assert found[1].value == pytest.approx(found[0].value, rel=1e-2)


def test_workers_that_share_a_device_finish_a_sweep(tmp_path: Path, device: torch.device) -> None:
    file = tiny_sweep(tmp_path)
    file.write_text(file.read_text().replace("device: {value: cpu}", f"device: {{value: {device.type}}}"))
    settings = Settings(Local(per_gpu=2) if device.type == "cuda" else Local(workers=2), "disabled")
    assert not run_sweep(read_sweep(file), tmp_path / "out", settings, "test", Console(file=io.StringIO()))
    runs = list(store.runs(tmp_path / "out"))
    assert len(runs) == 4 and {run.state() for run in runs} == {"finished"}
    (told,) = {run.provenance()["device"] for run in runs}
    assert told.startswith("cpu: ") if device == CPU else torch.cuda.get_device_name() in told


def test_readings_of_one_process_take_synchronised_batch_norms_alone(device: torch.device, exactly: None) -> None:
    """Of a data-parallel run one process reads; the others make no such pass, and would be waited for without end.

    torch's SyncBatchNorm refuses the CPU, so that a reading there shows that none was asked to synchronise.
    """
    model, images = net()
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(net()[0])  # type: ignore[no-untyped-call]
    images = images.to(device)
    found = []
    for each in (model.to(device), synchronised.to(device)):
        with PrePool(each.get_submodule("pool")) as prepool:
            row: dict[str, Any] = dict(prepool.read_set(each, images, 8))
        with observe(each, "blocks", every=10**9) as probe:
            probe.read_set(images, batch_size=8)
            row |= probe.take()[-1]
        row.pop("time/probe")
        found.append(row)
        assert not any("forward" in module.__dict__ for module in each.modules())
    assert len(found[0]) > 20 and found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6, nan_ok=True)


def test_nvidia_smi_and_torch_see_the_same_gpus(device: torch.device) -> None:
    if device == CPU:
        assert len(visible_gpus()) == torch.cuda.device_count()
        return
    seen = visible_gpus()
    assert len(seen) == torch.cuda.device_count() or any(name.startswith("MIG-") for name in seen)
    memory = torch.cuda.get_device_properties(0).total_memory
    assert any(abs(gpu.memory - memory) < 0.1 * memory for gpu in gpus()) or any(
        name.startswith("MIG-") for name in seen
    )


def test_an_allocation_that_finds_no_memory_is_known_as_such(tmp_path: Path, device: torch.device) -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    assert failed(RunDirectory(tmp_path / "run"), found.value).out_of_memory
