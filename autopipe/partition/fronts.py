"""Downsets that a walk reached and kept at one level, with the way back to the level before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.downsets import Downsets
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools
from autopipe.partition.rows import Words
from autopipe.partition.symmetric import Symmetric


@dataclass(frozen=True, slots=True)
class Front:
    """Kept downsets of a level.

    Args:
        downsets: Their rows.
        begin: Row of the level before.
        dearest: Dearest stage so far, `[rows]` ms.
        turn: Which of the branches that can change places came where, `[rows, branches]`; None: none did.
    """

    downsets: Downsets
    begin: Ints
    dearest: Floats
    turn: Ints | None = None

    def keep(self, rows: Bools | Ints) -> Front:
        """Only those rows."""
        turn = None if self.turn is None else self.turn[rows]
        return Front(self.downsets.keep(rows), self.begin[rows], self.dearest[rows], turn)

    def in_order(self, branches: Symmetric) -> Front:
        """The same with branches that can change places in order, one row of each downset.

        What is known to be charged for a row need not be for the one that it becomes: it is forgotten.
        """
        if not branches.groups:
            return self
        downsets, before = self.downsets, self.downsets.members()
        members, turn = branches.sorted(before)
        moved = (members != before).any(axis=1)
        inside = np.logical_and.reduce(members)
        items = np.flatnonzero(members.any(axis=0) & ~inside)
        send, receive = (np.where(moved, downsets.weight, x) for x in (downsets.send, downsets.receive))
        rows = Downsets(items, inside, _packed(members[:, items]), downsets.weight, send, receive)
        return Front(rows, self.begin, self.dearest, turn).distinct()

    def distinct(self) -> Front:
        """One row of each downset, the one whose stages so far are cheapest."""
        bits = self.downsets.bits
        order = np.lexsort((self.dearest, *bits.T))
        fresh = np.ones(len(order), dtype=bool)
        fresh[1:] = (bits[order[1:]] != bits[order[:-1]]).any(axis=1)
        return self.keep(order[fresh])


def joined(parts: list[Front]) -> Front:
    """All parts as one, with the same open items.

    Args:
        parts: At least one, none of them empty.

    Returns:
        Their rows, one after the other.

    Complexity: O(rows * n).
    """
    every = [part.downsets for part in parts]
    inside = np.logical_and.reduce([part.members().all(axis=0) for part in every])
    some = np.logical_or.reduce([part.members().any(axis=0) for part in every])
    items = np.flatnonzero(some & ~inside)
    downsets = Downsets(
        items,
        inside,
        np.concatenate([_packed(part.members()[:, items]) for part in every]),
        np.concatenate([part.weight for part in every]),
        np.concatenate([part.send for part in every], axis=1),
        np.concatenate([part.receive for part in every], axis=1),
    )
    begin, dearest = [part.begin for part in parts], [part.dearest for part in parts]
    return Front(downsets, np.concatenate(begin), np.concatenate(dearest))


def _packed(members: Bools) -> Words:
    """Rows of bits."""
    octets = np.packbits(members, axis=1, bitorder="little")
    n_words = max(1, -(-members.shape[1] // 64))
    padded = np.zeros((len(members), 8 * n_words), dtype=np.uint8)
    padded[:, : octets.shape[1]] = octets
    return padded.view(np.uint64)
