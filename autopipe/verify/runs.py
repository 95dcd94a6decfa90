"""The three ways in which a verification runs a model: plain, as one graph, and as stages.

::

    plain model ═══ one graph       the user's random stream: both draw in program order
                    one graph ═══ stages        keyed random numbers, through the engine: one microbatch,
                                                then one after the other ═══ several in flight
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autopipe.ir.stages import StagedModel
from autopipe.ir.structure import Structure
from autopipe.ir.traced import TracedModel
from autopipe.rewrite import rewrite
from autopipe.runtime import Engine
from autopipe.runtime.argument_names import argument_names
from autopipe.runtime.microbatches import StagedFor
from autopipe.runtime.whole import run_whole
from autopipe.verify.given import Given
from autopipe.verify.inputs import Call
from autopipe.verify.numbers import Numbers
from autopipe.verify.projection import projection
from autopipe.verify.recorded import Recorded, recorded_leaves
from autopipe.verify.untouched import Untouched, seed_streams

SEED = 20  # any; the same for every run


class Runs:
    """Runs one model in all three ways; every run starts from the same state.

    Args:
        model: The model.
        staged_for: Gives the stages that are right for a call, as the engine takes it.
        state: The state that every run starts from.
        set_flags: Sets the training flags of the modules.
        example: A microbatch, which tells the batch dimensions.
        recompute: Stages that run their forward again before the backward, where microbatches are in flight.
    """

    def __init__(
        self,
        model: nn.Module,
        staged_for: StagedFor,
        state: Untouched,
        set_flags: Callable[[], None],
        example: Call,
        recompute: Collection[int] = (),
    ) -> None:
        """Run nothing yet."""
        self._model, self._state, self._set_flags = model, state, set_flags
        self._example, self._recompute = example, recompute
        self._staged_for = staged_for
        self._whole: dict[int, tuple[StagedModel, StagedModel]] = {}

    def plain(self, call: Call) -> Numbers:
        """Run the model itself."""
        given = self._start(call)
        return self._backward(given, self._model(*given.args, **given.kwargs))

    def plain_leaves(self, call: Call, traced: TracedModel) -> Recorded:
        """Run the model itself, and record what its leaves return, under the nodes of a capture."""
        given = self._start(call)
        with recorded_leaves(traced) as found:
            self._backward(given, self._model(*given.args, **given.kwargs))
        return found

    def why_plain_fails(self, microbatches: Sequence[Call]) -> str:
        """Run the model itself on one microbatch after the other; return what it raises, or ""."""
        try:
            for index, call in enumerate(microbatches):
                given = Given(call) if index else self._start(call)
                self._backward(given, self._model(*given.args, **given.kwargs))
        except Exception as error:  # whatever the user's model says
            return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return ""

    def one_graph(self, call: Call) -> Numbers:
        """Run the capture as one graph, with the random numbers that the plain model draws."""
        given = self._start(call)
        staged, values = self._one_stage_for(*given.both)
        return self._backward(given, run_whole(staged, self._model, values, given.both))

    def one_graph_keyed(self, call: Call, *, trains: bool) -> Numbers:
        """Run the capture as one stage, through the engine."""
        return self._engine(self._one_stage_for, call, self._uncut(call), trains)

    def stages_keyed(self, call: Call, *, trains: bool) -> Numbers:
        """Run the stages, through the engine."""
        return self._engine(self._staged_for, call, self._uncut(call), trains)

    def one_by_one(self, call: Call, n_microbatches: int, *, trains: bool) -> Numbers:
        """Run the capture as one stage, the microbatches of a call one after the other."""
        return self._engine(self._one_stage_for, call, {"n_microbatches": n_microbatches}, trains)

    def in_flight(
        self, call: Call, n_microbatches: int, schedule: str, n_ranks: int, *, trains: bool
    ) -> Numbers:
        """Run the stages, the microbatches of a call by a schedule."""
        options = {"n_microbatches": n_microbatches, "schedule": schedule, "n_ranks": n_ranks}
        return self._engine(self._staged_for, call, {**options, "recompute": self._recompute}, trains)

    def staged(self, call: Call) -> StagedModel:
        """Return the stages that are right for a call."""
        return self._staged_for(*self._start(call).both)[0]

    def one_stage(self, call: Call) -> StagedModel:
        """Return the same capture as one stage."""
        return self._one_stage_for(*self._start(call).both)[0]

    def _start(self, call: Call) -> Given:
        self._state.before_a_run()
        self._set_flags()
        seed_streams(SEED)
        return Given(call)

    def _backward(self, given: Given, output: Any) -> Numbers:
        loss = projection(output)
        if loss is not None and loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return Numbers.of(self._model, given.tensors, output, loss, given.left())

    def _one_stage_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[StagedModel, Any]:
        staged, values = self._staged_for(args, kwargs)
        if id(staged) not in self._whole:
            nodes = staged.traced.compute_nodes()
            whole = rewrite(staged.traced, self._model, {node.name: 0 for node in nodes}, 1)
            self._whole[id(staged)] = (staged, whole)  # the first keeps the id taken
        return self._whole[id(staged)][1], values

    def _uncut(self, call: Call) -> dict[str, Any]:
        names = argument_names(self._model, Structure.of(call)[0])
        return {"n_microbatches": 1, "batch_dims": dict.fromkeys(names)}

    def _engine(self, staged_for: StagedFor, call: Call, options: Mapping[str, Any], trains: bool) -> Numbers:
        given = self._start(call)
        staged = staged_for(*self._example)[0]
        with Engine(self._model, staged, staged_for, seed=SEED, **options) as engine:
            if not trains:
                output = engine.forward(*given.args, **given.kwargs)
                return Numbers.of(self._model, given.tensors, output, projection(output))
            out = engine.step(*given.args, loss_fn=_loss, return_output=True, **given.kwargs)
            return Numbers.of(self._model, given.tensors, out.output, out.loss)


def _loss(output: Any) -> torch.Tensor:
    loss = projection(output)
    assert loss is not None, "a run without gradients is a forward"
    return loss


def requires_gradient(numbers: Numbers) -> bool:
    """Whether the run had a backward."""
    gradients = [*numbers.values["gradient"].values(), *numbers.values["input gradient"].values()]
    return any(isinstance(gradient, torch.Tensor) for gradient in gradients)
