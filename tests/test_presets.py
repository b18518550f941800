"""Presets of layer readings in a run: what they write, and that they change nothing."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import RunConfig
from harness.data.dataset import load_dataset
from harness.optim.stability import threshold
from harness.probes import ProbeWarning
from harness.probes.curvature import sharpness
from harness.store import Row, RunDirectory
from harness.training.train import train
from harness.training.trainer import Trainer
from tests.runs import INCEPTION, timeless, tiny
from tests.test_train import Interrupted, Stop, assert_same, run_in, same_weights

CADENCE = {"every": 10, "early": True, "burst_jump": 0.05, "burst_steps": 3}


def probes(preset: str, **cadence: Any) -> dict[str, Any]:
    every = {"every": 5, "probe_set_every": 10, "curvature": {"every": 8}}
    return {"preset": preset, "cadence": {**CADENCE, **cadence}, **every}


@pytest.mark.parametrize("preset", ["blocks", "full", "curvature"])
def test_a_preset_changes_nothing(tmp_path: Path, preset: str) -> None:
    plain = run_in(tmp_path / "a", tiny())
    read = run_in(tmp_path / "b", tiny(probes=probes(preset)))
    assert same_weights(plain[2], read[2])
    assert_same(plain[2]["optimizer"], read[2]["optimizer"])
    assert torch.equal(plain[2]["random"][0], read[2]["random"][0])
    assert plain[0] == read[0]


def test_blocks_reads_every_residual_sum_at_its_cadence(tmp_path: Path) -> None:
    _, rows, _ = run_in(tmp_path, tiny(probes=probes("blocks", burst_jump=None)))
    read = [row["step"] for row in rows if "block/b01/sum/rms" in row]
    assert read == [0, 1, 2, 4, 8, 10, 20]
    assert [row["step"] for row in rows] == sorted({*read, 0, 5, 10, 15, 20, 25})
    for block in ("b01", "b02", "b03"):
        first = rows[0]
        assert first[f"block/{block}/scaled/rms"] == pytest.approx(0.1 * first[f"block/{block}/branch/rms"], rel=1e-6)
        assert 0 <= first[f"block/{block}/output/dead_share_batch"] <= 1
    assert "block/b01/output/dead_share_probe" in rows[-1]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_net_without_exact_zeros_is_read_near_zero_and_its_dead_are_the_inert(
    tmp_path: Path, activation: str
) -> None:
    model = {"name": "inception_resnet_v1", "activation": activation}
    plain = run_in(tmp_path / "a", tiny(model=model, train={"steps": 5}))
    read = run_in(tmp_path / "b", tiny(model=model, train={"steps": 5}, probes=probes("blocks")))
    assert same_weights(plain[2], read[2]) and plain[0] == read[0]
    near = {name: value for name, value in read[1][-1].items() if "near_zero" in name}
    layers = [*(f"block/b{number:02}/output" for number in (1, 2, 3)), "prepool"] if activation == "gelu" else []
    assert set(near) == {f"{layer}/near_zero_{source}" for layer in layers for source in ("probe", "probe_eval")}
    assert all(0 < value < 1 for value in near.values())


def test_full_reads_gradients_and_updates_with_the_row_of_their_step(tmp_path: Path) -> None:
    _, rows, _ = run_in(tmp_path, tiny(probes=probes("full")))
    first = rows[0]
    assert first["step"] == 0 and "train/loss" in first
    assert any(name.startswith("grad/") for name in first)
    assert any(name.startswith("update/") for name in first)


@pytest.mark.parametrize(("at", "preset"), [(12, "blocks"), (20, "blocks"), (12, "curvature")])
def test_a_run_with_a_preset_continues_to_the_same_rows_and_timelines(tmp_path: Path, at: int, preset: str) -> None:
    config = tiny(probes=probes(preset))
    whole = run_in(tmp_path / "whole", config)
    run = RunDirectory(tmp_path / "parts" / config.run_id)
    with run.lock():
        run.write_config(config, {})
        with pytest.raises(Interrupted):
            train(config, run, lambda: [Stop(at)])
    parts = run_in(tmp_path / "parts", config)
    assert parts[1] == whole[1] == timeless(run.rows())
    ours, theirs = run.timelines(), RunDirectory(tmp_path / "whole" / config.run_id).timelines()
    assert set(ours) == {"batch", "probe"}
    for name, arrays in ours.items():
        for key, values in arrays.items():
            assert (values == theirs[name][key]).all(), (name, key)


def test_the_outcome_checks_do_not_depend_on_the_preset(tmp_path: Path) -> None:
    deadly: dict[str, Any] = {
        "model": {**INCEPTION, "repeats": [1, 1, 2], "residual_scale": 1.0, "dropout_keep": 1.0},
        "optim": {"lr": 5.0},
        "train": {"steps": 120, "check_every": 5},
    }
    plain, read = run_in(tmp_path / "a", tiny(**deadly)), run_in(tmp_path / "b", tiny(**deadly, probes=probes("full")))
    assert plain[0] == read[0]
    assert read[0].outcome == "died"


def test_a_network_without_residual_sums_is_read_at_its_modules(tmp_path: Path) -> None:
    model = {"name": "inception_v4", "residual_scale": None, "width": 0.0625}
    _, rows, _ = run_in(tmp_path, tiny(model=model, probes=probes("blocks"), train={"steps": 3}))
    assert sum(name.endswith("/rms") and name.startswith("block/") for name in rows[0]) >= 3


@pytest.mark.slow
def test_layers_and_curvature_are_read_beside_a_compiled_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured and differentiated as torch.compile does it, without the code generation, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings: dict[str, Any] = {"probes": probes("curvature"), "model": {"name": "resnet20_cifar"}}
    exact = run_in(tmp_path / "a", tiny(**settings, train={"steps": 12}))
    _, rows, _ = run_in(tmp_path / "b", tiny(**settings, train={"steps": 12, "compile": True}))
    assert rows[0]["curvature/sharpness"] == exact[1][0]["curvature/sharpness"]
    name = "block/b01/sum/rms"
    read, expected = [row[name] for row in rows if name in row], [row[name] for row in exact[1] if name in row]
    assert len(read) == len(expected) >= 5
    assert read == pytest.approx(expected, rel=2e-2)


# -- curvature ---------------------------------------------------------------------------------------------------------

CURVATURE = ("sharpness", "sharpness_error", "margin", "gradient_square", "noise_trace", "noise_scale")


def curvature_rows(rows: list[Row]) -> dict[int, Row]:
    return {row["step"]: row for row in rows if "curvature/sharpness" in row}


def test_curvature_has_a_cadence_of_its_own_and_reads_the_blocks_too(tmp_path: Path) -> None:
    _, rows, _ = run_in(tmp_path, tiny(probes=probes("curvature")))
    read = curvature_rows(rows)
    assert sorted(read) == [0, 8, 16, 24, 25]
    for row in read.values():
        assert {f"curvature/{name}" for name in CURVATURE} <= row.keys()
        assert row["curvature/sharpness"] > 0 and 0 <= row["curvature/sharpness_error"] < 0.2
        assert row["curvature/noise_trace"] >= 0
    assert "block/b01/sum/common_mode" in rows[0] and "block/b01/up_projection/spectral_norm" in rows[-1]


def test_the_first_reading_is_that_of_the_initial_network(tmp_path: Path) -> None:
    config = tiny(probes=probes("curvature"), train={"steps": 1, "label_smoothing": 0.1})
    _, rows, _ = run_in(tmp_path, config)
    trainer, (images, labels) = first_step(config)
    found = sharpness(
        trainer.model, lambda model, batch: trainer.loss(model, *batch)[0], (images[:8], labels[:8]), products=12
    )
    value = rows[0]["curvature/sharpness"]
    assert value == pytest.approx(found.value / 2**0.5, rel=1e-3)  # epsilon 1 and a mean square of 1: P is its root
    assert rows[0]["curvature/margin"] == pytest.approx(0.05 * value / 3.8)


def first_step(config: RunConfig) -> tuple[Trainer, tuple[torch.Tensor, torch.Tensor]]:
    device = torch.device("cpu")
    data = load_dataset(config.data, device)
    return Trainer.new(config, data, device), data.probe_batch()


@pytest.mark.parametrize("order", ["round_robin", "random"])
def test_the_margin_knows_of_the_replicas(tmp_path: Path, order: Any) -> None:
    alone = run_in(tmp_path / "a", tiny(probes=probes("curvature"), train={"steps": 1}))[1][0]
    optim = {"replicas": 5, "replica_order": order}
    late = run_in(tmp_path / "b", tiny(probes=probes("curvature"), optim=optim, train={"steps": 1}))[1][0]
    assert late["curvature/sharpness"] == alone["curvature/sharpness"]
    ratio = threshold(0.9, 0) / threshold(0.9, 4, order)
    assert late["curvature/margin"] == pytest.approx(ratio * alone["curvature/margin"])


@pytest.mark.parametrize(
    ("optim", "unread"),
    [({"name": "sgd"}, 0), ({"name": "adam"}, 1), ({"name": "rmsprop_torch", "up_projection_bias_lr": 0.0}, 1)],
)
def test_every_optimizer_has_a_sharpness_from_its_first_update_on(
    tmp_path: Path, optim: dict[str, Any], unread: int
) -> None:
    config = tiny(probes=probes("curvature"), optim={"lr": 1e-3, **optim}, train={"steps": 9})
    read = curvature_rows(run_in(tmp_path, config)[1])
    values = [read[step]["curvature/sharpness"] for step in sorted(read)]
    assert [value == "NaN" for value in values] == [True] * unread + [False] * (3 - unread)
    assert all(read[8][f"curvature/{name}"] > 0 for name in ("sharpness", "margin"))


def test_several_batches_are_read_as_one_mean_loss(tmp_path: Path) -> None:
    one, many = (
        curvature_rows(
            run_in(
                tmp_path / str(count),
                tiny(probes={**probes("curvature"), "curvature": {"every": 8, "batches": count}}, train={"steps": 1}),
            )[1]
        )[0]
        for count in (1, 256)
    )
    assert many["curvature/sharpness"] < one["curvature/sharpness"]
    assert many["curvature/noise_trace"] == one["curvature/noise_trace"]


def test_a_run_in_bf16_with_dropout_is_read_in_single_precision_without_it(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": {"dropout_keep": 0.5}, "train": {"steps": 1}}
    exact, coarse = (
        run_in(
            tmp_path / precision,
            tiny(**settings | {"train": {"steps": 1, "precision": precision}}, probes=probes("curvature")),
        )[1][0]
        for precision in ("float32", "bf16")
    )
    assert [exact[f"curvature/{name}"] for name in CURVATURE] == [coarse[f"curvature/{name}"] for name in CURVATURE]
    assert exact["train/loss"] != coarse["train/loss"]


def test_a_reading_that_fails_is_not_a_number_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory. Tried to allocate 80.00 GiB")

    plain = run_in(tmp_path / "a", tiny())
    monkeypatch.setattr("harness.training.curvature.sharpness", full)
    with pytest.warns(ProbeWarning, match="curvature is not read: OutOfMemoryError: out of memory") as said:
        outcome, rows, state = run_in(tmp_path / "b", tiny(probes=probes("curvature")))
    assert len(said) == 1 and outcome == plain[0] and same_weights(plain[2], state)
    read = curvature_rows(rows)
    assert {row["curvature/sharpness"] for row in read.values()} == {"NaN"}
    assert all(row["curvature/noise_trace"] > 0 for row in read.values())


def test_a_diverged_network_has_no_curvature(tmp_path: Path) -> None:
    config = tiny(probes={**probes("curvature"), "curvature": {"every": 1}}, optim={"name": "sgd", "lr": 1e20})
    outcome, rows, _ = run_in(tmp_path, config)
    assert outcome.outcome == "diverged"
    assert rows[-1]["curvature/sharpness"] == "NaN"
