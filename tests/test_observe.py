"""`observe` around a training: it changes nothing, leaves nothing behind, and knows what a step is."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.probes import Cadence, Probe, ProbeWarning, observe
from harness.probes.selection import PRESETS
from tests.probe_networks import Net, Train, set_bias


@contextlib.contextmanager
def observed(preset: str | None, train: Train, **options: Any) -> Iterator[Probe | None]:
    """A probe that fires at every other step, or none."""
    if preset is None:
        yield None
        return
    with observe(train.call, preset, every=Cadence(2, early=False), optimizer=train.optimizer, **options) as probe:
        yield probe


def fingerprint(train: Train) -> list[Tensor]:
    """All that a training consists of: weights, buffers, gradients, momenta and the random state."""
    tensors = [*train.model.state_dict().values(), torch.get_rng_state()]
    tensors += [parameter.grad for parameter in train.model.parameters() if parameter.grad is not None]
    tensors += [buffer for state in train.optimizer.state.values() for buffer in state.values()]
    return [tensor.clone() for tensor in tensors]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_forward_hooks_with_kwargs",
    )
    count = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    return count + len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


# -- the training is the same ------------------------------------------------------------------------------------------


def plain(train: Train) -> None:
    train.steps(5)


def evaluating(train: Train) -> None:
    """Evaluation in the middle, with and without gradients, and passes in training mode that do not train."""
    images = train.images()
    for _ in range(4):
        train.step()
        train.model.eval()
        train.call(images)
        with torch.no_grad():
            train.call(images)
        train.model.train()
        with torch.no_grad():
            train.call(images)


def accumulating(train: Train) -> None:
    """Four micro-batches a step, of unequal sizes."""
    for _ in range(4):
        train.optimizer.zero_grad()
        for count in (3, 5, 2, 6):
            train.backward(train.images(count))
        train.optimizer.step()


def autocast(train: Train) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        train.steps(4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("run", [plain, evaluating, accumulating, autocast])
def test_probes_on_equals_probes_off_bitwise(preset: str, run: Any) -> None:
    results = []
    for chosen in (None, preset):
        train = Train(seed=4)
        train.model.to(memory_format=torch.channels_last)
        images = train.images(10)
        with observed(chosen, train) as probe:
            run(train)
            if probe is not None:
                averaged = {name: 0.5 * parameter for name, parameter in train.model.named_parameters()}
                probe.read_set(images, batch_size=4)
                probe.read_set(images, batch_size=4, weights=averaged)
                assert [row["step"] for row in probe.rows][:2] == [0, 2]
                assert any("rms" in name and value > 0 for name, value in probe.rows[1].items())
            run(train)
        results.append(fingerprint(train))
    assert same(*results)


@pytest.mark.parametrize("arrangement", ["blocks", "full"])
def test_our_network_trains_bitwise_the_same(arrangement: str) -> None:
    from harness.models import build_model

    results = []
    for chosen in (None, arrangement):
        torch.manual_seed(0)
        model = build_model("inception_resnet_v2", num_classes=4, image_size=32, width=0.05, repeats=(1, 1, 1))
        train = Train(model.to(memory_format=torch.channels_last), seed=5)
        with observed(chosen, train):
            for _ in range(3):
                train.step(torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last))
        results.append(fingerprint(train))
    assert same(*results)


# -- steps -------------------------------------------------------------------------------------------------------------


def test_a_step_is_a_training_pass_or_an_optimizer_step_or_what_the_user_says() -> None:
    train = Train()
    with observe(train.model, "**.inner", every=1) as probe:
        evaluating(train)
    assert [row["step"] for row in probe.rows] == [0, 1, 2, 3]
    with observe(train.model, "**.inner", every=1) as probe:
        accumulating(train)
    assert [row["step"] for row in probe.rows] == list(range(16))
    with observe(train.model, "**.inner", every=1, optimizer=train.optimizer) as probe:
        accumulating(train)
        evaluating(train)
    assert [row["step"] for row in probe.rows] == list(range(8))
    with observe(train.model, "**.inner", every=10) as probe:
        for number in (3, 10, 20, 25):
            probe.step(number)
            for _ in range(3):
                probe.step(number)
                train.backward()
        with pytest.raises(ValueError, match="step 24 is not above the last one, 25"):
            probe.step(24)
    assert [row["step"] for row in probe.rows] == [10, 20]


def test_micro_batches_are_read_as_one_batch() -> None:
    train = Train(seed=6)
    for module in train.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # so that the parts do not depend on how the batch is cut
    images = train.images(16)
    rows = []
    for sizes in ([16], [3, 5, 1, 7]):
        with observe(train.model, "blocks", every=1, optimizer=train.optimizer) as probe:
            for part in torch.split(images, sizes):
                train.backward(part)
            assert not probe.rows  # the step goes on
            rows += probe.take()
    assert rows[0].keys() == rows[1].keys()
    for name, value in rows[0].items():
        if not name.startswith("time/"):
            assert rows[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert rows[0]["block/b02/output/dead_units_batch"] >= 0


def test_layers_that_some_passes_lack_are_merged_over_the_others() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.drop = nn.Identity(), nn.Identity(), False

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.a(x) if self.drop else self.b(self.a(x))
            return out

    model = Dropping()
    with observe(model, "*", every=1) as probe:
        assert probe.step(0)
        for model.drop, value in ((True, 1.0), (False, 2.0), (True, 6.0)):
            model(torch.full((2, 3), value))
    assert (probe.rows[0]["layer/a/mean"], probe.rows[0]["layer/b/mean"]) == (3, 2)


def test_shapes_may_change_from_one_pass_to_the_next() -> None:
    model = nn.Sequential(*[nn.ReLU() for _ in range(5)])
    with observe(model, "*", every=1, unit_axis=1) as probe:
        for size in range(2, 40):
            x = torch.arange(3.0)[:, None, None].expand(2, 3, size, 4) * size
            model(x.contiguous(memory_format=torch.channels_last) if size % 2 else x)
    for size, row in enumerate(probe.rows, 2):
        for layer in range(5):
            assert row[f"layer/{layer}/mean"] == size and row[f"layer/{layer}/inert_units_batch"] == 3
            assert row[f"layer/{layer}/zero_fraction"] == pytest.approx(1 / 3)
            assert row[f"layer/{layer}/dead_units_batch"] == 1


def test_a_set_read_in_inference_mode_leaves_nothing_that_training_stumbles_over() -> None:
    train = Train()
    with observe(train.model, "full", every=1, optimizer=train.optimizer) as probe:
        with torch.inference_mode():
            probe.read_set(train.images(), batch_size=8, step=0)
        train.steps(2)
    assert [row["step"] for row in probe.rows] == [0, 0, 1]


# -- the fixed set -----------------------------------------------------------------------------------------------------


def test_the_fixed_set_is_read_with_both_statistics_and_other_weights() -> None:
    train = Train(seed=7)
    norm = train.net.block(0).norm
    assert norm.running_mean is not None
    norm.running_mean.fill_(1000.0)  # in eval mode all of its units are far below zero
    images = train.images(10)
    averaged = {"blocks.0.norm.bias": torch.full((8,), -100.0)}
    with observe(train.model, "**.inner") as probe:
        row = probe.read_set(images, batch_size=3)
        row |= probe.read_set(images, batch_size=3, weights=averaged, step=7)
    layer = "layer/blocks.0.inner"
    found = {
        suffix: row[f"{layer}/dead_units_{suffix}"] for suffix in ("probe", "probe_eval", "averaged", "averaged_eval")
    }
    assert found == {"probe": 0, "probe_eval": 8, "averaged": 8, "averaged_eval": 8}
    assert [each["step"] for each in probe.rows] == [0, 7]
    assert 0 < row[f"{layer}/zero_fraction_probe"] < 1 and row[f"{layer}/rms_probe"] > 0


def test_the_fixed_set_says_what_the_pre_pool_instrument_says() -> None:
    from harness.probes.prepool import PrePool

    train = Train(seed=8)
    set_bias(train.net.block(2).up_projection, -100.0, slice(0, 3))
    images = train.images(20)
    with PrePool(train.net.pool) as prepool, observe(train.model, "prepool") as probe:
        expected = prepool.read_set(train.model, images, batch_size=8)
        row = probe.read_set(images, batch_size=8)
    assert row["prepool/dead_units_probe"] == 3
    assert {name: row[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(0, 3, 6, 6), {"batch_size": 4}, "the probe set is empty"),
        (torch.zeros(4, 3, 6, 6), {"batch_size": 0}, "batch_size is 0"),
        (torch.zeros(4, 3, 6, 6), {"batch_size": 2, "weights": {"a.b": torch.zeros(1)}}, "no parameter a.b"),
    ],
)
def test_a_fixed_set_that_cannot_be_read(images: Tensor, options: dict[str, Any], message: str) -> None:
    with observe(Net(), "blocks") as probe, pytest.raises(ValueError, match=message):
        probe.read_set(images, **options)


# -- nothing is left behind --------------------------------------------------------------------------------------------


def test_hooks_are_gone_after_a_hundred_uses_and_after_exceptions() -> None:
    train = Train(Net(blocks=1))
    before = hooks(train.model, train.optimizer)
    for use in range(100):
        with contextlib.suppress(ZeroDivisionError), observed("full", train):
            assert hooks(train.model, train.optimizer) > before
            train.step()
            if use % 2:
                raise ZeroDivisionError
    assert hooks(train.model, train.optimizer) == before
    with pytest.raises(RuntimeError, match="channels"), observed("full", train):  # in the forward pass
        train.call(torch.zeros(2, 5, 6, 6))
    assert hooks(train.model, train.optimizer) == before


def test_a_pass_that_fails_leaves_no_reading_and_the_next_one_is_right() -> None:
    train = Train()
    with observe(train.model, "blocks", every=1) as probe:
        head, train.net.head = train.net.head, nn.Sequential(nn.Linear(3, 3))
        with pytest.raises(RuntimeError):
            train.backward()
        train.net.head = head
        train.backward()
    assert [row["step"] for row in probe.rows] == [1]
    assert probe.rows[0]["block/b01/skip/rms"] > 0


@pytest.mark.parametrize("every", [1, 3])
def test_no_activation_is_kept_alive(every: int) -> None:
    train = Train()
    born: list[weakref.ref[Tensor]] = []

    def remember(module: nn.Module, inputs: Any, output: Tensor) -> None:
        born.append(weakref.ref(output))

    for module in train.model.modules():
        module.register_forward_hook(remember)
    with observe(train.model, "full", every=every, optimizer=train.optimizer):
        train.steps(4)
        gc.collect()
        assert len(born) > 50
        assert not [reference for reference in born if reference() is not None]


@pytest.mark.slow
def test_memory_does_not_grow_over_2000_steps() -> None:
    """Tensors alive are counted: what the process holds besides is the allocator's and the rows', which are taken.

    Every other step is read, so that steps of both kinds are held to it.
    """

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    train = Train(Net(blocks=1, width=4))
    images = train.images(2)
    every = Cadence(2, early=False, burst_jump=None)
    with observe(train.model, "full", every=every, optimizer=train.optimizer) as probe:
        for _ in range(100):
            train.step(images)
        taken = len(probe.take())
        before = tensors()
        for _ in range(20):
            for _ in range(100):
                train.step(images)
            taken += len(probe.take())
        assert tensors() <= before
        assert taken == 1050
        timeline = sum(array.nbytes for array in probe.timeline().to_arrays().values())
    assert timeline < 1050 * len(probe.layers) * 10


def test_nothing_reaches_the_host_before_the_step_is_over() -> None:
    """On torch's meta device there are no values: whatever asks for one raises."""
    with torch.device("meta"):
        train = Train(Net())
        images = torch.empty(4, 3, 6, 6)
        with observe(train.model, "full", every=1, optimizer=train.optimizer) as probe:
            logits = train.model(images)
            logits.square().sum().backward()
            train.optimizer.step()
            with pytest.warns(ProbeWarning, match="making a row failed.*Cannot copy out of meta tensor"):
                assert probe.take() == []


