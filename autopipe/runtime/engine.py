"""Trains and runs a split model by a schedule over microbatches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from autopipe.errors import ArgumentError, EngineError
from autopipe.ir.schedule import Schedule
from autopipe.ir.stages import StagedModel
from autopipe.ir.timeline import Timeline
from autopipe.rewrite.batch import merge, weighted_sum
from autopipe.runtime.crossing import Crossing
from autopipe.runtime.held_model import HeldModel
from autopipe.runtime.interpreter import Interpreter
from autopipe.runtime.keyed_random import KeyedRandom, users_stream_kept
from autopipe.runtime.local import LocalTransport
from autopipe.runtime.losses import Objective, Reduction, microbatch_weights, own_loss_leaf
from autopipe.runtime.microbatches import BatchDims, Cutter, Microbatches, StagedFor
from autopipe.runtime.placement import place, resolve_devices
from autopipe.runtime.replicas import Replicas, TiedCopies
from autopipe.runtime.schedules import Schedules
from autopipe.runtime.stage_worker import StageWorker
from autopipe.runtime.step import Step
from autopipe.runtime.step_keywords import settled
from autopipe.runtime.stopwatch import Stopwatch
from autopipe.runtime.trained import Trained
from autopipe.runtime.transport import Transport
from autopipe.trace import one_look


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step returns.

    Args:
        loss: Of the whole batch, detached, a scalar.
        output: Of the whole batch, detached, exactly as the model returns it; None if it was not asked for.
    """

    loss: torch.Tensor
    output: Any


