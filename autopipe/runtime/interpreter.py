"""Runs a schedule: takes every action of the rows that are here, in order, as soon as it can be taken.

Rows of one process take turns, one compute each, so that several devices get their work early. A row waits
only where it must receive what was not sent yet.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from autopipe.errors import AutopipeError, EngineError
from autopipe.ir.schedule import Action, Op, Schedule
from autopipe.ir.stages import StagedModel
from autopipe.runtime.stage_worker import StageWorker
from autopipe.runtime.stopwatch import Stopwatch
from autopipe.runtime.transport import Transport

_GENERATED_CODE = "<eval_with_key>"


class Interpreter:
    """Runs the rows of one step.

    Args:
        workers: Stage -> what runs it; all stages that are in this process.
        transport: Carries the messages.
        staged: ``[n_microbatches]`` the splits, which tell where in the user's code a node comes from.
        stopwatch: Notes when every action ran.
    """

    def __init__(
        self,
        workers: Mapping[int, StageWorker],
        transport: Transport,
        staged: Sequence[StagedModel],
        stopwatch: Stopwatch,
    ) -> None:
        """Take what the actions need."""
        self._workers, self._transport = workers, transport
        self._staged, self._stopwatch = staged, stopwatch
        self._computes: Mapping[Op, Callable[[StageWorker, int], None]] = {
            Op.F: StageWorker.forward,
            Op.B: StageWorker.backward,
        }

    def run(self, schedule: Schedule) -> None:
        """Run every row that is here to its end.

        Args:
            schedule: A schedule with comms.

        Raises:
            EngineError: If an action fails, with its stage, microbatch and cause; if rows wait for each
                other; or if an action is none that the engine knows.
        """
        rows = {rank: schedule.rows[rank] for rank in self._transport.rows_here(schedule)}
        done = dict.fromkeys(rows, 0)
        while any(done[rank] < len(row) for rank, row in rows.items()):
            before = dict(done)
            for rank, row in rows.items():
                done[rank] = self._turn(rank, row, done[rank])
            if done == before:
                stuck = {rank: at for rank, at in done.items() if at < len(rows[rank])}
                raise EngineError("every rank waits for another.", where=schedule.grid(stuck))

    def _turn(self, rank: int, row: Sequence[Action], at: int) -> int:
        """Take actions up to the next compute; return how many of the row are done then."""
        while at < len(row):
            action = row[at]
            if action.op is Op.RECV and not self._transport.is_ready(action):
                return at
            self._take(rank, action)
            at += 1
            if not action.op.is_comm:
                return at
        return at

    def _take(self, rank: int, action: Action) -> None:
        worker = self._workers[action.stage]
        start = self._stopwatch.now(worker.device)
        try:
            self._do(worker, action)
        except AutopipeError:
            raise
        except Exception as error:
            raise self._explained(action, error) from error
        self._stopwatch.took(rank, action, worker.device, start)

    def _do(self, worker: StageWorker, action: Action) -> None:
        microbatch, value, peer = action.microbatch, action.value, action.peer
        if not action.op.is_comm:
            if action.op not in self._computes:
                raise EngineError(f"the engine cannot run {action}.", why="It knows F, B, SEND and RECV.")
            assert microbatch is not None
            self._computes[action.op](worker, microbatch)
            return
        assert microbatch is not None
        assert value is not None
        assert peer is not None
        if action.op is Op.RECV:
            tensor = self._transport.receive(action)
            if action.carries == "F":
                worker.take_value(microbatch, value, tensor)
            else:
                worker.take_gradient(microbatch, value, peer, tensor)
        elif action.carries == "F":
            self._transport.send(action, worker.value_to_send(microbatch, value, peer))
        else:
            self._transport.send(action, worker.gradient_to_send(microbatch, value))

    def _explained(self, action: Action, error: Exception) -> EngineError:
        where = f"stage {action.stage}, microbatch {action.microbatch}"
        if node := _failing_node(error.__traceback__):
            info = self._staged[action.microbatch or 0].traced.info.get(node)
            if info is not None:
                where += f", {info.fqn or 'the model'} at {info.source}" if info.source else f", {info.fqn}"
        return EngineError(
            f"stage {action.stage} failed in {action}.", where, f"{type(error).__name__}: {error}"
        )


def _failing_node(traceback: TracebackType | None) -> str | None:
    """Return the name of the node whose line of a stage's generated code was running."""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if filename.startswith(_GENERATED_CODE):
            return linecache.getline(filename, traceback.tb_lineno).partition("=")[0].strip() or None
        traceback = traceback.tb_next
    return None
