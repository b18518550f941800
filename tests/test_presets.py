"""Presets of layer readings in a run: what they write, and that they change nothing."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.store import RunDirectory
from harness.training.train import train
from tests.runs import INCEPTION, timeless, tiny
from tests.test_train import Interrupted, Stop, run_in, same_weights

CADENCE = {"every": 10, "early": True, "burst_jump": 0.05, "burst_steps": 3}


def probes(preset: str, **cadence: Any) -> dict[str, Any]:
    return {"preset": preset, "cadence": {**CADENCE, **cadence}, "every": 5, "probe_set_every": 10}


@pytest.mark.parametrize("preset", ["blocks", "full"])
def test_a_preset_changes_nothing(tmp_path: Path, preset: str) -> None:
    plain = run_in(tmp_path / "a", tiny())
    read = run_in(tmp_path / "b", tiny(probes=probes(preset)))
    assert same_weights(plain[2], read[2])
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


def test_full_reads_gradients_and_updates_with_the_row_of_their_step(tmp_path: Path) -> None:
    _, rows, _ = run_in(tmp_path, tiny(probes=probes("full")))
    first = rows[0]
    assert first["step"] == 0 and "train/loss" in first
    assert any(name.startswith("grad/") for name in first)
    assert any(name.startswith("update/") for name in first)


@pytest.mark.parametrize("at", [12, 20])
def test_a_run_with_a_preset_continues_to_the_same_rows_and_timelines(tmp_path: Path, at: int) -> None:
    config = tiny(probes=probes("blocks"))
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
def test_layers_are_read_beside_a_compiled_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured and differentiated as torch.compile does it, without the code generation, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings: dict[str, Any] = {"probes": probes("blocks"), "model": {"name": "resnet20_cifar"}}
    exact = run_in(tmp_path / "a", tiny(**settings, train={"steps": 12}))
    _, rows, _ = run_in(tmp_path / "b", tiny(**settings, train={"steps": 12, "compile": True}))
    name = "block/b01/sum/rms"
    read, expected = [row[name] for row in rows if name in row], [row[name] for row in exact[1] if name in row]
    assert len(read) == len(expected) >= 5
    assert read == pytest.approx(expected, rel=2e-2)
