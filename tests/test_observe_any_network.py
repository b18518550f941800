"""`observe` on other people's networks: the units' axis is found, copies are clean, and nothing ends a training."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.probes import ProbeWarning, observe
from tests.probe_networks import Net, Train

# -- layouts: a table of networks, the layer that is read, and the axis that numbers its units --------------------------


class Permuted(nn.Module):
    """A linear layer over the channels of an image (N, C, H, W), whose ReLU is called on (N, H, W, C)."""

    def __init__(self, back: bool) -> None:
        super().__init__()
        self.linear, self.act, self.back, self.last = nn.Linear(3, 6), nn.ReLU(), back, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.linear(x.permute(0, 2, 3, 1)))
        return self.last(out.permute(0, 3, 1, 2)) if self.back else out


class First(nn.Module):
    """A module that gives a tuple, and a ReLU on its first tensor."""

    def __init__(self, inner: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.inner, self.act, self.times = inner, nn.ReLU(), times

    def forward(self, x: Tensor) -> Any:
        return self.act(self.inner(*[x] * self.times)[0])


class Tokens(nn.Module):
    """Numbers of tokens (N, L), made of numbers (N, L), embedded (N, L, C)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding, self.act, self.count = nn.Embedding(count, width), nn.ReLU(), count

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.embedding(x.abs().long() % self.count))
        return out


def relu_after(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.ReLU())


TABLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, int]] = {
    "conv1d": (lambda: relu_after(nn.Conv1d(2, 6, 3, padding=1)), (4, 2, 20), "1", 1),
    "conv1d unbatched": (lambda: relu_after(nn.Conv1d(2, 6, 3, padding=1)), (2, 20), "1", 0),
    "conv2d": (lambda: relu_after(nn.Conv2d(3, 6, 1)), (4, 3, 5, 7), "1", 1),
    "conv2d unbatched": (lambda: relu_after(nn.Conv2d(3, 6, 1)), (3, 5, 7), "1", 0),
    "conv3d": (lambda: relu_after(nn.Conv3d(3, 6, 1)), (2, 3, 5, 4, 7), "1", 1),
    "transposed 1d": (lambda: relu_after(nn.ConvTranspose1d(3, 6, 2)), (4, 3, 5), "1", 1),
    "transposed 2d": (lambda: relu_after(nn.ConvTranspose2d(3, 6, 2)), (4, 3, 5, 7), "1", 1),
    "transposed 3d": (lambda: relu_after(nn.ConvTranspose3d(3, 6, 2)), (2, 3, 5, 4, 7), "1", 1),
    "embedding": (lambda: Tokens(5, 6), (4, 9), "act", 2),
    "pooling 2d": (lambda: relu_after(nn.Conv2d(2, 6, 1), nn.AvgPool2d(2)), (4, 2, 6, 4), "2", 1),
    "group-norm 2d": (lambda: relu_after(nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6)), (4, 2, 6, 4), "2", 1),
    "conv1d, batch-norm, dropout": (
        lambda: relu_after(nn.Conv1d(2, 6, 1), nn.BatchNorm1d(6), nn.Dropout(0.1)), (4, 2, 9), "3", 1,
    ),
    "linear (N, C)": (lambda: relu_after(nn.Linear(5, 6)), (4, 5), "1", 1),
    "linear (N, L, C)": (lambda: relu_after(nn.Linear(5, 6)), (4, 9, 5), "1", 2),
    "linear (N, H, W, C)": (lambda: relu_after(nn.Linear(5, 6)), (4, 9, 3, 5), "1", 3),
    "permuted": (lambda: Permuted(back=False), (4, 3, 5, 7), "act", 3),
    "permuted and back": (lambda: Permuted(back=True), (4, 3, 5, 7), "last", 1),
    "layer-norm": (lambda: relu_after(nn.LayerNorm(6)), (4, 9, 6), "1", 2),
    "layer-norm on 4": (lambda: relu_after(nn.LayerNorm(6)), (4, 9, 3, 6), "1", 3),
    "group-norm 1d": (lambda: relu_after(nn.Conv1d(2, 6, 1), nn.GroupNorm(2, 6)), (4, 2, 9), "2", 1),
    "instance-norm": (lambda: relu_after(nn.Conv1d(2, 6, 1), nn.InstanceNorm1d(6)), (4, 2, 9), "2", 1),
    "attention": (lambda: First(nn.MultiheadAttention(6, 2), 3), (9, 4, 6), "act", 2),
    "attention, batch first": (lambda: First(nn.MultiheadAttention(6, 2, batch_first=True), 3), (4, 9, 6), "act", 2),
    "lstm": (lambda: First(nn.LSTM(5, 6)), (9, 4, 5), "act", 2),
    "gru, batch first": (lambda: First(nn.GRU(5, 6, batch_first=True)), (4, 9, 5), "act", 2),
    "pooling 1d": (lambda: relu_after(nn.Conv1d(2, 6, 1), nn.MaxPool1d(2)), (4, 2, 10), "2", 1),
    "adaptive pooling": (lambda: relu_after(nn.Conv1d(2, 6, 1), nn.AdaptiveAvgPool1d(3)), (4, 2, 10), "2", 1),
    "flatten": (lambda: relu_after(nn.Conv1d(2, 6, 1), nn.Flatten()), (4, 2, 3), "2", 1),
    "flatten of the positions": (lambda: relu_after(nn.Conv2d(2, 6, 1), nn.Flatten(2)), (4, 2, 3, 5), "2", 1),
    "pixel shuffle": (lambda: relu_after(nn.Conv2d(2, 24, 1), nn.PixelShuffle(2)), (4, 2, 3, 5), "2", 1),
}  # fmt: skip


