"""Training: seeds fix everything, what continues ends the same, instruments change nothing."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.config import RunConfig
from harness.data.dataset import load_dataset
from harness.data.order import BatchOrder
from harness.outcome import Outcome
from harness.store import Damaged, Row, RunDirectory
from harness.training import trainer
from harness.training.reading import largest_norm
from harness.training.train import train
from tests.runs import INCEPTION, timeless, tiny

CPU = torch.device("cpu")


def run_in(folder: Path, config: RunConfig) -> tuple[Outcome, list[Row], dict[str, Any]]:
    run = RunDirectory(folder / config.run_id)
    with run.lock():
        run.write_config(config, {})
        outcome = train(config, run)
    checkpoint = run.checkpoint()
    assert checkpoint is not None
    return outcome, timeless(run.rows()), checkpoint


def same_weights(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())


def test_same_configuration_same_rows(tmp_path: Path) -> None:
    first, second = run_in(tmp_path / "a", tiny()), run_in(tmp_path / "b", tiny())
    assert first[:2] == second[:2]
    assert same_weights(first[2], second[2])


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    assert run_in(tmp_path, tiny())[1] != run_in(tmp_path, tiny(seed=1))[1]


def test_rows_stand_at_their_steps_with_their_readings(tmp_path: Path) -> None:
    outcome, rows, _ = run_in(tmp_path, tiny())
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20, 25]
    assert (outcome.outcome, outcome.step, outcome.last_step) == ("survived", 25, 25)
    for row in rows[:-1]:
        assert row["train/loss"] > 0 and 0 <= row["train/accuracy"] <= 1
        assert row["optim/cumulative_lr"] == pytest.approx(0.05 * row["step"])
        for name in ("zero_fraction", "dead_share_batch", "inert_share_batch", "dormant_share_batch"):
            assert 0 <= row[f"prepool/{name}"] <= 1
    with_probe_set = [row["step"] for row in rows if "prepool/dead_units_probe" in row]
    assert with_probe_set == [10, 20, 25]
    assert 0 <= rows[-1]["val/accuracy"] <= 1 and rows[-1]["val/loss"] > 0
    assert "train/loss" not in rows[-1]  # after the last update there is no training batch to read


def test_instruments_change_nothing(tmp_path: Path) -> None:
    quiet = {"every": 1000, "probe_set_every": 1000}
    loud = {"every": 1, "probe_set_every": 1, "dormant_below": 0.5}
    _, few, silent = run_in(tmp_path / "a", tiny(probes=quiet))
    _, many, watched = run_in(tmp_path / "b", tiny(probes=loud))
    assert len(few) == 2 and len(many) == 26
    assert same_weights(silent, watched)
    assert torch.equal(silent["random"][0], watched["random"][0])


RECIPE: dict[str, Any] = {
    "model": {"dropout_keep": 0.5},
    "optim": {
        "clip_norm": 2.0,
        "weight_decay": 4e-5,
        "schedule": {"name": "exponential", "every": 1},
        "warmup": {"name": "two_phase", "lr": 0.01, "threshold": 0.9, "window": 7},
    },
    "train": {"averaging": {"decay": 0.9}, "label_smoothing": 0.1},
}
"""Everything of the recipe that has a state to restore."""
SHORT: dict[str, Any] = {"train": {**RECIPE["train"], "steps": 8, "check_every": 3}}


CADENCES = st.fixed_dictionaries(
    {
        "preset": st.sampled_from(["prepool", "blocks", "full", "curvature"]),
        "every": st.integers(1, 15),
        "probe_set_every": st.integers(1, 15),
        "cadence": st.fixed_dictionaries(
            {
                "every": st.integers(1, 15),
                "early": st.booleans(),
                "burst_jump": st.none() | st.floats(0.01, 1),
                "burst_steps": st.integers(1, 5),
            }
        ),
    }
)


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, dict[str, Any]]:
    """A run that is read at its first and last step only."""
    never = {"every": 1000, "probe_set_every": 1000}
    outcome, rows, state = run_in(tmp_path_factory.mktemp("unread"), tiny(**RECIPE | SHORT, probes=never))
    assert len(rows) == 2
    return outcome, state


@settings(max_examples=5, deadline=None, derandomize=True, database=None)
@given(probes=CADENCES)
@example(probes={"preset": "full", "every": 1, "probe_set_every": 1, "cadence": {"every": 1}})
@example(probes={"preset": "curvature", "every": 3, "probe_set_every": 4, "curvature": {"every": 2}})
def test_any_cadence_gives_the_same_training(
    unread: tuple[Outcome, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, probes: dict[str, Any]
) -> None:
    outcome, _, state = run_in(tmp_path_factory.mktemp("read"), tiny(**RECIPE | SHORT, probes=probes))
    assert outcome == unread[0]
    for part in ("model", "optimizer", "average", "random", "detector", "losses", "errors", "switch_step"):
        assert_same(state[part], unread[1][part])


def assert_same(ours: Any, theirs: Any) -> None:
    """Two states of a checkpoint, bit for bit."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_same(value, theirs[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs


