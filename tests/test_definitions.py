"""The pre-pool instrument's words, against closed forms and tensors made by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from harness.probes import definitions as words
from harness.probes.passes import undisturbed
from harness.probes.prepool import BATCH_READINGS, PrePool


@pytest.fixture
def activation() -> Tensor:
    """Two samples, five units, 2x2: dead; constant; active at one of eight positions; full; alive in one sample."""
    x = torch.zeros(2, 5, 2, 2)
    x[:, 1] = 3.0
    x[0, 2, 1, 1] = 8.0
    x[:, 3] = torch.arange(1.0, 9.0).reshape(2, 2, 2)
    x[1, 4] = 1.0
    return x


def test_each_word_on_a_tensor_made_by_hand(activation: Tensor) -> None:
    assert words.dead_units(activation).tolist() == [True, False, False, False, False]
    assert words.inert_units(activation).tolist() == [True, True, False, False, False]
    assert words.active_share(activation).tolist() == [0, 1, 1 / 8, 1, 1 / 2]
    assert words.dormant_units(activation).tolist() == [True, False, False, False, False]
    assert words.dormant_units(activation, below=0.2).tolist() == [True, False, True, False, False]
    assert words.zero_fraction(activation).item() == pytest.approx((8 + 7 + 4) / 40)
    assert words.zero_samples(activation).tolist() == [False, False]
    activation[1] = 0
    assert words.zero_samples(activation).tolist() == [False, True]


def test_unit_gaussians_through_a_relu_read_their_closed_forms() -> None:
    count = 400_000
    x = torch.randn(count // 400, 4, 10, 10, generator=torch.Generator().manual_seed(0)).relu()
    assert words.zero_fraction(x).item() == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 4 / count))
    spread = math.sqrt((1 / 2 - 1 / (2 * math.pi)) / count)
    assert x.double().mean().item() == pytest.approx(1 / math.sqrt(2 * math.pi), abs=4 * spread)
    fourth = math.sqrt((3 / 2 - 1 / 4) / count)  # E x^4 = 3/2, (E x^2)^2 = 1/4
    assert words.rms(x).item() ** 2 == pytest.approx(1 / 2, abs=4 * fourth)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_dead_nor_inert(value: float) -> None:
    x = torch.zeros(2, 1, 2, 2)
    x[0, 0, 0, 0] = value
    assert not words.dead_units(x).any()
    assert not words.inert_units(x).any()


def test_units_read_in_batches_equal_units_read_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(10, 6, 3, 3, generator=generator).relu()
    x[:, 0] = 0
    x[:, 1] = 0.1  # constant, and not a binary fraction
    x[:7, 2] = 0
    x[:, 3] = 1e4 + 1e-7 * x[:, 3]
    reading = words.UnitReading()
    for batch in torch.split(x, 3):
        reading.add(batch)
    assert reading.dead.tolist() == words.dead_units(x).tolist() == [True] + [False] * 5
    assert reading.inert.tolist() == words.inert_units(x).tolist()
    assert reading.inert[:3].tolist() == [True, True, False]


def test_a_unit_constant_in_each_batch_but_not_over_them_is_not_inert() -> None:
    reading = words.UnitReading()
    reading.add(torch.full((2, 1, 2, 2), 1.0))
    reading.add(torch.full((2, 1, 2, 2), 2.0))
    assert not reading.inert.any()


def test_an_empty_set_has_no_reading() -> None:
    with pytest.raises(ValueError, match="empty"):
        _ = words.UnitReading().dead


class Net(nn.Module):
    """Convolution, batch-norm, ReLU, pool, dropout, classifier: all that a reading could disturb."""

    def __init__(self, units: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, units, 3), nn.BatchNorm2d(units), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(units, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.body(x)))
        return out


@pytest.mark.parametrize("killed", [0, 3, 8])
def test_units_killed_by_hand_are_counted_exactly(killed: int) -> None:
    torch.manual_seed(0)
    net = Net()
    norm = net.body[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[:killed] = 0
        norm.bias[:killed] = -1
    with PrePool(net.pool) as prepool:
        row = prepool.read_set(net, torch.randn(20, 3, 6, 6), batch_size=8)
        gone = prepool.read_until_alive(net, torch.randn(20, 3, 6, 6), batch_size=8)
    for suffix in ("probe", "probe_eval"):
        assert row[f"prepool/dead_units_{suffix}"] == killed
        assert row[f"prepool/dead_share_{suffix}"] == killed / 8
        assert row[f"prepool/inert_units_{suffix}"] == killed
    assert (gone is not None and bool(gone.dead.all())) == (killed == 8)


@pytest.mark.parametrize("alive", [0, 5, 19])
def test_a_check_that_looks_for_life_finds_it_in_any_batch_and_looks_there_first_the_next_time(alive: int) -> None:
    net = Net()
    net.body = nn.Sequential(nn.ReLU())
    images = torch.zeros(20, 3, 4, 4)
    images[alive] = torch.rand(3, 4, 4)
    passes = []
    net.pool.register_forward_hook(lambda *_: passes.append(1))
    net.head = nn.Sequential()
    with PrePool(net.pool) as prepool:
        for _ in range(2):
            assert prepool.read_until_alive(net, images, batch_size=4) is None
        # the first batch, all together unless there was life in it, and where that was found
        assert len(passes) == (2 if alive < 4 else 3)
        images[alive] = 0
        reading = prepool.read_until_alive(net, images, batch_size=4)
        assert reading is not None and bool(reading.dead.all())
        assert len(passes) == (2 if alive < 4 else 3) + 2


@pytest.mark.parametrize("batch_size", [4, 8, 7, 20, 30])
def test_a_set_read_together_reads_like_its_batches_one_by_one(batch_size: int) -> None:
    torch.manual_seed(0)
    net = Net().to(memory_format=torch.channels_last)
    net.body.insert(0, nn.BatchNorm2d(3, affine=False))
    images = torch.randn(20, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    images *= torch.arange(1.0, 21).view(20, 1, 1, 1)  # statistics that differ between batches
    inputs: list[Tensor] = []
    net.pool.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    buffers = [buffer.clone() for buffer in net.buffers()]
    with PrePool(net.pool) as prepool:
        together = prepool.read_set(net, images, batch_size)
    passes = len(inputs) - 1  # the last one is eval mode's
    assert passes == len({len(batch) for batch in images.tensor_split(math.ceil(20 / batch_size))})
    with undisturbed(net, training=True):
        for batch in images.tensor_split(math.ceil(20 / batch_size)):
            net(batch)
    torch.testing.assert_close(torch.cat(inputs[:passes]), torch.cat(inputs[passes + 1 :]), rtol=1e-5, atol=1e-5)
    dead = words.dead_units(torch.cat(inputs[passes + 1 :]))
    assert together["prepool/dead_units_probe"] == int(dead.sum())
    assert all(torch.equal(*pair) for pair in zip(buffers, net.buffers(), strict=True))
    assert "forward" not in net.body[0].__dict__


def test_a_batch_norm_that_cannot_be_split_is_read_batch_by_batch() -> None:
    class OwnNorm(nn.BatchNorm2d):
        pass

    torch.manual_seed(0)
    net = Net()
    net.body[1] = OwnNorm(8)
    passes: list[int] = []
    net.pool.register_forward_hook(lambda *_: passes.append(1))
    with PrePool(net.pool) as prepool:
        prepool.read_set(net, torch.randn(20, 3, 6, 6), batch_size=4)
    assert len(passes) == 5 + 1


def test_train_and_eval_statistics_are_read_apart() -> None:
    torch.manual_seed(0)
    net = Net()
    norm = net.body[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    norm.running_mean += 1000  # in eval mode everything is far below zero
    with PrePool(net.pool) as prepool:
        row = prepool.read_set(net, torch.randn(16, 3, 6, 6), batch_size=8)
    assert (row["prepool/dead_units_probe"], row["prepool/dead_units_probe_eval"]) == (0, 8)


def test_a_batch_reading_has_every_name_once() -> None:
    torch.manual_seed(0)
    net = Net()
    with PrePool(net.pool) as prepool:
        prepool.arm(histogram=True)
        net(torch.randn(4, 3, 6, 6))
        row = prepool.take(prepool.pending.tolist())
        histogram = prepool.histogram()
    assert row["prepool/units"] == 8
    for name in BATCH_READINGS:
        assert f"prepool/{name}" in row
    assert 0.3 < row["prepool/zero_fraction"] < 0.7
    assert histogram is not None
    counts, edges = histogram
    assert sum(counts) == 4 * 8 * 4 * 4
    assert edges[0] == 0 and edges[-1] == pytest.approx(row["prepool/max"])
    assert counts[0] / sum(counts) >= row["prepool/zero_fraction"]


def test_a_histogram_is_of_the_reading_that_was_armed_with_it() -> None:
    net = Net()
    with PrePool(net.pool) as prepool:
        for histogram in (True, False):
            prepool.arm(histogram)
            net(torch.randn(4, 3, 6, 6))
            assert (prepool.histogram() is not None) is histogram


def test_nothing_is_read_unless_armed_and_the_hook_is_gone_afterwards() -> None:
    net = Net()
    with PrePool(net.pool) as prepool:
        net(torch.randn(4, 3, 6, 6))
        with pytest.raises(RuntimeError, match="arm"):
            _ = prepool.pending
    assert not net.pool._forward_pre_hooks


@pytest.mark.parametrize("training", [True, False])
def test_reading_leaves_no_trace(training: bool) -> None:
    torch.manual_seed(0)
    net = Net()
    net.head.eval()  # a mode of its own must come back too
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    random = torch.get_rng_state()
    with undisturbed(net, training=training):
        out = net(torch.randn(8, 3, 6, 6))
        assert not out.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


def test_dropout_is_off_while_reading() -> None:
    torch.manual_seed(0)
    net = Net()
    x = torch.randn(8, 3, 6, 6)
    with undisturbed(net, training=True):
        assert torch.equal(net(x), net(x))
