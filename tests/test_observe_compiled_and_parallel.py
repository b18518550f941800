"""`observe` under torch.compile, and across two processes that train data-parallel."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from harness.probes import Cadence, ProbeWarning, observe
from harness.probes.selection import PRESETS
from tests.probe_networks import Net, Train

Counter = Any


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def counting() -> Counter:
    from torch._dynamo.testing import CompileCounterWithBackend

    return CompileCounterWithBackend("aot_eager")


def of_one_block() -> Train:
    """Of one block, since a graph takes time by its size."""
    torch.manual_seed(1)
    return Train(Net(blocks=1), seed=1)


def wrapped(train: Train, backend: Any) -> None:
    train.call = torch.compile(train.model, backend=backend, fullgraph=True)  # type: ignore[assignment]


def in_place(train: Train, backend: Any) -> None:
    train.model.compile(backend=backend, fullgraph=True)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("how", [wrapped, in_place])
def test_two_graphs_no_break_and_no_recompilation_when_the_cadence_fires(preset: str, how: Callable[..., None]) -> None:
    """A break would be an error (fullgraph), and each graph is counted."""
    train, eager, counter = of_one_block(), of_one_block(), counting()
    how(train, counter)
    cadence = Cadence(3, early=False, burst_jump=None)
    with observe(train.call, preset, every=cadence, optimizer=train.optimizer) as probe:
        torch.manual_seed(2)
        train.steps(4)
        assert counter.frame_count == 2  # one that reads, one that does not
        train.steps(8)
        assert counter.frame_count == 2
        train.model.eval()
        train.call(train.images())
        train.model.train()
        evaluated = counter.frame_count
        images = train.images(10)
        probe.read_set(images, batch_size=4)
        train.steps(4)
        assert counter.frame_count == evaluated == 3
    with observe(eager.model, preset, every=cadence, optimizer=eager.optimizer) as reference:
        torch.manual_seed(2)
        eager.steps(12)
        eager.images()
        reference.read_set(eager.images(10), batch_size=4)
        eager.steps(4)
    assert [row["step"] for row in probe.rows] == [0, 3, 6, 9, 12, 12, 15]
    assert probe.layers == reference.layers
    for row, expected in zip(probe.rows, reference.rows, strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            if not name.startswith("time/"):
                assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True), name
    for ours, theirs in zip(train.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_default_compiler_trains_the_same_with_probes_and_without() -> None:
    results = []
    for probing in (False, True):
        torch.compiler.reset()
        torch.manual_seed(0)
        train = Train(Net(blocks=1), lr=0.01)
        wrapped(train, "inductor")
        torch.manual_seed(2)
        if probing:
            with observe(train.call, "blocks", every=2, optimizer=train.optimizer) as probe:
                train.steps(5)
            assert [row["step"] for row in probe.rows] == [0, 1, 2, 4]
            assert 0 < probe.rows[-1]["block/b01/output/zero_fraction"] < 1
        else:
            train.steps(5)
        results.append([parameter.detach() for parameter in train.model.parameters()])
    for with_probes, without in zip(*results, strict=True):
        torch.testing.assert_close(with_probes, without, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_seen_in_a_compiled_model_is_said() -> None:
    train = Train()
    wrapped(train, "eager")
    with (
        pytest.warns(ProbeWarning, match=r"give observe\(\) what torch\.compile returned"),
        observe(train.model, "blocks"),
    ):
        train.backward()
    torch.compiler.reset()
    train = Train()
    wrapped(train, "eager")
    train.backward()  # the graph is made before the hooks are there
    with pytest.warns(ProbeWarning, match="before the first call of a compiled model"), observe(train.call, "blocks"):
        train.backward()
    torch.compiler.reset()
    with observe(train.call, "blocks") as probe:
        train.backward()
    assert probe.rows[0]["block/b01/sum/rms"] > 0


def test_steps_that_are_read_can_run_outside_of_the_graph() -> None:
    """What the harness's own loop does: the compiled model in steps that are not read, the model itself in others."""
    train, counter = Train(seed=1), counting()
    compiled = torch.compile(train.model, backend=counter, fullgraph=True)
    with observe(
        train.model, "full", every=Cadence(3, early=False, burst_jump=None), optimizer=train.optimizer
    ) as probe:
        for number in range(8):
            train.call = train.model if probe.step(number) else compiled  # type: ignore[assignment]
            train.step()
    assert [row["step"] for row in probe.rows] == [0, 3, 6]
    assert counter.frame_count == 1


