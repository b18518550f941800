"""Asynchronous replicas: whose gradient an update takes, how late it is, and what a delay does to stability."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness.config import OptimConfig, RunConfig
from harness.data.dataset import load_dataset
from harness.optim.build import build_optimizer, update
from harness.optim.replicas import Replicas, delays
from harness.store import RunDirectory
from harness.training.train import train
from harness.training.trainer import Trainer
from tests.runs import INCEPTION, tiny
from tests.test_train import RECIPE, Interrupted, Stop, assert_same, run_in

CPU = torch.device("cpu")
ORDERS = ("round_robin", "random")


# -- whose turn it is, and how late ------------------------------------------------------------------------------------


def resolved(**optim: Any) -> OptimConfig:
    return RunConfig(optim=OptimConfig(**optim)).optim


def test_in_round_robin_a_gradient_is_as_old_as_there_are_other_replicas() -> None:
    assert delays(resolved(replicas=4), seed=0, updates=8) == [0, 1, 2, 3, 3, 3, 3, 3]
    assert delays(resolved(), seed=0, updates=3) == [0, 0, 0]


@pytest.mark.parametrize("replicas", [2, 5, 20])
def test_in_random_order_delays_are_geometric(replicas: int) -> None:
    """Services without memory: whichever is ready next, each replica is as likely; so P(delay >= d) = (1 - 1/N)^d."""
    late = np.array(delays(resolved(replicas=replicas, replica_order="random"), seed=3, updates=20_000)[1000:])
    assert late.mean() == pytest.approx(replicas - 1, rel=0.03)
    assert late.std() == pytest.approx((replicas * (replicas - 1)) ** 0.5, rel=0.05)
    for delay in (1, replicas):
        assert (late >= delay).mean() == pytest.approx((1 - 1 / replicas) ** delay, abs=0.015)


def test_random_order_is_as_exponential_service_times_give_it() -> None:
    """The same distribution as a queue of events, each replica busy for an exponential time after its last fetch."""
    chance, updates, count = np.random.default_rng(0), 20_000, 6
    ready, fetched, late = chance.exponential(size=count), np.zeros(count, int), []
    for step in range(updates):
        replica = ready.argmin()
        late.append(step - fetched[replica])
        fetched[replica], ready[replica] = step + 1, ready[replica] + chance.exponential()
    ours = delays(resolved(replicas=count, replica_order="random"), seed=0, updates=updates)
    shares = [np.bincount(np.minimum(each, 20), minlength=21) / updates for each in (late, ours)]
    assert np.abs(shares[0] - shares[1]).max() < 0.01


def test_the_order_is_the_seeds() -> None:
    optim = resolved(replicas=5, replica_order="random")
    assert delays(optim, 1, 50) == delays(optim, 1, 50) != delays(optim, 2, 50)


# -- five steps by hand ------------------------------------------------------------------------------------------------


def descend(optim: OptimConfig, weight: nn.Parameter, curvature: Tensor, steps: int, seed: int = 0) -> Tensor:
    """The weight (D,) after each update, (steps, D), on the quadratic of a diagonal Hessian (D,)."""
    module = nn.Module()
    module.weight = weight
    optimizer = build_optimizer(module, optim)
    replicas = Replicas([weight], optim, seed) if optim.replicas > 1 else None
    path = torch.empty(steps, weight.numel(), dtype=weight.dtype)
    for replica in range(optim.replicas - 1):
        weight.grad = curvature * weight.detach()
        assert replicas is not None
        replicas.begin(replica)
    for step in range(steps):
        weight.grad = curvature * weight.detach()
        if replicas is not None:
            replicas.exchange(step)
        update(optimizer, optim, optim.lr)
        path[step] = weight.detach()
    return path


def test_five_steps_of_three_replicas_by_hand() -> None:
    """w = 1, gradient w, rate 0.5. Replica 0, 1, 2, 0, 1: of w0, w0, w0, w1, w2.

    1 - .5 = .5; .5 - .5 = 0; 0 - .5 = -.5; -.5 - .5 * .5 = -.75; -.75 - .5 * 0 = -.75.
    """
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    path = descend(resolved(name="sgd", lr=0.5, momentum=0.0, replicas=3), weight, torch.ones(1).double(), 5)
    assert path.flatten().tolist() == [0.5, 0.0, -0.5, -0.75, -0.75]


def test_the_pending_gradient_is_what_is_clipped_and_weights_decay_as_they_are_at_the_update() -> None:
    """w = 1, gradient 4 w clipped to 1, rate 0.5, w shrinks by 0.5 * 0.2 before: .9 - .5; .4 * .9 - .5 (of w0 too)."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    decay = {"weight_decay": 0.2, "weight_decay_mode": "decoupled", "weight_decay_on": "all"}
    optim = resolved(name="sgd", lr=0.5, momentum=0.0, replicas=2, clip_value=1.0, **decay)
    path = descend(optim, weight, torch.full((1,), 4.0).double(), 3)
    # the third gradient is of w1 = .4, clipped from 1.6: -.14 * .9 - .5
    assert path.flatten().tolist() == pytest.approx([0.4, -0.14, -0.626])


