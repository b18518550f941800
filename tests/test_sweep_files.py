"""Sweep files: what they expand to, and what is said of bad ones."""

import hashlib
import itertools
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from harness.config import RunConfig
from harness.config.command_line import resolve
from harness.located import InputError
from harness.sweep.distributions import DISTRIBUTIONS
from harness.sweep.expand import Sweep, cell, expand
from harness.sweep.run import distinct, sweep_of, wandb_options

RESULTS = Path(__file__).parent.parent / "experiments" / "results"
HEAD = "method: grid\nparameters:\n"


def grid(parameters: str) -> Sweep:
    return expand(HEAD + parameters, "sweep.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        expand(text, "sweep.yaml")
    return caught.value.problems


def test_a_grid_is_the_product_its_last_parameter_fastest() -> None:
    sweep = grid("  model:\n    parameters:\n      width: {values: [0.5, 1.0]}\n  seed: {values: [0, 1, 2]}\n")
    found = [(config.model.width, config.seed) for config in sweep.configs]
    assert found == list(itertools.product((0.5, 1.0), (0, 1, 2)))
    assert sweep.varied == ("model.width", "seed")
    assert cell(sweep.configs[3], sweep.varied) == {"model.width": 1.0}


def test_runs_with_equal_resolved_configuration_are_one_run() -> None:
    sweep = grid("  model:\n    parameters:\n      stem: {values: [small, null]}\n  seed: {value: 4}\n")
    assert len(sweep.configs) == 1
    assert sweep.varied == ()


def test_a_section_can_be_given_whole() -> None:
    (config,) = grid("  optim: {value: {lr: 0.5, name: sgd}}\n").configs
    assert (config.optim.lr, config.optim.name) == (0.5, "sgd")


def test_sections_given_whole_differ_in_their_fields() -> None:
    sweep = grid("  optim: {values: [{lr: 0.5}, {lr: 0.1, warmup: {name: constant, lr: 1.0e-5, steps: 9}}]}\n")
    assert sweep.varied == ("optim.lr", "optim.warmup.name", "optim.warmup.lr", "optim.warmup.steps")


def test_discrete_ranges_are_listed_by_a_grid() -> None:
    sweep = grid(
        "  seed: {min: 3, max: 5}\n  optim:\n    parameters:\n      lr: {distribution: q_uniform, min: 0.1, max: 0.4, q: 0.1}\n"
    )
    assert [config.seed for config in sweep.configs] == [3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert [config.optim.lr for config in sweep.configs[:3]] == [0.1, 0.2, 0.3]


def test_run_cap_ends_a_grid() -> None:
    assert len(expand("run_cap: 2\n" + HEAD + "  seed: {min: 0, max: 9}\n", "s").configs) == 2


def random_sweep(cap: int) -> list[tuple[float, int]]:
    text = f"method: random\nrun_cap: {cap}\nparameters:\n  seed: {{min: 0, max: 10000}}\n  optim:\n    parameters:\n      lr: {{min: 0.1, max: 0.2}}\n"
    return [(config.optim.lr, config.seed) for config in expand(text, "s").configs]


def test_random_draws_are_seeded_and_a_higher_cap_only_adds() -> None:
    assert random_sweep(5) == random_sweep(20)[:5]
    assert len(set(random_sweep(20))) == 20
    assert all(0.1 <= lr <= 0.2 for lr, _ in random_sweep(20))


SETTINGS = {
    "constant": "value: 0.3",
    "categorical": "values: [0.25, 0.5]",
    "categorical_w_probabilities": "values: [0.25, 0.5], probabilities: [0.9, 0.1]",
    "int_uniform": "min: 1, max: 3",
    "log_uniform": "min: -3, max: -1",
    "inv_log_uniform": "min: 1, max: 3",
    "q_log_uniform": "min: 0, max: 3, q: 0.5",
    "log_uniform_values": "min: 0.01, max: 1",
    "inv_log_uniform_values": "min: 0.01, max: 1",
    "q_log_uniform_values": "min: 1, max: 9, q: 0.5",
    "uniform": "min: 0.1, max: 1",
    "q_uniform": "min: 1, max: 9, q: 0.5",
    "normal": "mu: 100, sigma: 1",
    "q_normal": "mu: 100, sigma: 1, q: 0.5",
    "log_normal": "mu: 0, sigma: 1",
    "q_log_normal": "mu: 9, sigma: 1, q: 0.5",
    "beta": "a: 2, b: 2",
    "q_beta": "a: 9, b: 1, q: 0.01",
}


def random_configs(distribution: str, count: int) -> tuple[RunConfig, ...]:
    text = f"method: random\nrun_cap: {count}\nparameters:\n  seed: {{min: 0, max: 1000000000}}\n  model:\n    parameters:\n"
    text += f"      bn_eps: {{distribution: {distribution}, {SETTINGS[distribution]}}}\n"
    return expand(text, "s").configs


def draws(distribution: str, count: int = 300) -> list[float]:
    return [config.model.bn_eps for config in random_configs(distribution, count)]


def test_every_distribution_of_wandb_is_here() -> None:
    assert set(SETTINGS) == set(DISTRIBUTIONS)


@pytest.mark.parametrize(
    ("distribution", "low", "high", "median", "band"),
    [
        ("constant", 0.3, 0.3, 0.3, 0),
        ("categorical", 0.25, 0.5, 0.375, 0.125),
        ("int_uniform", 1, 3, 2, 0),
        ("uniform", 0.1, 1, 0.55, 0.1),
        ("log_uniform", 0.0497, 0.368, 0.135, 0.03),
        ("inv_log_uniform", 0.0497, 0.368, 0.135, 0.03),
        ("log_uniform_values", 0.01, 1, 0.1, 0.035),
        ("inv_log_uniform_values", 0.01, 1, 0.1, 0.035),
        ("normal", 95, 105, 100, 0.25),
        ("log_normal", 0, 100, 1, 0.25),
        ("beta", 0, 1, 0.5, 0.06),
    ],
)
def test_draws_follow_their_distribution(
    distribution: str, low: float, high: float, median: float, band: float
) -> None:
    values = sorted(draws(distribution))
    assert low <= values[0] and values[-1] <= high
    assert values[len(values) // 2] == pytest.approx(median, abs=band + 1e-12)


DRAWN = {
    "constant": "20be644082b2",
    "categorical": "85be2b196390",
    "categorical_w_probabilities": "ff0addc026d8",
    "int_uniform": "939efaadd6b1",
    "log_uniform": "b7185baf0d95",
    "inv_log_uniform": "248e2620a170",
    "q_log_uniform": "79fba345f9e0",
    "log_uniform_values": "680522a7608c",
    "inv_log_uniform_values": "499bcb7450f0",
    "q_log_uniform_values": "7303b825aeaf",
    "uniform": "a28d47828309",
    "q_uniform": "aa30c9dffcef",
    "normal": "bf5327f880cd",
    "q_normal": "0c683e70567a",
    "log_normal": "984646aab8ba",
    "q_log_normal": "fd9bfc61545b",
    "beta": "52fdfae9b6f5",
    "q_beta": "35751573da58",
}


@pytest.mark.parametrize("distribution", DRAWN)
def test_draws_stay_what_they_were_in_the_first_sweeps(distribution: str) -> None:
    ids = " ".join(config.run_id for config in random_configs(distribution, 300))
    assert hashlib.sha256(ids.encode()).hexdigest()[:12] == DRAWN[distribution]


class Fixed(Random):
    """A generator whose every random number is the same."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize(
    ("distribution", "settings", "expected"),
    [
        ("q_uniform", {"min": 8, "max": 64, "q": 8}, [8, 24, 32, 48, 64]),
        ("q_uniform", {"min": 0.5, "max": 64.5, "q": 8}, [0, 16, 32, 48, 64]),
        ("q_uniform", {"min": 1, "max": 9, "q": 0.5}, [1.0, 3.5, 5.0, 7.0, 9.0]),
        ("q_uniform", {"min": 8, "max": 64}, [9, 25, 36, 51, 64]),
        ("q_uniform", {"min": 0, "max": 10**12, "q": 7}, [10000000003, 299999999999, 500000000003, 770000000000, 998999999998]),
        ("q_log_uniform", {"min": 0, "max": 5, "q": 3}, [0, 3, 12, 48, 147]),
        ("q_log_uniform_values", {"min": 1, "max": 1000, "q": 10}, [0, 10, 30, 200, 990]),
    ],
)  # fmt: skip
def test_steps_are_those_of_wandb(distribution: str, settings: dict[str, float], expected: list[float]) -> None:
    """Against `HyperParameter(...).ppf(u)` of W&B's package sweeps 0.3.0, at five u."""
    own = DISTRIBUTIONS[distribution]
    drawn = [own.draw(Fixed(u), {**own.defaults, **settings}) for u in (0.01, 0.3, 0.5, 0.77, 0.999)]
    assert drawn == expected
    assert {type(value) for value in drawn} == {type(value) for value in expected}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("min: 8, max: 64, q: 8", [8, 16, 24, 32, 40, 48, 56]),
        ("min: 8.0, max: 12", [8, 9, 10, 11]),
        ("min: 8, max: 12.5, q: 2.0", [8, 10, 12]),
    ],
)
def test_whole_steps_from_a_whole_start_set_fields_that_count(settings: str, expected: list[int]) -> None:
    data = f"  data: {{parameters: {{batch_size: {{distribution: q_uniform, {settings}}}}}}}\n"
    assert [config.data.batch_size for config in grid(data).configs] == expected
    drawn = expand(f"method: random\nrun_cap: 40\nparameters:\n{data}", "s").configs
    step = expected[1] - expected[0]
    assert {config.data.batch_size for config in drawn} <= {*expected, expected[-1] + step}


def test_int_uniform_takes_whole_numbers_with_a_dot() -> None:
    seeds = "  seed: {distribution: int_uniform, min: 0.0, max: 2}\n"
    assert [config.seed for config in grid(seeds).configs] == [0, 1, 2]
    assert "seed: min is 0.5; expected a whole number" in problems(HEAD + seeds.replace("0.0", "0.5"))[0]


@pytest.mark.parametrize("distribution", [name for name in DISTRIBUTIONS if name.startswith("q_")])
def test_stepped_draws_are_multiples_of_q(distribution: str) -> None:
    step = 0.01 if distribution == "q_beta" else 0.5
    assert all(value / step == pytest.approx(round(value / step), abs=1e-6) for value in draws(distribution))


def test_probabilities_weigh_the_values() -> None:
    assert 0.8 < sum(value == 0.25 for value in draws("categorical_w_probabilities")) / 300 < 0.97


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sweep.yaml:1:1: the file is empty"),
        ("- a\n- b\n", "sweep.yaml:1:1: found a list at the top"),
        ("a: [1\nb: 2\n", "sweep.yaml:2:2: not YAML"),
        ("method: grid\nmethod: grid\nparameters: {seed: {value: 1}}\n", "sweep.yaml:2:1: key 'method' stands here for the second time"),
        ("method: bayes\nparameters: {seed: {value: 1}}\n", "sweep.yaml:1:1: method bayes is left to a W&B server"),
        ("method: gird\nparameters: {seed: {value: 1}}\n", "did you mean 'grid'?"),
        ("parameters: {seed: {value: 1}}\n", "sweep.yaml:1:1: method is missing; allowed: grid, random"),
        ("method: grid\n", "parameters: expected a mapping of at least one parameter"),
        ("metod: grid\nmethod: grid\nparameters: {seed: {value: 1}}\n", "sweep.yaml:1:1: metod: unknown key; did you mean 'method'?"),
        ("method: random\nparameters: {seed: {value: 1}}\n", "method random needs run_cap"),
        ("run_cap: 0\nmethod: grid\nparameters: {seed: {value: 1}}\n", "sweep.yaml:1:1: run_cap: found 0; expected a whole number from 1 to 100000"),
        ("early_terminate: {type: hyperband}\nmethod: grid\nparameters: {seed: {value: 1}}\n", "early_terminate needs a W&B server"),
        (HEAD + "  sede: {value: 1}\n", "sweep.yaml:3:3: sede: unknown key; did you mean 'seed'?"),
        (HEAD + "  modle:\n    parameters:\n      width: {value: 1.0}\n", "sweep.yaml:3:3: modle: unknown key; did you mean 'model'?"),
        (HEAD + "  model:\n    parameters:\n      widht: {value: 1.0}\n", "sweep.yaml:5:7: model.widht: unknown key; did you mean 'width'?"),
        (HEAD + "  optim:\n    parameters:\n      schedule:\n        parameters:\n          raet: {value: 0.9}\n", "sweep.yaml:7:11: optim.schedule.raet: unknown key; did you mean 'rate'?"),
        (HEAD + "  seed: 1\n", "sweep.yaml:3:3: seed: found 1; write `seed: {value: 1}`"),
        (HEAD + "  seed: {vlaue: 1}\n", "sweep.yaml:3:10: seed: unknown key 'vlaue'; did you mean 'value'?"),
        (HEAD + "  seed: {values: []}\n", "sweep.yaml:3:10: seed: values is []; expected a list of at least one"),
        (HEAD + "  seed: {values: 3}\n", "seed: values is 3; expected a list"),
        (HEAD + "  seed: {}\n", "sweep.yaml:3:3: seed: needs value, values, or min and max"),
        (HEAD + "  optim:\n    parameters:\n      lr: {min: 0.1, max: 0.5}\n", "sweep.yaml:5:7: optim.lr: a grid cannot run over the continuous range uniform"),
        (HEAD + "  seed: {values: [1, 2], probabilities: [0.5, 0.5]}\n", "a grid takes every value once"),
        (HEAD + "  seed: {distribution: unifrom, min: 1, max: 2}\n", "unknown distribution; did you mean 'uniform'?"),
        (HEAD + "  seed: {min: 5, max: 2}\n", "min 5 is above max 2"),
        (HEAD + "  model:\n    parameters:\n      width: {values: [1.0, 0]}\n", "sweep.yaml:5:29: model.width: found 0; expected greater than 0"),
        (HEAD + "  model:\n    parameters:\n      width: {value: -1}\n", "model.width: found -1; expected greater than 0"),
        (HEAD + "  model:\n    parameters:\n      width: {value: .nan}\n", "model.width: found nan; expected a finite number"),
        (HEAD + "  optim:\n    parameters:\n      lr: {value: 1e-4}\n", "optim.lr: found 1e-4, which YAML reads as text: write 1.0e-4"),
        (HEAD + "  model:\n    parameters:\n      batch_norm: {value: no}\n", "model.batch_norm: found no, which YAML reads as false; allowed: after_sum"),
        (HEAD + "  model:\n    parameters:\n      activation: {values: [relu, off]}\n", "model.activation: found off, which YAML reads as false"),
        (HEAD + "  model:\n    parameters:\n      repeats: {value: [1, 2]}\n", "sweep.yaml:5:17: model.repeats:"),
        (HEAD + "  model:\n    parameters:\n      residual_scale: {values: [0.1, [0.1, 0.2]]}\n", "sweep.yaml:5:38: model.residual_scale:"),
        (HEAD + "  data:\n    parameters:\n      name: {value: digts}\n", "data.name: found 'digts'; did you mean 'digits'?"),
        (HEAD + "  model:\n    parameters:\n      name: {value: inception_resnet_v3}\n", "did you mean 'inception_resnet_v2'?"),
        (HEAD + "  optim:\n    parameters:\n      name: {value: rmsprop}\n", "did you mean 'rmsprop_tf'?"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_its_place_and_what_is_allowed(text: str, message: str) -> None:
    found = problems(text)
    assert any(message in problem for problem in found), found
    assert len(found) == 1, found


def test_all_problems_at_once_each_once() -> None:
    text = (
        HEAD
        + "  sede: {values: [1, 2]}\n  model:\n    parameters:\n      width: {values: [0, -1, 1.0]}\n      name: {value: x}\n"
    )
    found = problems(text)
    assert len(found) == 4
    places = ["sweep.yaml:3:3", "sweep.yaml:6:24", "sweep.yaml:6:27", "sweep.yaml:7:14"]
    assert sorted(problem.split(": ")[0] for problem in found) == places


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (HEAD + "  seed: {min: 0, max: 1_000_000}\n", 1_000_001),
        (HEAD + "  seed: {min: 0, max: 3_000_000_000}\n  model: {parameters: {width: {values: [1.0, 0.5]}}}\n", 6_000_000_002),
        (HEAD + "  optim: {parameters: {lr: {distribution: q_uniform, min: 0.1, max: 1, q: 1.0e-12}}}\n", 900_000_000_000),
        (HEAD + "  optim: {parameters: {lr: {distribution: q_uniform, min: 0.1, max: 1, q: 5.0e-324}}}\n", 10**15),
        ("run_cap: 200_000\n" + HEAD + "  seed: {min: 0, max: 3_000_000_000}\n", 200_000),
        ("run_cap: 1_000_000_000\nmethod: random\nparameters: {seed: {min: 0, max: 9}}\n", 1_000_000_000),
    ],
)  # fmt: skip
def test_runs_are_counted_before_they_are_listed(text: str, runs: int) -> None:
    (found,) = problems(text)
    assert f": {runs} runs; at most 100000: set run_cap" in found