class Engine(HeldModel):
    """Runs all stages of a split model in this process.

    Args:
        model: The user's model; its own modules and parameters are trained.
        staged: The split for the example.
        staged_for: ``(args, kwargs) -> (StagedModel, values)`` for the arguments of a microbatch: the split
            that is right for them, and their tensors and symbolic sizes by name. It is called under the modes
            in which the stages will run.
        schedule: Name of a schedule, or one of one's own, without comms, for exactly ``n_microbatches``.
        n_ranks: Ranks that share the stages; None: one a stage.
        n_microbatches: At most so many a step; None: 4 x stages.
        devices: One a stage, may repeat; None: where the stages are.
        batch_dims: Name of an argument -> its batch dimension, or None where it carries no batch.
        loss_reduction: "mean" weighs each microbatch's loss by its samples, "sum" adds.
        seed: Of the random numbers; None: ``torch.initial_seed()``.
        timeout_s: How long a transport may wait for another process; there is none to wait for here.
        recompute: Stages that keep only the inputs of a forward, and run it again before the backward.

    Raises:
        ArgumentError: If an argument is wrong; nothing has been moved then.
    """

    def __init__(  # noqa: PLR0913 - the public signature of Pipeline.engine, plus what a pipeline knows
        self,
        model: nn.Module,
        staged: StagedModel,
        staged_for: StagedFor,
        *,
        schedule: str | Schedule = "1f1b",
        n_ranks: int | None = None,
        n_microbatches: int | None = None,
        devices: Sequence[str | int | torch.device] | None = None,
        batch_dims: BatchDims | None = None,
        loss_reduction: Reduction = "mean",
        seed: int | None = None,
        timeout_s: float = 300.0,
        recompute: Collection[int] = (),
    ) -> None:
        """Check the arguments, then move every stage to its device."""
        n_stages = len(staged.stages)
        if isinstance(schedule, Schedule):
            n_microbatches = schedule.n_microbatches if n_microbatches is None else n_microbatches
        n_microbatches = 4 * n_stages if n_microbatches is None else n_microbatches
        microbatch_weights(loss_reduction, [1])
        super().__init__(model, torch.initial_seed() if seed is None else seed)
        self._staged, self._is_open = staged, True
        self._reduction, self.timeout_s = loss_reduction, timeout_s
        self._recompute = frozenset(recompute)
        self._cutter = Cutter(model, staged_for, n_microbatches, dict(batch_dims or {}))
        self._schedules = Schedules(schedule, n_stages, n_ranks)
        self._schedules.computes(n_microbatches)
        self._last_schedule: Schedule | None = None
        self._stopwatch: Stopwatch | None = None
        self._trained = Trained(model)
        self._devices = resolve_devices(staged, devices)
        self._placed: dict[int, StagedModel] = {}
        self._crossing = Crossing(self._trained.fqns)
        self._transport, self._replicas = self._connect()
        self._settle([staged])

    # Running

    def step(
        self,
        *args: Any,
        target: Any = None,
        loss_fn: Callable[..., torch.Tensor] | None = None,
        return_output: bool = False,
        **kwargs: Any,
    ) -> StepOutput:
        """Run one forward and backward of the whole batch; gradients accumulate into ``.grad``.

        Args:
            args: Positional arguments of the model.
            target: Any value with tensors inside, cut along the batch like the arguments. Without loss_fn it
                is the model's own argument of that name, if there is one.
            loss_fn: ``loss_fn(output, target)``, or ``loss_fn(output)`` without target, called once a
                microbatch; None: the model's own loss.
            return_output: Whether the outputs are put together and returned.
            kwargs: Keyword arguments of the model.

        Returns:
            The loss, and the output if it was asked for.

        Raises:
            ArgumentError: If arguments disagree about the batch, or if there is no loss.
            PlanMismatchError: If a parameter's ``requires_grad`` changed since the engine was built.
            EngineError: If a stage fails; gradients of microbatches that were done stay in ``.grad``, as
                they do in a plain loop, and the next step can run.
        """
        self._check(needs_grad=True)
        with one_look():
            call = ("step", loss_fn is not None, return_output)
            args, kwargs, target = self._agree(call, (args, kwargs, target))
            target, kwargs = settled(self._model, args, kwargs, target, loss_fn, return_output)
            batch = self._cutter.cut(args, kwargs, self._staged)
        weights = microbatch_weights(self._reduction, batch.samples)
        targets = self._cutter.cut_target(target, sum(batch.samples), len(batch))
        own = own_loss_leaf(batch.staged[0].traced) if loss_fn is None else None
        step = self._run(batch, Objective(loss_fn, targets, weights, own), return_output)
        self._replicas.collect()
        batch.pass_gradients_back()
        out = StepOutput(self._loss(step), self._output(step, weights) if return_output else None)
        self._step += 1
        return out

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the whole batch without gradients.

        Args:
            args: Positional arguments of the model.
            kwargs: Keyword arguments of the model.

        Returns:
            What the model returns for the batch.

        Raises:
            ArgumentError: If arguments disagree about the batch.
            EngineError: If a stage fails.
        """
        self._check(needs_grad=False)
        with torch.no_grad():
            with one_look():
                args, kwargs, _ = self._agree(("forward",), (args, kwargs, None))
                batch = self._cutter.cut(args, kwargs, self._staged)
            step = self._run(batch, None, wants_output=True)
            return self._output(step, microbatch_weights(self._reduction, batch.samples))

    def _run(self, batch: Microbatches, objective: Objective | None, wants_output: bool) -> Step:
        self._settle(batch.staged)
        transfers = self._crossing.transfers(batch, objective, wants_output)
        step = Step(batch, KeyedRandom(self._seed, self._step), transfers, objective, wants_output)
        schedule = self._schedules.with_messages(len(batch), transfers, trains=step.trains)
        workers = {
            stage: StageWorker(
                stage, step, self._devices[stage], self._replicas, recomputes=stage in self._recompute
            )
            for stage in self._stages_here()
        }
        self._stopwatch, self._last_schedule = Stopwatch(), schedule
        self._expect(step)
        self._replicas.refresh()
        try:
            with users_stream_kept(self._devices):
                Interpreter(workers, self._transport, batch.staged, self._stopwatch).run(schedule)
        except BaseException:
            self._transport.clear()
            self._replicas.drop_gradients()
            raise
        return step

    def _settle(self, staged: Sequence[StagedModel]) -> None:
        """Move splits that are new to the devices, and make the replicas that they need."""
        for each in staged:
            if id(each) not in self._placed:
                place(each, self._devices, self._stages_here())
                self._replicas.add(each)
                self._placed[id(each)] = each

    # What is different where the stages are spread over processes

    def _connect(self) -> tuple[Transport, TiedCopies]:
        """Return what carries messages, and what keeps the copies of tied tensors."""
        return LocalTransport(self._devices), Replicas(self._model, self._devices)

    def _stages_here(self) -> Sequence[int]:
        """Return the stages that this process runs."""
        return range(len(self._devices))

    def _agree(self, call: tuple[Any, ...], given: Any) -> Any:
        """Begin a call; there is nobody to agree with in one process."""
        del call
        return given

    def _expect(self, step: Step) -> None:
        """Prepare for the messages of a step; in one process there is nothing to prepare."""

    def _loss(self, step: Step) -> torch.Tensor:
        losses = [step.losses[microbatch] for microbatch in range(len(step.batch))]
        return weighted_sum(losses, [1.0] * len(losses))

    def _output(self, step: Step, weights: Sequence[float]) -> Any:
        traced = step.batch.staged[0].traced
        leaves = [step.outputs[microbatch] for microbatch in range(len(step.batch))]
        return traced.out_structure.fill(merge(traced, leaves, weights))

    def _check(self, *, needs_grad: bool) -> None:
        if not self._is_open:
            raise EngineError("the engine is closed.", remedy="make another: pipe.engine(...)")
        if needs_grad and not torch.is_grad_enabled():
            raise ArgumentError(
                "a step needs gradients, but they are off.",
                why="engine.step was called under torch.no_grad() or torch.inference_mode().",
                remedy="engine.forward(...) for inference",
            )
        self._trained.check()

    # Looking

    @property
    def schedule(self) -> Schedule:
        """The schedule of the last step or forward, with messages; before the first, that of a full batch."""
        if self._last_schedule is not None:
            return self._last_schedule
        return self._schedules.computes(self._cutter.n_microbatches)

    def timeline(self) -> Timeline:
        """Return when every action of the last step or forward ran, as measured.

        Returns:
            The spans.

        Raises:
            EngineError: If nothing ran yet.
        """
        if self._stopwatch is None or self._last_schedule is None:
            raise EngineError("the engine has not run a step yet.", remedy="engine.step(...) first")
        return self._stopwatch.timeline(self._last_schedule.n_ranks)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where each stage lives."""
        return self._devices

    # The end

    def close(self) -> None:
        """Let go of everything; the model stays where it is."""
        self._is_open = False
        self._placed.clear()
        self._crossing.forget()

    def __enter__(self) -> Self:
        """Return the engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()