class Interrupted(Exception):
    """Stands for the end of the process."""


class Stop:
    wants_histogram = False

    def __init__(self, at: int) -> None:
        self.at = at

    def row(self, step: int, metrics: object, histogram: object) -> None:
        if step >= self.at:
            raise Interrupted

    def close(self, outcome: Outcome | None) -> None:
        assert outcome is None


Whole = tuple[dict[str, Any], tuple[Outcome, list[Row], dict[str, Any]]]


@pytest.fixture(scope="module", params=[{"model": INCEPTION}, RECIPE], ids=["plain", "recipe"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A configuration's changes, and its run, never interrupted."""
    return request.param, run_in(tmp_path_factory.mktemp("whole"), tiny(**request.param))


@pytest.mark.parametrize("at", [5, 10, 15, 20])
def test_a_continued_run_equals_one_never_interrupted(tmp_path: Path, at: int, whole: Whole) -> None:
    changes, expected = whole
    config = tiny(**changes)
    run = RunDirectory(tmp_path / "parts" / config.run_id)
    with run.lock():
        run.write_config(config, {})
        with pytest.raises(Interrupted):
            train(config, run, lambda: [Stop(at)])
    assert run.state() == "pending"
    assert run.file("checkpoint.pt").exists() == (at >= 10)
    parts = run_in(tmp_path / "parts", config)
    assert parts[0] == expected[0]
    assert parts[1] == expected[1]
    assert same_weights(parts[2], expected[2])
    assert (parts[2]["average"] is None) == (changes is not RECIPE)
    if changes is RECIPE:
        assert all(map(torch.equal, parts[2]["average"]["values"], expected[2]["average"]["values"]))


def test_a_two_phase_warmup_switches_at_the_check_that_sees_its_threshold_passed(tmp_path: Path) -> None:
    warmup = {"name": "two_phase", "lr": 0.01, "threshold": 0.9, "window": 7}
    outcome, rows, checkpoint = run_in(tmp_path, tiny(optim={"warmup": warmup}, probes={"every": 1}))
    rates = [row["optim/lr"] for row in rows]
    switch = checkpoint["switch_step"]
    assert switch % 5 == 0 and switch >= 7 - 1
    assert rates == [0.01] * switch + [0.05] * (26 - switch)
    window = [1 - row["train/accuracy"] for row in rows[switch - 6 : switch + 1]]
    assert sum(window) / 7 < 0.9
    assert rows[-1]["optim/switch_step"] == switch and "optim/switch_step" not in rows[switch - 1]
    assert "two-phase" not in outcome.reason


def test_a_two_phase_warmup_that_never_ends_is_said(tmp_path: Path) -> None:
    warmup = {"name": "two_phase", "lr": 0.01, "threshold": 0.0}
    outcome, rows, _ = run_in(tmp_path, tiny(optim={"warmup": warmup}))
    assert "the two-phase warm-up never ended" in outcome.reason
    assert {row["optim/lr"] for row in rows} == {0.01}


def test_averaged_parameters_are_read_apart_and_change_nothing(tmp_path: Path) -> None:
    plain = run_in(tmp_path / "a", tiny())
    _, rows, checkpoint = run_in(tmp_path / "b", tiny(train={"averaging": {"decay": 0.9}}))
    assert same_weights(plain[2], checkpoint)
    assert {"val/accuracy", "val/accuracy_averaged", "prepool/dead_units_probe_averaged"} <= set(rows[-1])
    assert rows[-1]["val/loss"] == plain[1][-1]["val/loss"] != rows[-1]["val/loss_averaged"]
    averaged = checkpoint["average"]["weights"]
    assert set(averaged) < set(checkpoint["model"])


def test_label_smoothing_is_torchs(tmp_path: Path) -> None:
    smooth = run_in(tmp_path / "a", tiny(train={"label_smoothing": 0.1}))[1][0]["train/loss"]
    hard = run_in(tmp_path / "b", tiny())[1][0]["train/loss"]
    assert smooth != hard and smooth == pytest.approx(hard, rel=0.5)


def test_bf16_is_close_to_float32_and_keeps_float32_parameters(tmp_path: Path) -> None:
    _, rows, checkpoint = run_in(tmp_path / "a", tiny(train={"precision": "bf16", "steps": 5}))
    _, exact, _ = run_in(tmp_path / "b", tiny(train={"steps": 5}))
    assert rows[0]["train/loss"] == pytest.approx(exact[0]["train/loss"], rel=0.05)
    assert rows[0]["train/loss"] != exact[0]["train/loss"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in checkpoint["model"].values())


def test_tf32_is_refused_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tf32 needs a GPU"):
        run_in(tmp_path, tiny(train={"precision": "tf32"}))


def test_synchronised_batch_norm_is_refused_without_gpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sync_batch_norm needs GPUs"):
        run_in(tmp_path, tiny(train={"sync_batch_norm": True}))


@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({"HOME": "{here}"}, "{here}/.cache/residual-harness/inductor"),
        ({"HOME": "/nowhere", "XDG_CACHE_HOME": "{here}"}, "{here}/residual-harness/inductor"),
        ({"HOME": "/nowhere"}, None),
        ({"HOME": "{here}", "TORCHINDUCTOR_CACHE_DIR": "/asked/for"}, "/asked/for"),
    ],
)
def test_what_compiling_makes_is_kept_for_later_runs(
    environment: dict[str, str], kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is as before after the test
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(here=tmp_path))
    monkeypatch.setattr(torch, "compile", lambda network: network)
    trainer._compiled(torch.relu)
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == (kept and kept.format(here=tmp_path))


