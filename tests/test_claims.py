"""Each claim's rule in worlds where its answer is known, on the runs that its own sweep files list."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims import CLAIMS, Claim, judge, scoreboard
from analysis.figures import style
from analysis.frames.load import STEPS
from analysis.frames.results import Results, read, read_all, write_compact
from analysis.report import findings
from harness import store
from harness.cli import main
from harness.config import RunConfig
from harness.located import InputError
from harness.optim.stability import threshold
from harness.sweep.expand import expand
from harness.sweep.work import Task, work
from tests.analysis_folders import config, died, survived, write_run

SWEEPS = Path(__file__).resolve().parent.parent / "experiments" / "claims"
NAMED = {claim.name: claim for claim in CLAIMS}
Fate = Callable[[RunConfig], str | int]
"""What becomes of a run: "survived", "diverged", or the step at which it dies (0: never seen alive)."""


@cache
def planned(sweep: str) -> tuple[RunConfig, ...]:
    path = SWEEPS / f"{sweep}.yaml"
    return expand(path.read_text(), str(path)).configs


@cache
def indexed(sweep: str) -> tuple[tuple[RunConfig, store.Row], ...]:
    """The runs of a sweep, each with its row of the index before anything is known of it."""
    return tuple(
        (run, store.index_row(store.RunDirectory(Path("nowhere") / run.run_id), run)) for run in planned(sweep)
    )


def world(
    claim: Claim, fate: Fate, more: Callable[[RunConfig], Mapping[str, Any]] = lambda _: {}
) -> dict[str, Results]:
    """The results of a claim's sweeps in which every run ends as `fate` says, with `more` columns."""
    return {name: results(name, fate, more) for name in claim.sweeps}


def results(sweep: str, fate: Fate, more: Callable[[RunConfig], Mapping[str, Any]] = lambda _: {}) -> Results:
    lines = []
    for run, row in indexed(sweep):
        end, last = fate(run), run.train.steps
        line = row | {"state": "finished", "outcome": end, "outcome_step": last, "outcome_last_live_step": last}
        line |= {
            "last_step": last,
            "prepool/units": round((run.model.width or 1) * (run.model.trunk_width or 1) * 2144),
        }
        line |= {"val/accuracy": 0.9 if end == "survived" else 0.1, "prepool/dead_share_probe": end != "survived"}
        if isinstance(end, int):
            line |= {"outcome": "died", "outcome_step": end, "outcome_last_live_step": end - 10 if end else None}
            line |= {"collapsed_step": end, "last_step": end + 20 if run.train.stop_at_death else last}
        lines.append(line | dict(more(run)))
    runs = pd.DataFrame(lines).astype(dict.fromkeys(STEPS, "Int64"))
    rows = pd.DataFrame({"run_id": runs["run_id"], "step": 0, "prepool/dead_share_batch": 0.1, "train/loss": 2.3})
    return Results(sweep, SWEEPS, runs, rows)


def verdict(name: str, fate: Fate, more: Callable[[RunConfig], Mapping[str, Any]] = lambda _: {}) -> str:
    [finding] = judge([NAMED[name]], world(NAMED[name], fate, more))
    return finding.verdict


def unscaled(run: RunConfig) -> bool:
    return run.model.residual_scale in (1.0, None)


def if_(kills: Callable[[RunConfig], bool], step: int = 50) -> Fate:
    return lambda run: step if kills(run) else "survived"


def late(run: RunConfig) -> bool:
    return run.optim.replicas > 2


def remedy(run: RunConfig) -> bool:
    return run.optim.lr < 0.045 or run.optim.warmup.name != "none" or run.model.batch_norm == "pre_pool"


def norm(run: RunConfig) -> str:
    return run.model.batch_norm if unscaled(run) else "scaled"


def warm(run: RunConfig) -> bool:
    return run.optim.warmup.lr != run.optim.lr


def rms(run: RunConfig) -> bool:
    return run.optim.name.startswith("rmsprop") and run.optim.eps == 1


def at_full_rate(run: RunConfig) -> bool:
    return unscaled(run) and run.optim.lr >= 0.04


