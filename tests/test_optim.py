"""RMSProp with TF's semantics against golden vectors (harness/optim/README.md), and the schedules."""

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.optim import RMSPropTF
from harness.optim.averaging import Average
from harness.optim.build import build_optimizer, update
from harness.optim.schedules import Length, learning_rate

# w after each step, from w = 0, with lr 0.045, decay 0.9, epsilon 1 and g = 1 (TF 1 itself, float64)
GOLDEN = {
    0.0: (-0.03181980515339464, -0.06363961030678927, -0.09545941546018391),
    0.9: (-0.03181980515339464, -0.09227743494484444, -0.17850910691054392),
}


def descend(optimizer: torch.optim.Optimizer, weight: nn.Parameter, rates: tuple[float, ...]) -> list[float]:
    path = []
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        path.append(weight.item())
    return path


@pytest.mark.parametrize("momentum", GOLDEN)
def test_rmsprop_equals_tensorflow(momentum: float) -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSPropTF([weight], lr=0.045, decay=0.9, momentum=momentum, eps=1.0)
    assert descend(optimizer, weight, (0.045,) * 3) == pytest.approx(GOLDEN[momentum], rel=1e-14)


def test_rmsprop_keeps_the_rate_inside_the_momentum() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSPropTF([weight], lr=0.045, decay=0.9, momentum=0.9, eps=1.0)
    path = descend(optimizer, weight, (0.045, 0.0423, 0.039762))
    assert path == pytest.approx((-0.03181980515339464, -0.09036824663564078, -0.1711778238032018), rel=1e-14)


def test_rmsprop_state_at_step_three() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSPropTF([weight], lr=0.045, decay=0.9, momentum=0.9, eps=1.0)
    descend(optimizer, weight, (0.045,) * 3)
    state = optimizer.state[weight]
    assert state["mean_square"].item() == 1
    assert state["momentum"].item() == pytest.approx(0.08623167196569947, rel=1e-14)


@pytest.mark.parametrize(("step", "share"), [(1, 0.7255), (10, 0.8611), (20, 0.9442), (40, 0.9926)])
def test_rmsprop_hides_a_warmup_for_small_gradients(step: int, share: float) -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSPropTF([weight], lr=1.0, decay=0.9, momentum=0.0, eps=1.0)
    before = 0.0
    for _ in range(step):
        before = weight.item()
        weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()
    assert (before - weight.item()) / 0.01 == pytest.approx(share, abs=5e-5)


def long_way(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], lr: float) -> None:
    """TF's RMSProp on one weight, with decay and momentum 0.9, epsilon 1 and an L2 penalty of 0.01."""
    gradient = gradient + 0.01 * weight
    state["ms"].mul_(0.9).addcmul_(gradient, gradient, value=1 - 0.9)
    state["b"].mul_(0.9).addcdiv_(gradient, (state["ms"] + 1.0).sqrt(), value=lr)
    weight -= state["b"]


def test_rmsprop_of_many_weights_is_that_of_each_bit_for_bit() -> None:
    """Whatever their order in memory, which have a gradient, and whether the state was loaded meanwhile."""
    shapes: list[tuple[int, ...]] = [(8, 4, 3, 3), (8, 4, 1, 1), (8,), (5, 7), ()]
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes]
    start[0] = start[0].contiguous(memory_format=torch.channels_last)
    weights = [nn.Parameter(each.clone()) for each in start]
    optimizer = RMSPropTF(weights, lr=0.045, weight_decay=0.01)
    expected = [each.clone() for each in start]
    states = [{"ms": torch.ones_like(each), "b": torch.zeros_like(each)} for each in start]
    noise = torch.Generator().manual_seed(2)
    for step in range(8):
        if step == 3:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if step == 5:
            optimizer = copy.deepcopy(optimizer)
            weights = optimizer.param_groups[0]["params"]
        for number, (weight, other, state) in enumerate(zip(weights, expected, states, strict=True)):
            gradient = torch.randn(weight.shape, generator=noise)  # of another order in memory than a channels-last one
            weight.grad = None if number == step % 4 else gradient
            if weight.grad is not None:
                long_way(other, gradient, state, 0.045)
        optimizer.step()
    assert all(torch.equal(weight, other) for weight, other in zip(weights, expected, strict=True))
    for weight, state in zip(weights, states, strict=True):
        assert torch.equal(optimizer.state[weight]["mean_square"], state["ms"])
        assert optimizer.state[weight]["momentum"].stride() == weight.stride()