@pytest.mark.slow
def test_compiled_training_is_close_to_eager_and_its_checkpoint_is_the_same_kind(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 8, "check_every": 5}
    changes: dict[str, Any] = {"model": {"name": "resnet20_cifar"}, "optim": {"lr": 0.01}}  # soon compiled
    _, rows, checkpoint = run_in(tmp_path / "a", tiny(**changes, train={**settings, "compile": True}))
    _, exact, plain = run_in(tmp_path / "b", tiny(**changes, train=settings))
    assert [row["train/loss"] for row in rows[:-1]] == pytest.approx(
        [row["train/loss"] for row in exact[:-1]], rel=1e-3
    )
    assert set(checkpoint["model"]) == set(plain["model"])


def test_epochs_count_passes_over_the_training_images(tmp_path: Path) -> None:
    config = tiny(train={"steps": None, "epochs": 2})
    outcome, _, _ = run_in(tmp_path, config)
    assert outcome.last_step == 2 * 64 // 8


def test_a_checkpoint_loads_without_running_code(tmp_path: Path) -> None:
    run_in(tmp_path, tiny())
    state = torch.load(tmp_path / tiny().run_id / "checkpoint.pt", weights_only=True)
    assert state["step"] == 25 and state["run_id"] == tiny().run_id


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.file("checkpoint.pt").write_bytes(b"PK nonsense")
    with pytest.raises(Damaged, match=r"checkpoint\.pt"):
        train(tiny(), run)


DEADLY: dict[str, Any] = {
    "model": {"width": 0.03125, "repeats": [1, 1, 2], "residual_scale": 1.0, "dropout_keep": 1.0},
    "optim": {"lr": 5.0},
    "train": {"steps": 120, "check_every": 5},
}


def test_a_dying_run_stops_at_its_death(tmp_path: Path) -> None:
    outcome, rows, _ = run_in(tmp_path, tiny(**DEADLY))
    assert outcome.outcome == "died"
    assert outcome.last_live_step == outcome.step - 5
    assert outcome.last_step == outcome.step + 20 < 120
    assert rows[-1]["step"] == outcome.last_step
    assert rows[-1]["prepool/dead_share_probe"] == 1


def test_a_switch_keeps_it_going(tmp_path: Path) -> None:
    stopped, short, _ = run_in(tmp_path / "a", tiny(**DEADLY))
    train_on = {**DEADLY["train"], "stop_at_death": False}
    outcome, rows, _ = run_in(tmp_path / "b", tiny(**{**DEADLY, "train": train_on}))
    assert (outcome.outcome, outcome.step) == (stopped.outcome, stopped.step)
    assert outcome.last_step > stopped.last_step  # 120, or where it diverges, which rounding decides
    assert [row["train/loss"] for row in rows[: len(short) - 1]] == [row["train/loss"] for row in short[:-1]]


def test_checks_do_not_depend_on_the_instruments(tmp_path: Path) -> None:
    probes = {"every": 1000, "probe_set_every": 1000}
    assert run_in(tmp_path / "a", tiny(**DEADLY))[0] == run_in(tmp_path / "b", tiny(**DEADLY, probes=probes))[0]