def test_a_cap_keeps_the_rest_of_a_grid_unlisted() -> None:
    head = f"run_cap: 2\n{HEAD}  seed: {{min: 5, max: 20_000_000_000}}\n"
    sweep = expand(head + "  model: {parameters: {width: {values: [1.0, 0.5]}}}\n", "s")
    assert [(config.seed, config.model.width) for config in sweep.configs] == [(5, 1.0), (5, 0.5)]


def test_a_range_of_unusable_values_is_one_problem() -> None:
    text = "method: random\nrun_cap: 100000\nparameters: {model: {parameters: {width: {min: -2.0, max: -1.0}}}}\n"
    (found,) = problems(text)
    assert "model.width: found -1." in found and "expected greater than 0" in found


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in RESULTS.glob("*/sweep.yaml")), ids=lambda path: path.name
)
def test_the_runs_of_committed_results_keep_their_ids(folder: Path) -> None:
    held = pq.read_table(folder / "index.parquet", columns=["run_id"])["run_id"].to_pylist()
    asked = {config.run_id for config in expand((folder / "sweep.yaml").read_text(), "sweep.yaml").configs}
    assert held and set(held) <= asked


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.parent.glob("experiments/**/*.yaml")), ids=lambda path: path.name
)
def test_every_experiment_expands_and_states_its_question(path: Path) -> None:
    text = path.read_text()
    assert expand(text, str(path)).configs
    header = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    for part in ("Question:", "Command:", "Runtime:", "Expected:"):
        assert part in header


