"""What makes rows of actions a schedule: the rules behind ``Schedule.verify``, one function a rule.

Each function yields the steps that break its rule, in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from autopipe.errors import ScheduleError
from autopipe.ir.action import Action, Message, Op

Rows = Sequence[Sequence[Action]]
_Compute = tuple[int, str, int | None]  # stage, op, microbatch


class Problem(NamedTuple):
    """A step that breaks a rule.

    Args:
        text: What is wrong, one sentence that names the action.
        rank: The rank whose row it is in.
        step: Index in the row; its length where something is missing at the end.
    """

    text: str
    rank: int
    step: int


def broken_rules(rows: Rows, rank_of_stage: Sequence[int], n_microbatches: int) -> Iterator[Problem]:
    """Yield every step that breaks a rule: places first, then order, completeness, messages.

    Args:
        rows: One row of actions a rank.
        rank_of_stage: ``[n_stages]`` the rank that holds each stage, each of them a row.
        n_microbatches: Microbatches of a step.

    Yields:
        The problems; none for a good schedule. Linear in the number of actions.

    Example:
        >>> row = [Action.parse("0B0"), Action.parse("0F0")]
        >>> next(broken_rules([row], [0], 1))
        Problem(text='0B0 comes before its forward.', rank=0, step=0)
    """
    yield from _misplaced(rows, rank_of_stage, n_microbatches)
    yield from _out_of_order(rows)
    yield from _incomplete(rows, rank_of_stage, n_microbatches)
    yield from _unmatched(rows)


def _misplaced(rows: Rows, rank_of_stage: Sequence[int], n_microbatches: int) -> Iterator[Problem]:
    """Each action is whole, on the rank that holds its stage, and of a microbatch that there is."""
    n_stages = len(rank_of_stage)
    for rank, row in enumerate(rows):
        for step, action in enumerate(row):
            try:
                action.verify()
            except ScheduleError as error:
                yield Problem(error.what, rank, step)
            if not action.stage < n_stages or rank_of_stage[action.stage] != rank:
                yield Problem(
                    f"{action} is on rank {rank}, which does not hold stage {action.stage}.", rank, step
                )
            if action.peer is not None and not action.peer < n_stages:
                yield Problem(f"{action} has no stage at the other end.", rank, step)
            if (action.microbatch or 0) >= n_microbatches:
                yield Problem(f"{action} is not one of {n_microbatches} microbatches.", rank, step)


def _out_of_order(rows: Rows) -> Iterator[Problem]:
    """Each stage takes a microbatch as RECV, F, SEND, RECV, B (or I, later W), SEND, each compute once."""
    for rank, row in enumerate(rows):
        done: set[_Compute] = set()
        for step, action in enumerate(row):
            if text := _order_problem(action, done):
                yield Problem(f"{action} {text}.", rank, step)
            if not action.op.is_comm:
                done.add((action.stage, action.op.value, action.microbatch))


def _order_problem(action: Action, done: set[_Compute]) -> str:
    """Say what is wrong with an action after those that its rank has done, or nothing."""
    stage, op, microbatch = action.stage, action.op, action.microbatch
    forward = (stage, "F", microbatch) in done
    backward = (stage, "B", microbatch) in done or (stage, "I", microbatch) in done
    if op is Op.U:
        return ""
    if op.is_comm:
        made = forward if action.carries == "F" else backward
        if op is Op.SEND:
            return "" if made else "comes before the action that makes what it sends"
        return "comes after the action that reads what it receives" if made else ""
    if (stage, op.value, microbatch) in done or (op in {Op.B, Op.I} and backward):
        return "comes twice"
    if op is Op.W:
        return "" if (stage, "I", microbatch) in done else "comes before its gradient of the inputs"
    return "" if op is Op.F or forward else "comes before its forward"


def _incomplete(rows: Rows, rank_of_stage: Sequence[int], n_microbatches: int) -> Iterator[Problem]:
    """Each stage runs each microbatch forward, and backward too unless nobody runs any backward."""
    done = {
        (action.stage, action.op.value, action.microbatch)
        for row in rows
        for action in row
        if not action.op.is_comm
    }
    trains = any(op in {"B", "I"} for _, op, _ in done)
    for stage, rank in enumerate(rank_of_stage):
        for microbatch in range(n_microbatches):
            if (stage, "F", microbatch) not in done:
                yield Problem(
                    f"stage {stage} has no forward of microbatch {microbatch}.", rank, len(rows[rank])
                )
            if trains and (stage, "B", microbatch) not in done and (stage, "W", microbatch) not in done:
                text = f"stage {stage} has no complete backward of microbatch {microbatch}."
                yield Problem(text, rank, len(rows[rank]))


def _unmatched(rows: Rows) -> Iterator[Problem]:
    """Each SEND has one RECV at the other end, and each RECV one SEND."""
    ends: dict[Op, dict[Message, tuple[int, int]]] = {Op.SEND: {}, Op.RECV: {}}
    for rank, row in enumerate(rows):
        for step, action in enumerate(row):
            here = (rank, step)
            if action.op.is_comm and ends[action.op].setdefault(action.message, here) != here:
                yield Problem(f"{action} comes twice.", rank, step)
    for op, other in ((Op.SEND, Op.RECV), (Op.RECV, Op.SEND)):
        for message, (rank, step) in ends[op].items():
            if message not in ends[other]:
                yield Problem(f"{rows[rank][step]} has no {other} at the other end.", rank, step)
