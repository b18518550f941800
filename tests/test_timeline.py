"""When units and layers died, from made-up readings and from a net whose units are killed by hand."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from harness.probes import Cadence, LayerDeath, Timeline, observe
from tests.probe_networks import Net, Train, set_bias

STEPS = (0, 10, 20, 30, 50)


def timeline(**layers: list[str]) -> Timeline:
    """Each layer as one string a unit, a letter a reading: # dead, . alive."""
    made = Timeline()
    for position, step in enumerate(STEPS):
        made.append(
            step, {layer: np.array([unit[position] == "#" for unit in units]) for layer, units in layers.items()}
        )
    return made


def test_onset_revival_and_time_spent_dead() -> None:
    deaths = timeline(layer=[".....", "#####", "..###", ".#.##", "##...", "....#", "#.#.#"]).deaths("layer")
    assert deaths.onset.tolist() == [-1, 0, 20, 10, 0, 50, 0]
    assert deaths.alive_before.tolist() == [-1, -1, 10, 0, -1, 30, -1]
    assert deaths.final_onset.tolist() == [-1, 0, 20, 30, -1, 50, 50]
    assert deaths.revivals.tolist() == [0, 0, 0, 1, 1, 0, 2]
    assert deaths.dead_steps.tolist() == [0, 50, 30, 10 + 20, 20, 0, 10 + 10]


def test_the_order_in_which_layers_die() -> None:
    made = timeline(first=["...##", "....."], second=[".####", "..###"], third=["..###", "..###"])
    assert made.order(1.0) == [LayerDeath(20, 1, "second", 10), LayerDeath(20, 2, "third", 10)]
    assert [death.layer for death in made.order(0.5)] == ["second", "third", "first"]
    assert made.first_to_lose(0.5) == LayerDeath(10, 1, "second", 0)
    assert timeline(only=["....."]).first_to_lose(0.1) is None
    with pytest.raises(ValueError, match="expected a share"):
        made.order(0)


def test_the_raster_and_the_shares() -> None:
    steps, dead = timeline(layer=["..###", "#...."]).raster("layer")
    assert steps.tolist() == list(STEPS)
    assert dead.tolist() == [[False, False, True, True, True], [True, False, False, False, False]]
    assert timeline(layer=["..###", "#...."]).dead_share("layer")[1].tolist() == [0.5, 0, 0.5, 0.5, 0.5]


def test_readings_out_of_order_or_of_another_size_are_refused() -> None:
    made = timeline(layer=["....."])
    with pytest.raises(ValueError, match="step 50 is not above"):
        made.append(50, {"layer": np.array([True])})
    with pytest.raises(ValueError, match="2 units, but 1 before"):
        made.append(60, {"layer": np.array([True, True])})


@settings(deadline=None)
@given(npst.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 30))))
def test_unit_deaths_agree_with_a_plain_loop_and_survive_storage(dead: Any) -> None:
    made = Timeline()
    steps = [step * step for step in range(dead.shape[1])]
    for step, units in zip(steps, dead.T, strict=True):
        made.append(step, {"a": units, "b": ~units})
    file = io.BytesIO()
    arrays: dict[str, Any] = {**made.to_arrays()}
    np.savez(file, **arrays)
    file.seek(0)
    again = Timeline.from_arrays(np.load(file))  # no pickle
    assert again.layers == ("a", "b")
    assert (again.raster("a")[1] == dead).all() and (again.raster("b")[1] == ~dead).all()
    found = again.deaths("a")
    for unit, readings in enumerate(dead.tolist()):
        where = [step for step, gone in zip(steps, readings, strict=True) if gone]
        assert found.onset[unit] == (where[0] if where else -1)
        assert found.revivals[unit] == sum(a and not b for a, b in pairwise(readings))
        spans = zip(readings, steps, steps[1:], strict=False)
        assert found.dead_steps[unit] == sum(end - start for gone, start, end in spans if gone)
        last = -1
        for step, gone in zip(reversed(steps), reversed(readings), strict=True):
            if not gone:
                break
            last = step
        assert found.final_onset[unit] == last


def test_a_step_costs_bits() -> None:
    made = Timeline()
    for step in range(1000):
        made.append(step, {"layer": np.zeros(800, dtype=bool)})
    assert sum(array.nbytes for array in made.to_arrays().values()) < 1000 * (800 / 8 + 8) + 200


def test_a_damaged_timeline_is_refused() -> None:
    arrays = timeline(layer=["....."]).to_arrays()
    arrays["bits"] = arrays["bits"][:-1]
    with pytest.raises(ValueError, match="damaged"):
        Timeline.from_arrays(arrays)


