"""Steps are held against other ways to do them in one process, and the page tells the ratios."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.bench import page
from harness.bench.decoding import measure_decoding
from harness.bench.executors import Rate
from harness.bench.load import CsvCost, measure_csv
from harness.bench.step import AS_USED, LAST, OURS, TORCH_BOTH, StepTimes, measure_small_step, measure_step
from harness.cli import main
from tests.runs import tiny_sweep

SLACK = 1.2


def test_a_ratio_is_of_steps_of_one_round() -> None:
    times = StepTimes("net", 32, 8, {OURS: [1.0, 20.0, 3.0], LAST: [2.0, 20.0, 4.0]})
    assert times.ratio(OURS, LAST) == (0.75, 0.5, 1.0)
    assert times.seconds == {OURS: 3.0, LAST: 4.0}
    assert [row["of timm"] for row in times.rows()] == [0.75, 1.0]


@pytest.mark.slow
def test_a_step_is_no_slower_than_timms_by_more_than_noise() -> None:
    torch.set_num_threads(1)
    times = measure_step(
        "inception_resnet_v2_released", image_size=75, batch_size=4, device=torch.device("cpu"), rounds=9
    )
    assert times.ratio(OURS, LAST)[0] < SLACK
    assert times.ratio(OURS, AS_USED)[0] < SLACK


@pytest.mark.slow
def test_a_small_nets_step_takes_three_quarters_of_torchs_own() -> None:
    torch.set_num_threads(1)
    assert measure_small_step(40).ratio(OURS, TORCH_BOTH)[0] < 0.75 * SLACK


def test_runs_are_read_and_so_are_csv_files() -> None:
    found = measure_csv(runs=3, rows=20)
    assert (found.runs, found.rows_each) == (3, 20) and found.folders > 0 and found.csv > 0


def test_photographs_are_read_beside_torchvision() -> None:
    pytest.importorskip("torchvision")
    found = measure_decoding(32, photographs=32, batches=2)
    assert len(found) == 2 and all(ratio > 0 for ratio in found)


def test_the_page_has_a_line_for_every_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = StepTimes("net", 32, 8, {OURS: [1.0, 2.0], LAST: [2.0, 4.0], AS_USED: [4.0, 8.0], TORCH_BOTH: [1.0, 2.0]})
    rates = [Rate("local", 40, 10.0), Rate("process", 12, 12.0), Rate("ray", 40, 20.0), Rate("tune", 40, 40.0)]
    costs = [SimpleNamespace(name=name, extra=(0.1, 0.2)) for name in ("blocks", "full", "fastai's three .item()")]
    monkeypatch.setattr(page, "measure_step", lambda *_, **__: steps)
    monkeypatch.setattr(page, "measure_small_step", lambda: steps)
    monkeypatch.setattr(page, "measure_executors", lambda *_: rates)
    monkeypatch.setattr(page, "bench_probes", lambda *_: SimpleNamespace(costs=costs))
    monkeypatch.setattr(page, "measure_decoding", lambda *_, **__: [0.9, 1.1])
    monkeypatch.setattr(page, "measure_csv", lambda: CsvCost(400, 1000, 1.0, 4.0))
    written = tmp_path / "BENCH.md"
    assert main(["bench", "page", str(tiny_sweep(tmp_path)), "--out", str(written)]) == 0
    assert "written: " in capsys.readouterr().out
    lines = [line.split(" | ") for line in written.read_text().splitlines() if line.startswith("| ")][2:]
    assert {line[1]: line[2] for line in lines} == {
        LAST: "0.50",
        AS_USED: "0.25",
        "torch's own convolutions and RMSProp": "1.00",
        "a process a run": "0.25",
        "Ray Tune, the same trainer": "0.50",
        "Ray Tune": "0.25",
        "fastai's `ActivationStats` (three `.item()` a layer)": "1.00",
        "wandb's export: a CSV a run, joined by pandas": "0.25",
        "torchvision's ImageFolder and DataLoader": "1.00",
    }
    assert len(lines) == 2 * len(page.SIZES) + 1 + 3 + 2 + 1 + 2


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "page", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "BENCH.md")]) == 2
    assert "none.yaml" in capsys.readouterr().err
