"""W&B dashboards: what they show exists in a run, they are the same each time, and what stops them is said."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.config import RunConfig
from harness.located import InputError
from harness.sinks.dashboard import NAME, specification
from harness.store import RunDirectory
from harness.training.train import train
from tests.graphql_server import serving
from tests.runs import tiny
from tests.terminals import on_terminal, without_login

pytestmark = pytest.mark.skipif(find_spec("wandb_workspaces") is None, reason="needs the extra `dashboard`")

DASHBOARD = [sys.executable, "-m", "harness", "dashboard", "--project", "p"]
KEY = "0123456789" * 4


def sections(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The panels of each section, in order."""
    return {each["name"]: each["panels"] for each in spec["spec"]["section"]["panelBankConfig"]["sections"]}


# -- what it shows -----------------------------------------------------------------------------------------------------


class Mirrored:
    """What W&B holds of runs: the first one's configuration as stored there, all histories' metrics, and summaries'."""

    def __init__(self, configs: list[RunConfig], folder: Path) -> None:
        self.history: set[str] = set()
        for place, config in enumerate(configs):
            run = RunDirectory(folder / str(place))
            with run.lock():
                run.write_config(config, {})
                outcome = train(config, run)
            self.history |= {name for row in run.rows() for name in row}
        self.config = {key: {"value": value} for key, value in configs[0].model_dump(mode="json").items()}
        self.summary = self.history | {f"outcome/{key}" for key in outcome.as_dict()}

    def has_config(self, path: str) -> bool:
        value: Any = self.config
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return False
            value = value[key]
        return not isinstance(value, dict)

    def has(self, reference: str) -> bool:
        """Whether there is what `config:PATH`, `summary:NAME` or `run:ATTRIBUTE` names."""
        kind, _, name = reference.partition(":")
        return {"config": self.has_config(name), "summary": name in self.summary, "run": name == "displayName"}[kind]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Mirrored:
    presets = ("full", "curvature")
    configs = [tiny(probes={"preset": name, "cadence": {"every": 10}}, train={"steps": 11}) for name in presets]
    return Mirrored(configs, tmp_path_factory.mktemp("run"))


def test_every_panel_shows_what_a_run_logs(mirrored: Mirrored) -> None:
    seen = 0
    for title, panels in sections(specification("p", None)).items():
        for panel in panels:
            kind, shown = panel["viewType"], panel["config"]
            where = f"{title}: {shown.get('chartTitle', kind)}"
            if "groupBy" in shown:
                assert mirrored.has_config(shown["groupBy"]), where
            if kind == "Run History Line Plot":
                assert shown["xAxis"] == "step" and "step" in mirrored.history, where
                assert set(shown["metrics"]) <= mirrored.history, where
                if "metricRegex" in shown:
                    assert not shown["metrics"], where
                    assert any(re.search(shown["metricRegex"], name) for name in mirrored.history), where
                else:
                    assert shown["metrics"], where
            elif kind == "Bar Chart":
                assert shown["metrics"] and set(shown["metrics"]) <= mirrored.summary, where
            elif kind == "Scatter Plot":
                assert all(mirrored.has(shown[axis]) for axis in ("xAxis", "yAxis", "zAxis")), where
            elif kind == "Parallel Coordinates Plot":
                assert all(mirrored.has(column["accessor"]) for column in shown["columns"]), where
            else:
                assert kind in ("Markdown Panel", "Run Comparer"), where
            seen += 1
    assert seen > 15


def test_patterns_take_each_layer_once_and_no_total(mirrored: Mirrored) -> None:
    panels = [panel["config"] for each in sections(specification("p", None)).values() for panel in each]
    patterns = [panel["metricRegex"] for panel in panels if "metricRegex" in panel]
    dead, sums, ratios, modes, shares, norms, updates = (
        {name for name in mirrored.history if re.search(p, name)} for p in patterns
    )
    assert {"block/b01/output/dead_share_batch", "layer/stem.0.activation/dead_share_batch"} <= dead
    assert all(name.endswith("/dead_share_batch") for name in dead) and "prepool/dead_share_batch" not in dead
    assert sums == {f"block/b0{block}/sum/rms" for block in (1, 2, 3)}
    assert ratios == {f"block/b0{block}/rms_ratio" for block in (1, 2, 3)}
    assert modes == {f"block/b0{block}/sum/common_mode" for block in (1, 2, 3)}
    assert shares == {f"block/b0{block}/up_projection/mean_share_probe" for block in (1, 2, 3)}
    assert norms == {f"block/b0{block}/up_projection/spectral_norm" for block in (1, 2, 3)}
    assert "update/b01/up_projection.weight/ratio" in updates and "update/all/ratio" not in updates


def test_the_runs_table_shows_the_outcomes(mirrored: Mirrored) -> None:
    (runs,) = specification("p", None)["spec"]["section"]["runSets"]
    columns = runs["runFeed"]["columnOrder"]
    assert columns[:3] == ["run:displayName", "summary:outcome/outcome", "summary:outcome/step"]
    assert all(mirrored.has(column) for column in columns)
    assert runs["sort"]["keys"] == [{"key": {"section": "summary", "name": "outcome/step"}, "ascending": True}]