def test_rmsprop_decays_weights_through_the_gradient() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = RMSPropTF([weight], lr=0.1, decay=0.0, momentum=0.0, eps=1.0, weight_decay=0.5)
    weight.grad = torch.ones_like(weight)
    optimizer.step()  # g = 1 + 0.5 * 1
    assert weight.item() == pytest.approx(1 - 0.1 * 1.5 / (1.5**2 + 1) ** 0.5, rel=1e-14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lr": -1.0}, "lr"), ({"eps": 0.0}, "eps"), ({"decay": 1.0}, "decay"), ({"momentum": 1.5}, "momentum")],
)
def test_rmsprop_refuses_what_makes_no_sense(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RMSPropTF([nn.Parameter(torch.zeros(1))], **settings)


@pytest.mark.parametrize("name", ["rmsprop_tf", "sgd", "adam"])
def test_only_weights_decay_and_every_trained_parameter_is_updated(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    optim = RunConfig.model_validate({"optim": {"name": name, "weight_decay": 0.1}}).optim
    optimizer = build_optimizer(model, optim)
    decayed, plain = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [4] and decayed["weight_decay"] == 0.1
    assert len(plain["params"]) == 3 and plain["weight_decay"] == 0


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.045),
        (1, 0.045),
        (2, 0.0423),
        (4, 0.039762),
        (10, 0.033025681008),
        (100, 0.0020398827),
        (159, 0.00033908841),
        (199, 0.0000983717),
    ],
)
def test_the_papers_staircase(epoch: int, rate: float) -> None:
    config = RunConfig.model_validate({"optim": {"lr": 0.045, "schedule": {"name": "exponential"}}})
    length = Length(steps=200 * 7, steps_per_epoch=7)
    for step in (7 * epoch, 7 * epoch + 6):
        assert learning_rate(config.optim, step, length) == pytest.approx(rate, rel=1e-6)


def rates(optim: dict[str, object], steps: int, switch_step: int | None = None) -> list[float]:
    config = RunConfig.model_validate({"optim": optim, "train": {"steps": steps + 1}})
    return [learning_rate(config.optim, step, Length(steps, 1), switch_step) for step in range(steps)]


STAIRS = {"name": "exponential", "rate": 0.5, "every": 2, "unit": "steps"}


@pytest.mark.parametrize(
    ("optim", "expected"),
    [
        ({"lr": 1.0}, [1, 1, 1, 1, 1, 1]),
        ({"lr": 1.0, "schedule": STAIRS}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"lr": 2.0, "schedule": {"name": "cosine"}}, [2, 1.8660254, 1.5, 1, 0.5, 0.1339746]),
        ({"lr": 1.0, "warmup": {"name": "constant", "lr": 1e-5, "steps": 3}}, [1e-5, 1e-5, 1e-5, 1, 1, 1]),
        (
            {"lr": 1.0, "warmup": {"name": "constant", "lr": 1e-5, "steps": 3}, "schedule": STAIRS},
            [1e-5, 1e-5, 1e-5, 0.5, 0.25, 0.25],
        ),
        (
            {"lr": 1.0, "warmup": {"name": "constant", "lr": 1e-5, "steps": 3, "shift": True}, "schedule": STAIRS},
            [1e-5, 1e-5, 1e-5, 1, 1, 0.5],
        ),
        # Goyal et al.: lr(t) = h + (k*h - h) * t / n for t < n
        ({"lr": 0.8, "warmup": {"name": "gradual", "lr": 0.1, "steps": 4}}, [0.1, 0.275, 0.45, 0.625, 0.8, 0.8]),
        (
            {"lr": 0.8, "warmup": {"name": "gradual", "lr": 0.1, "steps": 4}, "schedule": STAIRS},
            [0.1, 0.275, 0.45, 0.625, 0.2, 0.2],
        ),
    ],
)
def test_schedules_and_warmups_combine(optim: dict[str, object], expected: list[float]) -> None:
    assert rates(optim, 6) == pytest.approx(expected)


def test_a_two_phase_warmup_ends_at_its_switch_step() -> None:
    optim = {"lr": 0.1, "warmup": {"name": "two_phase", "lr": 0.01}, "schedule": STAIRS}
    assert rates(optim, 5) == pytest.approx([0.01] * 5)
    assert rates(optim, 5, switch_step=3) == pytest.approx([0.01, 0.01, 0.01, 0.05, 0.025])
    shifted = {**optim, "warmup": {"name": "two_phase", "lr": 0.01, "shift": True}}
    assert rates(shifted, 5, switch_step=3) == pytest.approx([0.01, 0.01, 0.01, 0.1, 0.1])


