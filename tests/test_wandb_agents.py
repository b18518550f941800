"""A sweep handed out by a W&B server to its own agents, and what they leave undone done here.

The server is a local one that speaks what is asked of it: UpsertSweep, SweepWithRuns, CreateAgent, Heartbeat.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from harness import store
from harness.cli import main
from tests.graphql_server import serving
from tests.runs import timeless, tiny_sweep
from tests.terminals import without_login

KEY = "0" * 40


class Sweeps:
    """A server's side of one grid sweep: which points are left, and which agent has which."""

    def __init__(self) -> None:
        self.text, self.lock = "", threading.Lock()
        self.points: list[dict[tuple[str, str], Any]] = []
        self.agents = 0
        self.given: list[tuple[str, str]] = []

    def take(self, text: str) -> None:
        """Have this sweep from now on."""
        self.text = text
        sections = yaml.safe_load(text)["parameters"]
        fields = {
            (section, name): each.get("values", [each.get("value")])
            for section, content in sections.items()
            for name, each in (content.get("parameters") or {"": content}).items()
        }
        self.points = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data that a query asks for."""
        with self.lock:
            if "UpsertSweep" in query:
                self.take(variables["config"])
                sweep = {"name": "s1", "project": {"name": "project", "entity": {"name": "me"}}}
                return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
            if "SweepWithRuns" in query:
                sweep = {"id": "1", "name": "s1", "method": "grid", "state": "RUNNING", "config": self.text}
                return {"project": {"sweep": {**sweep, "runs": {"edges": []}}}}
            if "CreateAgent" in query:
                self.agents += 1
                return {"createAgent": {"agent": {"id": f"agent{self.agents}"}}}
            if "Heartbeat" in query:
                busy = json.loads(variables["runState"])
                commands = [] if busy else [self._next(variables["id"])]
                return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}
        viewer = {"id": "1", "entity": "me", "username": "me", "teams": {"edges": []}, "flags": "{}"}
        return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {}, "features": []}}

    def _next(self, agent: str) -> dict[str, Any]:
        if not self.points:
            return {"type": "exit"}
        point, name = self.points.pop(0), f"run{len(self.given)}"
        self.given.append((agent, name))
        arguments: dict[str, Any] = {}
        for (section, field), value in point.items():
            if field:
                arguments.setdefault(section, {"value": {}})["value"][field] = value
            else:
                arguments[section] = {"value": value}
        return {"type": "run", "run_id": name, "program": "harness", "args": arguments}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Sweeps, str, Path]]:
    """The server's side, its address, and the sweep's file."""
    file = tiny_sweep(tmp_path, 60)
    file.write_text('program: harness\ncommand: ["${program}", run, "${args_json_file}"]\n' + file.read_text())
    sweeps = Sweeps()
    with serving(lambda query, variables: {"data": sweeps.answer(query, variables)}) as address:
        yield sweeps, address, file


@pytest.mark.slow
def test_two_agents_share_a_sweep_and_what_a_killed_one_left_is_done_here(
    served: tuple[Sweeps, str, Path], tmp_path: Path
) -> None:
    sweeps, address, file = served
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = without_login(tmp_path, WANDB_BASE_URL=address, WANDB_API_KEY=KEY, PATH=programs)
    wandb = [sys.executable, "-m", "wandb"]
    made = subprocess.run([*wandb, "sweep", "--project", "project", "--entity", "me", str(file)], cwd=tmp_path, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)  # fmt: skip
    assert "wandb agent me/project/s1" in made.stdout, made.stdout
    command = [*wandb, "agent", "me/project/s1"]
    agents = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    out = tmp_path / "out" / "run"
    deadline = time.monotonic() + 120
    while not (working := [run for run in store.runs(out) if run.file("checkpoint.pt").exists() and run.is_locked()]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim = int(store.holder(working[0].path).split()[1])
    (agent,) = [each for each in agents if victim in {c.pid for c in psutil.Process(each.pid).children(recursive=True)}]
    family = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
    for process in family:
        process.kill()
    said = [each.communicate(timeout=180)[0] for each in agents]
    assert not sweeps.points, said
    assert {name for name, _ in sweeps.given} == {"agent1", "agent2"}, "both had some"
    states = sorted(run.state() for run in store.runs(out))
    assert states == ["finished", "finished", "finished", "pending"], said

    quiet = ["--executor", "inline", "--wandb", "disabled"]
    assert main(["sweep", str(file), "--out", str(out), *quiet]) == 0
    assert main(["sweep", str(file), "--out", str(tmp_path / "whole"), *quiet]) == 0
    found, expected = store.runs(out), store.runs(tmp_path / "whole")
    assert [run.run_id for run in found] == [run.run_id for run in expected]
    assert [timeless(run.rows()) for run in found] == [timeless(run.rows()) for run in expected]