SECTIONS = """
method: grid
parameters:
  optim:
    values:
      - {name: sgd, lr: 0.1}
      - {name: sgd, lr: 0.1, warmup: {name: gradual, lr: 0.01, steps: 20}}
      - {name: rmsprop_tf, lr: 0.1}
      - {name: rmsprop_tf, lr: 0.1, warmup: {name: gradual, lr: 0.01, steps: 20}}
  seed: {values: [0, 1]}
"""


def test_only_fields_that_the_file_sets_tell_its_runs_apart(tmp_path: Path) -> None:
    """The optimizers' defaults differ too, but they follow from the name."""
    sweep = expand(SECTIONS, "sections")
    assert sweep.varied == ("optim.name", "optim.warmup.name", "optim.warmup.lr", "optim.warmup.steps", "seed")
    options = [wandb_options(config, sweep, tmp_path, "offline") for config in sweep.configs]
    assert len({each.group for each in options if each is not None}) == 4


def test_a_name_that_is_cut_stays_another_than_its_neighbours() -> None:
    first, second = "a" * 200 + "1", "a" * 200 + "2"
    assert distinct("short", 100) == "short"
    assert len(distinct(first, 100)) == 100 and distinct(first, 100) != distinct(second, 100)


DOTTED = """
method: grid
parameters:
  model.width: {value: 0.5}
  optim.lr: {values: [0.1, 0.2]}
  optim.warmup: {parameters: {name: {value: constant}, lr: {value: 0.01}, steps: {value: 9}}}
"""


