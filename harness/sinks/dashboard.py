"""W&B dashboards as code: one saved view of a project, over the runs that our sweeps mirror to W&B.

It needs the package wandb-workspaces. A view is built and written as JSON without login or network; only `create`
talks to a server.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from harness.located import InputError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace


NAME = "Residual-scaling stability"
RUNS_SHOWN = 100
"""Runs, or groups of them, in a panel; W&B's own default is 10."""
FORBIDDEN = "/\\#?%:"
"""Characters that W&B allows in no name of a project or entity."""
SCALE = "model.residual_scale"
DEAD_AT_END = "prepool/dead_share_probe"
OUTCOME, OUTCOME_STEP = "outcome/outcome", "outcome/step"
DEAD_LAYERS = "^(block|layer)/.+/dead_share_batch$"
NEEDS_LAYERS = "Empty unless the runs have `probes.preset=blocks`, `full` or `curvature`."
NEEDS_CURVATURE = (
    "Margin, sharpness and noise are empty unless the runs have `probes.preset=curvature`, sums and up-projections "
    "unless they have that, `blocks` or `full`. A margin above 1 is unstable at that learning rate, momentum and delay."
)
ENDS_AT_DEATH = (
    "A run that dies ends there (unless `train.stop_at_death=false`): beyond the first death, the mean of a group is "
    "that of its survivors. The samples show each run to its end."
)
OUTCOMES = (
    f"`{OUTCOME}`: died, collapsed, diverged or survived. `{OUTCOME_STEP}`: the step at which it happened; for a "
    "survivor its last step, at which it is censored, so that the bars are no survival times. The table of runs on "
    "the left is sorted by it."
)


def workspace(project: str, entity: str | None, name: str = NAME) -> Workspace:
    """The view of a project, built without login or network; equal arguments give equal views.

    entity: the user or team that owns the project; None: still to be found by `create`.
    Raises InputError for a name that W&B does not allow, and when wandb-workspaces is not installed.
    """
    problems = _bad_names(project, entity, name)
    if problems:
        raise InputError(problems)
    try:
        import wandb_workspaces.expr as expr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise InputError(
            [f"harness dashboard: needs {error.name}; pip install 'residual-harness[dashboard]'"]
        ) from None
    try:
        view = ws.Workspace(
            entity=entity or "",
            project=project,
            name=name,
            sections=_sections(),
            settings=ws.WorkspaceSettings(x_axis="step", max_runs=RUNS_SHOWN),
            runset_settings=ws.RunsetSettings(
                # unlike a panel's, a column's name is taken as it is, so it is the server's: W&B keeps an entry
                # of the configuration's top level below `value`
                pinned_columns=[
                    f"summary:{OUTCOME}",
                    f"summary:{OUTCOME_STEP}",
                    "summary:outcome/last_live_step",
                    "config:model.value.width",
                    "config:model.value.residual_scale",
                    "config:optim.value.lr",
                    "config:seed.value",
                ],
                order=[expr.Ordering(expr.Summary(OUTCOME_STEP), ascending=True)],
            ),
        )
    except ValueError:  # it takes no symbols in a name, and calls them emojis
        raise InputError([f"--name: {name!r}: W&B allows no emoji and no symbols such as = + < > | $ in it"]) from None
    for section in view.sections:
        for position, panel in enumerate(section.panels):
            panel._id = hashlib.sha256(f"{section.name} {position}".encode()).hexdigest()[:12]  # else it is random
    return view


def specification(project: str, entity: str | None, name: str = NAME) -> dict[str, Any]:
    """The view as it would be sent to W&B, in plain JSON values; equal arguments give equal text.

    Raises InputError as `workspace` does.
    """
    view = workspace(project, entity, name)._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": entity, "project": project, "displayName": name, "spec": spec}


def create(project: str, entity: str | None, name: str = NAME) -> str:
    """Save the view to W&B as a new one, and give its URL.

    entity: None: the login's default. Raises InputError as `workspace` does, and, without ever asking for one, when
    there is no login; and when the server cannot be reached or refuses.
    """
    workspace(project, entity, name)  # what is wrong with it is said before anything is asked of a server
    import wandb

    from harness.sinks.wandb import quiet_wandb

    try:
        api = quiet_wandb().Api()
        owner = entity or api.settings["entity"] or api.default_entity
        url = str(workspace(project, owner, name).save().url) if owner else None
    except wandb.errors.UsageError:
        raise InputError(
            ["no W&B login here: run `wandb login` or set WANDB_API_KEY; --print shows the dashboard without one"]
        ) from None
    except Exception as error:  # of wandb, of its service or of the server's answer: all mean that nothing is saved
        raise InputError([f"the dashboard was not saved: {type(error).__name__}: {str(error).strip()}"]) from None
    if url is None:
        raise InputError(["--entity: missing, and the W&B login has no default one"])
    return url


def _bad_names(project: str, entity: str | None, name: str) -> list[str]:
    given = {"--project": project, "--name": name} | ({} if entity is None else {"--entity": entity})
    problems = [f"{option}: {value!r}: expected a name" for option, value in given.items() if not value.strip()]
    return problems + [
        f"{option}: {value!r}: W&B allows none of {FORBIDDEN} in it"
        for option, value in given.items()
        if option != "--name" and set(FORBIDDEN) & set(value)
    ]