def some(share: float, run: RunConfig) -> bool:
    """Whether a run is among a share of all, spread evenly over the seeds."""
    return (run.seed * 0.618) % 1 < share


CASES: list[tuple[str, str, Fate]] = [
    ("C1a", "holds", if_(lambda run: unscaled(run) and run.model.width > 0.05)),
    ("C1a", "does not hold", if_(lambda run: unscaled(run) and run.model.width < 0.1)),
    ("C1a", "undecided", if_(lambda run: some(0.3, run))),
    ("C1b", "holds", if_(unscaled)),
    ("C1b", "does not hold", if_(lambda run: unscaled(run) or (run.model.residual_scale == 0.3 and some(0.4, run)))),
    ("C1b", "undecided", if_(lambda run: unscaled(run) or (run.model.residual_scale == 0.3 and run.seed == 20))),
    ("C1b", "undecided", lambda _: "survived"),
    ("C2a", "holds", if_(unscaled)),
    ("C2a", "does not hold", if_(unscaled, step=0)),
    ("C2a", "undecided", if_(lambda run: unscaled(run) and run.seed == 20)),
    ("C2b", "holds", if_(unscaled)),
    ("C2b", "undecided", lambda _: "survived"),
    ("C3", "holds", lambda run: round(12 / run.optim.lr)),
    ("C3", "does not hold", if_(at_full_rate)),
    ("C3", "undecided", lambda _: 50),
    ("C4a", "holds", if_(lambda run: norm(run) in ("paper", "pre_pool"))),
    ("C4a", "does not hold", if_(lambda run: norm(run) == "paper")),
    ("C4a", "undecided", if_(lambda run: norm(run) == "paper" or (norm(run) == "pre_pool" and some(0.5, run)))),
    ("C4b", "holds", if_(lambda run: norm(run) == "paper")),
    ("C4b", "does not hold", if_(lambda run: norm(run) == "branch_output")),
    ("C4c", "undecided", lambda _: "survived"),
    ("C5", "holds", lambda run: 150 if warm(run) else 50),
    ("C5", "does not hold", if_(lambda run: not warm(run))),
    ("C5", "undecided", lambda run: 150 if not warm(run) or some(0.6, run) else "survived"),
    ("C8", "holds", if_(lambda run: run.model.up_projection_bias == "on")),
    ("C8", "does not hold", lambda run: 50 + 10 * (run.seed % 3)),
    ("C8", "undecided", lambda run: 10 if some(0.2, run) else "survived"),
    ("C10a", "holds", if_(unscaled)),
    ("C10a", "does not hold", if_(lambda run: unscaled(run) and rms(run))),
    ("C10a", "undecided", lambda _: 50),
    ("C10b", "holds", if_(lambda run: run.optim.clip_norm is None and unscaled(run))),
    ("C10b", "does not hold", if_(unscaled)),
    ("C10b", "undecided", if_(lambda run: unscaled(run) and some(0.5, run))),
    ("C11a", "holds", if_(lambda run: run.model.name != "inception_v4")),
    ("C11a", "does not hold", lambda _: 50),
    ("C11a", "undecided", if_(lambda run: run.model.name != "inception_v4" or run.seed < 24)),
    ("C12", "holds", if_(lambda run: run.model.trunk_width > 0.3)),
    ("C12", "does not hold", if_(lambda run: run.model.branch_width > 10)),
    ("C12", "undecided", if_(lambda run: run.model.branch_width > 10 and run.model.trunk_width > 0.3)),
    ("C12", "undecided", if_(lambda run: some(0.5, run))),
    ("C15", "holds", if_(lambda run: unscaled(run) and late(run))),
    ("C15", "holds", if_(lambda run: unscaled(run) and run.optim.replicas == 20)),
    ("C15", "does not hold", if_(late)),
    ("C15", "does not hold", if_(unscaled)),
    ("C15", "does not hold", lambda _: "survived"),
    ("C15", "undecided", if_(lambda run: unscaled(run) and late(run) and some(0.5, run))),
    *((f"C17{part}", "holds", if_(unscaled)) for part in "abc"),
    *((f"C17{part}", "does not hold", if_(lambda run: unscaled(run) and not remedy(run))) for part in "abc"),
    *((f"C17{part}", "undecided", if_(lambda run: unscaled(run) and some(0.5, run))) for part in "abc"),
]


