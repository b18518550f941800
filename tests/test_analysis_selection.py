"""Which runs of a frame are shown: all in an order that tells, few that stand for all, those of one place."""

import pandas as pd
import pytest

from analysis.frames.selection import in_order, representatives, seeds_of


def runs(*lines: tuple[float, float, int, str]) -> pd.DataFrame:
    """Width, residual scale, seed and end of each run; r0, r1, ... are their names, in this order."""
    frame = pd.DataFrame(lines, columns=["model.width", "model.residual_scale", "seed", "end"])
    frame["run_id"] = [f"r{number}" for number in range(len(frame))]
    frame["state"] = frame["end"].where(~frame["end"].isin(["died", "survived"]), "finished")
    frame["outcome"] = frame["end"].where(frame["state"] == "finished", None)
    return frame.drop(columns="end")


def names(frame: pd.DataFrame) -> list[str]:
    return list(frame["run_id"])


GRID = runs(
    (0.25, 1.0, 1, "died"),
    (0.25, 1.0, 0, "died"),
    (0.25, 0.1, 0, "survived"),
    (0.125, 1.0, 0, "survived"),
    (0.125, 1.0, 1, "died"),
    (0.125, 0.1, 0, "survived"),
)


def test_runs_are_in_the_order_of_what_varies_and_then_of_the_seed() -> None:
    assert names(in_order(GRID)) == ["r5", "r3", "r4", "r2", "r1", "r0"]


def test_runs_that_differ_in_nothing_but_the_seed_are_in_its_order() -> None:
    assert names(in_order(runs((1.0, 1.0, 2, "died"), (1.0, 1.0, 0, "died"), (1.0, 1.0, 1, "failed")))) == [
        "r1",
        "r2",
        "r0",
    ]


def test_few_runs_show_every_level_and_outcome_and_of_equals_one_that_died_with_the_lowest_seed() -> None:
    # r1 is the first of those that died; r5 adds its width, its scale and its outcome; with them nothing is left to show.
    assert names(representatives(GRID, 4)) == ["r5", "r1"]


def test_no_more_than_asked_for() -> None:
    assert names(representatives(GRID, 1)) == ["r1"]
    assert names(representatives(GRID, 0)) == names(representatives(GRID.iloc[:0], 4)) == []


def test_a_run_without_an_outcome_is_shown_by_its_state() -> None:
    assert names(representatives(runs((1.0, 1.0, 0, "survived"), (1.0, 1.0, 1, "failed")), 4)) == ["r0", "r1"]


@pytest.mark.parametrize(("run", "expected"), [("r0", ["r0", "r1"]), ("r2", ["r2"]), ("r4", ["r3", "r4"])])
def test_the_seeds_of_a_run(run: str, expected: list[str]) -> None:
    assert names(seeds_of(GRID, run)) == expected


def test_a_missing_value_is_a_value() -> None:
    frame = GRID.copy()
    frame["optim.momentum"] = [0.9, None, 0.9, 0.9, 0.9, 0.9]
    assert names(seeds_of(frame, "r0")) == ["r0"] and names(seeds_of(frame, "r1")) == ["r1"]
