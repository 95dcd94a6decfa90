"""Partial downsets while they are built: packed bits, weights and charges, one row each."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools

Words = NDArray[np.uint64]


class Rows:
    """Partial downsets of one level.

    Args:
        bits: Which of the open items are in, `[rows, words]`.
        weight: Compute time of what is in, `[rows]` ms.
        possible: The same with everything that is not decided yet, `[rows]` ms.
        send: Charges for sending, `[relaxations, rows]` ms.
        receive: Charges for receiving, `[relaxations, rows]` ms.
    """

    def __init__(self, bits: Words, weight: Floats, possible: Floats, send: Floats, receive: Floats) -> None:
        """Keep the columns."""
        self.bits, self.weight, self.possible = bits, weight, possible
        self.send, self.receive = send, receive

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.weight)

    def take(self, rows: Bools | Ints) -> Self:
        """Some of the rows."""
        at = np.flatnonzero(rows) if rows.dtype == bool else rows
        other = object.__new__(type(self))
        other.bits, other.weight = self.bits.take(at, axis=0), self.weight.take(at)
        other.possible = self.possible.take(at)
        other.send, other.receive = self.send.take(at, axis=1), self.receive.take(at, axis=1)
        return other

    def join(self, other: Self) -> Self:
        """Add rows at the end."""
        self.bits = np.concatenate([self.bits, other.bits])
        self.weight = np.concatenate([self.weight, other.weight])
        self.possible = np.concatenate([self.possible, other.possible])
        self.send = np.concatenate([self.send, other.send], axis=1)
        self.receive = np.concatenate([self.receive, other.receive], axis=1)
        return self

    def all_in(self, mask: Words) -> Bools:
        """Rows that hold all items of a mask."""
        result = np.ones(len(self), dtype=bool)
        for word in np.flatnonzero(mask).tolist():
            result &= (self.bits[:, word] & mask[word]) == mask[word]
        return result

    def any_in(self, mask: Words) -> Bools:
        """Rows that hold some item of a mask."""
        result = np.zeros(len(self), dtype=bool)
        for word in np.flatnonzero(mask).tolist():
            result |= (self.bits[:, word] & mask[word]) != 0
        return result


class Reached(Rows):
    """Partial downsets that a stage leads to.

    Args:
        rows: The downsets.
        begin: The row of the downset before the stage, `[rows]`.
        cost: What the stage surely costs, `[rows]` ms.
        value: What it costs at most with what is in so far, less what is credited later, `[rows]` ms.
        need: What it must cost in the end to be worth keeping, `[rows]` ms.
        left: Items that are out, or will be as they need one that is, `[rows, words]`.
    """

    def __init__(
        self, rows: Rows, begin: Ints, cost: Floats, value: Floats, need: Floats, left: Words
    ) -> None:
        """Keep the columns."""
        super().__init__(rows.bits, rows.weight, rows.possible, rows.send, rows.receive)
        self.begin, self.cost, self.value, self.need, self.left = begin, cost, value, need, left

    def none_added(self, mask: Words, begin_bits: Words) -> Bools:
        """Rows that hold no items of a mask but those of the downset before the stage.

        Args:
            mask: The items.
            begin_bits: Which of the open items the downsets before the stage hold, `[begins, words]`.
        """
        result = np.ones(len(self), dtype=bool)
        for word in np.flatnonzero(mask).tolist():
            added = self.bits[:, word] & ~begin_bits[self.begin, word]
            result &= (added & mask[word]) == 0
        return result

    def take(self, rows: Bools | Ints) -> Self:
        """Some of the rows."""
        at = np.flatnonzero(rows) if rows.dtype == bool else rows
        other = super().take(at)
        other.begin, other.cost = self.begin.take(at), self.cost.take(at)
        other.value, other.need, other.left = (
            self.value.take(at),
            self.need.take(at),
            self.left.take(at, axis=0),
        )
        return other

    def join(self, other: Self) -> Self:
        """Add rows at the end."""
        super().join(other)
        self.begin = np.concatenate([self.begin, other.begin])
        self.cost = np.concatenate([self.cost, other.cost])
        self.value = np.concatenate([self.value, other.value])
        self.need = np.concatenate([self.need, other.need])
        self.left = np.concatenate([self.left, other.left])
        return self
