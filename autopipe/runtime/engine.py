"""Trains and runs a split model by a schedule over microbatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from autopipe.errors import ArgumentError, EngineError, PlanMismatchError
from autopipe.ir.schedule import Schedule, Transfer
from autopipe.ir.stages import StagedModel
from autopipe.ir.timeline import Timeline
from autopipe.rewrite.batch import merge
from autopipe.runtime.checkpoint import load_state, state_of
from autopipe.runtime.interpreter import Interpreter
from autopipe.runtime.keyed_random import KeyedRandom, users_stream_kept
from autopipe.runtime.local import LocalTransport
from autopipe.runtime.losses import Objective, Reduction, microbatch_weights, own_loss_leaf
from autopipe.runtime.microbatches import BatchDims, Cutter, Microbatches, StagedFor
from autopipe.runtime.placement import place, resolve_devices
from autopipe.runtime.replicas import Replicas
from autopipe.runtime.stage_worker import StageWorker
from autopipe.runtime.step import Step, transfers_of
from autopipe.runtime.stopwatch import Stopwatch
from autopipe.schedule import build, forward_only, insert_comms

_SEED_BITS = (1 << 63) - 1  # a state dict holds the seed as int64


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step returns.

    Args:
        loss: Of the whole batch, detached, a scalar.
        output: Of the whole batch, detached, exactly as the model returns it; None if it was not asked for.
    """

    loss: torch.Tensor
    output: Any


