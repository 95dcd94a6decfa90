"""One stage of a pipeline, as a user sees it."""

from __future__ import annotations

from torch import fx

from autopipe.ir.partition import StageCost
from autopipe.ir.stages import Port, StageModule


class Stage:
    """One stage of a pipeline.

    Args:
        staged: The stage's module and ports.
        cost: What the plan says that it costs.
    """

    def __init__(self, staged: StageModule, cost: StageCost) -> None:
        """Hold both; a pipeline makes its stages."""
        self._staged, self.cost = staged, cost

    @property
    def index(self) -> int:
        """Its place, from 0."""
        return self._staged.index

    @property
    def module(self) -> fx.GraphModule:
        """The stage as a module; what is inside it is the model's own."""
        return self._staged.module

    @property
    def recv(self) -> tuple[Port, ...]:
        """Values from earlier stages."""
        return self._staged.recv

    @property
    def send(self) -> tuple[Port, ...]:
        """Values to later stages."""
        return self._staged.send

    @property
    def fqns(self) -> tuple[str, ...]:
        """FQNs of its leaves, then of parameters and buffers used outside them."""
        return self._staged.fqns

    def __repr__(self) -> str:
        """Print index, size and first and last module."""
        ends = f"{self.fqns[0]} ... {self.fqns[-1]}" if self.fqns else "no modules"
        ports = f"{len(self.recv)} recv, {len(self.send)} send"
        return f"Stage({self.index}, {ends}, {self.cost.total_ms:.3g} ms, {ports})"