def test_the_questions_stand_in_their_order() -> None:
    spec = specification("p", "team")
    assert list(sections(spec)) == [
        "Map: width x residual scale",
        "Dead units by residual scale",
        "Survival",
        "First layer to die",
        "Stability",
        "Update ratios",
        "Overhead",
    ]
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("team", "p", NAME)
    for panels in sections(spec).values():
        for panel in panels:
            if "groupBy" in panel["config"] and panel["viewType"] == "Run History Line Plot":
                assert panel["config"]["groupBy"] == "model.value.residual_scale"


# -- the command -------------------------------------------------------------------------------------------------------


def test_print_needs_no_login_and_is_equal_in_every_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--project", "p", "--print"]) == 0
    here = capsys.readouterr().out
    # a server that is not there: whoever asked it would fail
    environment = without_login(tmp_path, WANDB_BASE_URL="http://127.0.0.1:9")
    done = subprocess.run([*DASHBOARD, "--print"], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == here
    ids = re.findall(r'"__id__": "(\w+)"', here)
    assert len(ids) == len(set(ids)) == sum(map(len, sections(json.loads(here)).values()))


def test_a_missing_login_is_said_and_never_asked_for(tmp_path: Path) -> None:
    """On a terminal, where wandb would ask."""
    code, said = on_terminal(DASHBOARD, without_login(tmp_path, WANDB_BASE_URL="http://127.0.0.1:9"))
    assert code == 2
    assert said.splitlines() == [
        "no W&B login here: run `wandb login` or set WANDB_API_KEY; --print shows the dashboard without one"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--project", ""], "--project: '': expected a name"),
        (["--project", " "], "--project: ' ': expected a name"),
        (["--project", "team/p"], "--project: 'team/p': W&B allows none of /"),
        (["--project", "p", "--entity", ""], "--entity: '': expected a name"),
        (["--project", "p", "--entity", "a/b"], "--entity: 'a/b': W&B allows none of /"),
        (["--project", "p", "--name", ""], "--name: '': expected a name"),
        (["--project", "p", "--name", "lr=1"], "--name: 'lr=1': W&B allows no emoji and no symbols such as ="),
    ],
)
@pytest.mark.parametrize("how", [["--print"], []])
def test_bad_names_are_refused(
    arguments: list[str], message: str, how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", *arguments, *how]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and not captured.out


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "wandb_workspaces.expr", raising=False)
    with pytest.raises(InputError, match=r"pip install 'residual-harness\[dashboard\]'"):
        specification("p", None)


# -- a server: it speaks the little of W&B's protocol that saving needs ------------------------------------------------


@contextmanager
def server(entity: str | None, refuse: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server's address, and the views that were saved to it."""
    saved: list[dict[str, Any]] = []

    def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" not in query:
            return {"data": {"viewer": {"id": "1", "entity": entity, "username": "u", "teams": {"edges": []}}}}
        if refuse:
            return {"data": {"upsertView": None}, "errors": [{"message": "permission denied"}]}
        saved.append(variables)
        return {"data": {"upsertView": {"view": {"id": "1", "name": variables["name"]}, "inserted": True}}}

    with serving(answer) as address:
        yield address, saved


def harness(folder: Path, address: str, *arguments: str, patience: int = 5) -> subprocess.CompletedProcess[str]:
    environment = without_login(folder, WANDB_BASE_URL=address, WANDB_API_KEY=KEY, WANDB_HTTP_TIMEOUT=str(patience))
    return subprocess.run(
        [*DASHBOARD, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "owner"), [([], "me"), (["--entity", "team"], "team")])
def test_the_view_is_saved_as_it_is_printed(tmp_path: Path, arguments: list[str], owner: str) -> None:
    with server("me") as (address, saved):
        done = harness(tmp_path, address, *arguments)
    assert done.returncode == 0, done.stderr
    (view,) = saved
    assert (view["entityName"], view["projectName"], view["displayName"]) == (owner, "p", NAME)
    assert json.loads(view["spec"]) == specification("p", owner)["spec"]
    assert done.stdout.startswith(f"dashboard: {address}/{owner}/p?nw=") and not done.stderr


@pytest.mark.slow
def test_a_login_without_an_entity_asks_for_one(tmp_path: Path) -> None:
    with server(None) as (address, saved):
        done = harness(tmp_path, address)
    assert (done.returncode, done.stderr, saved) == (
        2,
        "--entity: missing, and the W&B login has no default one\n",
        [],
    )


@pytest.mark.slow
def test_a_server_that_refuses_or_is_not_there_is_said(tmp_path: Path) -> None:
    with server("me", refuse=True) as (address, _):
        refused = harness(tmp_path, address)
    assert refused.returncode == 2
    assert refused.stderr.startswith("the dashboard was not saved: ") and "permission denied" in refused.stderr
    absent = harness(tmp_path, "http://127.0.0.1:9", patience=1)
    assert absent.returncode == 2
    assert absent.stderr.startswith("the dashboard was not saved: ") and "http://127.0.0.1:9" in absent.stderr
