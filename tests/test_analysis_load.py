"""Run folders as frames: what is in them, what is left out, and what is said about it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.frames import columns
from analysis.frames.columns import demand
from analysis.frames.load import load_sweep
from analysis.load import DamagedRuns, load, load_rows
from harness import store
from harness.bench.load import measure_load
from harness.located import InputError
from tests.analysis_folders import (
    config,
    counted,
    damage,
    died,
    outcome,
    quickstart_fate,
    survived,
    write_grid,
    write_run,
)


def modules_after(code: str) -> set[str]:
    """What a fresh process has imported when it has run this."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_analysis_brings_in_neither_torch_nor_matplotlib() -> None:
    modules = modules_after("import analysis.load")
    assert "analysis.load" in modules and not {"torch", "matplotlib", "wandb"} & modules


def test_writing_a_report_brings_in_no_torch_and_opens_no_window(tmp_path: Path) -> None:
    write_run(tmp_path, config(), died(40))
    code = (
        f"from analysis.report import report; report.write({str(tmp_path)!r})\n"
        "import matplotlib; from matplotlib import _pylab_helpers\n"
        "assert not _pylab_helpers.Gcf.figs, 'pyplot, which seaborn imports, knows a figure'\n"
        "assert matplotlib.get_backend(auto_select=False) is None, 'a backend was chosen'"
    )
    modules = modules_after(code)
    assert "matplotlib.figure" in modules and not {"torch", "wandb"} & modules


def test_one_row_a_run_with_outcome_configuration_and_last_metrics(tmp_path: Path) -> None:
    run = config(width=0.25, scale=0.3, seed=4)
    write_run(tmp_path, run, died(60))
    runs = load(tmp_path)
    assert len(runs) == 1
    row = runs.iloc[0]
    assert row["run_id"] == run.run_id
    assert (row["state"], row["outcome"]) == ("finished", "died")
    assert (row["outcome_step"], row["outcome_last_live_step"], row["last_step"]) == (60, 50, 80)
    assert (row["model.width"], row["model.residual_scale"], row["seed"]) == (0.25, 0.3, 4)
    assert (row["model.repeats"], row["optim.name"]) == ("2/4/2", "rmsprop_tf")
    assert (row["prepool/units"], row["prepool/dead_share_batch"]) == (520, 1.0)


def test_one_row_a_run_and_step_joined_with_what_varies(tmp_path: Path) -> None:
    write_grid(tmp_path, lambda *_: died(30), widths=[0.125], scales=[1.0, 0.1], seeds=[0, 1])
    rows = load_rows(tmp_path)
    assert list(rows.groupby("run_id")["step"].agg(list)) == [[0, 10, 20, 30, 40, 50]] * 4
    assert sorted(rows.groupby("run_id")["model.residual_scale"].first()) == [0.1, 0.1, 1.0, 1.0]
    assert {"seed", "model.residual_scale"} < set(rows) and "model.width" not in rows
    one = rows[rows["run_id"] == config(0.125, 0.1, 1).run_id].set_index("step")
    assert one["prepool/dead_share_batch"].to_list() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1], abs=1e-4)
    assert one.index[one["prepool/dead_share_probe"].notna()].to_list() == [0, 50], "sparse readings stay sparse"


def test_rows_of_some_runs_only(tmp_path: Path) -> None:
    write_grid(tmp_path, lambda *_: survived(), widths=[0.125], seeds=[0, 1])
    runs = load(tmp_path)
    rows = load_rows(tmp_path, runs[runs["seed"] == 1])
    assert rows["run_id"].nunique() == 3
    assert set(rows["run_id"]) == set(runs.loc[runs["seed"] == 1, "run_id"])


def test_what_varies_is_found_with_missing_values_as_values(tmp_path: Path) -> None:
    write_run(tmp_path, config(lr=0.1), survived())
    write_run(tmp_path, config(lr=0.5), survived())
    runs = load(tmp_path)
    assert columns.varying(runs) == ["optim.lr"]
    runs["model.dropout_keep"] = [np.nan, 0.8]
    assert columns.varying(runs) == ["model.dropout_keep", "optim.lr"]
    assert columns.varying(runs.head(1)) == []