# -- stability ---------------------------------------------------------------------------------------------------------

LARGEST_STABLE = {  # of lr * curvature, by momentum and delay
    0.0: {0: 2, 1: 1, 2: 0.618, 3: 0.445, 5: 0.285, 10: 0.150, 19: 0.0805, 49: 0.0317},
    0.5: {0: 3, 1: 0.5, 2: 0.281, 3: 0.199, 5: 0.129, 10: 0.070, 19: 0.0385, 49: 0.0156},
    0.9: {0: 3.8, 1: 0.1, 2: 0.0512, 3: 0.0348, 5: 0.0215, 10: 0.0114, 19: 0.0064, 49: 0.0028},
}


@pytest.mark.parametrize("name", ["sgd", "rmsprop_tf"])
@pytest.mark.parametrize(("momentum", "delay"), [(m, tau) for m, row in LARGEST_STABLE.items() for tau in row])
def test_a_quadratic_diverges_beyond_the_threshold_of_its_delay_only(momentum: float, delay: int, name: Any) -> None:
    """5 % on either side of it; RMSProp's gradients are so small that its epsilon of 1 is all that it divides by."""
    sides = torch.tensor([0.95, 1.05], dtype=torch.float64) * LARGEST_STABLE[momentum][delay]
    optim = resolved(name=name, lr=1.0, momentum=momentum, replicas=delay + 1)
    steps = 200 + 100 * delay
    path = descend(optim, nn.Parameter(torch.full((2,), 1e-100, dtype=torch.float64)), sides, steps).abs()
    middle, end = path[steps // 3 : 2 * steps // 3].amax(0), path[2 * steps // 3 :].amax(0)
    assert end[0] < middle[0] and end[1] > middle[1]


# -- trainings ---------------------------------------------------------------------------------------------------------


def recomputed(config: RunConfig) -> tuple[dict[str, Tensor], list[int]]:
    """The run's parameters at its end, and its delays, with every gradient computed when it is used, from a copy of
    the network as it was when the replica fetched it."""
    data = load_dataset(config.data, CPU)
    trainer = Trainer.new(config, data, CPU)
    trainer.replicas = None
    count, events = config.optim.replicas, []
    turns = np.random.default_rng
    fetched = [(copy.deepcopy(trainer.model.state_dict()), batch, 0) for batch in range(count)]
    with data.batches(config.seed) as stream:
        batches = [next(stream) for _ in range(trainer.length.steps + count)]
    for step in range(trainer.length.steps):
        random = config.optim.replica_order == "random"
        replica = int(turns((3, config.seed, step)).integers(count)) if random else step % count
        weights, batch, when = fetched[replica]
        present = copy.deepcopy(trainer.model.state_dict())
        trainer.model.load_state_dict(weights)
        trainer.forward_backward(*batches[batch])
        trainer.model.load_state_dict(present)
        trainer.update()
        events.append(step - when)
        fetched[replica] = copy.deepcopy(trainer.model.state_dict()), count + step, step + 1
    return dict(trainer.model.named_parameters()), events


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["rmsprop_tf", "rmsprop_torch", "sgd", "adam"])
def test_a_training_is_what_recomputing_each_gradient_at_its_parameters_gives(
    tmp_path: Path, name: str, order: str
) -> None:
    optim = {"name": name, "lr": 0.01, "replicas": 3, "replica_order": order, "clip_norm": 2.0, "weight_decay": 1e-3}
    warmup = {"name": "gradual", "lr": 1e-3, "steps": 4}
    config = tiny(
        model={"dropout_keep": 1.0}, optim={**optim, "warmup": warmup}, train={"steps": 9}, probes={"every": 1}
    )
    _, rows, checkpoint = run_in(tmp_path, config)
    parameters, late = recomputed(config)
    assert [row["optim/delay"] for row in rows[:-1]] == late
    for parameter, value in parameters.items():
        assert torch.equal(checkpoint["model"][parameter], value), parameter


