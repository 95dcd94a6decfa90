"""The solver's view of a cost graph: items that are never cut, arrays instead of objects.

::

    items 0 1 2 3        nets of pins (0 1)  (0 2 3)        pins    0 1 0 2 3
                                                            net_of  0 0 1 1 1
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TiedItems:
    """A tied parameter at item level: how often each item counts it, and the bytes of one count."""

    nbytes: float
    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ends:
    """Pins of all nets, one net after the other.

    Args:
        pins: Items, `[pins]`.
        net_of: The net of each, `[pins]`.
        size: Pins of each net, `[m]`.
    """

    pins: Ints
    net_of: Ints
    size: Ints


@dataclass(frozen=True, slots=True)
class Problem:
    """Items in topological order, with the nets between them.

    ``C`` is the number of kinds of position, ``n`` of items, ``m`` of nets, ``k`` of stages.

    Args:
        members: Node indices of each item, `[n]`.
        preds: Items that must not come later, `[n]`.
        succs: The reverse, `[n]`.
        weight: Compute time by kind and item, `[C, n]` ms.
        pins: Items of each net, ascending, `[m]`.
        maker: The item that makes each net, `[m]`.
        cin: What a stage that receives a net pays, `[C, m]` ms.
        cout: What the stage that makes it pays, `[C, m]` ms.
        kind_of_stage: Kind of each position, `[k]`.
        first: Earliest stage that an item may be in, `[n]`.
        last: Latest stage, `[n]`.
        overlap: A stage takes the maximum of compute, receiving and sending, not the sum.
        allow_empty: "At most k stages".
        fixed: Bytes held whatever the number in flight, `[n]`.
        saved: Bytes held a microbatch in flight, `[n]`.
        kept: Bytes a received net holds a microbatch in flight, `[m]`.
        fwd: Forward time by kind and item, for recompute, `[C, n]` ms.
        in_flight: Microbatches in flight, `[k]`.
        limit: Memory of a stage, bytes, or None.
        allow_recompute: A stage that does not fit may drop what it saved and run twice.
        tied: Parameters counted once a stage.
    """

    members: tuple[tuple[int, ...], ...]
    preds: tuple[tuple[int, ...], ...]
    succs: tuple[tuple[int, ...], ...]
    weight: Floats
    pins: tuple[tuple[int, ...], ...]
    maker: Ints
    cin: Floats
    cout: Floats
    kind_of_stage: tuple[int, ...]
    first: Ints
    last: Ints
    overlap: bool
    allow_empty: bool
    fixed: Floats
    saved: Floats
    kept: Floats
    fwd: Floats
    in_flight: tuple[int, ...]
    limit: float | None
    allow_recompute: bool
    tied: tuple[TiedItems, ...]
    _ends: list[Ends] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.members)

    @property
    def m(self) -> int:
        """Number of nets."""
        return len(self.pins)

    @property
    def k(self) -> int:
        """Number of stages."""
        return len(self.kind_of_stage)

    @property
    def ends(self) -> Ends:
        """The pins as arrays, laid out when they are first asked for."""
        if not self._ends:
            size = np.fromiter(map(len, self.pins), dtype=np.int64, count=self.m)
            pins = np.fromiter(chain.from_iterable(self.pins), dtype=np.int64, count=int(size.sum()))
            self._ends.append(Ends(pins, np.repeat(np.arange(self.m), size), size))
        return self._ends[0]