def test_failed_and_unfinished_runs_have_no_outcome(tmp_path: Path) -> None:
    write_run(tmp_path, config(seed=0), survived())
    write_run(tmp_path, config(seed=1), None, failure="killed by signal 9")
    write_run(tmp_path, config(seed=2), None)
    runs = load(tmp_path, planned=[config(seed=seed) for seed in range(4)]).set_index("seed")
    assert runs["state"].to_dict() == {0: "finished", 1: "failed", 2: "pending", 3: "pending"}
    assert runs["outcome"].notna().to_dict() == {0: True, 1: False, 2: False, 3: False}
    assert runs.loc[1, "failure"] == "killed by signal 9"
    assert runs["last_step"].isna().to_dict() == {0: False, 1: False, 2: False, 3: True}


def test_a_running_run_is_running_and_its_open_rows_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path, config(), None)
    with run.lock():
        runs = load(tmp_path)
        assert runs["state"].to_list() == ["running"]
        assert load_rows(tmp_path, runs)["step"].max() == 50


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("name", ["outcome.json", "metrics.parquet", "config.json"])
def test_a_damaged_run_is_named_left_out_and_counted(tmp_path: Path, name: str, indexed: bool) -> None:
    write_grid(tmp_path, lambda *_: survived(), widths=[0.125], scales=[1.0], seeds=[0, 1, 2])
    if indexed:
        store.write_index(tmp_path)
    run = damage(tmp_path, name)
    with pytest.warns(DamagedRuns, match=rf"1 damaged .*\n.*{run.run_id}/{name}: damaged"):
        runs = load(tmp_path)
    assert len(runs) == 2 and run.run_id not in set(runs["run_id"])
    assert [run.run_id in message for message in runs.attrs["damaged"]] == [True]


def test_a_frame_is_the_same_from_the_index_and_from_the_runs(tmp_path: Path) -> None:
    write_grid(tmp_path, quickstart_fate, seeds=[0, 1])
    made = load(tmp_path)
    store.write_index(tmp_path)
    pd.testing.assert_frame_equal(load(tmp_path), made)


