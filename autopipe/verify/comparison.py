"""Runs the split against the model and compares every number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autopipe.errors import ArgumentError, AutopipeError, CaptureError
from autopipe.ir.structure import Structure
from autopipe.runtime.microbatches import StagedFor
from autopipe.verify.inputs import Call, cut, joined, perturbed, refuse_without_numbers, without_last
from autopipe.verify.locate import Distances, Place, first_difference
from autopipe.verify.numbers import Numbers, distances
from autopipe.verify.recorded import recorded_stages
from autopipe.verify.report import Finding, Passed, Verification
from autopipe.verify.runs import Runs, requires_gradient
from autopipe.verify.untouched import untouched

Flags = tuple[str, Callable[[], None]]
Compared = Passed | Finding
_GRAPH, _STAGES, _ONE_BY_ONE = "one graph = model", "stages = one graph", "one by one = model"


def verify(
    model: nn.Module,
    staged_for: StagedFor,
    example: Call,
    *,
    n_ranks: int | None = None,
    schedules: Sequence[str] = ("1f1b", "gpipe"),
    recompute: Collection[int] = (),
) -> Verification:
    """Run a split model against the model: on the example and on other numbers, in train and eval.

    Compared are outputs, loss, every gradient and every buffer. Random operations draw from the user's stream
    where the capture is held against the model, for both run in program order; and keyed numbers where the
    stages are held against the capture: with one microbatch; with one more than there are stages, by each
    schedule; and with as many of two sizes, by the first. ``.grad``, buffers, plain attributes, training
    flags and random streams are left as they were.

    Memory: the gradients of up to three runs, a copy of the buffers for each, and the activations of as many
    microbatches as are in flight. If a difference is found, also every value inside, twice.

    Args:
        model: The model.
        staged_for: Gives the stages that are right for a call, and the values of their arguments by name.
        example: Positional and keyword arguments of one microbatch.
        n_ranks: Ranks that share the stages; None: one a stage.
        schedules: Names of the schedules that are run.
        recompute: Stages that run their forward again before the backward.

    Returns:
        A report: prints as a certificate, or names the first value that differs.

    Raises:
        ArgumentError: If the model or the example is on the meta device, or the model on several devices.
        CaptureError: If the model cannot be captured in one of the two modes.

    Complexity:
        With S stages and K schedules: ``8 + 2 (K + 3) (S + 1)`` forwards and backwards of the example, and a
        capture of the mode that has none yet.
    """
    refuse_without_numbers(model, example)
    n_stages, left_out = 0, ""
    passed: list[Passed] = []
    with untouched(model) as state, torch.inference_mode(False), torch.enable_grad():
        for flags, set_flags in _all_flags(model):
            runs = Runs(model, staged_for, state, set_flags, example, recompute)
            n_stages = len(runs.staged(example).stages)
            every = _EveryComparison(runs, flags, example, n_ranks or n_stages, schedules)
            for compared in every.all():
                if isinstance(compared, Finding):
                    return Verification(type(model).__name__, n_stages, tuple(passed), compared)
                passed.append(compared)
            left_out = left_out or every.left_out
    return Verification(type(model).__name__, n_stages, tuple(passed), left_out=left_out)


def _all_flags(model: nn.Module) -> list[Flags]:
    """Return train and eval, that which is on first; and before them what is neither."""
    found = [(module, module.training) for module in model.modules()]

    def as_found() -> None:
        for module, training in found:
            module.training = training

    both: list[Flags] = [("train", lambda: _set(model, True)), ("eval", lambda: _set(model, False))]
    if len({training for _, training in found}) > 1:
        return [("as found", as_found), *both]
    return both if model.training else both[::-1]


def _set(model: nn.Module, training: bool) -> None:
    model.train(training)


def _other_numbers(runs: Runs, example: Call) -> Call:
    """Perturb the integers too, if the model bears it."""
    other = perturbed(example, integers=True)
    try:
        runs.plain(other)
    except Exception:  # whatever the user's model says to integers in another order
        return perturbed(example, integers=False)
    return other


class _EveryComparison:
    """All comparisons under one set of training flags."""

    def __init__(self, runs: Runs, flags: str, example: Call, n_ranks: int, schedules: Sequence[str]) -> None:
        self._runs, self._flags, self._example = runs, flags, example
        self._n_ranks, self._schedules = n_ranks, schedules
        self.left_out = ""

    def all(self) -> Iterator[Compared]:
        """Yield the results, with one microbatch first; nothing follows a finding."""
        other, trains = _other_numbers(self._runs, self._example), False
        for numbers, call in (("example", self._example), ("perturbed", other)):
            comparison = _Comparison(self._runs, call, self._flags, numbers)
            yield from comparison.of_one_microbatch()
            trains = comparison.trains
        yield from self._of_several_microbatches(other, trains)

    def _of_several_microbatches(self, other: Call, trains: bool) -> Iterator[Compared]:
        """Hold stages that have several microbatches in flight against one after the other."""
        staged = self._runs.staged(self._example)
        dims = [leaf.batch_dim for leaf in staged.traced.inputs]
        n_microbatches = len(staged.stages) + 1
        if all(dim is None for dim in dims):
            self.left_out = "Several microbatches were not compared: no argument carries a batch."
            return
        n_rows = min(
            tensor.shape[dim] for tensor, dim in zip(_tensors(other), dims, strict=True) if dim is not None
        )
        n_calls = n_microbatches if n_rows > 1 else 2 * n_microbatches
        batch = joined([(self._example, other)[index % 2] for index in range(n_calls)], dims)
        for name, given, schedules in (
            (f"{n_microbatches} microbatches", batch, self._schedules),
            (f"{n_microbatches} of two sizes", without_last(batch, dims), self._schedules[:1]),
        ):
            try:
                one_by_one = self._runs.one_by_one(given, n_microbatches, trains=trains)
            except (
                ArgumentError
            ) as error:  # such as arguments that disagree about the batch, for the engine too
                self.left_out = f"Several microbatches were not compared: {error.what}"
                return
            except Exception as error:
                why = self._runs.why_plain_fails(cut(given, dims, n_microbatches))
                if not why:
                    yield _Comparison(self._runs, given, self._flags, name).failed(_ONE_BY_ONE, error)
                self.left_out = f"The model itself does not run on {name}: {why}"
                return
            for schedule in schedules:
                yield self._in_flight(given, one_by_one, name, schedule, trains)

    def _in_flight(
        self, batch: Call, one_by_one: Numbers, name: str, schedule: str, trains: bool
    ) -> Compared:
        runs, n_microbatches = self._runs, len(self._runs.staged(self._example).stages) + 1

        def run() -> Numbers:
            return runs.in_flight(batch, n_microbatches, schedule, self._n_ranks, trains=trains)

        def locate(differing: Distances) -> Place:
            staged, whole = runs.staged(self._example), runs.one_stage(self._example)
            with recorded_stages(whole) as expected:
                runs.one_by_one(batch, n_microbatches, trains=trains)
            with recorded_stages(staged) as found:
                run()
            return first_difference(staged, found, expected, differing)

        comparison = _Comparison(runs, batch, self._flags, name)
        return comparison.compared(f"{schedule} = one by one", one_by_one, run, locate)


class _Comparison:
    """The comparisons of one call under one set of training flags."""

    def __init__(self, runs: Runs, call: Call, flags: str, numbers: str) -> None:
        self._runs, self._call = runs, call
        self._flags, self._numbers = flags, numbers
        self.trains = False

    def of_one_microbatch(self) -> Iterator[Compared]:
        """Yield the results, the graph against the model first; nothing follows a finding."""
        plain = self._runs.plain(self._call)
        self.trains = trains = requires_gradient(plain)
        yield self.compared(_GRAPH, plain, lambda: self._runs.one_graph(self._call), self._part_from_model)
        one = self._runs.one_graph_keyed(self._call, trains=trains)
        yield self.compared(
            _STAGES,
            one,
            lambda: self._runs.stages_keyed(self._call, trains=trains),
            lambda differing: self._part_from_graph(differing, trains),
        )

    def compared(
        self,
        pair: str,
        expected: Numbers,
        run: Callable[[], Numbers],
        locate: Callable[[Distances], Place],
    ) -> Compared:
        """Hold what a run gives against what is expected, and name the place if it differs."""
        try:
            found = run()
        except CaptureError:
            raise
        except Exception as error:  # a stage fails where the model runs: a difference too
            return self.failed(pair, error)
        differing = distances(found, expected)
        if any(too_far for named in differing.values() for _, too_far in named.values()):
            return self._finding(pair, locate(differing), differing)
        errors = {
            _named(kind, name): error
            for kind, named in differing.items()
            for name, (error, _) in named.items()
        }
        return Passed(self._flags, self._numbers, pair, expected.counts, errors)

    def failed(self, pair: str, error: Exception) -> Finding:
        """Say that a run of the stages fails where the model runs."""
        return self._finding(pair, _failure(error), {})

    def _finding(self, pair: str, place: Place, differing: Distances) -> Finding:
        others = tuple(_summed(kind, named) for kind, named in differing.items())
        return Finding(self._flags, self._numbers, pair, place.what, place.where, others)

    def _part_from_model(self, differing: Distances) -> Place:
        again = distances(self._runs.plain(self._call), self._runs.plain(self._call))
        if any(too_far for named in again.values() for _, too_far in named.values()):
            return Place("the model itself gives other numbers when it runs twice with one random seed.")
        one = self._runs.one_stage(self._call)
        expected = self._runs.plain_leaves(self._call, one.traced)
        with recorded_stages(one) as found:
            self._runs.one_graph(self._call)
        return first_difference(one, found, expected, differing)

    def _part_from_graph(self, differing: Distances, trains: bool) -> Place:
        staged, one = self._runs.staged(self._call), self._runs.one_stage(self._call)
        with recorded_stages(one) as expected:
            self._runs.one_graph_keyed(self._call, trains=trains)
        with recorded_stages(staged) as found:
            self._runs.stages_keyed(self._call, trains=trains)
        return first_difference(staged, found, expected, differing)


def _tensors(call: Call) -> list[torch.Tensor]:
    return [hole for hole in Structure.of(call)[1] if isinstance(hole, torch.Tensor)]


def _failure(error: Exception) -> Place:
    if isinstance(error, AutopipeError):
        return Place(
            f"the stages fail where the model runs. {error.what}", f"{error.where}\n{error.why}".strip()
        )
    return Place(f"the stages fail where the model runs: {type(error).__name__}: {error}")


def _named(kind: str, name: str) -> str:
    return name if kind == name or kind.startswith("input") else f"{kind} {name}"


def _summed(kind: str, named: Any) -> str:
    beyond = {name: error for name, (error, too_far) in named.items() if too_far}
    if not beyond:
        return f"{kind}: equal up to rounding"
    worst = max(beyond, key=lambda name: beyond[name])
    return f"{kind}: {len(beyond)} differ, most of all {worst} ({beyond[worst]:.1e} of its largest entry)"
