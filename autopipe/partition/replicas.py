"""What a stage costs that several devices run in turns, and how many it needs to stay within a target.

::

    replica 0    mb 0          mb 2          a stage with m replicas takes a new microbatch every 1/m of its
    replica 1           mb 1          mb 3   time; now and then the replicas add up their gradients

Two rules for the exchange: PipeDream's, so much a microbatch (Narayanan et al., SOSP 2019, section 3.1: four
times the parameter bytes over the link, ``exchanges=2``), or one ring all-reduce a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.ir.hardware import Link
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Floats, Ints, Problem

MANY = 10**6
"""Devices that nobody has: a stage that does not stay within the target however many run it."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """Every stage may have several devices that take turns.

    Args:
        exchanges: Ring all-reduces of its gradients that every microbatch pays for, at the replica that has
            it; PipeDream counts 2. None: one a step, after its last microbatch.
    """

    exchanges: float | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What stages are made of, an array entry a stage.

    Args:
        compute: Forward and backward, ms.
        received: Time of what arrives, ms.
        sent: Time of what leaves, ms.
        params: Parameter bytes, a tied one counted once.
        fixed: Bytes held whatever is in flight.
        saved: Bytes kept of a microbatch.
        kept: Bytes of received values.
    """

    compute: Floats
    received: Floats
    sent: Floats
    params: Floats
    fixed: Floats
    saved: Floats
    kept: Floats


class Turns:
    """Times and memory of stages with replicas.

    Args:
        objective: Hardware and rules.
        problem: The items; all positions alike.
        rule: How replicas agree.
        n_devices: Devices altogether.
    """

    def __init__(self, objective: Objective, problem: Problem, rule: Replicas, n_devices: int) -> None:
        """Read what is the same for all stages."""
        self.problem, self.n_devices = problem, n_devices
        self.link: Link = objective.hardware.links[0]
        self.exchanges = rule.exchanges
        self.n_microbatches = objective.rules.n_microbatches or 4 * n_devices
        self.params = np.zeros(problem.n)
        for item, nodes in enumerate(problem.members):
            self.params[item] = sum(objective.nodes[0][node].param_bytes for node in nodes)
        self.tied: list[tuple[float, Floats]] = []
        item_of = {node: item for item, nodes in enumerate(problem.members) for node in nodes}
        for tied in objective.graph.tied:
            count = np.zeros(problem.n)
            np.add.at(count, [item_of[objective.index[name]] for name in tied.nodes], 1.0)
            self.tied.append((float(tied.nbytes), count))
        self.held_twice: list[tuple[float, Floats]] = []
        for shared in problem.tied:
            count = np.zeros(problem.n)
            np.add.at(count, list(shared.items), 1.0)
            self.held_twice.append((shared.nbytes, count))

    def exchange_ms(self, params: Floats, m: int) -> Floats:
        """What agreeing costs a microbatch, on the clock of the whole stage."""
        if m == 1:
            return np.zeros_like(params)
        round_ms = self.link.latency_ms * (params > 0) + params / m / self.link.bytes_per_s * 1e3
        all_reduce: Floats = 2 * (m - 1) * round_ms
        if self.exchanges is None:
            return all_reduce / self.n_microbatches
        return all_reduce * self.exchanges / m

    def time_ms(self, parts: Parts, m: int) -> Floats:
        """From one microbatch to the next, for stages with m replicas each."""
        busy = parts.compute / m + self.exchange_ms(parts.params, m)
        if self.problem.overlap:
            return np.maximum(np.maximum(busy, parts.received / m), parts.sent / m)
        return busy + (parts.received + parts.sent) / m

    def fits(self, parts: Parts, m: int, after: Ints | int) -> np.ndarray:
        """Which stages with m replicas fit the memory, with so many devices after them."""
        limit = self.problem.limit
        if limit is None:
            return np.ones(len(parts.compute), dtype=bool)
        flight = in_flight(m, np.asarray(after))
        held = parts.fixed + flight * (parts.saved + parts.kept)
        fitting: np.ndarray = held <= limit + 0.5
        return fitting

    def needed(self, parts: Parts, target: float, after: Ints | int, at_most: int) -> Ints:
        """The fewest devices within a target.

        Args:
            parts: The stages, `[p]`.
            target: Milliseconds.
            after: Devices of later stages.
            at_most: More are not looked at.

        Returns:
            Devices by stage, `[p]`; :data:`MANY` where none will do.

        Complexity: O(p at_most).
        """
        need = np.full(len(parts.compute), MANY, dtype=np.int64)
        for m in range(at_most, 0, -1):
            need[(self.time_ms(parts, m) <= target) & self.fits(parts, m, after)] = m
        return need


def in_flight(m: int, after: Ints) -> Ints:
    """Microbatches that a replica holds under 1F1B: those of the stage and of all after it, shared by m.

    Example:
        >>> [int(in_flight(m, np.array(after))) for m, after in ((1, 3), (2, 3), (4, 0))]
        [4, 3, 1]
    """
    held: Ints = -(-(m + after) // m)
    return held


def least_bound(turns: Turns) -> float:
    """The larger of an equal share of all compute and the largest item with its best number of replicas.

    Args:
        turns: The prices.

    Returns:
        Milliseconds that no bottleneck is below.

    Complexity: O(items devices).
    """
    problem = turns.problem
    if not problem.n:
        return 0.0
    none = np.zeros(problem.n)
    twice = sum((nbytes * np.maximum(count - 1, 0) for nbytes, count in turns.tied), none)
    alone = Parts(problem.weight[0], none, none, turns.params - twice, none, none, none)
    each = np.min([turns.time_ms(alone, m) for m in range(1, turns.n_devices + 1)], axis=0)
    return float(max(problem.weight[0].sum() / turns.n_devices, each.max()))
