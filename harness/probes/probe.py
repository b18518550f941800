"""`observe`: instruments on any torch model, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel

from harness.patterns import suggestion
from harness.probes.cadence import Cadence
from harness.probes.copies import keep_out_of_copies
from harness.probes.definitions import DORMANT_BELOW
from harness.probes.hooks import ActivationHook, ActivationHooks, UnitAxis
from harness.probes.parameters import ParameterReader
from harness.probes.passes import eager, is_unobserved, undisturbed, unwrap
from harness.probes.readings import READINGS, Units, merge
from harness.probes.rows import RowWriter
from harness.probes.selection import ModulePredicate, Selection, Where, is_residual_sum, select, select_parameters
from harness.probes.set_readings import SetReader
from harness.probes.steps import Steps
from harness.probes.transfer import PackedPass, pack, same_everywhere, unpack
from harness.stopwatch import Stopwatch
from harness.timeline import Timeline

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


class ProbeWarning(UserWarning):
    """Something that was asked for cannot be read; the training is not affected."""


def observe(
    model: nn.Module,
    where: Where = "blocks",
    *,
    every: int | Cadence = 50,
    optimizer: torch.optim.Optimizer | None = None,
    parameters: str | None = None,
    readings: Iterable[str] | None = None,
    sums: ModulePredicate = is_residual_sum,
    unit_axis: UnitAxis = None,
    dormant_below: float = DORMANT_BELOW,
) -> Probe:
    """Read a model's activations, deaths, gradients and updates while it trains, without changing the training.

    >>> with observe(model, "**.relu*", every=50, optimizer=optimizer) as probe:
    ...     train(model, optimizer)
    >>> probe.frame(), probe.timeline().first_to_lose(0.5)

    model: any module; what is called in training, so the compiled or data-parallel one where there is such.
    where: what to read: a preset (`prepool`, `blocks`, `full`), a glob pattern over module names, a predicate over
        (name, module), or a list of presets and patterns; see `harness.probes.selection`.
    every: steps between two readings, or a `Cadence`.
    optimizer: reads gradients and updates too, and makes a step last until its `step`, however many forward passes
        that takes (gradient accumulation); their activations are merged as one batch.
    parameters: pattern over names of trained parameters to read, instead of what the preset says. Needs `optimizer`.
    readings: names of `harness.probes.readings.READINGS` to keep; all by default.
    sums: which modules are residual sums, called as module(skip, branch); by default those of a class `ResidualSum`.
        A number in their attribute `scale` is alpha; without one the scaled branch is taken as sum - skip.
    unit_axis: axis that numbers the units, one for all or a function of (name, module), whose None is the default: the
        axis follows from the operations that made the tensor (see `harness.probes.layouts`); a guess is said to be one.
    dormant_below: a unit active on a smaller share of positions than this is dormant, in [0, 1].

    A step is a forward pass of `model` in training mode with gradients enabled (or see `optimizer` and `Probe.step`).
    Dead units of a ReLU or ReLU6 are those that are zero everywhere (`dead_units`). Those of GELU, SiLU, Mish, ELU,
    Hardswish or another activation that hardly gives an exact zero are those that do not vary (`inert_units`, which
    holds for any activation): where one is the last module registered before what is read, timelines and bursts take
    these, and `near_zero` is read too. See `harness.probes.definitions`.

    Evaluation, forward passes without gradients, and those that a backward pass repeats (activation checkpointing) are
    neither counted nor read. What cannot be read is left out with a ProbeWarning: nothing is raised into the training.
    Raises ValueError for a `where`, reading or parameter pattern that names nothing.
    """
    if isinstance(model, DataParallel):
        raise ValueError("DataParallel copies the model in every pass; observe a DistributedDataParallel model instead")
    wanted = tuple(READINGS if readings is None else readings)
    for name in wanted:
        if name not in READINGS:
            raise ValueError(f"readings: {name!r} is unknown{suggestion(name, READINGS)}")
    core, group = unwrap(model)
    selection = select(core, where, sums)
    if parameters is not None:
        if optimizer is None:
            raise ValueError("parameters are read when the optimizer steps: pass optimizer=... too")
        selection.parameters = select_parameters(core, parameters)
    cadence = every if isinstance(every, Cadence) else Cadence(every)
    writer = RowWriter(wanted, dormant_below)
    pool = next((point.module for point in selection.points if point.name == "prepool"), None)
    set_reader = SetReader(pool, {f"block/{label}": each for label, each in selection.up_projections.items()}, wanted)
    return Probe(model, core, group, selection, cadence, optimizer, writer, set_reader, unit_axis)


MOST_PASSES = 64
"""Forward passes of one step that are read; where no update follows them, readings would pile up."""
SHOWN_PROBLEMS = 5


def _compiled(model: nn.Module) -> bool:
    """Whether a part of it is compiled, so that its operations cannot be followed."""
    return any(
        module.__dict__.get("_compiled_call_impl") is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )


def _is_instrument(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), ActivationHook | Probe)


def _in_backward() -> bool:
    """Whether a backward pass is going on, which repeats the forward passes of checkpointed parts."""
    return bool(torch._C._current_graph_task_id() != -1)


class Probe:
    """What `observe` gives; a context manager, to be entered once.

    Hooks are installed on entry, before the first call of a compiled model, and removed on exit, however the block
    ends. A pass that is not read costs each hook one look at a switch. In one that is, each activation is reduced on
    its device as soon as it is there; everything reaches the host in one transfer when the step is over and its rows
    are asked for, when the next one begins, or at the end.

    Under torch.compile there are two graphs, one that reads and one that does not. The hooks are part of both, so that
    a model which was compiled and called before has to be compiled anew, by torch.compiler.reset().

    notes: what could not be read, or is a guess.
    stopwatch: measures `seconds`.
    """

    def __init__(
        self,
        root: nn.Module,
        core: nn.Module,
        group: Any,
        selection: Selection,
        cadence: Cadence,
        optimizer: torch.optim.Optimizer | None,
        writer: RowWriter,
        set_reader: SetReader,
        unit_axis: UnitAxis,
    ) -> None:
        self._root, self._core, self._group = root, core, group
        self._optimizer, self._writer, self._selection = optimizer, writer, selection
        self._set_reader = set_reader
        self.stopwatch = Stopwatch()
        self._steps = Steps(cadence, until_update=optimizer is not None)
        self._hooks = ActivationHooks(core, selection.points, unit_axis, self.stopwatch, follows=not _compiled(root))
        self._parameters = ParameterReader(core, selection.parameters, selection.norms)
        self._stack = contextlib.ExitStack()
        self._passes: list[PackedPass] = []  # of the step that goes on
        self._rows: list[Row] = []
        self._timelines = {"batch": Timeline(), "probe": Timeline()}
        self._layers: tuple[str, ...] = ()
        self._reading_set = self._inside_graph = self._updating = False
        self._seen = Counter[str]()  # what happened between entering and leaving, for the words on leaving
        self.notes = list(selection.notes)

    # -- installation --------------------------------------------------------------------------------------------

    def __enter__(self) -> Probe:
        for word in self._selection.warnings:
            warnings.warn(word, ProbeWarning, stacklevel=2)
        self._stack.callback(keep_out_of_copies(self._root, _is_instrument))
        for handle in self._hooks.install():
            self._stack.callback(handle.remove)
        if getattr(self._root, "_compiled_call_impl", None) is not None:  # model.compile() puts hooks into the graph
            self._stack.enter_context(self._around_compiled_call())
        else:
            self._stack.callback(self._root.register_forward_pre_hook(self._before_forward).remove)
            self._stack.callback(self._root.register_forward_hook(self._after_forward).remove)
            self._stack.callback(self._root.register_forward_hook(self._stop_reading, always_call=True).remove)
        if self._optimizer is not None:
            self._stack.callback(self._optimizer.register_step_pre_hook(self._before_update).remove)
            self._stack.callback(self._optimizer.register_step_post_hook(self._after_update).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._end_step()
                self._say_what_never_came()
        finally:
            self._hooks.disarm()
            self._stack.close()
            self._forget()

    @contextlib.contextmanager
    def _around_compiled_call(self) -> Iterator[None]:
        compiled: Any = self._root._compiled_call_impl

        def call(*args: Any, **kwargs: Any) -> Any:
            self._before_forward()
            output = compiled(*args, **kwargs)
            self._after_forward()
            return output

        self._root._compiled_call_impl = call
        try:
            yield
        finally:
            self._root._compiled_call_impl = compiled

    # -- steps ---------------------------------------------------------------------------------------------------

    def step(self, number: int) -> bool:
        """Say that what follows belongs to step `number`, and learn whether it is read.

        From the first call on steps are no longer counted. The same number again goes on with the step. Raises
        ValueError for a number below the last one.
        """
        steps = self._steps
        if not (steps.given and number == steps.number):
            if number <= steps.number:
                raise ValueError(f"step {number} is not above the last one, {steps.number}")
            steps.given = True
            self._begin_step(number)
        return steps.fires

    def _begin_step(self, number: int) -> None:
        self._end_step()
        self._steps.begin(number)

    def _before_forward(self, *_: Any) -> None:
        if torch.compiler.is_compiling():
            self._inside_graph = True
            return
        if self._reading_set or is_unobserved():
            return
        self._hooks.disarm()
        if not self._core.training:
            self._seen["eval"] += 1
        elif not torch.is_grad_enabled():
            self._seen["no_grad"] += 1
        elif not _in_backward():
            self._seen["passes"] += 1
            if self._steps.next_pass_begins:
                self._begin_step(self._steps.number + 1)
            if self._steps.open and self._wants_pass():
                self._hooks.arm()

    def _wants_pass(self) -> bool:
        """Whether the pass is of the weights that the step began with, and not one of too many."""
        if len(self._passes) == MOST_PASSES:
            self._say(f"a step had more than {MOST_PASSES} forward passes without an update: the first ones are read")
            return False
        return not (self._updating and self._passes)  # LBFGS and its like try other weights within one update

    def _stop_reading(self, *_: Any) -> None:
        """After a pass that failed, too: operations are followed no longer than it lasts."""
        if not torch.compiler.is_compiling() and not self._reading_set:
            self._hooks.disarm()

    def _after_forward(self, *_: Any) -> None:
        if torch.compiler.is_compiling() or not self._hooks.armed or self._reading_set:
            return
        with self.stopwatch.running(), self._guarded("reading a forward pass"):
            layers = self._hooks.take()
            self._say_problems()
            if self._group is not None and not same_everywhere(layers, self._group, self._device):
                self._say("the processes read other layers in a pass (an empty batch in one of them?): it is not read")
            elif layers:
                self._passes.append(pack(layers, self._group))
            elif not self._seen["problems"]:
                self._say(
                    "none of the observed layers was called in a forward pass that was to be read; enter observe() "
                    "before the first call of a compiled model (or call torch.compiler.reset())"
                )

    def _before_update(self, _: Any, args: Any, kwargs: Any) -> None:
        self._seen["updates"] += 1
        self._updating = True
        if any(map(callable, (*args, *kwargs.values()))):
            if self._selection.parameters:
                self._say("the optimizer computes gradients within its step (a closure): they are not read")
        elif self._steps.open:
            self._read_gradients()

    def _read_gradients(self) -> None:
        with self.stopwatch.running(), self._guarded("reading gradients"):
            self._parameters.before()

    def _after_update(self, *_: Any) -> None:
        self._updating = False
        if self._steps.open and self._parameters.read:
            with self.stopwatch.running(), self._guarded("reading an update"):
                self._parameters.after()
        self._steps.update()

    @property
    def _device(self) -> torch.device:
        """Where the collectives of a data-parallel model, which has parameters, take place."""
        return next(self._core.parameters()).device

    # -- words -----------------------------------------------------------------------------------------------------

    def _say(self, word: str, warn: bool = True) -> None:
        """Once."""
        if word not in self.notes:
            self.notes.append(word)
            if warn:
                warnings.warn(word, ProbeWarning, stacklevel=2)

    def _say_problems(self) -> None:
        problems = {word: asked for word, asked in self._hooks.problems().items() if word not in self.notes}
        self._seen["problems"] += len(problems)
        self.notes += problems
        asked = [word for word, each in problems.items() if each]
        if asked:
            more = len(asked) - SHOWN_PROBLEMS
            words = asked[:SHOWN_PROBLEMS] + ([f"and {more} more, see Probe.notes"] if more > 0 else [])
            warnings.warn("\n".join(words), ProbeWarning, stacklevel=2)

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """A fault of the instruments loses the step's reading, and is said; the training goes on."""
        try:
            yield
        except ProbeWarning:  # the user made an error of it
            raise
        except Exception as error:
            self._forget()
            self._say(f"{what} failed, so that the step is not read: {type(error).__name__}: {error}")

    def _say_what_never_came(self) -> None:
        """On leaving: which layers were never called, or why nothing was read at all."""
        seen = self._seen
        if self._layers:
            for point in self._selection.points:
                if not self._was_called(point.name) and not any(
                    word.startswith(f"{point.name}:") for word in self.notes
                ):
                    word = f"{point.name}: {point.module_name} was not called in a forward pass that was read"
                    self._say(word, warn=point.asked_for)
        elif not seen["sets"] and not self.notes and (seen["updates"] or self._hooks.ran or seen["passes"]):
            if seen["passes"]:
                why = f"none of the {seen['passes']} forward passes was of a step that was due"
            elif seen["eval"]:
                why = f"the model was in eval mode in all {seen['eval']} calls: call model.train()"
            elif seen["no_grad"]:
                why = f"all {seen['no_grad']} calls of the model were without gradients"
            else:
                why = (
                    "the model itself was never called: model.forward(x), another method or a part of it goes past its "
                    "hooks; call model(x), or observe what is called"
                )
            self._say(f"nothing was read: {why}")

    # -- readings ------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        if self._steps.over:
            self._end_step()

    def _end_step(self) -> None:
        """Turn what the step left on the device into a row; what still comes of it is not read."""
        steps = self._steps
        if self._inside_graph and not self._passes and (steps.fires or not steps.given):
            self._say(
                "the model is called inside a compiled graph, where steps cannot be seen: give observe() what "
                "torch.compile returned, or call model.compile() before it"
            )
        self._inside_graph = False
        steps.close()
        with self._guarded("making a row"):
            pending = self._parameters.pending
            if self._passes or pending is not None:
                with self.stopwatch.running():
                    row = self._step_row(pending)
                    self._forget()
                self._rows.append(row | {"time/probe": self.seconds})

    def _step_row(self, pending: Tensor | None) -> Row:
        number = self._steps.number
        passes, values = unpack(self._passes, pending)
        row: Row = {"step": number}
        if passes:
            units = merge([each.units for each in passes])
            self._meet_layers(units)
            row |= self._writer.row(units, passes, "batch")
            dead = units.dead_by_layer()
            self._timelines["batch"].append(number, dead)
            self._steps.see_dead({layer: int(np.count_nonzero(bits)) / bits.size for layer, bits in dead.items()})
        return row if pending is None else row | self._parameters.row(values)

    def _forget(self) -> None:
        self._passes = []
        self._parameters.clear()
        self._hooks.forget()

    def _meet_layers(self, units: Units) -> None:
        if not set(units.layout.names) <= set(self._layers):
            self._layers = tuple(dict.fromkeys((*self._layers, *units.layout.names)))

    def _was_called(self, point: str) -> bool:
        return any(layer == point or layer.startswith((f"{point}[", f"{point}/")) for layer in self._layers)

    @property
    def layers(self) -> tuple[str, ...]:
        """What was read, in the order of the first pass that had it; empty before the first reading."""
        self._catch_up()
        return self._layers

    @property
    def seconds(self) -> float:
        """Seconds spent on reading so far; in compiled graphs the part outside of them."""
        return self.stopwatch.seconds

    @property
    def rows(self) -> list[Row]:
        """A row for each step that was read and is over: `step`, the metrics by name, `time/probe` (seconds so far).

        Step s means: after s updates. See `harness.probes.readings` and `ParameterReader.row` for the metrics.
        """
        self._catch_up()
        return self._rows

    def take(self) -> list[Row]:
        """End the step that goes on, and give all rows, which the probe then forgets; for long trainings."""
        self._end_step()
        rows, self._rows = self._rows, []
        return rows

    def frame(self) -> pd.DataFrame:
        """The rows as a table with the step as its index."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=None if self.rows else ["step"]).set_index("step")

    def timeline(self, definition: Literal["batch", "probe"] = "batch") -> Timeline:
        """Which units were dead at each reading, by training batches, or by `read_set` in train-mode batch-norm.

        Dead is zero everywhere, and without variation in a layer that GELU or its like leaves (see `observe`).
        """
        self._catch_up()
        return self._timelines[definition]

    def read_set(
        self,
        images: Tensor,
        *,
        batch_size: int,
        weights: Mapping[str, Tensor] | None = None,
        step: int | None = None,
    ) -> Row:
        """Read a fixed set of inputs (N, ...) at every layer, in train-mode and in eval-mode batch-norm.

        With the rank of the pooled features, and what up-projections pass on (see `harness.probes.set_readings`).
        Dropout is off; buffers, modes and random state are afterwards as before. Metrics end in `_probe` and
        `_probe_eval`, with `weights` (averaged ones, by parameter name) in `_averaged` and `_averaged_eval`. Every rank
        of a data-parallel model reads the whole set by itself.

        batch_size: inputs a pass, as in training, since train-mode batch-norm depends on it.
        step: for the row, which is also added to `rows`; by default the steps so far, or the number given to `step`.
        Raises ValueError for an empty set, a batch size below 1, or a weight that the model lacks.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected a whole number >= 1")
        if images.shape[0] == 0:
            raise ValueError("the probe set is empty")
        unknown = set(weights or ()) - {name for name, _ in self._core.named_parameters()}
        if unknown:
            raise ValueError(f"weights: the model has no parameter {', '.join(sorted(unknown))}")
        self._catch_up()
        if step is None:
            step = self._steps.number if self._steps.given else self._steps.number + 1
        row: Row = {"step": step}
        source = "probe" if weights is None else "averaged"
        batches = images.tensor_split(math.ceil(images.shape[0] / batch_size))
        with self.stopwatch.running():
            for training in (True, False):
                words = source if training else f"{source}_eval"
                with self._set_reader.reading(own_weights=weights is None):
                    passes, _ = unpack(self._read_batches(batches, weights, training), None)
                units = merge([each.units for each in passes])
                row |= self._writer.row(units, passes, words) | self._set_reader.row(words)
                if training and weights is None and step > self._timelines["probe"].last_step():
                    self._timelines["probe"].append(step, units.dead_by_layer())
            row |= self._set_reader.weights_row() if weights is None else {}
        row["time/probe"] = self.seconds
        self._rows.append(row)
        return dict(row)

    def _read_batches(
        self, batches: Sequence[Tensor], weights: Mapping[str, Tensor] | None, training: bool
    ) -> list[PackedPass]:
        passes: list[PackedPass] = []
        self._seen["sets"] += 1
        self._reading_set = True
        try:
            with undisturbed(self._core, training), eager(self._core):
                for batch in batches:
                    self._hooks.arm()
                    if weights is None:
                        self._core(batch)
                    else:
                        torch.func.functional_call(self._core, dict(weights), (batch,))
                    layers = self._hooks.take()
                    self._say_problems()
                    if not layers:
                        raise RuntimeError("none of the observed layers can be read in a forward pass of the set")
                    passes.append(pack(layers))
        finally:
            self._hooks.disarm()
            self._reading_set = False
        return passes

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on with the same rows and timelines; ends the step."""
        self._end_step()
        return {
            **self._steps.state(),
            "timelines": {
                name: {
                    key: values.tolist() if key == "layers" else torch.from_numpy(values.copy())
                    for key, values in timeline.to_arrays().items()
                }
                for name, timeline in self._timelines.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        self._steps.restore(state)
        self._timelines = {
            name: Timeline.from_arrays({key: np.asarray(values) for key, values in arrays.items()})
            for name, arrays in state["timelines"].items()
        }
