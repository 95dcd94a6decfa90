"""Times ways of doing the same thing by turns, so that what else the machine does falls on all of them alike.

::

    round 0:  a b c     round 1:  c b a     round 2:  a b c  ...

A ratio is taken within each round, and the median of the rounds is reported: a slow minute of the machine
makes both sides of a ratio slow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """``[n_rounds]`` milliseconds of each way, by its name."""

    ms: Mapping[str, Sequence[float]]

    def median_ms(self, name: str) -> float:
        return statistics.median(self.ms[name])

    def ratio(self, name: str, base: str) -> float:
        """The median over the rounds of ``name`` divided by ``base``."""
        return statistics.median(self.ratios(name, base))

    def ratios(self, name: str, base: str) -> list[float]:
        """``[n_rounds]`` of ``name`` divided by ``base``."""
        return [a / b for a, b in zip(self.ms[name], self.ms[base], strict=True)]

    def difference_ms(self, name: str, base: str) -> float:
        """The median over the rounds of ``name`` minus ``base``."""
        return statistics.median(a - b for a, b in zip(self.ms[name], self.ms[base], strict=True))

    def shown(self, name: str, base: str) -> str:
        """The median ratio, and the quartiles of the rounds."""
        low, _, high = statistics.quantiles(self.ratios(name, base), n=4)
        return f"{self.ratio(name, base):.3f} ({low:.2f}-{high:.2f})"


def by_turns(
    ways: Mapping[str, Callable[[], object]],
    n_rounds: int,
    *,
    before: Callable[[], object] = lambda: None,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time every way once a round, every other round in the opposite order.

    Args:
        ways: Name -> what to time.
        n_rounds: Rounds that count, at least 2.
        before: Runs before each way, not timed.
        warmup: Rounds before those that count.
        clock: In seconds.
    """
    ms: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(warmup + n_rounds):
        for name in list(ways) if index % 2 else list(reversed(ways)):
            before()
            start = clock()
            ways[name]()
            took = (clock() - start) * 1e3
            if index >= warmup:
                ms[name].append(took)
    return Timings(ms)
