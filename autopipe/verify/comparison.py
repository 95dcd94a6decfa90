"""Runs the split against the model and compares every number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from autopipe.errors import AutopipeError, CaptureError
from autopipe.runtime.microbatches import StagedFor
from autopipe.verify.inputs import Call, perturbed, refuse_without_numbers
from autopipe.verify.locate import Distances, Place, first_difference
from autopipe.verify.numbers import Numbers, distances
from autopipe.verify.recorded import recorded_stages
from autopipe.verify.report import Finding, Passed, Verification
from autopipe.verify.runs import Runs, requires_gradient
from autopipe.verify.untouched import untouched

Flags = tuple[str, Callable[[], None]]
Compared = Passed | Finding
_GRAPH, _STAGES = "one graph = model", "stages = one graph"


def verify(model: nn.Module, staged_for: StagedFor, example: Call) -> Verification:
    """Run a split model against the model: on the example and on other numbers, in train and eval.

    Compared are outputs, loss, every gradient and every buffer. Random operations draw from the user's stream
    where the capture is held against the model, for both run in program order; and keyed numbers where the
    stages are held against the capture. ``.grad``, buffers, plain attributes, training flags and random
    streams are left as they were.

    Memory: the gradients of up to three runs, a copy of the buffers for each, and the activations of one
    microbatch at a time. If a difference is found, also every value inside, twice.

    Args:
        model: The model.
        staged_for: Gives the stages that are right for a call, and the values of their arguments by name.
        example: Positional and keyword arguments of one microbatch.

    Returns:
        A report: prints as a certificate, or names the first value that differs.

    Raises:
        ArgumentError: If the model or the example is on the meta device, or the model on several devices.
        CaptureError: If the model cannot be captured in one of the two modes.

    Complexity:
        Twelve forwards and backwards of the example, and a capture of the mode that has none yet.
    """
    refuse_without_numbers(model, example)
    n_stages = 0
    passed: list[Passed] = []
    with untouched(model) as state, torch.inference_mode(False), torch.enable_grad():
        for flags, set_flags in _all_flags(model):
            runs = Runs(model, staged_for, state, set_flags)
            for numbers, call in (("example", example), ("perturbed", _other_numbers(runs, example))):
                n_stages = len(runs.staged(call).stages)
                for compared in _Comparison(runs, call, flags, numbers).all():
                    if isinstance(compared, Finding):
                        return Verification(type(model).__name__, n_stages, tuple(passed), compared)
                    passed.append(compared)
    return Verification(type(model).__name__, n_stages, tuple(passed))


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


class _Comparison:
    """All comparisons of one call under one set of training flags."""

    def __init__(self, runs: Runs, call: Call, flags: str, numbers: str) -> None:
        self._runs, self._call = runs, call
        self._flags, self._numbers = flags, numbers

    def all(self) -> Iterator[Compared]:
        """Yield the results, the graph against the model first; nothing follows a finding."""
        plain = self._runs.plain(self._call)
        trains = requires_gradient(plain)
        yield self._compared(_GRAPH, plain, lambda: self._runs.one_graph(self._call), self._part_from_model)
        one = self._runs.one_graph_keyed(self._call, trains=trains)
        yield self._compared(
            _STAGES,
            one,
            lambda: self._runs.stages_keyed(self._call, trains=trains),
            lambda differing: self._part_from_graph(differing, trains),
        )

    def _compared(
        self,
        pair: str,
        expected: Numbers,
        run: Callable[[], Numbers],
        locate: Callable[[Distances], Place],
    ) -> Compared:
        try:
            found = run()
        except CaptureError:
            raise
        except Exception as error:  # a stage fails where the model runs: a difference too
            return self._finding(pair, _failure(error), {})
        differing = distances(found, expected)
        if any(too_far for named in differing.values() for _, too_far in named.values()):
            return self._finding(pair, locate(differing), differing)
        errors = {
            _named(kind, name): error
            for kind, named in differing.items()
            for name, (error, _) in named.items()
        }
        return Passed(self._flags, self._numbers, pair, expected.counts, errors)

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
