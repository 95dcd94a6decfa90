"""One step of a rank in a schedule, and the values that cross between stages.

The text grammar of an action, which schedules, errors and drawings share::

    2F0                   stage 2, forward of microbatch 0
    1B3                   stage 1, backward of microbatch 3
    1I0  1W0              its halves: gradient of the inputs, gradient of the weights
    2U                    stage 2, optimizer update
    0SEND_F1>2:block_a    stage 0 sends the value block_a of microbatch 1 forward to stage 2
    2RECV_F1<0:block_a    stage 2 receives it
    2SEND_B1>0:block_a    stage 2 sends the gradient of block_a back
    0RECV_B1<2:block_a    stage 0 receives it

The compute part is that of torch.distributed.pipelining (``schedules._Action``), so that a row can be pasted
there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from autopipe.errors import ScheduleError

__all__ = ["Action", "Message", "Op", "Transfer"]


class Op(StrEnum):
    """What an action does; compares equal to its text.

    Example:
        >>> Op.F == "F", [op.value for op in Op if op.is_comm]
        (True, ['SEND', 'RECV'])
    """

    F = "F"
    B = "B"
    I = "I"  # noqa: E741 - the letter of Zero Bubble Pipeline Parallelism, https://arxiv.org/abs/2401.10241
    W = "W"
    U = "U"
    SEND = "SEND"
    RECV = "RECV"

    @property
    def is_comm(self) -> bool:
        """Whether the action moves a value instead of computing one."""
        return self is Op.SEND or self is Op.RECV


_COMPUTE: Final = re.compile(r"(\d+)(?:([FBIW])(\d+)|(U))")
_COMM: Final = re.compile(r"(\d+)(SEND|RECV)_([FB])(\d+)([<>])(\d+):(\S+)")


class Message(NamedTuple):
    """What a SEND and its RECV have in common: the key of a value, or of its gradient, on its way.

    Args:
        value: Name of the value.
        carries: "F" the value itself, "B" its gradient.
        src: The stage that sends.
        dst: The stage that receives.
        microbatch: Which microbatch.
    """

    value: str
    carries: Literal["F", "B"]
    src: int
    dst: int
    microbatch: int

    def __str__(self) -> str:
        """Return it as its SEND."""
        return f"{self.src}SEND_{self.carries}{self.microbatch}>{self.dst}:{self.value}"


@dataclass(frozen=True, slots=True)
class Action:
    """One step of the rank that holds ``stage``.

    Args:
        stage: The stage that computes, sends or receives.
        op: What it does.
        microbatch: Which microbatch; None for an update only.
        peer: SEND and RECV only: the stage at the other end.
        value: SEND and RECV only: the name of the value that crosses, or whose gradient does.
        carries: SEND and RECV only: "F" the value itself, "B" its gradient.

    Example:
        >>> Action.parse("2RECV_F1<0:block_a")
        Action(stage=2, op=<Op.RECV: 'RECV'>, microbatch=1, peer=0, value='block_a', carries='F')
        >>> print(Action(1, Op.B, 3))
        1B3
    """

    stage: int
    op: Op
    microbatch: int | None = None
    peer: int | None = None
    value: str | None = None
    carries: Literal["F", "B"] | None = None

    def __str__(self) -> str:
        """Return the action in the grammar of this module."""
        if not self.op.is_comm:
            return f"{self.stage}{self.op}{'' if self.microbatch is None else self.microbatch}"
        arrow = ">" if self.op is Op.SEND else "<"
        return f"{self.stage}{self.op}_{self.carries}{self.microbatch}{arrow}{self.peer}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Action:
        """Read one action from its text.

        Args:
            text: One action in the grammar of this module.

        Returns:
            The action, such that ``str`` gives the text back.

        Raises:
            ScheduleError: If the text is no action.

        Example:
            >>> Action.parse("2F0")
            Action(stage=2, op=<Op.F: 'F'>, microbatch=0, peer=None, value=None, carries=None)
        """
        if match := _COMPUTE.fullmatch(text):
            stage, op, microbatch, update = match.groups()
            return cls(int(stage), Op(op or update), None if update else int(microbatch))
        if match := _COMM.fullmatch(text):
            stage, op, carries, microbatch, arrow, peer, value = match.groups()
            if (op == Op.SEND) == (arrow == ">"):
                kind: Literal["F", "B"] = "F" if carries == "F" else "B"
                return cls(int(stage), Op(op), int(microbatch), int(peer), value, kind)
        raise ScheduleError(
            f"{text!r} is no action.",
            why="An action reads 2F0, 1B3, 1I0, 1W0, 2U, 0SEND_F1>2:name or 2RECV_F1<0:name.",
        )

    @property
    def message(self) -> Message:
        """The message that a SEND or a RECV is one end of; both ends give the same.

        Example:
            >>> Action.parse("0SEND_F1>2:h").message == Action.parse("2RECV_F1<0:h").message
            True
        """
        assert self.peer is not None, self
        assert self.value is not None, self
        assert self.carries is not None, self
        assert self.microbatch is not None, self
        src, dst = (self.stage, self.peer) if self.op is Op.SEND else (self.peer, self.stage)
        return Message(self.value, self.carries, src, dst, self.microbatch)

    def verify(self) -> None:
        """Check that the fields fit the op.

        Raises:
            ScheduleError: If a field that the op needs is missing, or one is given that it does not have.
        """
        if problem := self._problem():
            raise ScheduleError(
                f"{self.stage}{self.op} of microbatch {self.microbatch} {problem}.", where=repr(self)
            )

    def _problem(self) -> str:
        if min(self.stage, self.microbatch or 0, self.peer or 0) < 0:
            return "has a negative number"
        if (self.microbatch is None) != (self.op is Op.U):
            return "has a microbatch, which an update has not" if self.op is Op.U else "needs a microbatch"
        if self.op.is_comm:
            return self._message_problem()
        given = (self.peer, self.value, self.carries) != (None, None, None)
        return "computes, so it has no peer, value or carries" if given else ""

    def _message_problem(self) -> str:
        if self.peer is None or not self.value or self.carries not in {"F", "B"}:
            return "needs a peer, a value and carries F or B"
        if any(char.isspace() for char in self.value):
            return f"has a blank in the name {self.value!r}"
        later = self.peer > self.stage
        if self.peer == self.stage or later != ((self.op is Op.SEND) == (self.carries == "F")):
            return f"goes the wrong way to stage {self.peer}: values go to later stages, gradients come back"
        return ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One value that crosses from the stage that makes it to one stage that reads it.

    Args:
        value: Name of the value, without blanks.
        src: The stage that makes it.
        dst: A later stage that reads it; a value read by several stages is several transfers.
        nbytes: Bytes of the value, a microbatch.
        grad_nbytes: Bytes of the gradient that comes back, a microbatch; 0 where none does.

    Example:
        >>> print(Transfer("block_a", 0, 2, nbytes=4096, grad_nbytes=0))
        block_a: stage 0 -> 2, 4096 bytes forward, no gradient back
    """

    value: str
    src: int
    dst: int
    nbytes: int
    grad_nbytes: int

    def __str__(self) -> str:
        """Return one line: the value, its two ends, and the bytes each way."""
        back = f"{self.grad_nbytes} bytes back" if self.grad_nbytes else "no gradient back"
        return f"{self.value}: stage {self.src} -> {self.dst}, {self.nbytes} bytes forward, {back}"

    def verify(self) -> None:
        """Check the name, the direction and the sizes.

        Raises:
            ScheduleError: If the name is empty or has a blank, if dst is not after src, or if a size is
                negative.
        """
        if not self.value or any(char.isspace() for char in self.value):
            raise ScheduleError(
                f"A transfer is named {self.value!r}.", why="A name has no blanks and is not empty."
            )
        if not 0 <= self.src < self.dst:
            raise ScheduleError(
                f"{self.value} goes from stage {self.src} to stage {self.dst}.",
                why="Values go to later stages.",
            )
        if self.nbytes < 0 or self.grad_nbytes < 0:
            raise ScheduleError(f"{self.value} has a negative size.", where=str(self))

    def to_json(self) -> dict[str, object]:
        """Return the transfer as a dict that ``from_json`` reads."""
        return {name: getattr(self, name) for name in ("value", "src", "dst", "nbytes", "grad_nbytes")}

    @classmethod
    def from_json(cls, data: dict[str, object]) -> Transfer:
        """Read a transfer from what ``to_json`` gave.

        Args:
            data: The dict.

        Returns:
            The transfer.
        """
        return cls(**data)  # type: ignore[arg-type]