def direct(x: Tensor, axis: int) -> int:
    """Units that are zero everywhere, counted."""
    return sum(not bool(unit.any()) for unit in x.detach().movedim(axis, 0))


def kill(x: Tensor, axis: int) -> Tensor:
    """Zero in the first two units."""
    alive = torch.ones(x.shape[axis])
    alive[:2] = 0
    return x * alive.view([-1] + [1] * (x.ndim - 1 - axis))


def read_and_count(model: nn.Module, x: Tensor, layers: dict[str, int]) -> None:
    """Hold what is read at layers, by training pass and by set, against a count along the axes given.

    Two units of each layer are made zero, and read where the next module would see them: at an identity behind it.
    """
    model = model.train()
    found: dict[str, Tensor] = {}
    for name, axis in layers.items():
        parent = model.get_submodule(name.rpartition(".")[0])
        inner = model.get_submodule(name)

        def mask(module: nn.Module, inputs: Any, output: Tensor, name: str = name, axis: int = axis) -> Tensor:
            found[name] = kill(output, axis)
            return found[name]

        inner.register_forward_hook(mask)
        parent._modules[name.rpartition(".")[2]] = nn.Sequential(inner, nn.Identity())
    names = [f"{name}.1" for name in layers]
    for by_set in (False, True):
        torch.manual_seed(1)
        with observe(model, names) as probe:
            if by_set:
                probe.read_set(x, batch_size=len(x), step=0)
            else:
                model(x)
        assert probe.notes == []
        for name, axis in layers.items():
            suffix = "probe_eval" if by_set else "batch"  # the set is read in eval mode last, which found holds then
            assert probe.rows[0][f"layer/{name}.1/dead_units_{suffix}"] == direct(found[name], axis) >= 2, name
            deaths = probe.timeline("probe" if by_set else "batch").raster(f"layer/{name}.1")[1]
            assert deaths.shape == (found[name].shape[axis], 1)


