"""What one stage does in one step: forwards, backwards, and what it keeps between the two.

::

    received ──► leaves ──► module ──► results ──► sent        forward; a leaf has no past
       .grad  ◄──────────── backward ◄──── gradients            the sum of what the readers sent back
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from autopipe.ir.stages import StageModule
from autopipe.rewrite.outputs import output_leaves
from autopipe.rewrite.random_keys import enter_key
from autopipe.runtime.keyed_random import LOSS_KEY
from autopipe.runtime.old_attributes import OldAttributes
from autopipe.runtime.old_values import OldValues
from autopipe.runtime.replicas import TiedCopies
from autopipe.runtime.run_again import RunAgain
from autopipe.runtime.stage_call import call_stage
from autopipe.runtime.step import Step


@dataclass(slots=True)
class _InFlight:
    """A microbatch between its forward and its backward.

    Args:
        leaves: Received values that require a gradient.
        roots: Sent values that require a gradient.
        loss: The weighted loss, on the last stage.
        again: What the forward needs to run again, where the stage recomputes.
        attributes: What modules noted on themselves in the forward.
        gradients: Value -> reading stage -> the gradient that it sent back.
    """

    leaves: dict[str, torch.Tensor]
    roots: dict[str, torch.Tensor]
    loss: torch.Tensor | None
    again: RunAgain | None
    attributes: OldAttributes
    gradients: dict[str, dict[int, torch.Tensor]] = field(default_factory=lambda: defaultdict(dict))


class StageWorker:
    """Runs the actions of one stage in one step; everything that it keeps goes with the step.

    Args:
        index: The stage.
        step: What the step is about.
        device: Where the stage lives.
        replicas: Its tied tensors, if their owner lives elsewhere.
        recomputes: Whether it keeps only the inputs of a forward, and runs it again before the backward.
    """

    def __init__(
        self, index: int, step: Step, device: torch.device, replicas: TiedCopies, *, recomputes: bool = False
    ) -> None:
        """Start with nothing received."""
        self.index, self.device = index, device
        self._recomputes = recomputes and step.trains
        self._step, self._replicas = step, replicas
        self._received: dict[int, dict[str, Any]] = defaultdict(dict)
        self._to_send: dict[int, dict[str, Any]] = {}
        self._in_flight: dict[int, _InFlight] = {}
        self._leaves: dict[int, dict[str, torch.Tensor]] = {}

    # Values

    def take_value(self, microbatch: int, value: str, tensor: torch.Tensor | None) -> None:
        """Keep a value that was received, for the forward."""
        self._received[microbatch][value] = tensor

    def forward(self, microbatch: int) -> None:
        """Run the stage; the last one computes the loss and keeps the outputs."""
        step, stage = self._step, self._step.batch.staged[microbatch].stages[self.index]
        received = self._received.pop(microbatch, {})
        values = {**self._inputs(microbatch), **received}
        with self._running(microbatch), self._old_values_kept(stage) as own:
            again = RunAgain(stage, values) if self._recomputes else None
            with again.hooks() if again is not None else nullcontext():
                results = call_stage(stage, values)
            results = own(results)
            is_last = self.index == step.n_stages - 1
            loss = self._finish(microbatch, {**values, **results}) if is_last else None
        sent = {value: results[value] for value, _ in step.sends[self.index] if value in results}
        if sent:
            self._to_send[microbatch] = dict(sent)
        if step.trains:
            roots = {value: tensor for value, tensor in sent.items() if _requires_grad(tensor)}
            leaves = {value: tensor for value, tensor in received.items() if _requires_grad(tensor)}
            self._in_flight[microbatch] = _InFlight(leaves, roots, loss, again, OldAttributes(stage))

    def value_to_send(self, microbatch: int, value: str, peer: int) -> Any:
        """Return a result for one reader; after the last one it is kept only if its gradient needs it."""
        waiting = self._to_send.get(microbatch, {})
        found = waiting.get(value)
        readers = [dst for name, dst in self._step.sends[self.index] if name == value]
        if peer == readers[-1]:
            waiting.pop(value, None)
        return found

    # Gradients

    def take_gradient(self, microbatch: int, value: str, peer: int, gradient: torch.Tensor | None) -> None:
        """Keep the gradient that one reader of a value sent back."""
        if gradient is not None:
            self._in_flight[microbatch].gradients[value][peer] = gradient

    def backward(self, microbatch: int) -> None:
        """Run the stage backwards: parameters accumulate into ``.grad``, the forward is forgotten."""
        flight = self._in_flight.pop(microbatch)
        roots: list[torch.Tensor] = []
        gradients: list[torch.Tensor | None] = []
        if flight.loss is not None:
            roots.append(flight.loss)
            gradients.append(None)
        for value, root in reversed(flight.roots.items()):
            if by_reader := flight.gradients.get(value):
                roots.append(root)
                gradients.append(_summed(by_reader))
        with flight.attributes.in_place(forget=flight.again is not None):
            if roots and flight.again is not None:
                with self._running(microbatch):
                    flight.again.run()
            if roots:
                with self._running(microbatch), _without_autocast():
                    torch.autograd.backward(roots, gradients)
        self._leaves[microbatch] = flight.leaves

    def gradient_to_send(self, microbatch: int, value: str) -> torch.Tensor | None:
        """Return the gradient of a received value, None if there is none."""
        leaf = self._leaves[microbatch].pop(value, None)
        return None if leaf is None else leaf.grad

    # Inside an action

    @contextmanager
    def _running(self, microbatch: int) -> Iterator[None]:
        """Everything that holds while the stage runs, put back afterwards."""
        with ExitStack() as stack:
            stack.enter_context(_current_device(self.device))
            stack.enter_context(self._replicas.in_place(self.index))
            stack.enter_context(self._step.random.of_microbatch(microbatch, self.device))
            yield

    @contextmanager
    def _old_values_kept(self, stage: StageModule) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
        """Let the backward read the numbers that this forward leaves; the next one overwrites them."""
        if not stage.written or len(self._step.batch) == 1:
            yield lambda results: results
            return
        kept = OldValues(stage)
        with kept.hooks() if self._step.trains else nullcontext():
            yield kept.own_results
        kept.copy()

    def _inputs(self, microbatch: int) -> dict[str, Any]:
        """Return the model inputs and sizes that the stage reads, on its device."""
        stage = self._step.batch.staged[microbatch].stages[self.index]
        wanted = {argument.name for argument in stage.arguments}
        found = self._step.batch.values(microbatch)
        return {
            name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in found.items()
            if name in wanted
        }

    def _finish(self, microbatch: int, values: dict[str, Any]) -> torch.Tensor | None:
        """Compute the weighted loss, and keep what the step returns."""
        step = self._step
        traced = step.batch.staged[microbatch].traced
        leaves = output_leaves(traced, values)
        weighted = None
        if step.objective is not None:
            enter_key(LOSS_KEY)
            loss = step.objective.loss(traced, leaves, microbatch)
            weight = step.objective.weights[microbatch]
            weighted = loss if weight == 1.0 else loss * weight
            step.losses[microbatch] = weighted.detach()
        if step.wants_output:
            step.outputs[microbatch] = [
                leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
            ]
        return weighted


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _summed(by_reader: dict[int, torch.Tensor]) -> torch.Tensor:
    """Add the gradients of a value's readers, the latest first, as autograd meets them unsplit."""
    first, *rest = (by_reader[stage] for stage in sorted(by_reader, reverse=True))
    for gradient in rest:
        first = first + gradient
    return first


def _current_device(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Turn the caller's autocast off: a backward runs in the dtypes of its forward."""
    with ExitStack() as stack:
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        yield