# -- what is handed out ------------------------------------------------------------------------------------------------


def test_rows_frame_and_take() -> None:
    train = Train()
    with observe(train.model, "blocks", every=1) as probe:
        assert probe.rows == [] and probe.layers == () and probe.frame().empty
        train.steps(3)
        frame = probe.frame()
        assert frame.index.tolist() == [0, 1, 2] and frame.index.name == "step"
        assert len(probe.take()) == 3 and probe.take() == []
        train.steps(1)
    assert [row["step"] for row in probe.rows] == [3]
    row = probe.rows[0]
    assert row["time/probe"] == probe.seconds > 0
    assert all(isinstance(value, int | float) for value in row.values())
    assert all(isinstance(value, int) for name, value in row.items() if "_units" in name)
    assert all(0 <= value <= 1 for name, value in row.items() if "_share" in name or "fraction" in name)


def test_a_training_that_goes_on_from_its_state_gives_the_same_rows(tmp_path: Any) -> None:
    def steps(train: Train, probe: Probe, first: int, last: int) -> None:
        for number in range(first, last):
            probe.step(number)
            if number == 9:
                set_bias(train.net.block(0).up_projection, -100.0)
            torch.manual_seed(number)
            train.step()

    cadence = Cadence(5, early=False, burst_steps=4)
    train = Train(seed=9)
    with observe(train.model, "blocks", every=cadence, optimizer=train.optimizer) as probe:
        steps(train, probe, 0, 20)
    whole = probe
    train = Train(seed=9)
    with observe(train.model, "blocks", every=cadence, optimizer=train.optimizer) as probe:
        steps(train, probe, 0, 12)  # in the middle of the burst from 11 to 14
        torch.save(probe.state(), tmp_path / "state.pt")
        rows = probe.take()
    with observe(train.model, "blocks", every=cadence, optimizer=train.optimizer) as probe:
        probe.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        steps(train, probe, 12, 20)
        rows += probe.take()

    def timeless(rows: list[dict[str, Any]]) -> str:
        return json.dumps([{name: value for name, value in row.items() if name != "time/probe"} for row in rows])

    assert [row["step"] for row in rows] == [0, 5, 10, 11, 12, 13, 14, 15]
    assert timeless(rows) == timeless(whole.rows)
    for layer in whole.timeline().layers:
        assert (probe.timeline().raster(layer)[1] == whole.timeline().raster(layer)[1]).all()