def test_a_loss_that_is_not_finite_is_divergence_at_its_very_step(tmp_path: Path) -> None:
    outcome, _, _ = run_in(tmp_path, tiny(optim={"name": "sgd", "lr": 1e9}, train={"check_every": 7}))
    assert outcome.outcome == "diverged"
    assert 1 <= outcome.step <= 3
    assert outcome.last_live_step == 0


def test_one_number_tells_whether_any_parameter_is_not_finite() -> None:
    model = torch.nn.Linear(3, 3)
    assert torch.isfinite(largest_norm(list(model.parameters())))
    with torch.no_grad():
        model.weight[0, 0] = 3e38  # finite, though its square is not in float32
    assert torch.isfinite(largest_norm(list(model.parameters())))
    for value in (float("nan"), float("inf"), float("-inf")):
        with torch.no_grad():
            model.bias[1] = value
        assert not torch.isfinite(largest_norm(list(model.parameters())))


def test_an_auxiliary_head_adds_its_weighted_loss() -> None:
    from harness.training.trainer import Trainer

    model = {"name": "inception_v3", "stem": "small", "aux_head": True, "repeats": None, "residual_scale": None}
    config = tiny(model={**model, "dropout_keep": 1.0}, data={"image_size": 48})
    trainer = Trainer.new(config, load_dataset(config.data, CPU), CPU)
    images, labels = torch.randn(4, 3, 48, 48), torch.tensor([0, 1, 2, 3])
    trainer.forward_backward(images, labels)
    with torch.no_grad():
        logits, auxiliary = trainer.model(images, with_aux=True)
    expected = torch.nn.functional.cross_entropy(logits, labels) + 0.4 * torch.nn.functional.cross_entropy(
        auxiliary, labels
    )
    assert trainer.losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_every_optimizer_trains(tmp_path: Path, name: str) -> None:
    config = tiny(optim={"name": name, "lr": 0.01}, train={"steps": 60})
    _, rows, _ = run_in(tmp_path, config)
    assert rows[-2]["train/loss"] < rows[0]["train/loss"]


def test_digits_are_split_by_position_and_normalised_by_the_training_part() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset(RunConfig().data, CPU)
    assert (len(data.train), len(data.held_out), data.num_classes) == (1437, 360, 10)
    original = load_digits()
    assert torch.cat([data.train.labels, data.held_out.labels]).tolist() == original.target.tolist()
    native = load_dataset(RunConfig.model_validate({"data": {"image_size": 8}}).data, CPU)
    pixels = torch.cat([native.train[:][0], native.held_out[:][0]])[:, 0]
    scans = torch.from_numpy(original.images).float()
    mean, std = scans[:-360].mean(), scans[:-360].std()
    assert torch.allclose(pixels * std + mean, scans, atol=1e-4)
    assert data.train[:][0].shape[1:] == (3, 32, 32)
    assert data.train[:][0].mean().item() == pytest.approx(0, abs=1e-4)
    assert data.train[:][0].std().item() == pytest.approx(1, abs=1e-3)
    assert data.train[:][0].is_contiguous(memory_format=torch.channels_last)
    probe = data.probe_set()
    assert probe.shape == (256, 3, 32, 32)
    assert torch.equal(probe[1], data.train[:][0][1437 // 256])


def test_synthetic_images_are_seeded_and_of_any_kind() -> None:
    config = tiny(data={"num_images": 40, "num_classes": 3, "image_size": 20}).data
    one, two = load_dataset(config, CPU), load_dataset(config, CPU)
    assert torch.equal(one.train[:][0], two.train[:][0])
    assert one.train[:][0].shape == (40, 3, 20, 20) and len(one.held_out) == 10
    assert set(one.train.labels.tolist()) <= {0, 1, 2}
    other = load_dataset(tiny(data={"num_images": 40, "num_classes": 3, "image_size": 20, "seed": 1}).data, CPU)
    assert not torch.equal(one.train[:][0], other.train[:][0])


def test_an_epoch_takes_every_image_at_most_once_and_any_step_can_be_asked_for() -> None:
    order = BatchOrder(10, 3, seed=0, device=CPU)
    epoch = torch.cat([order[step] for step in range(3)])
    assert len(set(epoch.tolist())) == 9
    assert not torch.equal(torch.cat([order[step] for step in range(3, 6)]), epoch)
    assert torch.equal(BatchOrder(10, 3, seed=0, device=CPU)[4], order[4])
    assert not torch.equal(BatchOrder(10, 3, seed=1, device=CPU)[4], order[4])