@pytest.mark.parametrize(("name", "expected", "fate"), CASES, ids=[f"{name}-{word}" for name, word, _ in CASES])
def test_a_claim_about_outcomes(name: str, expected: str, fate: Fate) -> None:
    switch = {"optim/switch_step": 60}
    assert verdict(name, fate, lambda _: switch) == expected


def test_a_revival_speaks_against_death_for_good() -> None:
    assert (
        verdict("C2b", if_(unscaled), lambda run: {"revival_step": 200 if some(0.5, run) else None}) == "does not hold"
    )


def test_a_warm_up_that_never_ended_is_left_out() -> None:
    claim = NAMED["C5"]
    two_phase = "warmup_two_phase"
    found = world(claim, lambda run: 150, lambda run: {"optim/switch_step": 60 if run.seed < 26 else None})
    [finding] = judge([claim], found)
    assert finding.judgement is not None and "In 7 runs the two-phase warm-up never ended" in finding.why
    assert dict(finding.judgement.arms)["two-phase, 0.0045"].n == 6
    assert len(planned(two_phase)) == 13


@pytest.mark.parametrize("name", ["C4b", "C5", "C10b"])
def test_what_keeps_nets_from_death_and_from_learning_is_no_cure(name: str) -> None:
    """Nets with the remedy are neither lost nor above half of their images right."""

    def fate(run: RunConfig) -> str | int:
        bare = {"C4b": norm(run) == "paper", "C5": not warm(run), "C10b": run.optim.clip_norm is None}[name]
        return 50 if bare and unscaled(run) else "survived"

    def poor(run: RunConfig) -> dict[str, float]:
        return {"val/accuracy": 0.3, "optim/switch_step": 60}

    assert verdict(name, fate, lambda _: {"optim/switch_step": 60}) != "undecided"
    assert verdict(name, fate, poor) == "undecided"


def noise(run: RunConfig, size: float) -> float:
    return size * float(np.random.default_rng(run.seed + 1000 * unscaled(run)).standard_normal())


@pytest.mark.parametrize(
    ("harm", "expected"), [(0.0, "holds"), (0.02, "holds"), (0.05, "undecided"), (0.12, "does not hold")]
)
def test_harm_is_judged_against_the_margin(harm: float, expected: str) -> None:
    def accuracy(run: RunConfig) -> dict[str, float]:
        return {"val/accuracy": 0.85 - (0 if unscaled(run) else harm) + noise(run, 0.015)}

    assert verdict("C6", lambda _: "survived", accuracy) == expected
    [finding] = judge([NAMED["C6"]], world(NAMED["C6"], if_(lambda run: unscaled(run) and run.seed == 23), accuracy))
    assert finding.verdict == "undecided", "some unscaled net is lost: scaling may have been needed"


@pytest.mark.parametrize(
    ("slower", "gain", "expected"),
    [(1.2, 0.0, "holds"), (0.8, 0.0, "does not hold"), (1.2, 0.2, "does not hold"), (1.0, 0.0, "undecided")],
)
def test_batch_norm_on_the_sums_costs_time_for_no_gain(slower: float, gain: float, expected: str) -> None:
    def readings(run: RunConfig) -> dict[str, float]:
        treated = run.model.batch_norm == "after_sum"
        step = 0.03 * (slower if treated else 1) * (1 + noise(run, 0.02) + 0.02 * treated * (-1) ** run.seed)
        accuracy = 0.85 + gain * treated + 0.01 * np.sin(run.seed + treated)
        return {"val/accuracy": accuracy, "time/elapsed": step * (run.train.steps or 0), "time/check": 0.0,
                "time/probe": 0.0}  # fmt: skip

    assert verdict("C14", lambda _: "survived", readings) == expected


def losses(found: Results, loss: Callable[[RunConfig, int], float], steps: int = 12) -> Results:
    rows = [
        {"run_id": run.run_id, "step": step, "train/loss": loss(run, step)}
        for run in planned(found.name)
        for step in range(steps)
    ]
    return Results(found.name, found.folder, found.runs, pd.DataFrame(rows))