def test_fields_may_be_dotted_as_on_the_command_line() -> None:
    sweep = expand(DOTTED, "dotted")
    assert sweep.varied == ("optim.lr",)
    assert [(config.optim.lr, config.model.width, config.optim.warmup.steps) for config in sweep.configs] == [
        (0.1, 0.5, 9),
        (0.2, 0.5, 9),
    ]


def test_a_field_that_is_given_twice_is_refused_at_its_second_place() -> None:
    with pytest.raises(InputError) as error:
        expand(DOTTED + "  optim: {parameters: {lr: {value: 1.0}}}\n", "dotted")
    assert error.value.problems == ["dotted:7:24: optim.lr: given twice"]


def test_a_run_takes_dotted_keys_as_an_agent_hands_them_over(tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_text(
        '{"optim.lr": 0.5, "model": {"width": 0.25}, "optim.warmup.name": "constant", "optim.warmup.lr": 0.1, "optim.warmup.steps": 3}'
    )
    config = resolve([str(file), "model.width=0.5"])
    assert (config.optim.lr, config.model.width, config.optim.warmup.steps) == (0.5, 0.5, 3)
    file.write_text('{"optim.lr": "x", "optim": {"name": "sgd"}, "optim.name": "adam"}')
    with pytest.raises(InputError) as error:
        resolve([str(file)])
    assert error.value.problems == [f"{file}:1:45: optim.name: given twice"]
    file.write_text('{"optim.lr": "x"}')
    with pytest.raises(InputError) as error:
        resolve([str(file)])
    assert error.value.problems[0].startswith(f"{file}:1:2: optim.lr: found 'x'") or "1:14" in error.value.problems[0]


def test_a_sweep_without_a_name_has_its_files_and_keeps_it_in_its_folder(tmp_path: Path) -> None:
    text = DOTTED.lstrip()
    assert expand(text, "studies/wide.yaml").name == "wide"
    assert expand(text + "name: mine\n", "studies/wide.yaml").name == "mine"
    out = tmp_path / "wide"
    out.mkdir()
    (out / "sweep.yaml").write_text(text)
    assert sweep_of(out).name == "wide"