@pytest.mark.parametrize("kind", TABLE)
def test_dead_units_are_counted_along_the_axis_of_the_layer_that_made_them(kind: str) -> None:
    build, shape, layer, axis = TABLE[kind]
    torch.manual_seed(0)
    model, x = build(), torch.randn(shape)
    out: dict[str, Tensor] = {}
    model.get_submodule(layer).register_forward_pre_hook(lambda module, inputs: (kill(inputs[0], axis),))
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: out.update(seen=output))
    with observe(model, layer) as probe:
        model(x)
    assert probe.notes == []
    assert probe.rows[0][f"layer/{layer}/dead_units_batch"] == direct(out["seen"], axis) >= 2
    assert probe.timeline().raster(f"layer/{layer}")[1].shape == (out["seen"].shape[axis], 1)


def test_two_channels_of_a_one_dimensional_convolution() -> None:
    model = nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), nn.ReLU())
    nn.init.constant_(model[0].bias[:2], -100.0)  # type: ignore[index]
    for call in (model, torch.compile(model, backend="eager")):
        with observe(call, "1") as probe:  # type: ignore[arg-type]
            call(torch.randn(4, 2, 20))
        row = probe.rows[0]
        assert (row["layer/1/dead_units_batch"], row["layer/1/dead_share_batch"]) == (2, 2 / 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        ("swin_t", 64, {"features.1.0.mlp.1": 3, "features.3.1.mlp.1": 3, "features.0.0": 1, "features.5.2.norm1": 3}),
        ("convnext_tiny", 64, {"features.1.0.block.4": 3, "features.1.0.block.0": 1, "features.3.0.block.6": 1}),
        ("vit_b_16", 32, {"encoder.layers.encoder_layer_0.mlp.1": 2, "encoder.layers.encoder_layer_3.ln_2": 2}),
        ("densenet121", 64, {"features.denseblock1.denselayer2.relu2": 1, "features.transition1.relu": 1}),
    ],
)
def test_torchvisions_networks(name: str, size: int, layers: dict[str, int]) -> None:
    models = pytest.importorskip("torchvision.models")
    options = {"image_size": size} if name.startswith("vit") else {}
    torch.manual_seed(0)
    read_and_count(
        models.get_model(name, weights=None, num_classes=5, **options), torch.randn(2, 3, size, size), layers
    )


@pytest.mark.slow
def test_timms_convnext() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    layers = {"stages.0.blocks.0.mlp.act": 1, "stages.1.blocks.0.norm": 1, "stem.1": 1}
    read_and_count(timm.create_model("convnext_atto", num_classes=5), torch.randn(2, 3, 64, 64), layers)


def test_a_guess_is_said_once_and_an_impossible_axis_is_said() -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.warns(ProbeWarning, match="which is a guess: give unit_axis") as caught, observe(model, "0") as probe:
        for _ in range(3):
            model(torch.randn(2, 4, 5))
    assert len(caught) == len(probe.notes) == 1
    with pytest.warns(ProbeWarning, match=r"unit_axis is 3; a tensor \(2, 4, 5\) has -3 to 2"):  # noqa: SIM117
        with observe(model, "0", unit_axis=3) as probe:
            model(torch.randn(2, 4, 5))
    assert probe.rows == []


# -- copies and pickles ---------------------------------------------------------------------------------------------------