@pytest.mark.parametrize(("difference", "expected"), [(0.3, "holds"), (-0.3, "does not hold"), (0.0, "undecided")])
def test_who_trains_faster(difference: float, expected: str) -> None:
    def loss(run: RunConfig, step: int) -> float:
        return 2 - 0.1 * step + difference * (run.model.name == "inception_v4") + noise(run, 0.1)

    claim = NAMED["C11b"]
    found = world(claim, lambda _: "survived", lambda _: {"val/accuracy": 0.8})
    [finding] = judge([claim], {name: losses(each, loss) for name, each in found.items()})
    assert finding.verdict == expected


@pytest.mark.parametrize(
    ("off", "mimics_die", "expected"),
    [(1e-6, False, "holds"), (1e-2, False, "does not hold"), (1e-6, True, "does not hold")],
)
def test_a_mimic_has_the_losses_and_the_fate_of_what_it_mimics(off: float, mimics_die: bool, expected: str) -> None:
    claim = NAMED["C9"]

    def mimic(run: RunConfig) -> bool:
        return run.model.up_projection_init == 0.1

    def loss(run: RunConfig, step: int) -> float:
        return (2 - 0.1 * step + 0.5 * (unscaled(run) and not mimic(run))) * (1 + off * mimic(run))

    found = world(claim, if_(lambda run: mimics_die if mimic(run) else unscaled(run)))
    [finding] = judge([claim], {name: losses(each, loss) for name, each in found.items()})
    assert finding.verdict == expected


@pytest.mark.parametrize(("power", "expected"), [(1.0, "holds"), (0.3, "does not hold")])
def test_linear_growth(power: float, expected: str) -> None:
    claim = NAMED["C7"]
    found = results("variance", lambda _: "survived")
    rows = []
    for run in planned("variance"):
        row: dict[str, Any] = {"run_id": run.run_id, "step": 0}
        alpha, grown = float(run.model.residual_scale), 1.0  # type: ignore[arg-type]
        for block in range(24):
            place = block % 8
            wobble = 1 + 0.01 * np.sin(run.seed + block)
            start = 1.0
            grown = start + wobble * alpha**2 * (place + 1) ** power
            before = start if place == 0 else start + alpha**2 * place**power
            row |= {f"block/b{block + 1:02}/skip/channel_variance": before, f"block/b{block + 1:02}/sum/channel_variance": grown}  # fmt: skip
        rows.append(row)
    [finding] = judge([claim], {"variance": Results("variance", SWEEPS, found.runs, pd.DataFrame(rows))})
    assert finding.verdict == expected


def critical(power: float) -> Fate:
    """Nets of curvature 2.5 that are lost beyond the threshold of linear stability to some power."""

    def fate(run: RunConfig) -> str | int:
        limit = 0.4 * threshold(run.optim.momentum or 0.0, run.optim.replicas - 1) ** power
        return 50 if run.optim.lr > limit * np.exp(noise(run, 0.2)) else "survived"

    return fate


@pytest.mark.parametrize(("name", "power", "expected"), [("C16b", 1.0, "holds"), ("C16b", 0.3, "does not hold")])
def test_critical_rates_are_held_against_linear_stability(name: str, power: float, expected: str) -> None:
    [finding] = judge([NAMED[name]], world(NAMED[name], critical(power)))
    assert finding.verdict == expected, finding.judgement
    assert finding.judgement is not None and len(finding.judgement.arms) == 6


@pytest.mark.parametrize(("power", "expected"), [(1.0, "holds"), (-1.0, "does not hold"), (0.0, "undecided")])
def test_the_dead_share_is_held_against_the_width_rate_by_rate(power: float, expected: str) -> None:
    def dead_share(run: RunConfig) -> dict[str, float]:
        share = 0.3 * (8 * (run.model.width or 1)) ** power * (run.optim.lr / 0.008) * np.exp(noise(run, 0.3))
        return {"prepool/dead_share_probe": min(1.0, share), "val/accuracy": 0.9 if share < 0.5 else 0.1}

    assert verdict("C18", lambda _: "survived", dead_share) == expected


