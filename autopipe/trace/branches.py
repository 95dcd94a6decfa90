"""Branches on the values of tensors: which are checks, that a graph can make, and which are real.

``if labels.max() >= n_classes: raise ...`` has two ways, and one of them is no computation but a refusal. So
the graph takes the other, and gets a node that checks it in every run. Which way refuses is found by trying
both: the capture starts again, takes a way, and looks whether the model's own Python raises before it calls
another module. If neither does, the branch is real, and the module that it is in has no single graph.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from autopipe.errors import AutopipeError
from autopipe.trace.size_conditions import SizeCondition
from autopipe.trace.source import is_checking, is_torch

Place = tuple[tuple[CodeType, int], ...]
"""The code and the instruction of every frame on the way to a branch that is not torch's or ours."""

DEPENDS_ON_DATA = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
"""What fake tensors raise where their values are asked for."""


def depends_on_data(error: BaseException) -> bool:
    """Whether Python asked for the values of fake tensors, or for a number made of them."""
    if isinstance(error, TypeError):  # of a function of torch that takes numbers only
        return any(name in str(error) for name in ("FakeTensor", "DataDependentNumber"))
    return isinstance(error, DEPENDS_ON_DATA)


class RandomBranch(DataDependentOutputException):
    """A branch on random numbers: layers that are dropped at random."""


_RAISE = dis.opmap["RAISE_VARARGS"]
_TURNS = {*dis.hasjrel, *dis.hasjabs, dis.opmap["RETURN_VALUE"], dis.opmap["YIELD_VALUE"]}


@dataclass(frozen=True, slots=True)
class Check:
    """A branch one of whose ways is a refusal.

    Args:
        way: The other way.
        refusal: What the model raises instead.
    """

    way: bool
    refusal: str


class UnknownBranch(BaseException):
    """The capture met a branch that nothing is known of; no module may catch this.

    Args:
        place: Where it is.
    """

    def __init__(self, place: Place) -> None:
        """Take the place."""
        super().__init__("a branch on the values of a tensor")
        self.place = place


class WentOn(BaseException):
    """A trial called a module after the branch, so that its way is no refusal."""


class Branches:
    """What the attempts to capture one model have learnt of its branches."""

    def __init__(self) -> None:
        """Start with no branch known."""
        self._known: dict[Place, Check | None] = {}
        self._trial: tuple[Place, bool] | None = None
        self._is_past = False

    def way(self) -> Check | None:
        """Return which way to go at the branch that the model's Python is at.

        Returns:
            None if it is a real one.

        Raises:
            UnknownBranch: If nothing is known of it.
        """
        place = _place()
        if self._trial is not None and self._trial[0] == place:
            self._is_past = True
            return Check(self._trial[1], "")
        if place not in self._known:
            raise UnknownBranch(place)
        return self._known[place]

    @property
    def is_trial(self) -> bool:
        """Whether a way is being tried, so that what a module raises ends the attempt."""
        return self._trial is not None

    def note_module(self) -> None:
        """End a trial that went on behind its branch."""
        if self._is_past:
            raise WentOn

    def learn(self, place: Place, attempt: Callable[[], object]) -> None:
        """Find out which way of a branch is a refusal.

        Args:
            place: The branch.
            attempt: Starts the capture again.

        Complexity: at most two captures up to the first module behind the branch.
        """
        self._known[place] = None
        for way in (True, False):
            refusal = self._refusal(place, way, attempt)
            if refusal:
                self._known[place] = Check(not way, refusal)
                return

    def _refusal(self, place: Place, way: bool, attempt: Callable[[], object]) -> str:
        self._trial, self._is_past = (place, way), False
        try:
            attempt()
        except (WentOn, UnknownBranch):
            return ""
        except Exception as error:
            return _described(error) if self._is_past and _is_refusal(error) else ""
        finally:
            self._trial, self._is_past = None, False
        return ""


def _place() -> Place:
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_checking(frame.f_code):
            found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def _is_refusal(error: Exception) -> bool:
    """Whether the innermost thing that happened is a raise, an assert or a torch._check of the model."""
    if isinstance(error, AutopipeError):
        return False
    frames: list[tuple[CodeType, int]] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code, trace.tb_lasti))
        trace = trace.tb_next
    if isinstance(error, DEPENDS_ON_DATA):
        return _is_for_a_message(frames)
    checked = False
    while frames and is_torch(frames[-1][0]) and frames[-1][0].co_name.startswith("_check"):
        frames.pop()
        checked = True
    if not frames or not is_checking(frames[-1][0]):
        return False
    code, instruction = frames[-1]
    return checked or code.co_code[instruction] == _RAISE


def _is_for_a_message(frames: list[tuple[CodeType, int]]) -> bool:
    """Whether values are asked for by the message of a refusal: what is raised is then certain already.

    ::

        raise ValueError(f"{ids.max().item()} is too large")     nothing but the raise can follow
        torch._check(fits, lambda: f"{ids.max().item()} ...")    torch asks for messages of what failed

    Args:
        frames: The code and the instruction of every frame, the innermost last.
    """
    for (outer, _), (inner, _) in pairwise(frames):
        if is_torch(outer) and outer.co_name.startswith("_check") and not is_torch(inner):
            return True
    models = [frame for frame in frames if is_checking(frame[0])]
    return bool(models) and _only_raises(*models[-1]) and not any(_is_guarded(*frame) for frame in models)


def _only_raises(code: CodeType, instruction: int) -> bool:
    """Whether code goes straight from an instruction to a raise."""
    for step in dis.get_instructions(code):
        if step.offset <= instruction:
            continue
        if step.opcode == _RAISE:
            return True
        if step.opcode in _TURNS:
            return False
    return False


def _is_guarded(code: CodeType, instruction: int) -> bool:
    """Whether a ``try`` or a ``with`` is around an instruction, which may stop what is raised."""
    bytecode: Any = dis.Bytecode(code)
    return any(entry.start <= instruction < entry.end for entry in bytecode.exception_entries)


def _described(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, DEPENDS_ON_DATA):
        return "it raises, with a message made of them"
    if "FakeTensor" in first_line:  # the message prints values
        return type(error).__name__
    return f"{type(error).__name__}: {first_line}".removesuffix(": ")


_TRUTH = (torch.Tensor.__bool__, torch.is_nonzero, torch.Tensor.is_nonzero)
_COMPARISONS = (torch.equal, torch.Tensor.equal, torch.allclose, torch.Tensor.allclose)


def is_condition(function: Any, tensor: Any) -> bool:
    """Whether a function of a tensor says yes or no about its values.

    Args:
        function: What the model's Python called.
        tensor: Its first argument.

    Example:
        >>> yes = torch.tensor(True)
        >>> is_condition(torch.Tensor.item, yes), is_condition(torch.Tensor.item, yes.int())
        (True, False)
    """
    if isinstance(function, SizeCondition) or function in (*_TRUTH, *_COMPARISONS, torch.Tensor.__contains__):
        return True
    return function is torch.Tensor.item and isinstance(tensor, torch.Tensor) and tensor.dtype is torch.bool