def test_a_model_compiled_in_place_is_as_before_afterwards() -> None:
    train = Train()
    in_place(train, "eager")
    compiled = train.model._compiled_call_impl
    with observe(train.model, "blocks") as probe:
        train.backward()
        probe.read_set(train.images(), batch_size=8)
        assert train.model._compiled_call_impl is not compiled
    assert train.model._compiled_call_impl is compiled


# -- data-parallel -----------------------------------------------------------------------------------------------------


class Thresholds(nn.Module):
    """relu(x - threshold) of each unit, so that a unit's death is a matter of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(4))
        self.relu, self.pool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(self.relu(x - self.threshold[:, None, None])).flatten(1)
        return out


def batches() -> list[Tensor]:
    """One batch for each of two ranks: unit 0 dead on both, 1 on the first, 2 on the second, 3 on none."""
    x = torch.rand(5, 4, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    x[:, 0] *= -1
    first, second = x[:2].clone(), x[2:].clone()
    first[:, 1] *= -1
    second[:, 2] *= -1
    return [first, second]


def train_in_parallel(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for probing in (False, True):
        train = Train(seed=3)
        model = nn.parallel.DistributedDataParallel(train.model)
        train.call = model
        torch.manual_seed(rank)
        if probing:
            with observe(model, "full", every=2, optimizer=train.optimizer) as probe:
                train.steps(3)
                with model.no_sync():
                    train.backward(train.images(3 + rank))
                train.backward()
                train.optimizer.step()
                if rank == 0:  # reading rows is no collective
                    assert probe.rows
            results["rows"] = probe.rows
        else:
            train.steps(3)
            with model.no_sync():
                train.backward(train.images(3 + rank))
            train.backward()
            train.optimizer.step()
        results[f"weights {probing}"] = list(train.model.state_dict().values())
    thresholds = nn.parallel.DistributedDataParallel(Thresholds())
    with observe(thresholds, "relu") as probe:
        thresholds(batches()[rank]).sum().backward()
    results["dead"] = probe.rows[0]
    results["mask"] = torch.from_numpy(probe.timeline().raster("layer/relu")[1])
    return results


class Gated(nn.Module):
    """Sends the samples whose first value is positive, perhaps none, through a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(3, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.linear(x[x[:, 0] > 0]))
        return out


def train_gated(rank: int) -> dict[str, Any]:
    model = nn.parallel.DistributedDataParallel(Gated())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with observe(model, ["linear", "relu"], every=1) as probe:
            for step in range(3):
                x = torch.rand(5, 3) + 0.1
                model(-x if (step, rank) == (1, 1) else x).sum().backward()
    return {"rows": probe.rows, "words": [str(each.message) for each in caught]}


def two_processes(rank: int, folder: str) -> None:
    """What each test of two processes looks at, by one start of them."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    meeting = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=limit)
    try:
        torch.save({"train": train_in_parallel(rank), "gated": train_gated(rank)}, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of `two_processes`, a rank each."""
    folder = tmp_path_factory.mktemp("two")
    spawn(two_processes, args=(str(folder),), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_a_layer_that_is_empty_in_one_process_costs_the_pass_in_all(of_two: list[dict[str, Any]]) -> None:
    for found in (each["gated"] for each in of_two):
        assert [row["step"] for row in found["rows"]] == [0, 2]
        assert any("the processes read other layers in a pass" in word for word in found["words"])


@pytest.mark.slow
def test_two_processes_read_what_one_would_read_of_their_batches_together(of_two: list[dict[str, Any]]) -> None:
    first, second = (each["train"] for each in of_two)
    for each in (first, second):
        assert all(map(torch.equal, each["weights False"], each["weights True"]))
        assert [row["step"] for row in each["rows"]] == [0, 1, 2]

    def timeless(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if not name.startswith(("time/", "norm/"))}

    for one, other in zip(first["rows"], second["rows"], strict=True):
        assert timeless(one) == pytest.approx(timeless(other), nan_ok=True)
    # dead is dead on every rank
    assert first["mask"].flatten().tolist() == [True, False, False, False]
    model = Thresholds()
    with observe(model, "relu", unit_axis=1) as probe:
        model(torch.cat(batches()))
    expected = timeless(probe.rows[0])
    assert expected["layer/relu/dead_units_batch"] == 1
    assert timeless(first["dead"]) == pytest.approx(expected) == timeless(second["dead"])