def _sections() -> list[Section]:
    """The sections in order, each one question."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    scale, width = wr.Config(SCALE), wr.Config("model.width")
    dead_is_red = [wr.GradientPoint(color="#2c7bb6", offset=0), wr.GradientPoint(color="#d7191c", offset=100)]

    def by_scale(title: str, *metrics: str, pattern: str | None = None, log: bool = False, share: bool = False) -> Any:
        """Metrics over the step, a colour a residual scale: the mean of its runs, and the runs."""
        return wr.LinePlot(
            title=title,
            x="step",
            y=list(metrics),
            metric_regex=pattern,
            groupby=scale,
            groupby_aggfunc="mean",
            groupby_rangefunc="samples",
            log_y=log or None,
            range_y=(0, 1) if share else (None, None),
            max_runs_to_show=RUNS_SHOWN,
        )

    def by_run(title: str, metric: str) -> Any:
        """A metric over the step, a line a run."""
        return wr.LinePlot(title=title, x="step", y=[metric], range_y=(0, 1), max_runs_to_show=RUNS_SHOWN)

    def bars(title: str, *metrics: str, by: Any, join: str) -> Any:
        """The last values of metrics, joined over the runs that have a field in common."""
        return wr.BarPlot(
            title=title, metrics=list(metrics), groupby=by, groupby_aggfunc=join, groupby_rangefunc="minmax"
        )

    panels = {
        "Map: width x residual scale": [
            wr.ScatterPlot(
                title="Dead share of the pre-pool units at the end, on the probe set",
                x=width,
                y=scale,
                z=wr.SummaryMetric(DEAD_AT_END),
                range_z=(0, 1),
                gradient=dead_is_red,
            ),
            wr.ScatterPlot(title="Step of the outcome", x=width, y=scale, z=wr.SummaryMetric(OUTCOME_STEP)),
            wr.ParallelCoordinatesPlot(
                title="From the configuration to the outcome",
                columns=[
                    wr.ParallelCoordinatesPlotColumn(metric=metric)
                    for metric in (
                        width,
                        scale,
                        wr.Config("optim.lr"),
                        wr.SummaryMetric(OUTCOME),
                        wr.SummaryMetric(OUTCOME_STEP),
                        wr.SummaryMetric(DEAD_AT_END),  # the last column gives the lines their colours
                    )
                ],
                gradient=dead_is_red,
            ),
        ],
        "Dead units by residual scale": [
            by_scale("Dead share, training batch", "prepool/dead_share_batch", share=True),
            by_scale("Dead share, probe set", DEAD_AT_END, share=True),
            by_run("Dead share, training batch, each run", "prepool/dead_share_batch"),
            wr.MarkdownPanel(markdown=ENDS_AT_DEATH),
        ],
        "Survival": [
            wr.RunComparer(diff_only="split"),
            bars("Step of the outcome: median, least and most", OUTCOME_STEP, by=scale, join="median"),
            wr.MarkdownPanel(markdown=OUTCOMES),
        ],
        "First layer to die": [
            by_scale("Dead share of each layer, training batch", pattern=DEAD_LAYERS, share=True),
            by_scale("RMS of each residual sum", pattern="^block/.+/sum/rms$", log=True),
            by_scale("Scaled branch over skip, RMS", pattern="^block/.+/rms_ratio$", log=True),
            wr.MarkdownPanel(markdown=NEEDS_LAYERS),
        ],
        "Stability": [
            by_scale("Stability margin", "curvature/margin", log=True),
            by_scale("Preconditioned sharpness", "curvature/sharpness", log=True),
            by_scale("Gradient noise scale, images", "curvature/noise_scale", log=True),
            by_scale("Common mode of each residual sum", pattern="^block/.+/sum/common_mode$"),
            by_scale(
                "Share of each up-projection's output from the mean of its input, probe set",
                pattern="^block/.+/up_projection/mean_share_probe$",
                share=True,
            ),
            by_scale("Spectral norm of each up-projection", pattern="^block/.+/up_projection/spectral_norm$", log=True),
            by_scale("Effective rank of the pooled features, probe set", "prepool/feature_rank_probe"),
            by_scale("Tau-dormant share of the pre-pool units", "prepool/tau_dormant_share_batch", share=True),
            wr.MarkdownPanel(markdown=NEEDS_CURVATURE),
        ],
        "Update ratios": [
            by_scale("Update over weights, RMS, all parameters", "update/all/ratio", log=True),
            by_scale("Update over weights, RMS, each weight", pattern="^update/.+[.]weight/ratio$", log=True),
            by_scale("Gradient, RMS, all parameters", "grad/all/rms", log=True),
            wr.MarkdownPanel(markdown="Empty unless the runs have `probes.preset=full`."),
        ],
        "Overhead": [
            by_scale("Seconds so far", "time/elapsed"),
            by_scale("Seconds in readings and in checks so far", "time/probe", "time/check"),
            bars(
                "Seconds by what is read",
                "time/elapsed",
                "time/probe",
                "time/check",
                by=wr.Config("probes.preset"),
                join="mean",
            ),
        ],
    }
    settings = ws.SectionPanelSettings(x_axis="step")
    return [
        ws.Section(name=title, panels=each, is_open=True, panel_settings=settings) for title, each in panels.items()
    ]
