"""RMSProp with TF's semantics against the golden vectors of ARCHITECTURES 4.2, and the schedules."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from harness.config import OptimConfig, RunConfig
from harness.optim import RMSPropTF, build_optimizer, learning_rate

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
    schedule = {"name": "exponential", "rate": 0.94, "every": 2}  # one step an epoch
    optim = OptimConfig.model_validate({"lr": 0.045, "schedule": schedule})
    assert learning_rate(optim, epoch) == pytest.approx(rate, rel=1e-6)


def test_a_constant_warmup_replaces_the_first_steps_and_shifts_nothing() -> None:
    optim = OptimConfig.model_validate(
        {
            "lr": 1.0,
            "warmup": {"name": "constant", "lr": 1e-5, "steps": 3},
            "schedule": {"name": "exponential", "rate": 0.5, "every": 2},
        }
    )
    assert [learning_rate(optim, step) for step in range(5)] == [1e-5, 1e-5, 1e-5, 0.5, 0.25]


def test_training_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; from harness.config import RunConfig; from harness import optim\n"
        "model = nn.Conv2d(1, 1, 1); optimizer = optim.build_optimizer(model, RunConfig().optim)\n"
        "model(torch.zeros(1, 1, 1, 1)).sum().backward(); optimizer.step(); optimizer.zero_grad()\n"
        "optimizer.load_state_dict(optimizer.state_dict()); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
