"""Died, collapsed, diverged, survived: the definitions of experiments/QUESTION.md, check by check."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.outcome import CONSECUTIVE, SCREEN, SPAN, Detector

ALIVE, DEAD, INERT = (False, False), (True, True), (False, True)


def watch(checks: dict[int, tuple[bool, bool]], event: str = "died") -> Detector:
    detector = Detector(event=event)  # type: ignore[arg-type]
    for step, (dead, inert) in checks.items():
        detector.see(step, dead=dead, inert=inert)
    return detector


def test_the_definition_is_fixed() -> None:
    assert (CONSECUTIVE, SPAN, SCREEN) == (3, 20, 0.9)


def test_three_dead_checks_that_span_twenty_steps_are_death_at_the_first() -> None:
    outcome = watch({0: ALIVE, 10: ALIVE, 20: DEAD, 30: DEAD, 40: DEAD}).outcome(40)
    assert (outcome.outcome, outcome.step, outcome.last_live_step) == ("died", 20, 10)


def test_three_dead_checks_that_span_less_are_not() -> None:
    detector = watch({0: ALIVE, 5: DEAD, 10: DEAD, 15: DEAD})
    assert not detector.happened
    detector.see(20, dead=True, inert=True)
    assert not detector.happened
    detector.see(25, dead=True, inert=True)
    assert detector.happened
    assert detector.outcome(25).step == 5


def test_two_dead_checks_are_not_even_when_they_span_enough() -> None:
    assert not watch({0: ALIVE, 50: DEAD, 100: DEAD}).happened
    assert not watch({0: DEAD, 50: DEAD}).happened, "nor those at the start"


def test_a_live_check_breaks_the_row() -> None:
    outcome = watch({0: ALIVE, 10: DEAD, 20: DEAD, 30: ALIVE, 40: DEAD, 50: DEAD, 60: DEAD}).outcome(60)
    assert (outcome.step, outcome.last_live_step) == (40, 30)


def test_dead_from_the_start_has_no_live_check() -> None:
    outcome = watch({0: DEAD, 10: DEAD, 20: DEAD}).outcome(20)
    assert (outcome.outcome, outcome.step, outcome.last_live_step) == ("died", 0, None)


def test_a_survivor_is_censored_at_its_last_step() -> None:
    outcome = watch({0: ALIVE, 10: ALIVE}).outcome(17)
    assert (outcome.outcome, outcome.step) == ("survived", 17)


def test_with_too_few_dead_checks_at_the_end_it_is_censored_at_the_last_live_one() -> None:
    outcome = watch({0: ALIVE, 10: ALIVE, 20: DEAD, 30: DEAD}).outcome(30)
    assert (outcome.outcome, outcome.step, outcome.last_live_step) == ("survived", 10, 10)
    never_alive = watch({0: DEAD, 10: DEAD}).outcome(10)
    assert (never_alive.outcome, never_alive.step, never_alive.last_live_step) == ("survived", 0, None)


def test_collapse_is_recorded_for_every_network_but_ends_only_its_own_kind() -> None:
    checks = {0: ALIVE, 10: INERT, 20: INERT, 30: INERT}
    relu_net = watch(checks)
    assert not relu_net.happened
    assert (relu_net.outcome(30).outcome, relu_net.outcome(30).collapsed_step) == ("survived", 10)
    norm_net = watch(checks, event="collapsed")
    assert norm_net.happened
    assert (norm_net.outcome(30).outcome, norm_net.outcome(30).step) == ("collapsed", 10)
    for net in (relu_net, norm_net):
        assert net.outcome(30).collapsed_last_live_step == 0
    alive = watch({0: ALIVE, 10: ALIVE}).outcome(10)
    assert (alive.collapsed_step, alive.collapsed_last_live_step) == (None, None)


def test_a_unit_alive_after_a_decided_death_is_a_revival() -> None:
    outcome = watch({0: ALIVE, 10: DEAD, 20: DEAD, 30: DEAD, 40: DEAD, 50: ALIVE}).outcome(50)
    assert (outcome.outcome, outcome.step, outcome.revival_step) == ("died", 10, 50)


def test_the_first_revival_counts_and_a_dead_check_is_none() -> None:
    detector = watch({0: ALIVE, 10: DEAD, 20: DEAD, 30: DEAD, 40: DEAD})
    assert detector.outcome(40).revival_step is None
    for step, (dead, inert) in {50: ALIVE, 60: DEAD, 70: ALIVE}.items():
        detector.see(step, dead=dead, inert=inert)
    assert detector.outcome(70).revival_step == 50


def test_divergence_competes_with_death() -> None:
    detector = watch({0: ALIVE, 10: DEAD, 20: DEAD})
    detector.see_divergence(24)
    detector.see_divergence(30)
    outcome = detector.outcome(30)
    assert (outcome.outcome, outcome.step, outcome.last_live_step) == ("diverged", 24, 20)


def test_what_diverges_before_its_first_check_was_never_seen_alive() -> None:
    detector = Detector(event="died")
    detector.see_divergence(1)
    assert (detector.outcome(1).step, detector.outcome(1).last_live_step) == (1, None)


@pytest.mark.parametrize(
    ("checks", "event", "reason"),
    [
        ({0: ALIVE, 10: DEAD, 20: DEAD, 30: DEAD}, "died", "all pre-pool units dead on the probe set from step 10 on"),
        ({0: ALIVE, 9: INERT, 20: INERT, 30: INERT}, "collapsed", "all pre-pool units inert on the probe set from step 9 on"),
        ({0: ALIVE, 10: DEAD, 20: DEAD}, "died", "too few checks since the first dead one at step 10; censored at the last live one"),
        ({0: ALIVE, 10: ALIVE}, "died", "alive at step 30"),
    ],
)  # fmt: skip
def test_an_outcome_says_why_in_one_sentence(checks: dict[int, tuple[bool, bool]], event: str, reason: str) -> None:
    outcome = watch(checks, event).outcome(30)
    assert outcome.reason == outcome.as_dict()["reason"] == reason
    assert outcome.noting("read by hand").reason == f"{reason}; read by hand"
    detector = watch({0: ALIVE})
    detector.see_divergence(7)
    assert detector.outcome(7).reason == "the loss or a parameter was not finite at step 7"


def test_a_decided_death_is_not_undone_by_a_later_divergence() -> None:
    detector = watch({0: ALIVE, 10: DEAD, 20: DEAD, 30: DEAD})
    detector.see_divergence(35)
    assert detector.outcome(35).outcome == "died"


@pytest.mark.parametrize("cut", range(6))
def test_the_state_restores_at_any_check(cut: int) -> None:
    checks = list({0: ALIVE, 10: DEAD, 20: ALIVE, 30: DEAD, 40: DEAD, 50: DEAD}.items())
    detector = watch(dict(checks[:cut]))
    detector = Detector.restore(json.loads(json.dumps(detector.state())))
    for step, (dead, inert) in checks[cut:]:
        detector.see(step, dead=dead, inert=inert)
    assert detector.outcome(50) == watch(dict(checks)).outcome(50)


# -- against brute force -----------------------------------------------------------------------------------------------

Checks = Sequence[tuple[int, bool]]


def decided(checks: Checks) -> tuple[int, int] | None:
    """The earliest row of checks, all gone, that is long enough: positions of its first and last; of all rows there are."""
    rows = [
        (last, first)
        for last in range(len(checks))
        for first in range(last + 1)
        if all(gone for _, gone in checks[first : last + 1])
        and last - first + 1 >= CONSECUTIVE
        and checks[last][0] - checks[first][0] >= SPAN
    ]
    return min(rows)[::-1] if rows else None


def last_live(checks: Checks) -> int | None:
    return max((step for step, gone in checks if not gone), default=None)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, tuple[bool, bool]]]:
    """Checks at rising steps; deaths last for a while, so that rows of every length come up."""
    step, checks = draw(st.integers(0, 5)), []
    for state, count in draw(st.lists(st.tuples(st.sampled_from([ALIVE, DEAD, INERT]), st.integers(1, 6)), max_size=6)):
        for _ in range(count):
            checks.append((step, state))
            step += draw(st.sampled_from([1, 5, 10, 19, 20]))
    return checks


@settings(max_examples=400, deadline=None, derandomize=True)
@given(histories(), st.sampled_from(["died", "collapsed"]), st.integers(0, 30), st.booleans(), st.integers(0, 40))
def test_the_detector_agrees_with_a_search_over_all_rows_of_checks(
    history: list[tuple[int, tuple[bool, bool]]], event: str, further: int, diverges: bool, cut: int
) -> None:
    dead, inert = ([(step, state[kind]) for step, state in history] for kind in (0, 1))
    detector = Detector(event=event)  # type: ignore[arg-type]
    for number, (step, state) in enumerate(history):
        if number == cut:
            detector = Detector.restore(json.loads(json.dumps(detector.state())))
        detector.see(step, dead=state[0], inert=state[1])
        so_far = (dead if event == "died" else inert)[: number + 1]
        assert detector.happened == (decided(so_far) is not None)
    last_step = (history[-1][0] if history else 0) + further
    if diverges:
        detector.see_divergence(last_step)
    outcome = detector.outcome(last_step)

    death, collapse = decided(dead), decided(inert)
    if death is not None:
        first, last = death
        assert (outcome.outcome, outcome.step) == ("died", dead[first][0])
        assert outcome.last_live_step == last_live(dead[:first])
        assert outcome.revival_step == next((step for step, gone in dead[last:] if not gone), None)
    elif event == "collapsed" and collapse is not None:
        assert (outcome.outcome, outcome.step) == ("collapsed", inert[collapse[0]][0])
        assert outcome.last_live_step == last_live(inert[: collapse[0]])
    elif diverges:
        assert (outcome.outcome, outcome.step) == ("diverged", last_step)
        assert outcome.last_live_step == (history[-1][0] if history else None)
    else:
        own = dead if event == "died" else inert
        live = last_live(own) if own and own[-1][1] else last_step  # a row that is too short is no survival
        assert (outcome.outcome, outcome.step, outcome.last_live_step) == ("survived", live or 0, live)
    assert outcome.collapsed_step == (None if collapse is None else inert[collapse[0]][0])
    assert outcome.collapsed_last_live_step == (None if collapse is None else last_live(inert[: collapse[0]]))
    assert (outcome.event, outcome.last_step) == (event, last_step)
    assert death is not None or outcome.revival_step is None
