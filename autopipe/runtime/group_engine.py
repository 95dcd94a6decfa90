"""The engine over several processes: each rank runs its own stages, and all fail or go on together.

Every call has three parts::

    agree     what each rank gave, compared and completed           one small exchange
    run       this rank's row of the schedule; tied tensors
    finish    the loss, and that every rank came to the end         one small exchange
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.ir.action import Message
from autopipe.ir.stages import StagedModel
from autopipe.ir.structure import tensors_in
from autopipe.runtime.agreement import Agreement
from autopipe.runtime.dist import DistTransport
from autopipe.runtime.engine import Engine, StepOutput
from autopipe.runtime.handshake import agree, record_of
from autopipe.runtime.held_part import HeldPart
from autopipe.runtime.layouts import layouts_of
from autopipe.runtime.microbatches import StagedFor
from autopipe.runtime.norms import clip_over_ranks
from autopipe.runtime.options import check_options
from autopipe.runtime.peers import Peers
from autopipe.runtime.replicas import TiedCopies
from autopipe.runtime.scalars import scalar_from, scalar_to
from autopipe.runtime.shares import Shares
from autopipe.runtime.step import Step
from autopipe.runtime.transport import Transport
from autopipe.runtime.wires import wires_between


class GroupEngine(HeldPart, Engine):
    """Runs the stages of one rank of a process group; every rank has one, and makes the same calls.

    Stage s lives on rank s mod the size of the group. A rank trains, and returns as parameters and state,
    only what its stages own.

    Args:
        model: The user's model, the same on every rank.
        staged: The split for the example.
        staged_for: As for ``Engine``.
        group: The ranks of the plan; it gives its store, and carries no message of the engine.
        n_ranks: How many ranks the plan has.
        devices: This rank's device, or one a stage, of which only those of this rank's stages count.
        timeout_s: After how long a rank that does not answer counts as lost.
        options: As for ``Engine``.

    Raises:
        ArgumentError: If the group is of another size, if this process is not in it, or if this rank's
            stages would lie on several devices.
        PlanMismatchError: On every rank, if ranks differ in model, plan, signature, requires_grad, versions
            or arguments.
        EngineError: If a rank does not come in time.
    """

    def __init__(
        self,
        model: nn.Module,
        staged: StagedModel,
        staged_for: StagedFor,
        *,
        group: dist.ProcessGroup,
        n_ranks: int,
        devices: Any = None,
        timeout_s: float = 300.0,
        **options: Any,
    ) -> None:
        """Meet the other ranks, compare, connect, and move the stages of this rank."""
        self._peers = Peers(group, n_ranks, timeout_s)
        self._options = {name: value for name, value in options.items() if name != "seed"}  # rank 0's counts
        self._agreement = Agreement(model, self._peers)
        try:
            devices = _one_a_stage(devices, len(staged.stages))
            check_options({**options, "devices": devices}, len(staged.stages))
            super().__init__(
                model, staged, staged_for, n_ranks=n_ranks, devices=devices, timeout_s=timeout_s, **options
            )
        except BaseException as error:
            self._raise_first(error)

    # Running

    def step(
        self,
        *args: Any,
        target: Any = None,
        loss_fn: Callable[..., torch.Tensor] | None = None,
        return_output: bool = False,
        **kwargs: Any,
    ) -> StepOutput:
        """Run one forward and backward of the whole batch; every rank makes the same call.

        Args:
            args: Positional arguments of the model; None for a tensor that no stage of this rank reads, if
                another rank gives it.
            target: As for ``Engine``; None on ranks without the last stage.
            loss_fn: As for ``Engine``, on every rank.
            return_output: Whether the ranks that hold the last stage return the outputs.
            kwargs: Keyword arguments of the model.

        Returns:
            The loss, the same on every rank; and the output on the rank of the last stage.

        Raises:
            PlanMismatchError: On every rank, if they make different calls.
            ArgumentError: If a rank lacks what it needs.
            EngineError: On every rank, with the first cause, if one fails; the next call connects anew.
        """
        with self._together():
            return super().step(*args, target=target, loss_fn=loss_fn, return_output=return_output, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the whole batch without gradients; every rank makes the same call.

        Args:
            args: As for ``step``.
            kwargs: As for ``step``.

        Returns:
            What the model returns, on the rank of the last stage; None elsewhere.

        Raises:
            PlanMismatchError: As for ``step``.
            EngineError: As for ``step``.
        """
        with self._together():
            output = super().forward(*args, **kwargs)
            self._finish(b"")
            return output

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Let all ranks fail with what fails inside."""
        try:
            if self._is_open:
                self._peers.connect()
            yield
        except BaseException as error:
            self._raise_first(error)

    def _raise_first(self, error: BaseException) -> None:
        if hasattr(self, "_transport"):
            self._transport.clear()
        self._agreement.forget()
        first = self._peers.fail(error)
        if first is error:
            raise error
        raise first from (error.__cause__ or error)

    # What Engine leaves open

    def _agree(self, call: tuple[Any, ...], given: Any) -> Any:
        """Begin a call with the other ranks; seed and step are rank 0's."""
        whole, place = self._agreement.reach(call, given, (self._seed, self._step))
        self._seed, self._step = place
        has_loss_fn = call[1:2] == (True,)
        if (
            has_loss_fn
            and self._holds_last
            and any(each is part for each in self._agreement.stand_ins for part in tensors_in(whole[2]))
        ):
            raise ArgumentError(
                "this rank was given no target.", why="It holds the last stage, which computes the loss."
            )
        return whole

    def _connect(self) -> tuple[Transport, TiedCopies]:
        self._check_one_device()
        agree(self._peers, record_of(self._model, self._staged, self._options))
        wires = wires_between(self._peers, self._device)
        self._peers.connect()
        self._rank_of_stage = self._schedules.computes(self._cutter.n_microbatches).rank_of_stage
        self._shares = Shares(self._model, self._staged, self._rank_of_stage, self._peers.rank, wires)
        self._messages = DistTransport(self._peers, wires, self._devices)
        return self._messages, self._shares

    def _stages_here(self) -> Sequence[int]:
        ranks = self._schedules.computes(self._cutter.n_microbatches).rank_of_stage
        return [stage for stage, rank in enumerate(ranks) if rank == self._peers.rank]

    def _expect(self, step: Step) -> None:
        batch = step.batch
        for stage in self._stages_here():
            for index, tensor in enumerate(batch.tensors):
                name = batch.staged[0].traced.inputs[index]
                reads = {argument.name for argument in batch.staged[0].stages[stage].arguments}
                if name.name in reads and any(tensor is each for each in self._agreement.stand_ins):
                    raise ArgumentError(
                        f"this rank was given no {name.path}.",
                        why=f"Its stage {stage} reads it.",
                        remedy="None only for tensors that no stage of the rank reads",
                    )
        layout_of: Callable[[Message], Any] = layouts_of(batch)
        self._messages.expect(layout_of, (tuple(map(id, batch.staged)), batch.samples, step.trains))

    def _loss(self, step: Step) -> torch.Tensor:
        self._messages.finish()  # before the loss is read: a device may wait for a rank that is lost
        mine = scalar_to(super()._loss(step)) if self._holds_last else b""
        answers = self._finish(mine)
        return scalar_from(answers[self._rank_of_stage[-1]]).to(self._device)

    def _output(self, step: Step, weights: Sequence[float]) -> Any:
        return super()._output(step, weights) if self._holds_last else None

    def _finish(self, mine: bytes) -> list[bytes]:
        """Wait until every rank came to the end of the call."""
        self._messages.finish()
        return self._peers.gather(mine, "the end of the call")

    @property
    def _device(self) -> torch.device:
        return self._devices[self._stages_here()[0]]

    @property
    def _holds_last(self) -> bool:
        return self._rank_of_stage[-1] == self._peers.rank

    def _check_one_device(self) -> None:
        here = self._stages_here()
        found = {self._devices[stage] for stage in here}
        if len(found) > 1:
            raise ArgumentError(
                f"the stages {here} of this rank lie on {len(found)} devices.",
                remedy="devices=torch.device(...), one device a rank",
            )

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
        """Clip the norm of the gradients of all ranks together; every rank makes the same call.

        Args:
            max_norm: The norm that they have at most afterwards.
            norm_type: Of which p-norm; may be infinity.

        Returns:
            The norm before, the same on every rank.
        """
        with self._together():
            order = [fqn for fqn, _ in self._model.named_parameters()]
            return clip_over_ranks(dict(self.named_parameters()), order, self._peers, max_norm, norm_type)

    # The end

    def close(self) -> None:
        """Let go of the connections; the model keeps this rank's part of the weights."""
        super().close()
        self._peers.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine; what ended the block on this rank ends the next call of the others."""
        if error is not None and self._peers.are_connected:
            self._peers.fail(error)
        super().__exit__(kind, error, trace)


def _one_a_stage(devices: Any, n_stages: int) -> Any:
    return [devices] * n_stages if isinstance(devices, str | int | torch.device) else devices
