"""Sharpness against whole Hessians, optimizers' preconditioners against their updates, and no trace left by either."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from harness.optim import RMSPropTF
from harness.optim.stability import threshold
from harness.probes import observe
from harness.probes.curvature import GradientNoise, gradient_noise, sharpness
from harness.probes.lanczos import largest_eigenvalue
from harness.probes.preconditioners import NoUpdateYet, heavy_ball
from tests.probe_networks import Net, Train

Batch = tuple[Tensor, Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batch_of(count: int = 8, seed: int = 0) -> Batch:
    dice = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 6, 6, generator=dice)
    return images.contiguous(memory_format=torch.channels_last), torch.randint(4, (count,), generator=dice)


def small_net(seed: int = 0) -> nn.Module:
    """A residual net with batch-norm of 253 parameters."""
    torch.manual_seed(seed)
    net = Net(blocks=2, width=3)
    net.head[1] = nn.Identity()
    return net.to(memory_format=torch.channels_last)


def whole_hessian(model: nn.Module, batch: Batch, loss: Callable[..., Tensor] = cross_entropy) -> Tensor:
    """All second derivatives, (n, n), in double precision, of a copy in training mode."""
    model = copy.deepcopy(model).double().train()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    sizes = [model.get_parameter(name).numel() for name in names]

    def of_flat(flat: Tensor) -> Tensor:
        parts = {
            name: part.view(model.get_parameter(name).shape)
            for name, part in zip(names, torch.split(flat, sizes), strict=True)
        }
        return loss(lambda x: functional_call(model, parts, (x,)), (batch[0].double(), batch[1]))

    flat = torch.cat([model.get_parameter(name).detach().reshape(-1) for name in names])
    hessian: Tensor = torch.autograd.functional.hessian(of_flat, flat)  # type: ignore[no-untyped-call]
    return hessian


def largest(matrix: Tensor) -> float:
    return float(torch.linalg.eigvalsh(matrix)[-1])


# -- Lanczos -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", [[-9.0, -3, 0, 1, 1, 2], [-5.0, -4, -3], [7.0], [0.0, 0, 0], [3.0, 3, 3, 3]])
def test_the_algebraically_largest_eigenvalue_of_a_known_spectrum(spectrum: list[float]) -> None:
    count = len(spectrum)
    basis = torch.linalg.qr(torch.randn(count, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[
        0
    ]
    matrix = basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T
    found = largest_eigenvalue(lambda v: matrix @ v, torch.ones(count, dtype=torch.float64))
    assert found.value == pytest.approx(max(spectrum), abs=1e-9)
    assert found.products <= count


@pytest.mark.parametrize("seed", range(5))
def test_it_stops_when_the_error_is_small_and_says_how_small(seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    spectrum = torch.cat([torch.randn(300, generator=dice).double(), torch.tensor([5.0, 4.5], dtype=torch.float64)])
    start = torch.randn(302, generator=dice).double()
    found = largest_eigenvalue(lambda v: spectrum * v, start, products=100, tolerance=1e-4)
    assert found.products < 30
    assert 0 <= (5 - found.value) / 5 < 1e-3 and found.error <= 1e-4
    rough = largest_eigenvalue(lambda v: spectrum * v, start, products=4)
    assert rough.products == 4 and rough.error > found.error


def test_what_is_not_finite_has_no_eigenvalue_and_bad_arguments_are_named() -> None:
    assert math.isnan(largest_eigenvalue(lambda v: v * math.nan, torch.ones(3)).value)
    with pytest.raises(ValueError, match="products is 0"):
        largest_eigenvalue(lambda v: v, torch.ones(3), products=0)
    with pytest.raises(ValueError, match="tolerance is nan"):
        largest_eigenvalue(lambda v: v, torch.ones(3), tolerance=math.nan)


# -- sharpness without an optimizer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian(seed: int) -> None:
    model, batch = small_net(seed), batch_of(seed=seed)
    hessian = whole_hessian(model, batch)
    assert 200 < len(hessian) < 400
    expected = largest(hessian)
    found = sharpness(model, cross_entropy, batch)
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert found.products <= 30


def test_batch_norm_uses_the_batch_and_not_its_running_statistics() -> None:
    model, batch = small_net(), batch_of()
    before = sharpness(model, cross_entropy, batch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var *= 100
    assert sharpness(model.eval(), cross_entropy, batch) == before
    assert not model.training


def test_an_anisotropic_quadratic_has_its_largest_curvature() -> None:
    curvature = torch.tensor([0.01, -50.0, 3.0, 20.0, 0.5])

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(5))

    def parabola(model: nn.Module, batch: None) -> Tensor:
        return 0.5 * (curvature * model.get_parameter("w") ** 2).sum()

    point = Point()
    assert sharpness(point, parabola, None).value == pytest.approx(20, rel=1e-3)
    optimizer = RMSPropTF(point.parameters(), eps=1.0)
    assert sharpness(point, parabola, None, optimizer).value == pytest.approx(20 / math.sqrt(2), rel=1e-3)
    curvature.neg_()
    assert sharpness(point, parabola, None).value == pytest.approx(50, rel=1e-3)
    curvature.copy_(torch.tensor([-1.0, -2, -3, -4, -5]))
    assert sharpness(point, parabola, None, tolerance=0).value == pytest.approx(-1, rel=1e-4)


def test_a_loss_that_is_linear_has_no_curvature() -> None:
    model = nn.Linear(3, 1)
    assert sharpness(model, lambda model, x: model(x).sum(), torch.ones(2, 3)).value == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_same_in_every_memory_layout_and_repeats_bit_for_bit(layout: torch.memory_format) -> None:
    model, (images, labels) = small_net(3), batch_of()
    expected = sharpness(model, cross_entropy, (images, labels))
    model.to(memory_format=layout)
    batch = images.contiguous(memory_format=layout), labels
    found = sharpness(model, cross_entropy, batch)
    assert found.value == pytest.approx(expected.value, rel=1e-4)
    torch.randn(5)
    assert sharpness(model, cross_entropy, batch) == found


def test_autocast_changes_nothing_and_coarse_parameters_are_refused() -> None:
    model, batch = small_net(), batch_of()
    expected = sharpness(model, cross_entropy, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert sharpness(model, cross_entropy, batch) == expected
    with pytest.raises(ValueError, match=r"stem\.weight: torch\.bfloat16 is too coarse"):
        sharpness(model.bfloat16(), cross_entropy, batch)


def test_frozen_parameters_do_not_count() -> None:
    model, batch = small_net(1), batch_of(seed=1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("stem" not in name)
    assert sharpness(model, cross_entropy, batch).value == pytest.approx(largest(whole_hessian(model, batch)), rel=1e-3)


def test_what_cannot_be_differentiated_twice_is_refused() -> None:
    model, batch = small_net(), batch_of()
    with pytest.raises(ValueError, match="DataParallel"):
        sharpness(nn.DataParallel(model), cross_entropy, batch)
    with pytest.raises(ValueError, match="depends on trained parameters"):
        sharpness(model, lambda model, batch: torch.zeros(()), batch)
    with pytest.raises(ValueError, match=r"the loss is \(8,\)"):
        sharpness(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none"), batch)


@pytest.mark.slow
def test_a_compiled_model_is_read_without_its_graphs() -> None:
    model, batch = small_net(), batch_of()
    expected = sharpness(model, cross_entropy, batch)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(batch[0])
    assert sharpness(cast(nn.Module, compiled), cross_entropy, batch) == expected
    model.compile(backend="aot_eager")
    assert sharpness(model, cross_entropy, batch) == expected
    assert model._compiled_call_impl is not None
    inside = nn.Sequential(cast(nn.Module, torch.compile(small_net(), backend="aot_eager")))
    with pytest.raises(ValueError, match="0: compiled parts cannot be differentiated twice"):
        sharpness(inside, cross_entropy, batch)


# -- with an optimizer ---------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda w: torch.optim.SGD(w, 0.05, momentum=0.9),
    "sgd with a penalty": lambda w: torch.optim.SGD(w, 0.05, momentum=0.9, weight_decay=0.5),
    "rmsprop tf": lambda w: RMSPropTF(w, 0.045, weight_decay=0.1),
    "rmsprop tf, small eps": lambda w: RMSPropTF(w, 0.001, eps=1e-3, momentum=0.0),
    "rmsprop torch": lambda w: torch.optim.RMSprop(w, 0.001, alpha=0.9, eps=0.01, momentum=0.5),
    "rmsprop torch, centred": lambda w: torch.optim.RMSprop(w, 0.001, alpha=0.9, eps=0.01, centered=True),
    "adam": lambda w: torch.optim.Adam(w, 0.001, eps=1e-3, weight_decay=0.1),
    "adam, amsgrad": lambda w: torch.optim.Adam(w, 0.001, eps=1e-3, amsgrad=True),
    "adamw": lambda w: torch.optim.AdamW(w, 0.001, eps=1e-3, weight_decay=0.1),
}


def trained(name: str, steps: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = small_net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        cross_entropy(model, batch_of(seed=step)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model, optimizer


def divisor_by_an_update(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """What the optimizer divides by, from an update of a copy: what a small change of the gradient changes in it, (n,).

    Its momentum and second moments are kept as they are by decays so near 1 that a step does not move them.
    """
    moved = []
    for sign in (1, -1):
        twin_model, twin = copy.deepcopy((model, optimizer))
        weights = [weight for group in twin.param_groups for weight in group["params"]]
        for weight in weights:  # in double precision, in which a small update can be seen
            weight.data = weight.data.double()
            for key, value in twin.state[weight].items():
                twin.state[weight][key] = value.double() if isinstance(value, Tensor) else value
        for group in twin.param_groups:
            group |= {"weight_decay": 0.0}
            group |= {key: 1 - 1e-12 for key in ("alpha", "decay") if key in group}
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = torch.full_like(weight, sign * 1e-3)
        if "betas" in twin.param_groups[0]:
            for weight in weights:
                twin.state[weight]["step"] -= 1  # it is counted before it is used
        twin.step()
        moved.append(torch.cat([(old - new).detach().reshape(-1) for new, old in zip(weights, before, strict=True)]))
        del twin_model
    ball = heavy_ball(optimizer)
    return ball.lr * ball.gain * 2e-3 / (moved[0] - moved[1]).double()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "adam" not in name])
def test_the_divisor_is_what_an_update_divides_by(name: str) -> None:
    model, optimizer = trained(name)
    ball = heavy_ball(optimizer)
    expected = divisor_by_an_update(model, optimizer)
    found = torch.cat(
        [torch.as_tensor(p).expand_as(w).reshape(-1) for p, w in zip(ball.divisors, ball.parameters, strict=True)]
    )
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioned_sharpness_is_that_of_the_whole_matrix(name: str) -> None:
    model, optimizer = trained(name)
    divisor = torch.cat([DIVISORS[name](optimizer, weight).reshape(-1) for weight in model.parameters()]).double()
    penalty = 0.0 if name == "adamw" else optimizer.param_groups[0]["weight_decay"]
    batch = batch_of(seed=9)
    matrix = whole_hessian(model, batch) + penalty * torch.eye(len(divisor))
    expected = largest(matrix / torch.outer(divisor, divisor).sqrt())
    assert sharpness(model, cross_entropy, batch, optimizer).value == pytest.approx(expected, rel=1e-3)


def _of_adam(optimizer: torch.optim.Optimizer, weight: Tensor, key: str = "exp_avg_sq") -> Tensor:
    state = optimizer.state[weight]
    corrected = state[key] / (1 - 0.999 ** state["step"])
    result: Tensor = (1 - 0.9 ** state["step"]) * (corrected.sqrt() + 1e-3)
    return result


def _centred(optimizer: torch.optim.Optimizer, weight: Tensor) -> Tensor:
    state = optimizer.state[weight]
    result: Tensor = (state["square_avg"] - state["grad_avg"].square()).sqrt() + 0.01
    return result


DIVISORS: dict[str, Callable[[torch.optim.Optimizer, Tensor], Tensor]] = {
    "sgd": lambda optimizer, weight: torch.ones_like(weight),
    "sgd with a penalty": lambda optimizer, weight: torch.ones_like(weight),
    "rmsprop tf": lambda optimizer, weight: (optimizer.state[weight]["mean_square"] + 1).sqrt(),
    "rmsprop tf, small eps": lambda optimizer, weight: (optimizer.state[weight]["mean_square"] + 1e-3).sqrt(),
    "rmsprop torch": lambda optimizer, weight: optimizer.state[weight]["square_avg"].sqrt() + 0.01,
    "rmsprop torch, centred": _centred,
    "adam": _of_adam,
    "adam, amsgrad": lambda optimizer, weight: _of_adam(optimizer, weight, "max_exp_avg_sq"),
    "adamw": _of_adam,
}


@pytest.mark.parametrize(
    ("optimizer", "momentum", "gain"),
    [
        (lambda w: torch.optim.SGD(w, 0.1), 0.0, 1.0),
        (lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, dampening=0.25), 0.9, 0.75),
        (lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, nesterov=True), None, 1.0),
        (lambda w: RMSPropTF(w, 0.1, momentum=0.8), 0.8, 1.0),
    ],
)
def test_the_momentum_of_an_optimizer(optimizer: Callable[[Any], Any], momentum: float | None, gain: float) -> None:
    ball = heavy_ball(optimizer(nn.Linear(2, 2).parameters()))
    assert (ball.momentum, ball.gain, ball.lr) == (momentum, gain, 0.1)


def test_the_momentum_of_adam_is_its_first_decay() -> None:
    ball = heavy_ball(trained("adam")[1])
    assert ball.momentum == 0.9 and ball.gain == pytest.approx(0.1)


def test_groups_with_other_rates_count_by_their_factor() -> None:
    model, batch = small_net(2), batch_of()
    head = list(model.get_submodule("head").parameters())
    others = [weight for name, weight in model.named_parameters() if not name.startswith("head")]
    factors = torch.cat([torch.full((weight.numel(),), 1.0) for weight in others])
    factors = torch.cat([factors, torch.full((sum(weight.numel() for weight in head),), 0.25)]).double()
    hessian = whole_hessian(model, batch)
    expected = largest(hessian * torch.outer(factors, factors).sqrt())
    by_rate = torch.optim.SGD([{"params": others, "lr": 0.2}, {"params": head, "lr": 0.05}])
    by_factor = torch.optim.SGD([{"params": others, "lr_factor": 1.0}, {"params": head, "lr_factor": 0.25}], lr=0.2)
    for optimizer in (by_rate, by_factor):
        assert heavy_ball(optimizer).lr == 0.2
        assert sharpness(model, cross_entropy, batch, optimizer).value == pytest.approx(expected, rel=1e-3)
    frozen = torch.optim.SGD([{"params": others, "lr": 0.2}, {"params": head, "lr": 0.0}])
    keep = len(factors) - sum(weight.numel() for weight in head)
    assert sharpness(model, cross_entropy, batch, frozen).value == pytest.approx(
        largest(hessian[:keep, :keep]), rel=1e-3
    )


def test_an_optimizer_that_is_unknown_or_has_no_divisor_yet_is_refused() -> None:
    model, batch = small_net(), batch_of()
    with pytest.raises(ValueError, match="Adagrad has no preconditioner that is known; known are SGD"):
        sharpness(model, cross_entropy, batch, torch.optim.Adagrad(model.parameters()))
    with pytest.raises(NoUpdateYet, match="Adam has made no update yet"):
        sharpness(model, cross_entropy, batch, torch.optim.Adam(model.parameters()))


@pytest.mark.parametrize(("momentum", "delay"), [(0.0, 0), (0.9, 0), (0.9, 1), (0.9, 3), (0.0, 5)])
def test_training_on_a_parabola_diverges_where_the_margin_is_above_one(momentum: float, delay: int) -> None:
    curvature = torch.tensor([5.0, 0.3, 1.0], dtype=torch.float64)
    for margin, diverges in ((0.95, False), (1.05, True)):
        point = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(point.weight)
        optimizer = RMSPropTF(point.parameters(), lr=1.0, momentum=momentum, eps=1e8)
        value = sharpness(
            point, lambda model, _: 0.5 * (curvature * model.get_parameter("weight") ** 2).sum(), None, optimizer
        ).value
        for group in optimizer.param_groups:
            group["lr"] = margin * threshold(momentum, delay) / value
        held = [point.weight.detach().clone()] * (delay + 1)
        for _ in range(3000):
            held = [*held[1:], point.weight.detach().clone()]
            point.weight.grad = curvature * held[0]
            optimizer.step()
        assert (point.weight.abs().max().item() > 10) is diverges


# -- nothing is changed ------------------------------------------------------------------------------------------------


def test_reading_leaves_no_trace() -> None:
    model, optimizer = trained("rmsprop tf")
    model.get_submodule("head").dropout = nn.Dropout(0.5)  # a Sequential calls it last
    model.get_submodule("blocks").eval()
    cross_entropy(model, batch_of()).backward()  # type: ignore[no-untyped-call]

    def everything() -> Any:
        return copy.deepcopy(
            (
                model.state_dict(),
                [weight.grad for weight in model.parameters()],
                optimizer.state_dict(),
                [module.training for module in model.modules()],
                torch.get_rng_state(),
                torch.is_grad_enabled(),
                len(optimizer.state),
            )
        )

    before = everything()
    first = sharpness(model, cross_entropy, batch_of(), optimizer)
    gradient_noise(model, cross_entropy, (batch_of(seed=1), batch_of(seed=2)), 8)
    assert same(before, everything())
    assert sharpness(model, cross_entropy, batch_of(), optimizer) == first  # dropout is off


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_observe_takes_no_notice() -> None:
    rows = []
    for reads in (False, True):
        train = Train(seed=3)
        with observe(train.model, "blocks", every=1, optimizer=train.optimizer) as probe:
            for _ in range(3):
                train.backward()
                if reads:
                    sharpness(train.model, cross_entropy, batch_of(), train.optimizer)
                train.optimizer.step()
        rows.append([{name: value for name, value in row.items() if name != "time/probe"} for row in probe.rows])
    assert rows[0] == rows[1] and len(rows[0]) == 3


# -- noise -------------------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """Estimates the mean of what it is given: the gradient of sample x at w is w - x."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((size,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (self.w - x).square().sum(dim=1).mean()