def test_runs_of_another_sweep_are_parted_from_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run planned and there, one planned and not, one of an older version of the code, and one of another sweep."""
    there, missing, older, other = (config(seed=seed) for seed in range(4))
    for run in (there, older, other):
        write_run(tmp_path, run, survived())
    (tmp_path / "runs" / older.run_id).rename(tmp_path / "runs" / "0ldname")
    store.RunDirectory(tmp_path / "runs" / "0ldname").rename_to("0ldname")
    planned = [there, missing, older]
    assert all(run.run_id for run in planned)
    for read in (3, 2):  # from the runs; from the index, which leaves the two that no name tells
        with counted(monkeypatch) as counts:
            own, others = load_sweep(tmp_path, planned)
        assert counts == {"resolved": read, "hashed": 2}
        assert dict(zip(own["run_id"], own["state"], strict=True)) == {
            there.run_id: "finished", "0ldname": "finished", missing.run_id: "pending",
        }  # fmt: skip
        assert list(others["run_id"]) == [other.run_id]
        assert missing.run_id not in set(load_sweep(tmp_path, planned, pending=False)[0]["run_id"])
        store.write_index(tmp_path)


def test_rows_damaged_after_loading_are_left_out_of_the_rows(tmp_path: Path) -> None:
    write_grid(tmp_path, lambda *_: survived(), widths=[0.125], scales=[1.0], seeds=[0, 1])
    runs = load(tmp_path)
    run = damage(tmp_path, "metrics.parquet")
    with pytest.warns(DamagedRuns, match=run.run_id):
        rows = load_rows(tmp_path, runs)
    assert run.run_id not in set(rows["run_id"]) and rows["run_id"].nunique() == 1


def test_a_run_without_rows_gives_an_empty_frame(tmp_path: Path) -> None:
    runs_folder = store.RunDirectory(tmp_path / "runs" / config().run_id)
    with runs_folder.lock():
        runs_folder.write_config(config(), {})
    rows = load_rows(tmp_path)
    assert len(rows) == 0 and {"run_id", "step"} <= set(rows)


def test_a_collapse_is_an_event_of_its_own_name(tmp_path: Path) -> None:
    write_run(tmp_path, config(), outcome("collapsed", 40, 30))
    assert load(tmp_path)["outcome"].to_list() == ["collapsed"]


def test_a_missing_folder_is_unusable_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")


def test_a_folder_without_runs_is_unusable_input_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no readable run; expected the folder given to"):
        load(tmp_path)
    run = write_run(tmp_path / "out", config(), survived())
    with pytest.raises(InputError, match=r"did you mean .*/out\?"):
        load(tmp_path / "out" / "runs")
    with pytest.raises(InputError, match=r"it is one run; its output folder is .*/out$"):
        load(run.path)


def test_a_folder_of_damaged_runs_only_is_unusable_input_that_names_them(tmp_path: Path) -> None:
    run = write_run(tmp_path, config(), survived())
    damage(tmp_path, "outcome.json")
    with pytest.raises(InputError, match=f"{run.run_id}/outcome.json: damaged"):
        load(tmp_path)


# -- columns, and many runs --------------------------------------------------------------------------------------------


def test_some_metrics_only(tmp_path: Path) -> None:
    write_grid(tmp_path, lambda *_: died(30), widths=[0.125], scales=[1.0, 0.1], seeds=[0])
    runs = load(tmp_path)
    rows = load_rows(tmp_path, runs, ["prepool/dead_share_batch", "val/accuracy"])
    assert list(rows) == ["run_id", "step", "prepool/dead_share_batch", "val/accuracy", "model.residual_scale"]
    whole = load_rows(tmp_path, runs)
    pd.testing.assert_frame_equal(rows, whole[list(rows)])
    with pytest.raises(InputError, match=r"no metric 'val/acc' in these runs; did you mean 'val/accuracy'"):
        load_rows(tmp_path, runs, ["val/acc"])


def test_runs_with_other_metrics_are_put_together(tmp_path: Path) -> None:
    """Open rows beside sealed ones; a metric that is whole in one run and real in the other; one that only one has."""
    first = store.RunDirectory(tmp_path / "runs" / config(seed=0).run_id)
    second = store.RunDirectory(tmp_path / "runs" / config(seed=1).run_id)
    for run, number in ((first, 0), (second, 1)):
        with run.lock():
            run.write_config(config(seed=number), {})
    first.append({"step": 0, "a/count": 3})
    first.append({"step": 10, "a/count": 4, "b/rare": float("inf")})
    first.finish(survived(10))
    second.append({"step": 0, "a/count": 2.5})
    second.append({"step": 5, "c/late": 1.0})
    rows = load_rows(tmp_path).set_index(["seed", "step"])
    assert rows["a/count"].to_dict() == pytest.approx({(0, 0): 3, (0, 10): 4, (1, 0): 2.5, (1, 5): np.nan}, nan_ok=True)
    assert rows["b/rare"].to_dict()[0, 10] == np.inf and rows["b/rare"].isna().sum() == 3
    assert rows["c/late"].dropna().to_dict() == {(1, 5): 1.0}


@pytest.mark.parametrize("finished", [True, False])
def test_a_table_holds_what_the_rows_hold(tmp_path: Path, finished: bool) -> None:
    run = write_run(tmp_path, config(), died(30) if finished else None)
    table = run.table()
    assert [
        {name: value for name, value in row.items() if value is not None} for row in table.to_pylist()
    ] == run.rows()
    assert run.table(["val/accuracy", "nothing"]).column_names == ["val/accuracy"]
    assert (run.table(()).num_rows, run.table(()).num_columns) == (len(run.rows()), 0)


def test_a_table_whose_seal_is_broken_is_damaged(tmp_path: Path) -> None:
    run = write_run(tmp_path, config(seed=0), died(30))
    other = write_run(tmp_path, config(seed=1), died(60))
    run.file("metrics.parquet").write_bytes(other.file("metrics.parquet").read_bytes())
    with pytest.raises(store.Damaged, match=r"metrics\.parquet: damaged: its content is not what was sealed"):
        run.table(())
    damage(tmp_path, "outcome.json")
    with pytest.raises(store.Damaged, match=r"outcome\.json: damaged"):
        store.runs(tmp_path)[0].table()


def test_demanded_columns_are_listed_by_kind() -> None:
    frame = pd.DataFrame(columns=["run_id", "model.width", "train/loss"])
    demand(frame, "run_id", "train/loss")
    with pytest.raises(InputError) as error:
        demand(frame, "model.widht", "train/los")
    assert error.value.problems == [
        "no column 'model.widht' in these runs; did you mean 'model.width'? allowed: model.width, run_id",
        "no metric 'train/los' in these runs; did you mean 'train/loss'? allowed: train/loss",
    ]


def test_the_benchmark_reads_every_row_it_made() -> None:
    cost = measure_load(runs=120, rows=20)
    assert (cost.runs, cost.rows_each) == (120, 20) and min(cost.index, cost.indexed, cost.phase_map, cost.rows) > 0
    assert "120 runs of 20 rows of 24 metrics" in str(cost) and cost.disk > 120 * 20 * 24 * 8