class Engine:
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
    ) -> None:
        """Check the arguments, then move every stage to its device."""
        n_stages = len(staged.stages)
        if isinstance(schedule, Schedule):
            n_microbatches = schedule.n_microbatches if n_microbatches is None else n_microbatches
        n_microbatches = 4 * n_stages if n_microbatches is None else n_microbatches
        if n_microbatches < 1:
            raise ArgumentError(f"n_microbatches is {n_microbatches}.", remedy="n_microbatches=1 or more")
        microbatch_weights(loss_reduction, [1])
        self._model, self._staged, self._n_stages = model, staged, n_stages
        self._named_schedule, self._n_ranks, self._reduction = schedule, n_ranks, loss_reduction
        self._cutter = Cutter(model, staged_for, n_microbatches, dict(batch_dims or {}))
        self._seed = (torch.initial_seed() if seed is None else seed) & _SEED_BITS
        self._step, self._timeout_s, self._is_open = 0, timeout_s, True
        self._schedules: dict[tuple[int, bool, tuple[Transfer, ...]], Schedule] = {}
        self._last_schedule: Schedule | None = None
        self._stopwatch: Stopwatch | None = None
        self._requires_grad = _requires_grad(model)
        self._compute_schedule(n_microbatches)
        self._devices = resolve_devices(staged, devices)
        self._transport = LocalTransport(self._devices)
        self._replicas = Replicas(model, self._devices)
        self._placed: dict[int, StagedModel] = {}
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
            target: Any value with tensors inside, cut along the batch like the arguments.
            loss_fn: ``loss_fn(output, target)``, or ``loss_fn(output)`` without target, called once a
                microbatch;
                None: the model's own loss.
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
        batch = self._cutter.cut(args, kwargs, self._staged)
        weights = microbatch_weights(self._reduction, batch.samples)
        targets = self._cutter.cut_target(target, sum(batch.samples), len(batch))
        own = own_loss_leaf(batch.staged[0].traced) if loss_fn is None else None
        step = self._run(batch, Objective(loss_fn, targets, weights, own), return_output)
        self._replicas.collect()
        batch.pass_gradients_back()
        self._step += 1
        losses = [step.losses[microbatch] for microbatch in range(len(batch))]
        loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        return StepOutput(loss, self._output(step, weights) if return_output else None)

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
            batch = self._cutter.cut(args, kwargs, self._staged)
            step = self._run(batch, None, wants_output=True)
            return self._output(step, microbatch_weights(self._reduction, batch.samples))

    def _run(self, batch: Microbatches, objective: Objective | None, wants_output: bool) -> Step:
        self._settle(batch.staged)
        trained = frozenset(fqn for fqn, requires_grad in self._requires_grad.items() if requires_grad)
        transfers = transfers_of(batch.staged, trained, objective, wants_output)
        step = Step(batch, KeyedRandom(self._seed, self._step), transfers, objective, wants_output)
        schedule = self._schedule_for(len(batch), step.trains, transfers)
        workers = {
            stage: StageWorker(stage, step, device, self._replicas)
            for stage, device in enumerate(self._devices)
        }
        self._stopwatch, self._last_schedule = Stopwatch(), schedule
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
                place(each, self._devices)
                self._replicas.add(each)
                self._placed[id(each)] = each

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
        now = _requires_grad(self._model)
        if now != self._requires_grad:
            before = self._requires_grad
            changed = next(fqn for fqn in now | before if now.get(fqn) != before.get(fqn))
            raise PlanMismatchError(
                f"requires_grad of {changed} changed after the engine was built.",
                why="Which values carry gradients between stages follows from it.",
                remedy="make another engine: pipe.engine(...)",
            )

    # Schedules

    def _compute_schedule(self, n_microbatches: int) -> Schedule:
        if isinstance(self._named_schedule, str):
            return build(self._named_schedule, self._n_stages, n_microbatches, self._n_ranks)
        given = self._named_schedule
        if (given.n_stages, given.n_microbatches) != (self._n_stages, n_microbatches):
            raise ArgumentError(
                f"{given!r} was given for {self._n_stages} stages and {n_microbatches} microbatches.",
                remedy='schedule="1f1b", which is built for any number',
            )
        return given

    def _schedule_for(self, n_microbatches: int, trains: bool, transfers: tuple[Transfer, ...]) -> Schedule:
        key = (n_microbatches, trains, transfers)
        if key not in self._schedules:
            computes = self._compute_schedule(n_microbatches)
            self._schedules[key] = insert_comms(computes if trains else forward_only(computes), transfers)
        return self._schedules[key]

    @property
    def schedule(self) -> Schedule:
        """The schedule of the last step or forward, with messages; before the first, that of a full batch."""
        if self._last_schedule is not None:
            return self._last_schedule
        return self._compute_schedule(self._cutter.n_microbatches)

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

    # The model

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where each stage lives."""
        return self._devices

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the model's own parameters, each once; replicas of tied ones are not among them."""
        return self._model.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the model's own parameters with their FQNs."""
        return self._model.named_parameters()

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
        """Clip the norm of all gradients together, as ``torch.nn.utils.clip_grad_norm_`` does.

        Args:
            max_norm: The norm that they have at most afterwards.
            norm_type: Of which p-norm; may be infinity.

        Returns:
            The norm before.
        """
        return nn.utils.clip_grad_norm_(self.parameters(), max_norm, norm_type)

    def train(self, mode: bool = True) -> Self:
        """Set the model's modules to train or eval mode."""
        self._model.train(mode)
        return self

    def eval(self) -> Self:
        """Set the model's modules to eval mode."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return the model's state dict, and ``_autopipe.seed`` and ``_autopipe.step``.

        The two entries more continue the random numbers where they were.

        Returns:
            FQN -> tensor.
        """
        return state_of(self._model, self._seed, self._step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what ``state_dict`` gave, or the plain model's own state dict, which leaves seed and step.

        Args:
            state: FQN -> tensor.

        Raises:
            RuntimeError: By torch, if the tensors do not fit the model.
        """
        seed, step = load_state(self._model, state)
        self._seed = self._seed if seed is None else seed
        self._step = self._step if step is None else step

    # The end

    def close(self) -> None:
        """Let go of everything; the model stays where it is."""
        self._is_open = False
        self._schedules.clear()
        self._placed.clear()

    def __enter__(self) -> Self:
        """Return the engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()


def _requires_grad(model: nn.Module) -> dict[str, bool]:
    return {fqn: parameter.requires_grad for fqn, parameter in model.named_parameters()}
