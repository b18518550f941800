"""The run configuration: strict, frozen, resolved, and the run's identity."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.config import DIGITS_TRAINING_IMAGES, RunConfig


def config(**sections: object) -> RunConfig:
    return RunConfig.model_validate(sections)


def test_equal_resolved_configurations_are_one_run() -> None:
    spelled_out = config(
        model={"stem": "small", "repeats": [5, 10, 5], "residual_scale": 1},
        optim={"decay": 0.9, "momentum": 0.9, "eps": 1.0},
    )
    assert spelled_out == config()
    assert spelled_out.run_id == config().run_id


@pytest.mark.parametrize(
    ("sections", "run_id"),
    [
        ({}, "f36bf67a0980"),
        (
            {
                "seed": 3,
                "model": {"width": 0.125, "repeats": [2, 4, 8], "residual_scale": 0.1},
                "data": {"batch_size": 8},
                "optim": {"name": "sgd", "lr": 0.3, "warmup": {"name": "constant", "lr": 0.01, "steps": 10}},
                "train": {"steps": 160},
            },
            "30c1f872cdc0",
        ),
    ],
)
def test_an_identity_never_changes(sections: dict[str, object], run_id: str) -> None:
    assert config(**sections).run_id == run_id


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"model": {"width": 0.5}},
        {"data": {"batch_size": 16}},
        {"optim": {"lr": 0.1}},
        {"train": {"check_every": 5}},
        {"train": {"stop_at_death": False}},
    ],
)
def test_training_fields_make_another_run(change: dict[str, object]) -> None:
    assert config(**change).run_id != config().run_id


@pytest.mark.parametrize("change", [{"probes": {"every": 1}}, {"compute": {"device": "cpu", "threads": 2}}])
def test_instruments_and_devices_do_not(change: dict[str, object]) -> None:
    assert config(**change).run_id == config().run_id


def test_the_identity_survives_the_stored_form() -> None:
    stored = json.dumps(config(model={"repeats": [1, 1, 1]}).model_dump(mode="json"))
    assert RunConfig.model_validate(json.loads(stored)).run_id == config(model={"repeats": [1, 1, 1]}).run_id


def test_a_file_of_weights_counts_by_its_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for path, content in ((one, b"a"), (same, b"a"), (other, b"b")):
        path.write_bytes(content)
    ids = [config(model={"weights": str(path)}).run_id for path in (one, same, other)]
    assert ids[0] == ids[1] != ids[2] != config().run_id
    stored = config(model={"weights": str(one)}).model_dump(mode="json")
    one.unlink()
    assert RunConfig.model_validate(stored).run_id == ids[0]
    one.write_bytes(b"changed")
    with pytest.raises(ValidationError, match=f"the content of {one} is not what weights_sha256 says"):
        RunConfig.model_validate(stored)
    with pytest.raises(ValidationError, match="nowhere cannot be read: No such file"):
        config(model={"weights": "nowhere"})


def test_the_identity_is_made_once_and_is_no_field(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, other = config(), config()
    before = repr(asked), asked.model_dump(), hash(asked)
    made = asked.run_id
    assert (repr(asked), asked.model_dump(), hash(asked)) == before and asked == other and len({asked, other}) == 1
    assert "run_id" not in json.dumps(RunConfig.model_json_schema())
    assert asked.model_copy(update={"seed": 1}).run_id == config(seed=1).run_id != made
    assert pickle.loads(pickle.dumps(asked)) == other
    monkeypatch.setattr("harness.config.run.hashlib", None)
    assert asked.run_id == made


IMAGES = {"name": "imagefolder", "root": "imgs"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optim": {"weight_decay": 0.0}}, {"optim": {"weight_decay": -0.0}}),
        ({"optim": {"weight_decay": 0.0}}, {"optim": {"weight_decay": 0}}),
        ({"model": {"residual_scale": [0.0, 0.5, 0.5]}}, {"model": {"residual_scale": [-0.0, 0.5, 0.5]}}),
        ({"model": {"residual_scale": 0.0}}, {"model": {"residual_scale": [-0.0, 0, 0.0]}}),
        ({"train": {"label_smoothing": 0.0}}, {"train": {"label_smoothing": -0.0}}),
        ({"optim": {"name": "adam", "betas": [0.0, 0.9]}}, {"optim": {"name": "adam", "betas": (-0.0, 0.9)}}),
        ({"data": IMAGES}, {"data": IMAGES | {"root": "./imgs"}}),
        ({"data": IMAGES}, {"data": IMAGES | {"root": "imgs/"}}),
        ({"data": IMAGES}, {"data": IMAGES | {"root": ".//./imgs//."}}),
    ],
)
def test_spellings_of_one_value_are_one_run(one: dict[str, object], other: dict[str, object]) -> None:
    assert config(**one) == config(**other)
    assert config(**one).run_id == config(**other).run_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"train": {"epochs": 1}}, {"train": {"steps": 44}}),
        ({"optim": {"schedule": {"name": "exponential", "rate": 1.0}}}, {}),
        ({"model": {"width": 0.5}}, {"model": {"trunk_width": 0.5, "branch_width": 0.5}}),
        ({"data": IMAGES}, {"data": IMAGES | {"root": "x/../imgs"}}),  # another folder where x is a link
        ({"data": IMAGES}, {"data": IMAGES | {"root": "/imgs"}}),
    ],
)
def test_fields_that_come_to_the_same_training_stay_two_runs(one: dict[str, object], other: dict[str, object]) -> None:
    assert config(**one).run_id != config(**other).run_id


def test_a_run_stored_with_another_spelling_is_recognised() -> None:
    stored = json.loads(json.dumps(config(data=IMAGES).model_dump(mode="json")))
    stored["data"]["root"], stored["optim"]["weight_decay"] = "./imgs/", -0.0
    assert RunConfig.model_validate(stored).run_id == config(data=IMAGES).run_id


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().seed = 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": {"name": "sgd", "decay": 0.9}}, "sgd has no decay; only rmsprop_tf or rmsprop_torch has"),
        ({"optim": {"schedule": {"every": 2}}}, "constant has no every; only exponential has"),
        ({"optim": {"warmup": {"name": "constant", "lr": 1e-5, "steps": 300}}}, "300 is not below train.steps = 200"),
        ({"optim": {"warmup": {"name": "gradual", "steps": 3}}}, "gradual needs lr"),
        ({"model": {"weights_sha256": "0" * 64}}, "weights_sha256 needs weights"),
        ({"data": {"num_classes": 3}}, "digits has no num_classes; only synthetic or imagefolder has"),
        ({"data": {"batch_size": 2000}}, f"2000 is above the {DIGITS_TRAINING_IMAGES} training images"),
        ({"data": {"batch_size": 1}}, "greater than or equal to 2"),
        ({"model": {"width": float("nan")}}, "finite"),
        ({"model": {"residual_scale": [1, 1]}}, "3"),
        ({"model": {"repeats": [1, 2]}}, "3"),
        ({"seed": True}, "valid integer"),
        ({"seed": "1"}, "valid integer"),
    ],
)
def test_refusals_say_why(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**sections)
    assert message in str(caught.value)


def test_the_schema_describes_every_field() -> None:
    schema = RunConfig.model_json_schema()
    for section in schema["$defs"].values():
        for name, field in section["properties"].items():
            assert field.get("description"), f"{section['title']}.{name} has no description"


@pytest.mark.parametrize("module", ["harness.config", "harness.sweep.run", "harness.sweep.status", "harness.models"])
def test_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, False),
        ({"model": {"dropout_keep": 1.0}}, False),
        ({"train": {"sync_batch_norm": True}}, False),
        ({"train": {"sync_batch_norm": True}, "model": {"dropout_keep": 1.0}}, True),
        ({"model": {"batch_norm": "none", "dropout_keep": 1.0}}, True),
    ],
)
def test_processes_are_part_of_what_a_run_is_where_they_train_otherwise(settings: dict[str, Any], same: bool) -> None:
    """Each normalises its own part of the batch, and has dropout of its own."""
    one, two = (RunConfig.model_validate(settings | {"compute": {"processes": count}}) for count in (1, 2))
    assert (one.run_id == two.run_id) == same
