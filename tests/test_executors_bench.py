"""Runs a minute: each way does all runs, and the table holds it against the others."""

from pathlib import Path

import pytest

from harness.bench.executors import Rate, measure_executors, table
from harness.located import InputError
from harness.sweep.run import read_sweep
from tests.runs import tiny_sweep


def test_rates_are_held_against_a_process_a_run_and_ray_tune() -> None:
    lines = table([Rate("local", 20, 10.0), Rate("process", 10, 20.0), Rate("tune", 20, 20.0)]).split("\n")
    assert lines[0].split("minute")[1].strip() == "4.00x a process a run, 2.00x Ray Tune"
    assert "120.0 a minute" in lines[0]
    assert lines[1].split("minute")[1].strip() == "0.50x Ray Tune"


@pytest.mark.slow
def test_every_run_is_done_by_each(tmp_path: Path) -> None:
    file = tiny_sweep(tmp_path, 5)
    rates = measure_executors(file, read_sweep(file).configs, ["inline", "process"])
    assert [(rate.name, rate.runs) for rate in rates] == [("inline", 4), ("process", 4)]
    assert all(rate.seconds > 0 for rate in rates)


@pytest.mark.slow
def test_one_that_does_not_finish_is_named(tmp_path: Path) -> None:
    file = tiny_sweep(tmp_path, 5)
    with pytest.raises(InputError, match="no-such: 0 of 4 runs were finished"):
        measure_executors(file, read_sweep(file).configs, ["no-such"])