def test_a_synchronous_net_that_dies_early_breaks_the_law() -> None:
    def fate(run: RunConfig) -> str | int:
        return critical(1.0)(run) if run.optim.replicas > 1 else 50 if run.optim.lr > 0.13 else "survived"

    [finding] = judge([NAMED["C16a"]], world(NAMED["C16a"], fate))
    assert finding.verdict == "does not hold"
    assert "Without the synchronous runs: exponent 1" in finding.why or "exponent 0.9" in finding.why


def with_margins(
    crosses: Callable[[RunConfig], int | None], sharpness: Callable[[RunConfig], float] = lambda _: 1.0
) -> dict[str, Results]:
    """Half of the unscaled nets are lost, their death having begun at step 40; `crosses` gives where the margin is."""

    def fate(run: RunConfig) -> str | int:
        return 60 if unscaled(run) and run.seed % 2 else "survived"

    found = results("stability_margin", fate)
    rows = [
        {
            "run_id": run.run_id,
            "step": step,
            "prepool/dead_share_batch": 0.9 if step >= 40 and fate(run) == 60 else 0.1,
            "curvature/margin": 1.5 if (at := crosses(run)) is not None and step >= at else 0.5,
            "curvature/sharpness": sharpness(run) * np.exp(noise(run, 0.2)),
        }
        for run in planned("stability_margin")
        for step in range(0, 151, 10)
    ]
    return {"stability_margin": Results("stability_margin", SWEEPS, found.runs, pd.DataFrame(rows))}


def lost_net(run: RunConfig) -> bool:
    return unscaled(run) and bool(run.seed % 2)


@pytest.mark.parametrize(
    ("crosses", "expected"),
    [
        (lambda run: 20 if lost_net(run) else None, "holds"),
        (lambda run: 40 if lost_net(run) else None, "holds"),
        (lambda run: 50 if lost_net(run) else None, "does not hold"),
        (lambda run: 20, "does not hold"),
        (lambda run: None, "does not hold"),
        (lambda run: 20 if lost_net(run) and run.seed < 3 else None, "undecided"),
    ],
    ids=["before", "as it begins", "after", "in every net", "in none", "in a third"],
)
def test_a_margin_is_held_against_where_death_begins(crosses: Callable[[RunConfig], int | None], expected: str) -> None:
    [finding] = judge([NAMED["C19a"]], with_margins(crosses))
    assert finding.verdict == expected, finding.judgement


@pytest.mark.parametrize(("power", "expected"), [(1, "holds"), (0, "undecided"), (-1, "does not hold")])
def test_sharpness_is_compared_between_scales_in_pairs(power: int, expected: str) -> None:
    def sharpness(run: RunConfig) -> float:
        return (1.0 if unscaled(run) else 0.1) ** power * (1 + run.optim.replicas)

    [finding] = judge([NAMED["C19b"]], with_margins(lambda _: None, sharpness))
    assert finding.verdict == expected
    assert finding.judgement is not None and finding.judgement.effect.value == pytest.approx(0.1**power, rel=0.2)


def test_a_dose_must_sort_better_than_what_is_simpler() -> None:
    def by(score: Callable[[RunConfig], float]) -> str:
        middle = float(np.median([score(run) for run in planned("dose")]))
        return verdict("C20", lambda run: 50 if score(run) * np.exp(noise(run, 0.3)) > middle else "survived")

    def dose(run: RunConfig) -> float:
        scale = run.model.residual_scale
        assert isinstance(scale, float)
        inside = scale * run.model.branch_width / run.model.trunk_width
        return float(run.optim.lr / (1 - (run.optim.momentum or 0)) * np.sqrt(inside))

    assert by(dose) == "holds"
    assert by(lambda run: run.optim.lr) == "does not hold"
    assert by(lambda run: noise(run, 1.0)) == "undecided"