def count_hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        saved,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: torch.optim.swa_utils.AveragedModel(model).module,
    ],
)
@pytest.mark.parametrize("preset", ["prepool", "full"])
def test_copies_carry_no_instruments(preset: str, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    train = Train()
    own = train.model.register_forward_hook(count_hook)
    before = count_hooks(train.model)
    with observe(train.model, preset, every=1, optimizer=train.optimizer) as probe:
        train.step()
        with observe(train.model, "blocks"):
            copied = duplicate(train.model)
        part = duplicate(train.net.blocks)
        train.step()
        assert len(probe.rows) == 2
    assert count_hooks(copied) == before == count_hooks(train.model) and count_hooks(part) == 0
    for model in (copied, part, train.model):
        assert not any("__reduce_ex__" in module.__dict__ for module in model.modules())
    images = train.images()
    copied(images)
    assert len(probe.rows) == 2, "the copy is not read"
    copied.load_state_dict(train.model.state_dict())
    assert torch.equal(copied.eval()(images), train.model.eval()(images))
    own.remove()


def count_hook(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook of the user's, which copies keep."""


# -- nothing ends a training ----------------------------------------------------------------------------------------------


class Routed(nn.Module):
    """A head that is given the samples that a gate sends to it, perhaps none."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(3, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.linear(x[x[:, 0] > 0]))
        return out


class Broken(nn.Module):
    """Gives what no instrument can read."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output


class Changing(nn.Module):
    """Another number of units in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x @ x.T)
        return out


def test_a_head_without_samples_is_left_out_of_one_reading() -> None:
    model, x = Routed(), torch.randn(8, 3)
    with pytest.warns(ProbeWarning, match="layer/act: not read: an empty tensor has no units") as caught:  # noqa: SIM117
        with observe(model, ["linear", "act"], every=1) as probe:
            for batch in (x.abs(), -x.abs(), x.abs(), -x.abs()):
                model(batch).sum().backward()
    assert len(caught) == 1
    assert [row["step"] for row in probe.rows] == [0, 2]


@pytest.mark.parametrize("module", [Broken(3), Broken(None), Broken(torch.zeros(3)), Broken({"a": 1}), Changing()])
def test_what_cannot_be_read_is_said_and_the_others_are_read(module: nn.Module) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.odd = nn.Linear(3, 4), module

        def forward(self, x: Tensor) -> Tensor:
            self.odd(x)
            out: Tensor = self.good(x)
            return out

    model = Both()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with observe(model, "**", every=1) as probe:
            for count in range(2, 7):
                model(torch.randn(count, 3)).sum().backward()
    assert [row["step"] for row in probe.rows] == list(range(5))
    assert all(row["layer/good/rms"] > 0 for row in probe.rows)
    assert len(caught) == 1 and issubclass(caught[0].category, ProbeWarning)
    assert len(probe.notes) == len(set(probe.notes)) <= 2


def test_a_model_that_gives_nothing_is_read() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> None:
            self.linear(x).sum().backward()

    model = Silent()
    with observe(model, "linear", every=1) as probe:
        model(torch.randn(5, 3))
        model(torch.randn(5, 3))
    assert [row["step"] for row in probe.rows] == [0, 1]


def test_a_pass_that_fails_is_followed_no_longer() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with observe(model, "1", every=1) as probe:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.randn(5, 2))
        assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
        model(torch.randn(5, 3)).sum().backward()
    assert [row["step"] for row in probe.rows] == [1]


def test_lengths_and_heights_may_change() -> None:
    for build, shapes in (
        (lambda: relu_after(nn.Linear(5, 6)), [(4, length, 5) for length in (9, 3, 7)]),
        (lambda: relu_after(nn.Linear(5, 6)), [(4, height, 3, 5) for height in (9, 3, 7)]),
        (lambda: relu_after(nn.Conv1d(5, 6, 1)), [(4, 5, length) for length in (9, 3, 7)]),
    ):
        model = build()  # type: ignore[no-untyped-call]
        with observe(model, "1", every=1) as probe:
            for shape in shapes:
                model(torch.randn(shape)).sum().backward()
        assert probe.timeline().raster("layer/1")[1].shape == (6, 3) and probe.notes == []


def test_a_fault_of_an_instrument_costs_its_step_and_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Train()
    with (
        pytest.warns(ProbeWarning, match="reading gradients failed, so that the step is not read: .*out of order"),
        observe(train.model, "full", every=1, optimizer=train.optimizer) as probe,
    ):
        train.step()
        with monkeypatch.context() as broken:
            broken.setattr(probe._parameters, "before", lambda: exec("raise OSError('out of order')"))
            train.step()
        train.step()
    assert [row["step"] for row in probe.rows] == [0, 2]


# -- nothing read, nothing said -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (lambda train: train.model.forward(train.images()), "the model itself was never called"),
        (lambda train: train.net.blocks(torch.randn(2, 8, 4, 4)), "the model itself was never called"),
        (lambda train: (train.model.eval(), train.step()), "the model was in eval mode in all 1 calls"),
        (lambda train: torch.no_grad()(train.model)(train.images()), "all 1 calls of the model were without gradients"),
        (lambda train: train.optimizer.step(), "the model itself was never called"),
    ],
)
def test_why_nothing_was_read_is_said_on_leaving(use: Callable[[Train], Any], why: str) -> None:
    train = Train()
    with pytest.warns(ProbeWarning, match=f"nothing was read: {why}"):  # noqa: SIM117
        with observe(train.model, "blocks", optimizer=train.optimizer) as probe:
            use(train)
    assert probe.rows == [] and len(probe.notes) == 1


# -- steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_checkpointed_pass_is_one_pass(with_optimizer: bool) -> None:
    train = Train()
    options: dict[str, Any] = {"optimizer": train.optimizer} if with_optimizer else {}
    with observe(train.model, "blocks", every=1, **options) as probe:
        for _ in range(3):
            checkpoint(train.model, train.images(), use_reentrant=False).sum().backward()
            train.optimizer.step()
    assert [row["step"] for row in probe.rows] == [0, 1, 2]


def test_passes_without_an_update_do_not_pile_up() -> None:
    train = Train()
    with (
        pytest.warns(ProbeWarning, match="more than 64 forward passes without an update") as caught,
        observe(train.model, "blocks", every=1, optimizer=train.optimizer) as probe,
    ):
        for _ in range(100):  # as a GradScaler does that skips its updates
            train.backward()
        assert len(probe._passes) == 64
    assert len(caught) == 1 and len(probe.rows) == 1


def test_lbfgs_is_read_at_the_weights_that_its_step_began_with() -> None:
    rows = []
    for iterations in (1, 5):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=iterations)
        x = torch.randn(16, 3)

        def closure(model: nn.Module = model, optimizer: Any = optimizer, x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = (model(x) - 1).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with observe(model, "*", every=1, optimizer=optimizer) as probe:
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        rows += probe.rows
    assert len(rows) == 2
    assert rows[0]["layer/2/mean"] == rows[1]["layer/2/mean"]
    with (
        pytest.warns(ProbeWarning, match="gradients within its step"),
        observe(model, "1", optimizer=optimizer, parameters="*.weight") as probe,
    ):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert not any(name.startswith(("grad/", "update/")) for name in probe.rows[0])


def test_a_layer_that_is_called_later_is_read_and_not_said_to_be_missing() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.late, self.on = nn.Linear(3, 3), nn.Conv1d(3, 3, 1), False

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.first(x)
            if self.on:
                out = self.late(out.T[None])[0].T
            return out

    model = Late()
    with observe(model, "*", every=1) as probe:
        for number in range(4):
            model.on = number >= 2
            model(torch.randn(5, 3)).sum().backward()
    assert probe.layers == ("layer/first", "layer/late")
    assert "layer/late/rms" in probe.rows[3] and not [word for word in probe.notes if "not called" in word]


# -- the training is the same ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLE)
def test_every_layout_trains_bitwise_the_same(kind: str) -> None:
    build, shape, layer, _ = TABLE[kind]
    results = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = build()
        trained = list(model.parameters())
        optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9) if trained else None

        def steps(model: nn.Module = model, optimizer: Any = optimizer) -> None:
            for _ in range(3):
                out = model(torch.randn(shape))
                if optimizer is not None:
                    optimizer.zero_grad()
                    out.square().sum().backward()
                    optimizer.step()

        if watched:
            with observe(model, layer, every=1, optimizer=optimizer):
                steps()
        else:
            steps()
        results.append([*model.state_dict().values(), torch.get_rng_state()])
    assert all(map(torch.equal, *results))


def test_an_unobserved_network_keeps_nothing_of_a_probe() -> None:
    model = Net()
    with observe(model, "full"):
        pass
    assert count_hooks(model) == 0
    assert not any("__reduce_ex__" in module.__dict__ for module in model.modules())
