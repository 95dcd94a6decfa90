"""What one operation of a cost graph costs, and a parameter that several of them read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from autopipe.errors import PartitionError


@dataclass(frozen=True, slots=True)
class CostNode:
    """One operation: its times for one microbatch, and the bytes it makes, owns and keeps.

    Args:
        name: Unique in its graph.
        fqn: The module that the operation belongs to, ``""`` at the top.
        fwd_ms: Forward time.
        bwd_input_ms: Time of the gradient with respect to the inputs.
        bwd_weight_ms: Time of the gradient with respect to the parameters.
        out_bytes: What crosses forward if the value is cut, once per reading stage.
        grad_bytes: What comes back for it; 0 where no gradient flows.
        param_bytes: Parameters that the operation reads, tied ones included.
        saved_bytes: What is kept for the backward of one microbatch.
        recomputable: Running it twice gives the same value and has no effect.
        trained_bytes: Of ``param_bytes``, those that get a gradient; None: all of them.
        n_trained: How many elements those are; None: one every four bytes.
    """

    name: str
    fqn: str = ""
    fwd_ms: float = 0
    bwd_input_ms: float = 0
    bwd_weight_ms: float = 0
    out_bytes: int = 0
    grad_bytes: int = 0
    param_bytes: int = 0
    saved_bytes: int = 0
    recomputable: bool = False
    trained_bytes: int | None = None
    n_trained: int | None = None

    @property
    def bwd_ms(self) -> float:
        """Both halves of the backward."""
        return self.bwd_input_ms + self.bwd_weight_ms

    @property
    def compute_ms(self) -> float:
        """Forward and backward."""
        return self.fwd_ms + self.bwd_input_ms + self.bwd_weight_ms

    def verify(self) -> None:
        """Raise unless every cost is a finite number that is not negative.

        Raises:
            PartitionError: A cost is negative, infinite or NaN; names the node and the field.
        """
        for field in _COSTS:
            value = getattr(self, field)
            if not _is_cost(value) and not (value is None and field in _OPTIONAL):
                raise PartitionError(
                    f"node {self.name!r} has {field} = {value!r}.",
                    why="A cost is a finite number, zero or more.",
                )

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> CostNode:
        """The node with those fields.

        Raises:
            PartitionError: A field that there is not, or no name; names the node.
        """
        unknown = sorted(set(map(str, fields)) - set(_FIELDS))
        if unknown or "name" not in fields:
            known = ", ".join(_FIELDS)
            what = f"has an unknown field {unknown[0]!r}" if unknown else "has no name"
            raise PartitionError(f"node {fields.get('name', '')!r} {what}.", why=f"The fields are {known}.")
        return cls(**fields)


_FIELDS = tuple(each.name for each in fields(CostNode))
_COSTS = tuple(name for name in _FIELDS if name not in ("name", "fqn", "recomputable"))
_OPTIONAL = ("trained_bytes", "n_trained")


def _is_cost(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < math.inf


@dataclass(frozen=True, slots=True)
class TiedParam:
    """A parameter that several nodes read: a stage that holds several of them counts it once.

    Args:
        name: Its FQN.
        nbytes: Its size.
        nodes: The nodes that read it; ``param_bytes`` of each includes it.
        trained_bytes: As in `CostNode`.
        n_trained: As in `CostNode`.
    """

    name: str
    nbytes: int
    nodes: tuple[str, ...]
    trained_bytes: int | None = None
    n_trained: int | None = None

    def verify(self) -> None:
        """Raise PartitionError if the size is no finite number or negative, or a node is named twice."""
        if not _is_cost(self.nbytes) or len(set(self.nodes)) != len(self.nodes):
            raise PartitionError(f"tied parameter {self}: no size, or a node named twice.")

    def __str__(self) -> str:
        """Print as ``embed.weight, 4096 bytes, read by embed, head``."""
        return f"{self.name}, {self.nbytes} bytes, read by {', '.join(self.nodes)}"