# -- what modules do that is not expected ------------------------------------------------------------------------------


class Several(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"hidden": x.relu(), "loss": x.sum(), "count": 3}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, None, Tensor]:
        return x, None, -x


class Model(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.never = part, nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        return self.part(x)


def test_tuples_and_mappings_are_read_by_their_index_or_key() -> None:
    model = Model(Several())
    with observe(model, "part") as probe:
        model(torch.randn(4, 3))
    assert probe.layers == ("layer/part[hidden]",)
    model = Model(Pair())
    with observe(model, "part") as probe:
        model(torch.randn(4, 3))
    assert probe.layers == ("layer/part[0]", "layer/part[2]")
    assert probe.rows[0]["layer/part[0]/mean"] == -probe.rows[0]["layer/part[2]/mean"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (3, "layer/part: not read: int holds no tensor with units; observe a module inside it"),
        ({"a": [torch.zeros(2, 2)]}, "layer/part: not read: dict holds no tensor with units"),
        (torch.zeros(()), r"layer/part: not read: a tensor \(\) of torch.float32 has no units"),
        (torch.zeros(2, 2, dtype=torch.long), "of torch.int64 has no units"),
    ],
)
def test_an_output_without_units_is_left_out_with_a_word(output: Any, message: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return output

    model = Model(Odd())
    with pytest.warns(ProbeWarning, match=message), observe(model, "part") as probe:
        model(torch.zeros(2, 3))
    assert probe.rows == [] and len(probe.notes) == 1


def test_a_layer_that_is_never_called_is_named() -> None:
    model = Model(nn.ReLU())
    with pytest.warns(ProbeWarning, match="layer/never: never was not called"), observe(model, ["part", "never"]):
        model(torch.zeros(2, 3))
    with observe(model, "full") as probe:
        model(torch.zeros(2, 3))
    assert probe.layers == ("layer/part",)
    assert probe.notes == ["layer/never: never was not called in a forward pass that was read"]
    with pytest.warns(ProbeWarning, match="none of the observed layers was called"), observe(model, "never"):
        model(torch.zeros(2, 3))


def test_a_module_called_without_a_positional_input() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.ReLU()

        def forward(self, x: Tensor) -> Any:
            return self.part(input=x)

    model = Named()
    with pytest.warns(ProbeWarning, match="called without a positional input"), observe(model, "part:input"):
        model(torch.zeros(2, 3))


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, harness.probes; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys; from harness.probes import observe; sys.exit(not callable(observe) or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'observed'"):
        import harness.probes

        _ = harness.probes.observed