@pytest.mark.slow
def test_foretelling_beats_the_configuration_where_a_reading_knows_more() -> None:
    claim = NAMED["C13"]

    def fate(run: RunConfig) -> str | int:
        return 100 if some(0.5, run) else "survived"

    found = results("filters", fate)
    known = {run.run_id: isinstance(fate(run), int) for run in planned("filters")}
    rows = pd.DataFrame(
        {"run_id": run, "step": step, "train/loss": 2.3 - 0.01 * step * (1 - known[run]) + 0.001 * (place % 7)}
        for place, run in enumerate(found.runs["run_id"])
        for step in (0, 10, 20)
    )
    [finding] = judge([claim], {"filters": Results("filters", SWEEPS, found.runs, rows)})
    assert finding.verdict == "holds"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
@pytest.mark.parametrize("seeds", [0, 1])
def test_a_sweep_that_is_hardly_begun_decides_nothing_and_breaks_nothing(claim: Claim, seeds: int) -> None:
    first = min(run.seed for sweep in claim.sweeps for run in planned(sweep))
    state = {True: "finished", False: "pending"}
    found = world(claim, lambda _: "survived", lambda run: {"state": state[run.seed < first + seeds]})
    [finding] = judge([claim], found)
    assert finding.verdict == "undecided"
    assert seeds or "Not judged" in finding.why
    assert list(scoreboard.lines([finding])) and json.dumps(scoreboard.as_dicts([finding]), allow_nan=False)


# -- the scoreboard ----------------------------------------------------------------------------------------------------


def test_every_claim_of_the_table_is_there_with_its_rule_and_its_sweeps() -> None:
    assert {int(claim.name[1:].rstrip("abc")) for claim in CLAIMS} == set(range(1, 21))
    for claim in CLAIMS:
        assert claim.words and claim.rule and claim.statistic
        for sweep in claim.sweeps:
            text = (SWEEPS / f"{sweep}.yaml").read_text()
            assert f"harness sweep experiments/claims/{sweep}.yaml" in text and f"\nname: {sweep}\n" in text
            assert claim.name.rstrip("abc") in " ".join(text.splitlines()[:3]), (claim.name, sweep)


def test_a_sweep_that_is_missing_leaves_a_claim_undecided_and_says_what_would_decide_it() -> None:
    [finding] = judge([NAMED["C5"]], {"warmup": results("warmup", lambda _: 150)})
    assert finding.verdict == "undecided"
    assert finding.why == "Not judged: needs `harness sweep experiments/claims/warmup_two_phase.yaml`."


def test_what_is_near_neither_side_of_a_rule_names_no_number_of_runs() -> None:
    """Few nets are lost with a batch-norm, and few learn: neither does it persist nor is it prevented."""
    between = lambda run: 60 if norm(run) == "paper" or some(0.3, run) else "survived"  # noqa: E731
    [finding] = judge([NAMED["C4c"]], world(NAMED["C4c"], between, lambda run: {"val/accuracy": 0.2}))
    assert finding.verdict == "undecided" and "near neither side of the rule" in finding.why
    half = lambda run: 60 if norm(run) == "paper" or some(0.6, run) else "survived"  # noqa: E731
    [finding] = judge([NAMED["C4c"]], world(NAMED["C4c"], half, lambda run: {"val/accuracy": 0.2}))
    assert finding.verdict == "undecided" and "takes about" in finding.why


def test_p_values_are_corrected_over_all_claims_that_have_one() -> None:
    weak = world(NAMED["C8"], lambda run: 60 if run.model.up_projection_bias == "on" or some(0.75, run) else "survived")
    [alone] = judge([NAMED["C8"]], weak)
    others = [NAMED["C3"], NAMED["C4b"], NAMED["C4c"], NAMED["C10b"], NAMED["C12"]]
    every = {name: each for claim in others for name, each in world(claim, lambda _: 60).items()}
    [among, *rest] = judge([NAMED["C8"], *others], every | weak)
    assert alone.judgement is not None and alone.adjusted == alone.judgement.p
    assert among.adjusted > alone.adjusted and len(rest) == len(others)