def test_the_noise_of_a_gradient_in_closed_form() -> None:
    size, batch = 10, 16
    model, dice = Mean(size), torch.Generator().manual_seed(0)
    readings = [
        gradient_noise(
            model,
            lambda model, x: model(x),
            (torch.randn(batch, size, generator=dice), torch.randn(batch, size, generator=dice)),
            batch,
        )
        for _ in range(400)
    ]
    squares, traces = [each.square for each in readings], [each.trace for each in readings]
    assert np.mean(squares) == pytest.approx(4 * size, rel=0.05)  # (2 - 0)**2 in each coordinate
    assert np.mean(traces) == pytest.approx(size, rel=0.05)  # unit variance in each
    assert GradientNoise(4.0 * size, 1.0 * size).scale == 0.25


def test_it_is_mccandlishs_estimate_from_batches_of_one_size_and_twice_that() -> None:
    model, halves, size = small_net(), (batch_of(seed=1), batch_of(seed=2)), 8
    weights = list(model.parameters())
    small = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(cross_entropy(model, half), weights)]).double()
        for half in halves
    ]
    large = (small[0] + small[1]) / 2
    of_small, of_large = sum(float(g @ g) for g in small) / 2, float(large @ large)
    found = gradient_noise(model, cross_entropy, halves, size)
    assert found.square == pytest.approx((2 * size * of_large - size * of_small) / size, rel=1e-6)
    assert found.trace == pytest.approx((of_small - of_large) / (1 / size - 1 / (2 * size)), rel=1e-6)


def test_two_equal_halves_have_no_noise_and_no_scale() -> None:
    found = gradient_noise(small_net(), cross_entropy, (batch_of(), batch_of()), 8)
    assert found.trace == 0 and found.square > 0 and math.isnan(found.scale)
    with pytest.raises(ValueError, match="size is 0"):
        gradient_noise(small_net(), cross_entropy, (batch_of(), batch_of()), 0)
