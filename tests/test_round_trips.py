"""What is written comes back: rows as lines of JSON, a file of them torn anywhere, configurations and their identity."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.architectures import ARCHITECTURES
from harness.config import DATASET_FIELDS, OPTIMIZER_FIELDS, RunConfig
from harness.store import Row, RunDirectory, decode_row, encode_row

STEPS = st.integers(0, 2**63 - 1)
NAMES = st.text(max_size=12).filter(lambda name: name not in ("step", "run_id"))
TEXTS = st.text().filter(lambda text: text not in ("NaN", "Infinity", "-Infinity"))
"""Texts that are not what stands for a number that JSON lacks."""
VALUES = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | TEXTS


def told(rows: list[Row]) -> list[str]:
    """Rows as texts that are equal when every value and its type is: NaN is not equal to itself, 1 is to 1.0 and True."""
    return [repr(sorted(row.items())) for row in rows]


@st.composite
def written(draw: st.DrawFn) -> list[Row]:
    """Rows of a run, in order of step."""
    steps = draw(st.lists(STEPS, min_size=1, max_size=3, unique=True).map(sorted))
    return [{"step": step, **draw(st.dictionaries(NAMES, VALUES, max_size=2))} for step in steps]


@settings(deadline=None)
@given(STEPS, st.dictionaries(NAMES, VALUES))
def test_a_row_comes_back_as_it_was(step: int, values: Row) -> None:
    row = {"step": step, **values}
    line = encode_row(row)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert json.loads(line, parse_constant=pytest.fail)["step"] == step, "JSON that others read"
    assert told([decode_row(line)]) == told([row])


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(written())
def test_rows_torn_at_any_byte_are_the_whole_ones_and_go_on(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        ends = [0]
        for row in rows:
            run.append(row)
            ends.append(run.file("metrics.jsonl").stat().st_size)
        content = run.file("metrics.jsonl").read_bytes()
        for length in range(len(content) + 1):
            run.file("metrics.jsonl").write_bytes(content[:length])
            whole = sum(end <= length for end in ends) - 1
            assert told(run.rows()) == told(rows[:whole]), length
            assert told(run.reopen()) == told(rows[:whole]), length
            for row in rows[whole:]:
                run.append(row)
            assert run.file("metrics.jsonl").read_bytes() == content, length


POSITIVE = st.floats(1e-6, 10)
SCALES = st.floats(0, 2) | st.just("learned") | st.lists(st.floats(0, 2), min_size=3, max_size=4)
MODELS = st.fixed_dictionaries(
    {"name": st.sampled_from(list(ARCHITECTURES))},
    optional={
        "width": st.floats(0.1, 2),
        "repeats": st.lists(st.integers(1, 20), min_size=3, max_size=3),
        "residual_scale": SCALES,
        "batch_norm": st.sampled_from(["paper", "branch_output", "after_sum", "none"]),
        "up_projection_init": st.sampled_from(["default", "zero"]) | POSITIVE,
        "dropout_keep": st.floats(0.1, 1),
    },
)
DATA = st.fixed_dictionaries(
    {"name": st.sampled_from(list(DATASET_FIELDS))},
    optional={"image_size": st.integers(32, 299), "batch_size": st.integers(2, 64)},
)
OPTIMIZERS = st.fixed_dictionaries(
    {"name": st.sampled_from(list(OPTIMIZER_FIELDS))},
    optional={
        "lr": POSITIVE,
        "eps": POSITIVE,
        "betas": st.tuples(st.floats(0, 1), st.floats(0, 1)),
        "weight_decay": st.floats(0, 1),
        "clip_norm": POSITIVE,
        "schedule": st.sampled_from([{"name": "cosine"}, {"name": "exponential", "every": 3}]),
        "warmup": st.fixed_dictionaries({"name": st.just("gradual"), "lr": POSITIVE, "steps": st.integers(1, 99)}),
    },
)
TRAINING = st.one_of(
    st.fixed_dictionaries({"steps": st.integers(100, 10**9)}, optional={"check_every": st.integers(1, 99)}),
    st.fixed_dictionaries({"epochs": st.integers(1, 10**6)}, optional={"label_smoothing": st.floats(0, 0.9)}),
)
PROBES = st.fixed_dictionaries({}, optional={"every": st.integers(1, 99), "dormant_below": st.floats(0, 1)})


@st.composite
def configurations(draw: st.DrawFn) -> RunConfig:
    """A valid configuration."""
    sections: dict[str, Any] = {"seed": draw(st.integers(0, 2**32)), "model": draw(MODELS), "data": draw(DATA)}
    sections |= {"optim": draw(OPTIMIZERS), "train": draw(TRAINING), "probes": draw(PROBES)}
    try:
        return RunConfig.model_validate(sections)
    except ValidationError:
        assume(False)
        raise


@settings(deadline=None)
@given(configurations())
def test_a_configuration_comes_back_from_its_stored_form_as_the_same_run(config: RunConfig) -> None:
    for stored in (json.loads(config.model_dump_json()), config.model_dump(mode="json"), config.model_dump()):
        back = RunConfig.model_validate(stored)
        assert back == config and back.run_id == config.run_id


@settings(deadline=None)
@given(configurations(), configurations())
def test_runs_have_one_name_if_and_only_if_they_train_alike(one: RunConfig, other: RunConfig) -> None:
    def training(config: RunConfig) -> dict[str, Any]:
        return config.model_dump(include={"seed", "model", "optim", "train"}) | {
            "data": config.data.model_dump(exclude=set(config.data.access))
        }

    for second in (other, one.model_copy(update={"probes": other.probes}), one.model_copy(update={"seed": other.seed})):
        assert (one.run_id == second.run_id) == (training(one) == training(second))