def test_the_board_as_a_table_and_as_plain_values() -> None:
    found = judge(CLAIMS, world(NAMED["C4a"], if_(lambda run: norm(run) in ("paper", "pre_pool"))))
    table = scoreboard.markdown(found)
    assert table.count("\n") == len(CLAIMS) + 2
    [line] = [line for line in table.splitlines() if line.startswith("| C4a ")]
    assert "| holds |" in line and "(" in line
    plain = {line["claim"]: line for line in json.loads(json.dumps(scoreboard.as_dicts(found), allow_nan=False))}
    assert plain["C4a"]["arms"][0] == {"arm": "with it, scale 1", "value": 1.0, "low": pytest.approx(0.794, abs=0.001),
                                       "high": 1.0, "n": 13, "unit": "runs", "level": 0.9}  # fmt: skip
    assert plain["C5"]["missing"] == ["warmup", "warmup_two_phase"]


THREE = """
name: three
method: grid
parameters:
  model: {parameters: {width: {value: 0.125}, repeats: {value: [2, 4, 2]}, residual_scale: {value: 1.0}}}
  optim: {parameters: {lr: {value: 0.5}}}
  train: {parameters: {steps: {value: 200}}}
  seed: {values: [0, 1, 2]}
"""
"""The sweep of the runs in `folder`."""


# -- where results come from -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    for seed in range(3):
        write_run(out, config(seed=seed), died(50))
    store.write_sweep_text(out, "name: three\nmethod: grid\n")
    return out


def test_compact_results_say_what_the_folder_says(folder: Path, tmp_path: Path) -> None:
    whole = read(folder)
    write_compact(whole, tmp_path / "compact", ["train/loss", "no/such_metric"])
    small = read(tmp_path / "compact")
    assert small.name == whole.name == "three"
    pd.testing.assert_frame_equal(small.runs, whole.runs, check_dtype=False)
    assert list(small.rows) == ["run_id", "step", "train/loss"]
    np.testing.assert_allclose(small.rows["train/loss"], whole.rows["train/loss"], rtol=1e-6)


