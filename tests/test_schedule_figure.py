"""`harness schedule`: the learning rate as it will be, without training."""

from pathlib import Path

import numpy as np
import pytest

from analysis.figures.schedule import schedule_figure
from harness.cli import main


def test_the_figure_shows_every_rate_on_a_fitting_scale() -> None:
    figure = schedule_figure([1e-5, 1e-5, 0.1, 0.05], "a warm-up")
    (panel,) = figure.axes
    assert np.array_equal(panel.lines[0].get_ydata(), [1e-5, 1e-5, 0.1, 0.05])
    assert panel.get_yscale() == "log"
    assert schedule_figure([0.1, 0.05, 0.0], "to zero").axes[0].get_yscale() == "linear"


def test_delays_are_drawn_below_the_rates_where_there_are_any() -> None:
    assert len(schedule_figure([0.1] * 3, "").axes) == 1
    _, below = schedule_figure([0.1] * 3, "three replicas", [0, 1, 2]).axes
    assert np.array_equal(below.lines[0].get_ydata(), [0, 1, 2])
    assert "updates" in below.get_ylabel() and "updates" in below.get_xlabel()


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("round_robin", "4 asynchronous replicas, round robin: gradients 3 updates late;"),
        ("random", "4 asynchronous replicas, random: gradients 3 updates late in the mean;"),
    ],
)
def test_the_command_says_how_late_gradients_are(
    order: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["optim.replicas=4", f"optim.replica_order={order}", "--out", str(tmp_path / "late.png")]
    assert main(["schedule", *settings]) == 0
    assert words in capsys.readouterr().out.replace("\n", " ")


def test_the_command_draws_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["optim.schedule.name=exponential", "optim.warmup.name=constant", "optim.warmup.lr=1.0e-5"]
    assert main(["schedule", *settings, "optim.warmup.steps=50", "--out", "rates.png"]) == 0
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]
    assert "0.045" in capsys.readouterr().out


def test_a_two_phase_warmup_says_that_its_end_is_not_known_beforehand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["optim.warmup.name=two_phase", "optim.warmup.lr=0.01"]
    assert main(["schedule", *settings, "--out", str(tmp_path / "rates.svg")]) == 0
    assert "ends when the training error falls below 0.8: drawn at its earliest" in capsys.readouterr().out
