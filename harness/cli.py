"""The command `harness`: parse and call, nothing else."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.live import Live

from harness import __version__
from harness.located import InputError, shortened
from harness.plain import plain, shown
from harness.streams import lenient_streams, lost_output
from harness.strict import MAX_COUNT, MAX_FACTOR, MAX_IMAGE_SIZE

if TYPE_CHECKING:
    from rich.table import Table

    from analysis.claims import Finding

MOST_DRAWN = 10_000_000
"""Steps of a schedule that are drawn."""
DONE, SOME_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


def _width() -> int | None:
    """Columns of the output where it is no terminal, which knows its own."""
    if sys.stdout and sys.stdout.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdigit() and int(asked) else 160


console = Console(highlight=False, soft_wrap=True, width=_width())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0 done, 1 some run failed, 2 unusable input, 130 interrupted.

    Output that cannot be written is lost without ending a run; unless its reader just left, the code is 1 then.
    """
    with lenient_streams():
        code = _main(arguments)
        sys.stdout.flush()
        if (why := lost_output()) is not None:
            print(f"harness: the output could not be written: {why}", file=sys.stderr)
            return code or SOME_FAILED
        return code


def _main(arguments: Sequence[str] | None) -> int:
    options = _parse(arguments)
    try:
        code: int = options.call(options)
        return code
    except InputError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return UNUSABLE
    except OSError as error:
        if error.filename is None:  # no file that a user could do something about
            raise
        from harness.files import explain_system

        print(plain(explain_system(error)), file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print(f"\nstopped; `{plain(_command())}` continues where it was", file=sys.stderr)
        return INTERRUPTED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; settings (`key=value`) may stand among them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "settings") or any(argument.startswith("-") for argument in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _command() -> str:
    from harness.provenance import command_line

    return command_line()


class _Parser(argparse.ArgumentParser):
    """Names the command that was meant."""

    def error(self, message: str) -> NoReturn:
        from harness.patterns import suggestion

        found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if found is not None:
            choices = re.findall(r"[\w.-]+", found[2])
            message = message.replace(found[0], f"{found[1]!r}{suggestion(found[1], choices)}")
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="harness", description="Makes wide residual networks die, and says which units died when.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, call: Callable[[argparse.Namespace], int], help: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(call=call)
        return sub

    quickstart = command(
        "quickstart",
        _quickstart,
        "train the sweep that comes with the package and draw its report; again: continue it",
        "harness quickstart --out out/quickstart",
    )
    quickstart.add_argument(
        "--out", type=Path, default=Path("out/quickstart"), metavar="DIR", help="output folder (default: %(default)s)"
    )
    quickstart.add_argument("--dry-run", action="store_true", help="list the runs and what each would train")

    run = command("run", _run, "train one run", "harness run model.width=0.125 model.residual_scale=0.1 optim.lr=0.5")
    run.add_argument(
        "settings", nargs="*", metavar="CONFIG.yaml|key=value", help="a configuration file, and fields that override it"
    )
    run.add_argument("--out", type=Path, default=Path("out/run"), help="output folder (default: %(default)s)")
    _add_wandb(run)

    sweep = command(
        "sweep", _sweep, "train all runs of a sweep; again: continue it", "harness sweep experiments/quickstart.yaml"
    )
    sweep.add_argument("file", type=Path, metavar="SWEEP.yaml", help="a W&B sweep configuration")
    sweep.add_argument("--out", type=Path, help="output folder (default: out/NAME_OF_FILE)")
    sweep.add_argument("--executor", default="local", metavar="inline|local|ray|slurm", help="default: %(default)s")
    sweep.add_argument("--workers", type=_count, metavar="N", help="worker processes, Slurm jobs (default: one a core)")
    sweep.add_argument("--per-gpu", type=_count, metavar="N", help="local: workers on each GPU (default: 1)")
    sweep.add_argument(
        "--ray-address", metavar="HOST:PORT", help="ray: the head (default: RAY_ADDRESS, else starts one)"
    )
    sweep.add_argument("--cpus-per-run", type=_factor, metavar="X", help="ray, slurm: CPUs of a run (default: 1)")
    sweep.add_argument("--gpus-per-run", type=_share, metavar="X", help="ray, slurm: its GPUs (ray: 1, if any)")
    sweep.add_argument("--partition", metavar="NAME", help="slurm: where jobs run (default: the cluster's)")
    sweep.add_argument("--time", metavar="LIMIT", help="slurm: a job's, after which it queues again (default: 1:00:00)")
    sweep.add_argument("--array-parallelism", type=_count, metavar="N", help="slurm: jobs that run at once")
    sweep.add_argument("--slurm", type=_setting, action="append", metavar="KEY=VALUE", help="slurm: options of sbatch")
    sweep.add_argument("--detach", action="store_const", const=True, help="slurm: do not wait for the jobs")
    sweep.add_argument("--cancel", action="store_const", const=True, help="slurm: Ctrl-C ends the jobs")
    sweep.add_argument("--reuse", type=Path, action="append", default=[], metavar="DIR", help="take over finished runs")
    sweep.add_argument("--dry-run", action="store_true", help="list the runs and what each would train")
    _add_wandb(sweep)

    status = command("status", _status, "show runs by state and outcome", "harness status out/quickstart --watch")
    status.add_argument("dir", type=Path, metavar="DIR", help="an output folder")
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.add_argument("--watch", action="store_true", help="refresh until interrupted or done")

    report = command(
        "report", _report, "draw figures and one self-contained report.html", "harness report out/quickstart"
    )
    report.add_argument("dir", type=Path, metavar="DIR", help="an output folder")
    _add_wandb(report, "log the figures and tables to wandb too", "disabled")

    claims = command(
        "claims", _claims, "judge the claims by the results of sweeps", "harness claims experiments/results/*"
    )
    claims.add_argument(
        "dirs",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="output folders of sweeps, or compact results of them (default: the results that come with the package)",
    )
    form = claims.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every number and rule, as one JSON list")
    form.add_argument("--markdown", action="store_true", help="a table of Markdown")
    claims.add_argument("--save", type=Path, metavar="DIR", help="write the compact results of each sweep below DIR")

    models = command(
        "models", _models, "show the table of architectures", "harness models --width 0.125 --image-size 32"
    )
    models.add_argument("--width", type=_factor, default=1.0, help="factor on all filters (default: %(default)s)")
    models.add_argument("--image-size", type=_pixels, help="pixels (default: each architecture's own)")
    models.add_argument("--num-classes", type=_count, help="classes (default: each architecture's own)")

    bench = command("bench", lambda options: options.measure(options), "measure a cost", "harness bench overhead FILE")
    costs = bench.add_subparsers(required=True, metavar="WHAT")
    overhead = costs.add_parser("overhead", help="what everything beyond the bare training loop costs a sweep")
    overhead.add_argument("file", type=Path, metavar="SWEEP.yaml", help="a sweep")
    overhead.add_argument("--workers", type=_count, default=2, metavar="N", help="processes (default: %(default)s)")
    overhead.set_defaults(measure=_bench_overhead)
    probes = costs.add_parser("probes", help="what the instruments cost a training step")
    probes.add_argument("settings", nargs="*", metavar="CONFIG.yaml|key=value", help="the run whose step is measured")
    probes.add_argument("--pairs", type=_count, default=60, metavar="N", help="of steps (default: %(default)s)")
    probes.set_defaults(measure=_bench_probes)
    load = costs.add_parser("load", help="how long many simulated runs take to load and to draw as a map")
    load.add_argument("--runs", type=_count, default=10_000, metavar="N", help="default: %(default)s")
    load.add_argument("--rows", type=_count, default=1_000, metavar="N", help="of each run (default: %(default)s)")
    load.set_defaults(measure=_bench_load)
    soak = costs.add_parser("soak", help="what is lost of a sweep that is killed again and again")
    soak.add_argument("file", type=Path, metavar="SWEEP.yaml", help="a sweep of short runs")
    soak.add_argument(
        "--executor", default="local", metavar="NAME", help="and its options, as one text: 'ray --workers 2'"
    )
    soak.add_argument("--times", type=_count, default=100, metavar="N", help="disturbances (default: %(default)s)")
    soak.add_argument("--seed", type=int, default=0, help="of their kinds and moments (default: %(default)s)")
    soak.set_defaults(measure=_bench_soak)
    executors = costs.add_parser("executors", help="runs a minute by each executor, Ray Tune, and a process a run")
    executors.add_argument("file", type=Path, metavar="SWEEP.yaml", help="a sweep of short runs")
    executors.add_argument(
        "--by", action="append", metavar="TEXT", help="as in 'ray --workers 2', tune, process (default: local, process)"
    )
    executors.set_defaults(measure=_bench_executors)
    page = costs.add_parser(
        "page", help="the benchmark page: ratios to timm, Ray Tune, fastai, a CSV a run, and others"
    )
    page.add_argument("file", type=Path, metavar="SWEEP.yaml", help="a sweep of short runs")
    page.add_argument("--out", type=Path, required=True, metavar="FILE.md", help="where the page is written")
    page.set_defaults(measure=_bench_page)
    gpu = costs.add_parser("gpu", help="all that no CPU can check: tests, agreement, arithmetic, speed, memory")
    gpu.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: its logic, small (default: cuda)")
    gpu.add_argument("--minutes", type=_factor, default=8.0, help="begin nothing after them (default: %(default)g)")
    gpu.add_argument("--only", action="append", default=[], metavar="PART", help="a part; may be repeated")
    gpu.add_argument("--json", type=Path, metavar="FILE", help="write all of it there too")
    gpu.set_defaults(measure=_bench_gpu)

    evaluate = command(
        "evaluate",
        _evaluate,
        "measure top-1 and top-5 error on held-out images",
        "harness evaluate out/run/runs/RUN_ID --protocol ten_crop",
    )
    evaluate.add_argument("source", type=Path, metavar="RUN_DIR|WEIGHTS", help="a run's folder, or a file of weights")
    evaluate.add_argument("settings", nargs="*", metavar="CONFIG.yaml|key=value", help="what a file of weights is for")
    evaluate.add_argument("--protocol", default="single", help="views of each image (default: %(default)s)")
    evaluate.add_argument("--ensemble", type=Path, nargs="+", default=[], metavar="DIR", help="average with these")
    evaluate.add_argument("--weights", choices=("averaged", "current"), default="averaged", help="of a run")
    evaluate.add_argument("--root", metavar="DIR", help="folder of the images, if it has moved")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.add_argument("--batch-size", type=_count, default=32, metavar="N", help="views at a time")

    schedule = command(
        "schedule", _schedule, "draw the learning rate of a run", "harness schedule optim.schedule.name=cosine"
    )
    schedule.add_argument("settings", nargs="*", metavar="CONFIG.yaml|key=value", help="as for run")
    schedule.add_argument(
        "--out", type=Path, default=Path("schedule.png"), metavar="FILE", help=".png or .svg (default: %(default)s)"
    )

    dashboard = command(
        "dashboard",
        _dashboard,
        "save a W&B dashboard of the mirrored runs as a new view",
        "harness dashboard --project residual-harness --print",
    )
    dashboard.add_argument("--project", required=True, help="the W&B project that has the runs")
    dashboard.add_argument("--entity", help="user or team that owns it (default: the login's)")
    dashboard.add_argument("--name", help="of the view (default: that of this study)")
    dashboard.add_argument("--print", action="store_true", help="its JSON only: no login, no network")

    command("schema", _schema, "print the JSON schema of a run", "harness schema > run.schema.json")
    return parser


_MODES = ("online", "offline", "disabled")


def _add_wandb(parser: argparse.ArgumentParser, help: str = "mirror to wandb", default: str | None = None) -> None:
    words = default or "what WANDB_MODE says, else online under a wandb agent, else offline"
    parser.add_argument("--wandb", choices=_MODES, default=default or _usual_mode(), help=f"{help} (default: {words})")


def _usual_mode() -> str:
    """An agent's runs are online, as its sweep is, unless the environment says otherwise."""
    asked = os.environ.get("WANDB_MODE", "")
    return asked if asked in _MODES else "online" if os.environ.get("WANDB_SWEEP_ID") else "offline"


def _count(text: str, limit: int = MAX_COUNT) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= limit:
        raise argparse.ArgumentTypeError(f"found {shortened(text)}; expected a whole number from 1 to {limit}")
    return number


def _pixels(text: str) -> int:
    return _count(text, MAX_IMAGE_SIZE)


def _setting(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip("- "):
        raise argparse.ArgumentTypeError(f"found {shortened(text)}; expected KEY=VALUE, as in qos=long")
    return key.strip("- "), value.strip()


def _share(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else _factor(text)


def _factor(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= MAX_FACTOR:
        expected = f"a number above 0 and up to {MAX_FACTOR:g}"
        raise argparse.ArgumentTypeError(f"found {shortened(text)}; expected {expected}")
    return number


def _quickstart(options: argparse.Namespace) -> int:
    from harness.shipped import quickstart

    sweep = ["sweep", str(quickstart()), "--out", str(options.out)]
    if options.dry_run:
        return main([*sweep, "--dry-run"])
    return main(sweep) or main(["report", str(options.out)])


def _run(options: argparse.Namespace) -> int:
    from harness.sweep.single import run_single

    return SOME_FAILED if run_single(options.settings, options.out, options.wandb, _command(), console) else DONE


def _sweep(options: argparse.Namespace) -> int:
    from harness.sweep.executors.choice import choose
    from harness.sweep.run import Settings, dry_run, failure_table, read_sweep, run_sweep

    executor = choose(options.executor, vars(options))
    sweep = read_sweep(options.file)
    if options.dry_run:
        console.print(dry_run(sweep))
        console.print(f"{len(sweep.configs)} runs")
        return DONE
    out = options.out or Path("out") / options.file.stem
    settings = Settings(executor, options.wandb, tuple(options.reuse))
    failed = run_sweep(sweep, out, settings, _command(), console)
    if failed:
        console.print(failure_table(failed))
        return SOME_FAILED
    if not getattr(executor, "detach", False):
        console.print(shown(f"next: harness report {shlex.quote(str(out))}"))
    return DONE


def _status(options: argparse.Namespace) -> int:
    from harness.sweep.run import sweep_of
    from harness.sweep.status import read_status, status_table

    planned = sweep_of(options.dir).configs
    status = read_status(options.dir, planned)
    in_place = options.watch and console.is_terminal and not options.json
    with Live(console=console, auto_refresh=False) if in_place else contextlib.nullcontext() as live:
        while True:
            if options.json:
                print(json.dumps(status.as_dict(), indent=1))
            elif live is not None:
                live.update(status_table(status), refresh=True)
            else:
                console.print(status_table(status))
            if not options.watch or status.done:
                return DONE
            time.sleep(2)
            status = read_status(options.dir, planned)


@contextlib.contextmanager
def _damage_said() -> Iterator[None]:
    """Say on stderr what the analysis leaves out. Warnings of libraries are for developers and stay unsaid."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        print(plain(warning.message), file=sys.stderr)


def _report(options: argparse.Namespace) -> int:
    from analysis.report.report import compose
    from harness.sweep.run import sweep_of

    sweep = sweep_of(options.dir)
    with _damage_said():
        report = compose(options.dir, sweep.configs)
    console.print(shown(f"report: {report.save()}"))
    if options.wandb != "disabled":
        from harness.sinks.wandb import log_report

        figures = [options.dir / "figures" / name for name in report.files if name.endswith(".png")]
        log_report(sweep.name, figures, report.tables, options.dir, options.wandb)
    return DONE


def _claims(options: argparse.Namespace) -> int:
    from analysis.claims import CLAIMS, judge, scoreboard
    from analysis.frames.results import read_all
    from analysis.report.findings import save
    from harness import shipped
    from harness.sweep.run import sweep_of

    given = [folder for folder in options.dirs if not shipped.is_of_gpus(folder)]  # experiments/results/* names it too
    with _damage_said():
        results = read_all(given or shipped.results(), lambda folder: sweep_of(folder).configs)
    if options.save is not None:
        for each in results.values():
            print(plain(f"saved: {save(each, options.save)}"), file=sys.stderr)
    findings = judge(CLAIMS, results)
    if options.json:
        print(json.dumps(scoreboard.as_dicts(findings), indent=1))
    elif options.markdown:
        print(scoreboard.markdown(findings), end="")
    else:
        console.print(_scoreboard_table(findings))
    return DONE


def _scoreboard_table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from analysis.claims import scoreboard

    table = Table(*scoreboard.HEAD, show_lines=True)
    colours = {"holds": "green", "does not hold": "red", "undecided": "yellow"}
    for finding, line in zip(findings, scoreboard.lines(findings), strict=True):
        verdict = Text(finding.verdict, style=colours[finding.verdict])
        table.add_row(*map(shown, line[:3]), verdict, *map(shown, line[4:]))
    return table


def _models(options: argparse.Namespace) -> int:
    from harness.models.summary import models_table

    console.print(models_table(options.width, options.image_size, options.num_classes))
    return DONE


def _bench_overhead(options: argparse.Namespace) -> int:
    from harness.bench.overhead import measure_overhead
    from harness.sweep.run import read_sweep

    print(measure_overhead(options.file, read_sweep(options.file).configs, options.workers))
    return DONE


def _bench_soak(options: argparse.Namespace) -> int:
    from harness.bench.soak import soak
    from harness.sweep.run import read_sweep

    read_sweep(options.file)
    found = soak(options.file, shlex.split(options.executor), options.times, options.seed)
    print(found)
    return DONE if found.sound else SOME_FAILED


def _bench_executors(options: argparse.Namespace) -> int:
    from harness.bench.executors import measure_executors, table
    from harness.sweep.run import read_sweep

    print(table(measure_executors(options.file, read_sweep(options.file).configs, options.by or ["local", "process"])))
    return DONE


def _bench_probes(options: argparse.Namespace) -> int:
    from harness.config.command_line import resolve

    config = resolve(options.settings)
    if options.pairs < 2:
        raise InputError([f"--pairs: {options.pairs}: at least 2, for an interval"])
    from harness.bench.probes import bench_probes

    print(bench_probes(config, options.pairs))
    return DONE


def _bench_load(options: argparse.Namespace) -> int:
    from harness.bench.load import measure_load

    print(measure_load(options.runs, options.rows))
    return DONE


def _bench_page(options: argparse.Namespace) -> int:
    from harness.bench.page import write_page
    from harness.files import write_atomically
    from harness.sweep.run import read_sweep

    read_sweep(options.file)
    write_atomically(options.out, write_page(options.file, console.print).encode())
    console.print(shown(f"written: {options.out}"))
    return DONE


def _bench_gpu(options: argparse.Namespace) -> int:
    import json

    from harness.bench.gpu import Acceptance, accept
    from harness.files import write_atomically

    def told(found: Acceptance) -> None:
        """Print the part that ended; write what there is, which a command that is killed leaves behind."""
        print(found.parts[-1], flush=True)
        if options.json is not None:
            write_atomically(options.json, (json.dumps(found.to_json(), indent=1) + "\n").encode())

    found = accept(options.device, options.minutes, options.only, told)
    for problem in found.problems:
        print(f"wrong: {problem}", file=sys.stderr)
    return SOME_FAILED if found.problems else DONE


def _evaluate(options: argparse.Namespace) -> int:
    from harness.config.command_line import resolve
    from harness.evaluation.protocols import PROTOCOLS
    from harness.patterns import suggestion

    if options.protocol not in PROTOCOLS:
        raise InputError([f"--protocol: {options.protocol!r} is unknown{suggestion(options.protocol, PROTOCOLS)}"])
    from harness.devices import pick_device
    from harness.evaluation.command import run_evaluation

    run_evaluation(
        [options.source, *options.ensemble],
        options.protocol,
        pick_device(options.device),
        console,
        weights=options.weights,
        settings=resolve(options.settings) if options.settings else None,
        root=options.root,
        batch_size=options.batch_size,
    )
    return DONE


def _schedule(options: argparse.Namespace) -> int:
    from analysis.figures import style
    from analysis.figures.schedule import schedule_figure
    from harness.config.command_line import resolve
    from harness.data.check import count_training_images
    from harness.files import write_atomically
    from harness.optim.replicas import delays
    from harness.optim.schedules import Length, planned_rates

    kind = options.out.suffix.removeprefix(".")
    if kind not in ("png", "svg"):
        raise InputError([f"--out: {options.out}: allowed: .png, .svg"])
    config = resolve(options.settings)
    images = count_training_images(config.data)
    steps = Length.of(config, images).steps
    if steps > MOST_DRAWN:
        raise InputError([f"train: {steps} steps are too many to draw; at most {MOST_DRAWN}"])
    rates, words = planned_rates(config, images)
    late = delays(config.optim, config.seed, steps) if config.optim.replicas > 1 else None
    write_atomically(options.out, style.image(schedule_figure(rates, words, late), kind))
    console.print(shown(f"{words}\n{options.out}"))
    return DONE


def _dashboard(options: argparse.Namespace) -> int:
    from harness.sinks.dashboard import NAME, create, specification

    name = NAME if options.name is None else options.name
    if options.print:
        print(json.dumps(specification(options.project, options.entity, name), indent=1))
    else:
        console.print(shown(f"dashboard: {create(options.project, options.entity, name)}"))
    return DONE


def _schema(options: argparse.Namespace) -> int:
    from harness.config import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=1))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