def test_the_same_sweep_twice_and_folders_without_runs_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        read_all([folder, folder, tmp_path / "empty", tmp_path / "gone"])
    assert len(error.value.problems) == 3
    assert "three" in error.value.problems[0]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("index.parquet", b"PAR1", "cannot be read"),
        ("index.parquet", None, "its columns are not those of an index; state"),
        ("sweep.yaml", b"- 1", "found a list at the top"),
    ],
)
def test_damaged_compact_results_are_named(
    file: str, content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dose"
    shutil.copytree(findings.RESULTS / "dose", folder)
    (folder / file).write_bytes((folder / "rows.parquet").read_bytes() if content is None else content)
    assert main(["claims", str(folder)]) == 2
    assert words in capsys.readouterr().err


def test_runs_of_another_sweep_are_left_out_and_counted(folder: Path) -> None:
    write_run(folder, config(seed=7), survived())
    with pytest.warns(UserWarning, match="1 runs of another sweep left out"):
        found = read(folder, [config(seed=seed) for seed in range(3)])
    assert sorted(found.runs["seed"]) == [0, 1, 2]
    assert set(found.rows["run_id"]) == set(found.runs["run_id"])


def test_the_command_prints_every_claim_and_names_a_folder_it_cannot_use(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_sweep_text(folder, THREE)
    assert main(["claims", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(CLAIMS)
    assert main(["claims", str(tmp_path / "gone")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("not a folder")
    assert main(["claims", str(tmp_path / "file")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["claims", str(folder), "--save", str(tmp_path / "file" / "below")]) == 2
    assert "cannot be written" in capsys.readouterr().err


# -- what is committed -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_scoreboard_of_the_readme_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", *map(str, sorted(findings.RESULTS.iterdir())), "--markdown"]) == 0
    table = capsys.readouterr().out
    for page in findings.PAGES:
        text = page.read_text()
        assert findings.with_scoreboard(text, table, str(page)) == text


@pytest.mark.parametrize("sweep", sorted(findings.RESULTS.glob("*/sweep.yaml")), ids=lambda sweep: sweep.parent.name)
def test_committed_results_are_of_the_sweep_that_is_committed(sweep: Path) -> None:
    folder = sweep.parent
    results = read(folder)
    path = SWEEPS / f"{folder.name}.yaml"
    file = path if path.exists() else SWEEPS.parent / f"{folder.name}.yaml"
    runs = expand(file.read_text(), str(file)).configs
    assert results.name == folder.name
    assert sorted(results.runs["run_id"]) == sorted(run.run_id for run in runs)
    assert (results.runs["state"] == "finished").all()


@pytest.mark.parametrize("claim", CLAIMS, ids=attrgetter("name"))
def test_a_rule_stands_in_history_before_its_sweeps_were_run(claim: Claim) -> None:
    """At the revision that trained the runs, the function that judges them was what it is."""
    judge_of = claim.judge.func if isinstance(claim.judge, partial) else claim.judge
    now = inspect.getsource(judge_of)
    root = SWEEPS.parent.parent
    file = Path(inspect.getfile(judge_of)).relative_to(root)

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)

    told = [
        each
        for sweep in claim.sweeps
        if (findings.RESULTS / sweep).exists()
        for each in json.loads((findings.RESULTS / sweep / "provenance.json").read_text())
    ]
    for revision in {each["git_revision"] for each in told}:
        assert not revision.endswith("+changes"), "trained by code that nobody can look up"
        if git("cat-file", "-e", f"{revision}^{{commit}}").returncode:
            pytest.skip("a checkout without its history")
        assert now in git("show", f"{revision}:{file.as_posix()}").stdout, revision


def test_make_claims_runs_every_sweep_of_the_claims() -> None:
    [listed] = re.findall(
        r"^CLAIMS := (.*?)\n\n", (SWEEPS.parent.parent / "Makefile").read_text(), re.DOTALL | re.MULTILINE
    )
    assert sorted(listed.replace("\\", "").split()) == sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def test_figures_and_pages_are_redrawn_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(findings, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(findings, "PAGES", (tmp_path / "PAGE.md",))
    shutil.copytree(SWEEPS.parent / "results" / "replicas_width", tmp_path / "results" / "replicas_width")
    (tmp_path / "PAGE.md").write_text(f"before\n{findings.OPENING}\nold\n{findings.CLOSING}\nafter\n")
    assert findings.main() == 0
    text = (tmp_path / "PAGE.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text and "| C18 |" in text
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["claim_C18.png"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("RESULTS", "no such folder; the claims' results are in a checkout"),
        ("PAGES", "a checkout of the repository has it"),
    ],
)
def test_without_a_checkout_nothing_is_redrawn_and_what_is_missing_is_named(
    missing: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(findings, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(findings, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(findings, "PAGES", (tmp_path / "PAGE.md",))
    if missing == "PAGES":
        shutil.copytree(SWEEPS.parent / "results" / "dose", tmp_path / "results" / "dose")
    assert findings.main() == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


RETRAINED = (("filters", "died"), ("filters", "survived"), ("replicas", "died"), ("replicas", "survived"))
"""A sweep, and the outcome of the run of it that is trained again: the one that died first, or survived at the smallest scale;
of one with replicas a run with more than one."""


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "end"), RETRAINED)
def test_a_committed_run_trained_again_ends_the_same_way(sweep: str, end: str, tmp_path: Path) -> None:
    results = read(findings.RESULTS / sweep)
    runs = results.runs[results.runs["outcome"] == end]
    delayed = runs["optim.replicas"] > 1
    runs = runs[delayed] if delayed.any() else runs
    line = runs.sort_values(["outcome_step", "model.residual_scale", "prepool/dead_share_probe", "run_id"]).iloc[0]
    [run] = [each for each in planned(sweep) if each.run_id == line["run_id"]]
    report = work(Task(run, tmp_path / run.run_id, "test", None))
    assert report.outcome is not None and report.outcome.outcome == end, report.message
    # Another processor, torch or revision rounds otherwise, and training is chaotic.
    assert abs(report.outcome.step - line["outcome_step"]) <= 60


@pytest.mark.parametrize(("claim", "words"), [("C1a", "were lost"), ("C13", "got lost")])
def test_a_figure_of_lost_nets_calls_them_lost_and_not_dead(claim: str, words: str) -> None:
    committed = findings.committed()
    figure = NAMED[claim].draw(committed)  # type: ignore[misc]
    caption = style.caption_of(figure)
    assert words in caption and "Died: every" not in caption
