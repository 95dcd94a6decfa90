"""How many ways there are to cut a model in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MAX_STATES = 20_000
"""Cuts of a part of the model that are told apart at one time; bounds time and memory."""


class LegalCuts(NamedTuple):
    """A number of cuts, and whether it is exact or only proven to be reached."""

    n: int
    is_exact: bool

    def __str__(self) -> str:
        """``1,234``, ``more than 1,234``, or a power of ten where nobody counts digits."""
        number = f"{self.n:,}" if self.n < 10**9 else f"10^{len(str(self.n)) - 1}"
        return number if self.is_exact and self.n < 10**9 else f"more than {number}"


def count_legal_cuts(preds: Sequence[Sequence[int]], max_states: int = MAX_STATES) -> LegalCuts:
    """Count the downsets of a graph, without the empty one and the whole.

    ::

        a -> b -> d      {a} {a b} {a c} {a b c}: four cuts
         `-> c -'

    Args:
        preds: For each item, in a topological order, the items that must not come later.
        max_states: Where more partial downsets than this differ in what is still read, counting stops.

    Returns:
        The number; where counting stopped, that of a beginning of the graph, each of whose downsets is one of
        the whole.

    Complexity: items x states; the states are the downsets of the items still read at one place.

    Example:
        >>> print(count_legal_cuts([(), (0,), (0,), (1, 2)]), count_legal_cuts([()] * 40))
        4 more than 10^12
    """
    last_read = list(range(len(preds)))
    for item, before in enumerate(preds):
        for pred in before:
            last_read[pred] = item
    states: dict[frozenset[int], int] = {
        frozenset(): 1
    }  # those of the items still read that are in -> how many
    for item, before in enumerate(preds):
        done = {pred for pred in before if last_read[pred] == item}
        following: dict[frozenset[int], int] = {}
        for inside, count in states.items():
            kept = inside - done
            following[kept] = following.get(kept, 0) + count
            if inside.issuperset(before):
                taken = kept | {item} if last_read[item] > item else kept
                following[taken] = following.get(taken, 0) + count
        states = following
        if len(states) > max_states:
            return LegalCuts(sum(states.values()) - 2, False)
    return LegalCuts(max(sum(states.values()) - 2, 0), True)