def test_batch_norm_follows_the_forward_passes(tmp_path: Path) -> None:
    _, _, checkpoint = run_in(tmp_path, tiny(optim={"replicas": 4}, train={"steps": 6}))
    counted = {int(value) for name, value in checkpoint["model"].items() if name.endswith("num_batches_tracked")}
    assert counted == {6 + 3}


def test_synchronous_training_has_no_delay_and_no_pending_gradients(tmp_path: Path) -> None:
    _, rows, checkpoint = run_in(tmp_path, tiny())
    assert {row["optim/delay"] for row in rows} == {0}
    assert checkpoint["replicas"] is None


def test_runs_of_before_there_were_replicas_are_the_same_runs() -> None:
    """The id is what the version without them gave."""
    assert RunConfig().run_id == "f36bf67a0980"
    assert RunConfig(optim=OptimConfig(replicas=1)).run_id == RunConfig().run_id
    ids = {
        RunConfig(optim=OptimConfig(replicas=replicas, replica_order=order)).run_id  # type: ignore[arg-type]
        for replicas in (2, 20)
        for order in ORDERS
    }
    assert len(ids | {RunConfig().run_id}) == 5
    assert RunConfig(optim=OptimConfig(replicas=2)).run_id in ids  # round robin, when left out


@pytest.mark.parametrize(
    ("at", "order", "precision"),
    [(5, "random", "float32"), (10, "round_robin", "bf16"), (15, "random", "bf16"), (20, "round_robin", "float32")],
)
def test_a_continued_run_equals_one_never_interrupted(tmp_path: Path, at: int, order: str, precision: str) -> None:
    optim = {**RECIPE["optim"], "replicas": 4, "replica_order": order}
    config = tiny(**{**RECIPE, "optim": optim, "train": {**RECIPE["train"], "precision": precision}})
    whole = run_in(tmp_path / "whole", config)
    run = RunDirectory(tmp_path / "parts" / config.run_id)
    with run.lock():
        run.write_config(config, {})
        with pytest.raises(Interrupted):
            train(config, run, lambda: [Stop(at)])
    checkpoint = run.checkpoint()
    assert (checkpoint is None) == (at < 10)
    if checkpoint is not None:
        assert [held is None for held in checkpoint["replicas"]["pending"]].count(True) == 1
    parts = run_in(tmp_path / "parts", config)
    assert parts[:2] == whole[:2]
    for part in ("model", "optimizer", "average", "random", "detector", "losses", "errors", "switch_step"):
        assert_same(parts[2][part], whole[2][part])


def test_a_finished_run_keeps_no_pending_gradients(tmp_path: Path) -> None:
    assert run_in(tmp_path, tiny(optim={"replicas": 3}))[2]["replicas"] is None


def test_instruments_change_nothing(tmp_path: Path) -> None:
    asynchronous = {"replicas": 3, "replica_order": "random"}
    loud = {"preset": "full", "every": 1, "probe_set_every": 1, "cadence": {"every": 1}}
    _, _, silent = run_in(tmp_path / "a", tiny(optim=asynchronous, probes={"every": 1000, "probe_set_every": 1000}))
    _, rows, watched = run_in(tmp_path / "b", tiny(optim=asynchronous, probes=loud))
    for part in ("model", "optimizer", "random", "losses"):
        assert_same(silent[part], watched[part])
    assert len(rows) == 26


def test_replicas_die_and_are_checked_like_any(tmp_path: Path) -> None:
    model = {**INCEPTION, "residual_scale": 1.0, "repeats": [1, 1, 2], "dropout_keep": 1.0}
    config = tiny(model=model, optim={"lr": 5.0, "replicas": 2}, train={"steps": 300, "check_every": 5})
    outcome, rows, _ = run_in(tmp_path, config)
    assert outcome.outcome == "died" and outcome.last_step < 300
    assert rows[-1]["optim/delay"] == 1


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [0, -1, 2.5, True, "3", 10**9, None])
def test_a_number_of_replicas_that_is_none_is_refused_in_place(replicas: Any) -> None:
    with pytest.raises(ValidationError, match=r"replicas"):
        RunConfig.model_validate({"optim": {"replicas": replicas}})


@pytest.mark.parametrize("order", ORDERS)
def test_one_replica_has_no_order(order: str) -> None:
    with pytest.raises(ValueError, match=f"{order} needs optim.replicas of 2 or more"):
        RunConfig.model_validate({"optim": {"replica_order": order}})