def test_torch_rmsprop_equals_its_golden_vector() -> None:
    weight = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    config = RunConfig.model_validate({"optim": {"name": "rmsprop_torch", "lr": 0.045}})
    path = descend(build_optimizer(model, config.optim), weight, (0.045,) * 3)
    assert path == pytest.approx((-0.0341886116991581, -0.09629781254206332, -0.18179013012828205), rel=1e-12)


def test_decoupled_adam_is_adamw() -> None:
    def path(
        build: Callable[[nn.Module], torch.optim.Optimizer], step: Callable[[torch.optim.Optimizer], None]
    ) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 3, bias=False)
        optimizer = build(model)
        for _ in range(5):
            model.weight.grad = torch.sin(model.weight.detach() * 7)
            step(optimizer)
        return model.weight.detach()

    optim = RunConfig.model_validate(
        {"optim": {"name": "adam", "lr": 0.01, "weight_decay": 0.1, "weight_decay_mode": "decoupled"}}
    ).optim
    ours = path(lambda model: build_optimizer(model, optim), lambda optimizer: update(optimizer, optim, 0.01))
    theirs = path(
        lambda model: torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1), lambda optimizer: optimizer.step()
    )
    assert torch.allclose(ours, theirs, rtol=1e-6)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.norm = nn.BatchNorm2d(1)
        self.up_projection = nn.Conv2d(1, 1, 1)


@pytest.mark.parametrize(
    ("on", "decayed"),
    [
        ("weights", {"conv.weight", "up_projection.weight"}),
        ("weights_and_biases", {"conv.weight", "up_projection.weight", "conv.bias", "up_projection.bias"}),
        ("all", {name for name, _ in Block().named_parameters()}),
    ],
)
def test_what_decays(on: str, decayed: set[str]) -> None:
    model = Block()
    optim = RunConfig.model_validate({"optim": {"weight_decay": 0.1, "weight_decay_on": on}}).optim
    groups = build_optimizer(model, optim).param_groups
    found = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert {name for name, parameter in model.named_parameters() if id(parameter) in found} == decayed
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_up_projections_and_their_biases_have_rates_of_their_own() -> None:
    model = Block()
    optim = RunConfig.model_validate(
        {"optim": {"name": "sgd", "momentum": 0.0, "up_projection_lr": 0.5, "up_projection_bias_lr": 0.0}}
    ).optim
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    update(build_optimizer(model, optim), optim, 0.2)
    moved = {name: (before[name] - parameter).detach().mean().item() for name, parameter in model.named_parameters()}
    assert moved == pytest.approx(
        {
            "conv.weight": 0.2, "conv.bias": 0.2, "norm.weight": 0.2, "norm.bias": 0.2,
            "up_projection.weight": 0.1, "up_projection.bias": 0.0,
        },
        abs=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("clip", "expected"), [({"clip_norm": 1.0}, [0.6, 0.8]), ({"clip_value": 3.5}, [3.0, 3.5]), ({}, [3.0, 4.0])]
)
def test_gradients_are_clipped(clip: dict[str, float], expected: list[float]) -> None:
    model = nn.Linear(2, 1, bias=False)
    optim = RunConfig.model_validate({"optim": {"name": "sgd", "momentum": 0.0, **clip}}).optim
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    update(build_optimizer(model, optim), optim, 1.0)
    assert (before - model.weight.detach())[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_the_average_follows_its_formula_and_leaves_the_parameters_alone(bias_correction: bool) -> None:
    model = nn.Linear(1, 1, bias=False)
    values = [1.0, 2.0, 4.0]
    with torch.no_grad():
        model.weight.fill_(8.0)
    average = Average(model, 0.5, bias_correction)
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
    weighted = 0.125 * 1 + 0.25 * 2 + 0.5 * 4
    expected = weighted / (1 - 0.5**3) if bias_correction else weighted + 0.125 * 8
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0
    again = Average(model, 0.5, bias_correction)
    again.restore(average.state())
    assert again.read()[0].item() == pytest.approx(expected)
    assert average.state()["weights"]["weight"].item() == pytest.approx(expected)


def test_training_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; from harness.config import RunConfig; from harness.optim.build import build_optimizer\n"
        "model = nn.Conv2d(1, 1, 1); optimizer = build_optimizer(model, RunConfig().optim)\n"
        "model(torch.zeros(1, 1, 1, 1)).sum().backward(); optimizer.step(); optimizer.zero_grad()\n"
        "optimizer.load_state_dict(optimizer.state_dict()); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