# -- units killed by hand ----------------------------------------------------------------------------------------------


def kill(train: Train, units: slice, alive: bool = False) -> None:
    """Kill inner units of the first block, or bring them back to life."""
    set_bias(train.net.block(0).norm, 0.0 if alive else -100.0, units)


@pytest.mark.parametrize("killed", [0, 3, 8])
def test_units_killed_by_hand_are_dated_exactly_by_both_definitions(killed: int) -> None:
    train = Train(seed=1, lr=0.0)
    images = train.images(20)
    with observe(train.model, "**.inner", every=1) as probe:
        for step in range(8):
            if step in (2, 6):
                kill(train, slice(0, killed))
            elif step == 5:
                kill(train, slice(0, killed), alive=True)
            row = probe.read_set(images, batch_size=8)
            train.step()
            assert row["step"] == step
            dead = killed if step in (2, 3, 4, 6, 7) else 0
            for suffix in ("probe", "probe_eval"):
                assert row[f"layer/blocks.0.inner/dead_units_{suffix}"] == dead
                assert row[f"layer/blocks.1.inner/dead_units_{suffix}"] == 0
    for timeline in (probe.timeline("batch"), probe.timeline("probe")):
        deaths = timeline.deaths("layer/blocks.0.inner")
        assert deaths.onset.tolist() == [2] * killed + [-1] * (8 - killed)
        assert deaths.alive_before.tolist() == [1] * killed + [-1] * (8 - killed)
        assert deaths.final_onset.tolist() == [6] * killed + [-1] * (8 - killed)
        assert deaths.revivals.tolist() == [1] * killed + [0] * (8 - killed)
        assert deaths.dead_steps.tolist() == [4] * killed + [0] * (8 - killed)


@pytest.mark.parametrize("preset", ["blocks", "full"])
@pytest.mark.parametrize("block", [0, 2, 4])
def test_the_block_whose_up_projection_bias_is_pushed_down_is_the_first_to_die(preset: str, block: int) -> None:
    train = Train(Net(blocks=5), seed=2, lr=0.0)
    with observe(train.model, preset, every=1, optimizer=train.optimizer) as probe:
        train.steps(4)
        set_bias(train.net.block(block).up_projection, -100.0)
        train.steps(4)
    deaths = [death for death in probe.timeline().order(0.9) if death.layer.startswith("block/")]
    assert (deaths[0].layer, deaths[0].step, deaths[0].alive_before) == (f"block/b0{block + 1}/output", 4, 3)
    first = probe.timeline().first_to_lose(0.9)
    assert first is not None and first.step == 4
    assert first.layer in (f"layer/blocks.{block}.activation", f"block/b0{block + 1}/output")
    # and the reading that warns of it: what the bias does to the sum
    frame = probe.frame()
    assert frame[f"block/b0{block + 1}/sum/mean"].diff().idxmin() == 4


# -- cadence -----------------------------------------------------------------------------------------------------------


def test_steps_are_log_spaced_and_then_even() -> None:
    cadence = Cadence(every=20)
    assert [step for step in range(61) if cadence.due(step)] == [0, 1, 2, 4, 8, 16, 20, 40, 60]
    assert [step for step in range(61) if Cadence(20, early=False).due(step)] == [0, 20, 40, 60]
    assert all(Cadence(every=1).due(step) for step in range(10))


@pytest.mark.parametrize("bad", [{"every": 0}, {"burst_steps": 0}, {"burst_jump": 0.0}, {"burst_jump": 1.5}])
def test_a_cadence_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .*; expected"):
        Cadence(**bad)


def test_a_jump_of_the_dead_share_starts_a_burst() -> None:
    def steps(cadence: Cadence) -> list[int]:
        train = Train(seed=1, lr=0.0)
        with observe(train.model, "**.inner", every=cadence) as probe:
            for step in range(40):
                if step == 15:
                    kill(train, slice(0, 4))
                if step == 22:  # in the burst, which it does not prolong
                    kill(train, slice(4, 8))
                train.step()
        return [row["step"] for row in probe.rows]

    assert steps(Cadence(10, early=False, burst_steps=3)) == [0, 10, 20, 21, 22, 23, 30]
    assert steps(Cadence(10, early=False, burst_jump=0.6)) == [0, 10, 20, 30]
    assert steps(Cadence(10, early=False, burst_jump=None)) == [0, 10, 20, 30]
